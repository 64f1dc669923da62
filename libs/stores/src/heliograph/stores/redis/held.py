"""Appends that wait for their virtual shard to be settled: its slot moves, its primary changed, functions are missing.

An answer that one append could not be carried out says nothing of those sent behind it, and their answers are still to
come. So what comes back is kept in the order of its answers, what comes new behind that, and nothing is sent again
before all that was sent has been answered. Then all of it goes out in order, as often as it must; those of one session
on one connection, since the answers of two come in any order. An append that waited `deadline_s` is given up: to its
publisher the live path is away.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from heliograph.stores.events import StoreEvent
from heliograph.stores.ports import Appended, StoreError
from heliograph.stores.redis.calls import load_library
from heliograph.stores.redis.connection import ASKING, PING, RedisConnection, ignore
from heliograph.stores.redis.redirects import Again, Step
from heliograph.stores.redis.routes import Route
from heliograph.stores.redis.shards import Shards
from heliograph.stores.redis.stats import LiveStats

Answered = Callable[[Appended | StoreError], None]

BEHIND = Again(Step.WAIT)
"""Of an append that was refused as out of order because one before it came back."""


class Turn:
    """One append that is held."""

    __slots__ = ("again", "answered", "done", "held", "packed", "route", "since_s")

    def __init__(
        self,
        route: Route,
        packed: bytes,
        done: Answered,
        held: "Held",
        since_s: float,
        answered: "Callable[[Turn, Any], None]",
    ) -> None:
        self.route = route
        self.packed = packed
        self.done = done
        self.held = held
        self.since_s = since_s
        self.answered = answered
        self.again: Again | None = None
        """Why it came back, last."""

    def __call__(self, reply: Any) -> None:
        self.answered(self, reply)


class Held:
    """Of one virtual shard."""

    __slots__ = ("back", "new", "sessions", "under_way", "whole")

    def __init__(self) -> None:
        self.back: list[Turn] = []
        """Came back, in the order of their answers."""
        self.new: list[Turn] = []
        """Came meanwhile."""
        self.sessions: set[bytes] = set()
        """Of `back`."""
        self.under_way = 0
        """Sent again, and not answered."""
        self.whole = asyncio.Event()
        """Nothing is under way."""


class HeldAppends:
    """Of one store."""

    def __init__(
        self,
        shards: Shards,
        stats: LiveStats,
        send: Callable[[Route, bytes, Answered], None],
        answered: Callable[[Route, bytes, Answered, Turn | None, Any], None],
        *,
        deadline_s: float,
        most: int,
    ) -> None:
        """`send` sends one as if it were new; `answered` takes the answer to one, which may come back by it."""
        self._shards = shards
        self._stats = stats
        self._send = send
        self._take = answered
        self._deadline_s = deadline_s
        self._most = most
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self.by_virtual_shard: dict[int, Held] = {}
        self.count = 0

    async def close(self) -> None:
        """What is held is told; nothing is held any more."""
        self._closed = True
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        held, closed = list(self.by_virtual_shard.values()), StoreError("live_unavailable", "closed")
        self.by_virtual_shard.clear()
        for one in held:
            for turn in one.back + one.new:
                self.count -= 1
                asyncio.get_running_loop().call_soon(turn.done, closed)
            one.back, one.new = [], []

    # ---- who waits --------------------------------------------------------------------------------------------------

    def came(self, route: Route, packed: bytes, done: Answered) -> None:
        """A new one of a virtual shard of which others are held."""
        held = self.by_virtual_shard[route.virtual_shard]
        turn = self._turn(held, route, packed, done)
        if turn is not None:
            held.new.append(turn)

    def came_back(self, route: Route, packed: bytes, done: Answered, turn: Turn | None, again: Again) -> None:
        """One that was not carried out; `turn` where that has happened before."""
        number = route.virtual_shard
        if self._closed:
            done(StoreError("live_unavailable", "closed"))
            return
        held = self.by_virtual_shard.get(number) or self._hold(number, self._shards.commands[number])
        turn = turn or self._turn(held, route, packed, done)
        if turn is not None:
            turn.again = again
            held.back.append(turn)
            held.sessions.add(route.session)

    def wait_for(self, virtual_shard: int, former: RedisConnection) -> None:
        """A virtual shard has another primary: what is sent there must not overtake what the former one has still to
        answer.
        """
        if former.in_flight and virtual_shard not in self.by_virtual_shard and not self._closed:
            self._hold(virtual_shard, former)

    def is_behind(self, route: Route) -> bool:
        """Whether one of its session came back, so that those sent behind it seem to be out of order."""
        held = self.by_virtual_shard.get(route.virtual_shard)
        return held is not None and route.session in held.sessions

    def _hold(self, number: int, sent_to: RedisConnection) -> Held:
        held = self.by_virtual_shard[number] = Held()
        task = asyncio.get_running_loop().create_task(self._settle(number, held, sent_to), name="redis held appends")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return held

    def _turn(self, held: Held, route: Route, packed: bytes, done: Answered) -> Turn | None:
        loop = asyncio.get_running_loop()
        if self.count >= self._most:
            loop.call_soon(done, StoreError("live_unavailable", "too many appends wait for a virtual shard that moves"))
            return None
        self.count += 1
        return Turn(route, packed, done, held, loop.time(), self._answered)

    def _answered(self, turn: Turn, reply: Any) -> None:
        held = turn.held
        turn.again = None
        self._take(turn.route, turn.packed, turn.done, turn, reply)
        if turn.again is None:
            self.count -= 1
        held.under_way -= 1
        if not held.under_way:
            held.whole.set()

    # ---- rounds -----------------------------------------------------------------------------------------------------

    async def _settle(self, number: int, held: Held, sent_to: RedisConnection) -> None:
        """Send again what came back and what came meanwhile, until nothing comes back."""
        commands = self._shards.commands
        await sent_to.call_many([PING])  # answered once all that was sent before it has been
        tries, asked_elsewhere = 0, False
        while held.back or asked_elsewhere:
            elsewhere = await self._prepare(number, held, tries)
            tries += 1
            turns, held.back, held.new = held.back + held.new, [], []
            turns = [turn for turn in turns if not self._gives_up(turn)]
            held.sessions.clear()
            held.under_way = len(turns)
            held.whole.clear()
            gone = {turn.route.session: elsewhere[turn.again] for turn in turns if turn.again in elsewhere}
            asked_elsewhere = bool(gone)
            for turn in turns:
                other = gone.get(turn.route.session)
                if other is None:
                    commands[number].send(turn.packed, turn)
                else:
                    other.send(ASKING, ignore)
                    other.send(turn.packed, turn)
            if turns:
                await held.whole.wait()
        del self.by_virtual_shard[number]
        for turn in held.new:
            self.count -= 1
            self._send(turn.route, turn.packed, turn.done)

    async def _prepare(self, number: int, held: Held, tries: int) -> dict[Again, RedisConnection]:
        """Do what has to be done first; where those go that another node is to be asked for."""
        elsewhere = {}
        for what in dict.fromkeys(turn.again for turn in held.back if turn.again is not None):
            self._stats.count(StoreEvent.REDIRECTED)
            connection = self._shards.commands[number]
            try:
                if what.step is Step.LOAD:
                    await load_library(connection, self._stats)
                    continue
                other = await self._shards.prepare(number, what, tries, self._deadline_s)
            except StoreError as error:
                connection.drop(error.message)  # what is sent now is refused
                continue
            if other is not None:
                elsewhere[what] = other
        return elsewhere

    def _gives_up(self, turn: Turn) -> bool:
        loop = asyncio.get_running_loop()
        if loop.time() - turn.since_s <= self._deadline_s:
            return False
        self.count -= 1
        self._stats.count(StoreEvent.APPEND_GIVEN_UP)
        loop.call_soon(turn.done, StoreError("live_unavailable", "its virtual shard is between two primaries"))
        return True
