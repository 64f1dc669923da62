"""The primaries that hold the live store, and which of them has which virtual shard.

Three connections to each: commands, subscriptions, history. A slow page must not stand before an append, and a
subscribed connection that falls behind is killed by the server, which must cost neither of the others.

`Shards` is one primary that has all of it, `sentinels.SentinelShards` whichever one sentinels name, and
`cluster.ClusterShards` many. What reads `commands` and `history` looks up a list by the number of the virtual shard;
nothing on the hot path asks more.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from heliograph.stores.ports import LiveListener, StoreError
from heliograph.stores.redis.address import RedisAddress
from heliograph.stores.redis.connection import ConnectionSettings, Locate, RedisConnection
from heliograph.stores.redis.redirects import Again, Step, is_down, is_elsewhere, is_lost_primary
from heliograph.stores.redis.subscriptions import Subscriptions

SetUp = Callable[[RedisConnection], Awaitable[None]]

TRY_AGAIN_FIRST_S = 0.01
TRY_AGAIN_CAP_S = 0.1
"""Between tries while a slot's keys are on their way: they come in batches of milliseconds, for a second or more."""


@dataclass(frozen=True, slots=True)
class ShardParts:
    """What all shards of a store are made with."""

    uniform: Callable[[], float]
    settings: ConnectionSettings
    set_up: SetUp
    """Of the commands connection."""
    check: SetUp | None = None
    """Of the other two."""
    on_down: Callable[[str], None] | None = None
    """When a commands connection is lost."""
    by_slot: bool = False
    """Whether channels of different virtual shards may not be in one command."""


class Shard:
    """One primary."""

    def __init__(self, index: int, address: RedisAddress | Locate, parts: ShardParts) -> None:
        self.index = index
        """Lowest number that no other one has: what metrics may name it by."""
        self._address = address
        self._parts = parts
        self.commands = RedisConnection(
            address,
            name="commands",
            uniform=parts.uniform,
            settings=parts.settings,
            on_up=parts.set_up,
            on_down=parts.on_down,
        )
        self.history = RedisConnection(
            address, name="history", uniform=parts.uniform, settings=parts.settings, on_up=parts.check
        )
        self.subscriptions: Subscriptions | None = None

    def listen(self, listener: LiveListener) -> None:
        """Have a subscriptions connection from the next `start` or `open` on."""
        if self.subscriptions is None:
            parts = self._parts
            self.subscriptions = Subscriptions(
                self._address, listener, parts.uniform, parts.settings, by_slot=parts.by_slot, on_up=parts.check
            )

    async def start(self) -> None:
        """Connect once each; from then on they reconnect by themselves. Raises StoreError."""
        await self.commands.start()
        await self.history.start()
        if self.subscriptions is not None:
            await self.subscriptions.start()

    def open(self) -> None:
        """Connect in the background."""
        for connection in self.connections.values():
            connection.open()

    async def close(self) -> None:
        if self.subscriptions is not None:
            await self.subscriptions.close()
        await self.history.close()
        await self.commands.close()

    @property
    def connections(self) -> dict[str, RedisConnection]:
        """By what they are for; each has `stats`."""
        found = {"commands": self.commands, "history": self.history}
        if self.subscriptions is not None:
            found["subscriptions"] = self.subscriptions.connection
        return found

    def drop(self, reason: str) -> None:
        """Give up what there is and connect anew."""
        for connection in self.connections.values():
            connection.drop(reason)


class Shards:
    """One primary has all virtual shards."""

    def __init__(self, address: RedisAddress | Locate, virtual_shards: int, parts: ShardParts) -> None:
        shard = Shard(0, address, parts)
        self.all: list[Shard] = [shard]
        self.commands = [shard.commands] * virtual_shards
        """By virtual shard; changed in place."""
        self.history = [shard.history] * virtual_shards
        self.moves = 0
        """Virtual shards that got another primary."""
        self.on_switch: Callable[[int, RedisConnection], None] | None = None
        """A virtual shard is no longer asked for on this connection."""

    async def start(self, listener: LiveListener | None) -> None:
        """Raises StoreError; may be called again."""
        for shard in self.all:
            if listener is not None:
                shard.listen(listener)
            await shard.start()

    async def close(self) -> None:
        for shard in self.all:
            await shard.close()

    @property
    def available(self) -> bool:
        """Whether any is there."""
        return any(shard.commands.available for shard in self.all)

    @property
    def away(self) -> int:
        """How many are not."""
        return sum(not shard.commands.available for shard in self.all)

    @property
    def moving(self) -> bool:
        """Whether virtual shards change their primary, or did a moment ago."""
        return False

    # ---- subscriptions ----------------------------------------------------------------------------------------------

    def subscriptions(self, _virtual_shard: int) -> Subscriptions | None:
        """Where it is listened to; None where the store was started without a listener."""
        return self.all[0].subscriptions

    # ---- redirects --------------------------------------------------------------------------------------------------

    async def prepare(self, _number: int, again: Again, tries: int, _timeout_s: float) -> RedisConnection | None:
        """Do what has to be done before a command is sent again (but LOAD); the connection that it goes to, behind
        ASKING, where that is not the virtual shard's own.
        """
        if again.step is Step.WAIT:
            await asyncio.sleep(min(TRY_AGAIN_FIRST_S * 2 ** min(tries, 10), TRY_AGAIN_CAP_S))
        elif again.step in (Step.FOLLOW, Step.ASK):
            raise StoreError("live_unavailable", "the live store is a Redis Cluster; its URL must be redis+cluster://")
        return None

    def noticed(self, virtual_shard: int, error: Any) -> None:
        """An error that is an answer, for what it says about who gave it."""
        if is_lost_primary(error):
            self.commands[virtual_shard].drop("it is a replica, not a primary")
            self.doubt()
        elif is_elsewhere(error) or is_down(error):
            self.doubt()

    def doubt(self) -> None:
        """Something says that virtual shards are not where they were: look soon."""
