"""A Redis Cluster: which primary has which virtual shard, asked for and kept.

Nodes are asked for the slots at start, when an answer says that one has moved, while a primary is away, and now and
then. An answer `MOVED` counts at once. A primary without a virtual shard of ours is left after a while, so that what it
was asked is still answered. What this must never do: take a cluster's silence for a change; whoever had a slot keeps it
until somebody else is named.
"""

import asyncio
import contextlib
import time
from dataclasses import dataclass, replace

from hiredis import ReplyError

from heliograph.stores.keys import CONFIG
from heliograph.stores.ports import LiveListener, StoreError
from heliograph.stores.redis.address import RedisLocation
from heliograph.stores.redis.connection import RedisConnection, pack, translate
from heliograph.stores.redis.redirects import Again, Step
from heliograph.stores.redis.server_checks import wrong_kind
from heliograph.stores.redis.shards import Shard, ShardParts, Shards
from heliograph.stores.redis.subscriptions import Subscriptions
from heliograph.stores.redis.topology import (
    Node,
    agreed,
    changes,
    owners,
    primaries,
    slot_of,
    slot_of_virtual_shard,
    tag_of,
)

_SLOTS = pack(("CLUSTER", "SLOTS"))
ASKED_MOST = 5
"""Nodes in one look: one of them may be cut off and not know of a failover."""
ANSWER_S = 0.5
"""Who takes longer isn't waited for."""


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """When to look who has what."""

    look_s: float = 10.0
    """A slot that moved shows itself with the next command to it; this finds one that nobody uses."""
    look_away_s: float = 0.25
    """While a primary is away: a replica takes its place within seconds, and its sessions wait for it."""
    gap_s: float = 0.1
    """At least between two looks, however many answers ask for one."""
    news_s: float = 1.0
    """For so long an answer `MOVED` counts more than what nodes say: they tell each other within a second."""
    leave_s: float = 5.0
    """A primary that has nothing of ours, any more or not yet, is left after this."""
    moving_s: float = 5.0
    """For how long after its last sign a move is taken to go on."""


class ClusterShards(Shards):
    """As many primaries as have virtual shards."""

    def __init__(
        self,
        location: RedisLocation,
        virtual_shards: int,
        parts: ShardParts,
        settings: ClusterSettings | None = None,
    ) -> None:
        nowhere = RedisConnection(location.at(*location.seeds[0]), name="commands", uniform=parts.uniform)
        self._location = location
        self._count = virtual_shards
        self._parts = replace(parts, by_slot=True, on_down=lambda _reason: self.doubt())
        self._settings = settings or ClusterSettings()
        self._slots = [slot_of_virtual_shard(number) for number in range(virtual_shards)]
        self._slots.append(slot_of(CONFIG))  # its primary checks how many virtual shards there are
        self._nodes: list[Node] = []
        """Who has each of `_slots`."""
        self._of: list[Shard] = []
        """By virtual shard."""
        self._by_node: dict[Node, Shard] = {}
        self._unused_s: dict[Shard, float] = {}
        """Since when a primary has nothing of ours."""
        self._listener: LiveListener | None = None
        self._task: asyncio.Task[None] | None = None
        self._doubt = asyncio.Event()
        self._followed_s: dict[int, float] = {}
        """When an answer said who has a slot: nodes that are asked may hear of it later."""
        self._moved_s = float("-inf")
        self.all = []
        self.commands = [nowhere] * virtual_shards
        self.history = [nowhere] * virtual_shards
        self.moves = 0
        self.on_switch = None
        self.look_failures = 0

    # ---- life -------------------------------------------------------------------------------------------------------

    async def start(self, listener: LiveListener | None) -> None:
        """Raises StoreError unless every primary is there and as it must be."""
        if self._task is not None:
            return
        self._listener = listener or self._listener
        found = await self._look()
        nodes = [node for node in found if node is not None]
        if len(nodes) < len(found):
            raise StoreError("live_unavailable", f"the {self._location} has slots without a primary")
        self._place(dict(enumerate(nodes)))
        results = await asyncio.gather(*(shard.start() for shard in self.all), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        self._moved_s = float("-inf")
        self._task = asyncio.get_running_loop().create_task(self._keep(), name="redis cluster")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        for shard in self.all:
            await shard.close()
        self.all.clear()
        self._by_node.clear()
        self._unused_s.clear()
        self._nodes = []

    @property
    def moving(self) -> bool:
        return time.monotonic() - self._moved_s < self._settings.moving_s

    @property
    def away(self) -> int:
        """Of those that have virtual shards."""
        return sum(not shard.commands.available for shard in set(self._of))

    def subscriptions(self, virtual_shard: int) -> Subscriptions | None:
        return self._of[virtual_shard].subscriptions if self._of else None

    # ---- redirects --------------------------------------------------------------------------------------------------

    async def prepare(self, number: int, again: Again, tries: int, timeout_s: float) -> RedisConnection | None:
        self._moves()
        if again.step is Step.WAIT or tries:
            await super().prepare(number, Again(Step.WAIT), tries, timeout_s)
        if again.step is Step.FOLLOW:
            self.follow(number, again.node)
            await self.commands[number].until_available(timeout_s)
        elif again.step is Step.ASK:
            shard = self._at(again.node)
            self._unused_s.pop(shard, None)
            await shard.commands.until_available(timeout_s)
            return shard.commands
        return None

    def follow(self, virtual_shard: int, node: Node) -> None:
        """A node said that this one has it."""
        if self._nodes and self._nodes[virtual_shard] != node:
            self._followed_s[virtual_shard] = asyncio.get_running_loop().time()
            self._place({virtual_shard: node})
        self.doubt()

    def doubt(self) -> None:
        self._doubt.set()

    def _moves(self) -> None:
        self._moved_s = time.monotonic()

    def _dropped(self) -> None:
        self._moves()
        self.doubt()

    def _channel_moved(self, channel: bytes, node: Node) -> None:
        self._moves()
        self.follow(int(tag_of(channel)[1:]), node)

    # ---- who has what -----------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """For ever: look, and follow."""
        settings = self._settings
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(settings.look_away_s if self.away else settings.look_s):
                    await self._doubt.wait()
            self._doubt.clear()
            try:
                moved = changes(self._nodes, await self._look())
            except StoreError:
                self.look_failures += 1
            else:
                since_s = asyncio.get_running_loop().time() - settings.news_s
                self._followed_s = {index: at for index, at in self._followed_s.items() if at > since_s}
                moved = {index: node for index, node in moved.items() if index not in self._followed_s}
                if moved:
                    self._moves()
                    self._place(moved)
            await self._leave_unused()
            await asyncio.sleep(settings.gap_s)

    async def _look(self) -> list[Node | None]:
        """The primaries of `_slots`, as most of those see it that are asked."""
        connected = [node for node, shard in self._by_node.items() if shard.history.available]
        asked = [asyncio.create_task(self._ask(node)) for node in connected[:ASKED_MOST]]
        answers: list[list[Node | None]] = []
        try:
            if asked:
                done, _ = await asyncio.wait(asked, timeout=ANSWER_S)
                answers = [task.result() for task in asked if task in done and task.exception() is None]
        finally:
            for task in asked:
                task.cancel()
        why = "nobody answers"
        for node in () if answers else self._location.seeds:
            try:
                answers = [await self._ask(node)]
                break
            except StoreError as error:
                if error.code == "unavailable":
                    raise  # it is not as it must be
                why = error.message
        if not answers:
            raise StoreError("live_unavailable", f"nobody in the {self._location} says who has its slots: {why}"[:300])
        return agreed(answers)

    async def _ask(self, node: Node) -> list[Node | None]:
        shard = self._by_node.get(node)
        if shard is not None and shard.history.available:
            (slots,) = await shard.history.call_many([_SLOTS])
        else:
            parts = self._parts
            connection = RedisConnection(
                self._location.at(*node), name="topology", uniform=parts.uniform, settings=parts.settings
            )
            try:
                await connection.start()
                (slots,) = await connection.call_many([_SLOTS])
            finally:
                await connection.close()
        if isinstance(slots, ReplyError) and "cluster support disabled" in str(slots):
            raise wrong_kind(is_node=False)
        if isinstance(slots, Exception):
            raise translate(slots)
        return owners(primaries(slots, node), self._slots)

    def _at(self, node: Node) -> Shard:
        """The primary there; a new one is connected to in the background."""
        shard = self._by_node.get(node)
        if shard is None:
            index = next(number for number in range(len(self.all) + 1) if all(one.index != number for one in self.all))
            shard = self._by_node[node] = Shard(index, self._location.at(*node), self._parts)
            self.all.append(shard)
            if self._listener is not None:
                shard.listen(self._listener)
            if shard.subscriptions is not None:
                shard.subscriptions.on_moved = self._channel_moved
                shard.subscriptions.on_dropped = self._dropped
            if self._task is not None:
                shard.open()
        return shard

    def _place(self, moved: dict[int, Node]) -> None:
        """From now on these are there; who listens follows."""
        if not self._nodes:
            self._nodes = list(moved.values())
            self._of = [self._at(node) for node in self._nodes[: self._count]]
            self._at(self._nodes[-1])
            self.commands[:] = [shard.commands for shard in self._of]
            self.history[:] = [shard.history for shard in self._of]
            return
        left: dict[Shard, set[bytes]] = {}
        for index, node in moved.items():
            self._nodes[index] = node
            shard = self._at(node)
            if index < self._count:
                self.moves += 1
                left.setdefault(self._of[index], set()).add(b"v%d" % index)
                former, self._of[index] = self.commands[index], shard
                self.commands[index], self.history[index] = shard.commands, shard.history
                if self.on_switch is not None:
                    self.on_switch(index, former)
        for old, tags in left.items():
            if old.subscriptions is not None:
                for channel, session in old.subscriptions.take(tags).items():
                    new = self._of[int(tag_of(channel)[1:])].subscriptions
                    if new is not None:
                        new.subscribe(channel, session)

    async def _leave_unused(self) -> None:
        now = asyncio.get_running_loop().time()
        used = set(self._nodes)
        for node, shard in list(self._by_node.items()):
            if node in used:
                self._unused_s.pop(shard, None)
            elif now - self._unused_s.setdefault(shard, now) > self._settings.leave_s:
                del self._by_node[node], self._unused_s[shard]
                self.all.remove(shard)
                await shard.close()
