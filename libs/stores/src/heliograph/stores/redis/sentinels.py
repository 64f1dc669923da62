"""A primary that sentinels name. They are asked before each attempt to connect, and say when it is another one.

What they name is checked (`server_checks.check_primary`): a sentinel may be the last to hear of a failover.
https://redis.io/docs/latest/develop/reference/sentinel-clients/
"""

import asyncio

from heliograph.stores.ports import LiveListener, StoreError
from heliograph.stores.redis.address import RedisAddress, RedisLocation
from heliograph.stores.redis.connection import RedisConnection
from heliograph.stores.redis.rights import SENTINELS_CHANNEL
from heliograph.stores.redis.server_checks import check_primary
from heliograph.stores.redis.shards import ShardParts, Shards

SWITCHED = SENTINELS_CHANNEL.encode()
"""The channel on which a sentinel says that a failover is done; of whichever primary it watches."""


class Sentinels:
    """Those of one location."""

    def __init__(self, location: RedisLocation, parts: ShardParts) -> None:
        self._location = location
        self._parts = parts
        self._seeds = list(location.seeds)
        """Who answered last comes first."""
        self._next = 0

    async def primary(self) -> RedisAddress:
        """The server that the first sentinel which answers names. Raises StoreError."""
        location, why = self._location, ""
        for seed in tuple(self._seeds):
            try:
                named = await self._ask(seed)
            except StoreError as error:
                why = error.message
                continue
            if named is None:
                why = f"the sentinel at {seed[0]}:{seed[1]} knows none"
                continue
            self._seeds.remove(seed)
            self._seeds.insert(0, seed)
            return location.at(*named)
        raise StoreError("live_unavailable", f"nobody names the primary {location.master}: {why}"[:300])

    async def turn(self) -> RedisAddress:
        """A sentinel to listen to: each in turn."""
        seed = self._location.seeds[self._next % len(self._location.seeds)]
        self._next += 1
        return self._location.sentinel_at(*seed)

    async def _ask(self, seed: tuple[str, int]) -> tuple[str, int] | None:
        parts = self._parts
        connection = RedisConnection(
            self._location.sentinel_at(*seed),
            name="sentinel",
            uniform=parts.uniform,
            settings=parts.settings,
            named=False,  # one right less, of users that others manage
        )
        try:
            await connection.start()
            answer = await connection.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._location.master)
        finally:
            await connection.close()
        if not isinstance(answer, list) or len(answer) != 2:
            return None
        return answer[0].decode(), int(answer[1])


class SentinelShards(Shards):
    """One primary has all virtual shards; which one it is changes."""

    def __init__(self, location: RedisLocation, virtual_shards: int, parts: ShardParts) -> None:
        self._sentinels = Sentinels(location, parts)
        made = ShardParts(parts.uniform, parts.settings, self._set_up, self._check)
        self._also = parts.set_up
        super().__init__(self._sentinels.primary, virtual_shards, made)
        self._watch = RedisConnection(
            self._sentinels.turn,
            name="sentinel",
            uniform=parts.uniform,
            settings=parts.settings,
            on_push=lambda kind, _channel, _value: self._look() if kind == b"message" else None,
            named=False,
        )
        self._watch.on_available = self._listen
        self._looking: asyncio.Task[None] | None = None

    async def start(self, listener: LiveListener | None) -> None:
        await super().start(listener)
        self._watch.open()

    async def close(self) -> None:
        await self._watch.close()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await super().close()

    async def _set_up(self, connection: RedisConnection) -> None:
        await self._check(connection)
        await self._also(connection)

    async def _check(self, connection: RedisConnection) -> None:
        await check_primary(connection.call_setup)

    def _listen(self) -> None:
        """Also look at once: it may have happened while nobody told us."""
        self._watch.send_subscription(b"subscribe", [SWITCHED], lambda _error: self._look())

    def _look(self) -> None:
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._follow(), name="redis sentinel")

    async def _follow(self) -> None:
        """Leave a server that is not the primary any more, also one that hasn't noticed."""
        try:
            named = await self._sentinels.primary()
        except StoreError:
            return  # the connection to it says what becomes of it
        for connection in self.all[0].connections.values():
            if connection.node not in ((named.host, named.port), ("", 0)):
                self.moves += 1
                connection.drop("the sentinels name another primary")
