"""Peers of one kind in one process: opened at a pace, fed at a rate, asked for their accounts. An actor's handler.

Load is open-loop: each message has the time it was meant to be sent, and its latency is counted from there, so that a
server that stalls is not spared the messages it kept from being sent (no coordinated omission).
"""

import asyncio
import itertools
import random
import time
from array import array
from dataclasses import dataclass, field

from heliograph.core.backoff import BackoffPolicy
from heliograph.local.bench.storms.peers import Peer, Return
from heliograph.local.bench.storms.streams import Fed, Read, Reading, Stream

FEED_LOOK_S = 0.001
LOOK_S = 0.02
RETURN_POLICY = BackoffPolicy(cap_s=5.0)
"""The storms are specified with a cap of 5 s."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Who they are. Peer i reads `reads[i]`, and publishes to the sessions of `feeds[i]`."""

    name: str
    addresses: tuple[str, ...]
    """WebSocket URLs: the first one is where they begin, the others are for coming back."""
    token: str
    reads: tuple[str | None, ...] = ()
    feeds: tuple[tuple[str, ...], ...] = ()
    class_: str = "event"
    payload_bytes: int = 200
    counted: bool = True
    """Numbered, answered and sent again; else thrown at the server, whatever it says."""
    timed: bool = True
    """Keep a latency for each message read."""
    policy: BackoffPolicy = RETURN_POLICY

    @property
    def size(self) -> int:
        return max(len(self.reads), len(self.feeds))


@dataclass(frozen=True, slots=True)
class Accounts:
    """What was given and what was seen."""

    fed: tuple[Fed, ...]
    read: tuple[Read, ...]
    errors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Moves:
    """When peers were told to go, and when they were back (ns, monotonic)."""

    returns: tuple[Return, ...]
    told_ns: tuple[int, ...]
    cut_ns: tuple[int, ...]
    welcomed_ns: tuple[int, ...]
    away: int


@dataclass(slots=True)
class Samples:
    """Latencies by the time that their messages were meant to be sent."""

    at_ns: "array[int]" = field(default_factory=lambda: array("q"))
    late_ms: "array[float]" = field(default_factory=lambda: array("d"))

    def seen(self, intended_ns: int) -> None:
        self.at_ns.append(intended_ns)
        self.late_ms.append((time.monotonic_ns() - intended_ns) / 1e6)


class Party:
    """All peers of a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._samples = Samples()
        self._peers: list[Peer] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._feeding: asyncio.Task[int] | None = None
        self._cutting: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()

    async def open(self, per_s: float, timeout_s: float) -> int:
        """Connect all, so many a second; how many were up in time."""
        plan, seen = self._plan, self._samples.seen if self._plan.timed else None
        begin = time.monotonic()
        for index in range(plan.size):
            session = plan.reads[index] if index < len(plan.reads) else None
            fed = plan.feeds[index] if index < len(plan.feeds) else ()
            streams = [Stream(name, plan.class_, plan.payload_bytes, counted=plan.counted) for name in fed]
            reading = Reading(session, seen) if session is not None else None
            name = f"{plan.name}-{index}"
            peer = Peer(index, name, plan.addresses, plan.token, plan.policy, random.random, reading, streams)
            self._peers.append(peer)
            task = asyncio.create_task(peer.keep())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            ahead_s = (index + 1) / per_s - (time.monotonic() - begin)
            if ahead_s > 0:
                await asyncio.sleep(ahead_s)
        return await self.wait_up(plan.size, timeout_s)

    async def wait_up(self, wanted: int, timeout_s: float) -> int:
        """How many are connected and subscribed, as soon as it is `wanted`, or when the time is over."""
        deadline = time.monotonic() + timeout_s
        while (up := sum(peer.up for peer in self._peers)) < wanted:
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(LOOK_S)
        return up

    async def on(self, address: str) -> int:
        """How many are up there: one whose first handshake failed has gone to the next address."""
        return sum(peer.up and peer.address == address for peer in self._peers)

    async def wait_up_again(self, wanted: int, timeout_s: float) -> int:
        """The same of those who were away in between."""
        deadline = time.monotonic() + timeout_s
        while (up := sum(peer.up and bool(peer.returns) for peer in self._peers)) < wanted:
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(LOOK_S)
        return up

    async def cut_in_turns(self, every_s: float) -> None:
        """Cut one connection after the other, for ever; 0 ends that."""
        if self._cutting is not None:
            self._cutting.cancel()
            self._cutting = None
        if every_s > 0:
            self._cutting = asyncio.create_task(self._cut(every_s))
            self._tasks.add(self._cutting)

    async def _cut(self, every_s: float) -> None:
        for peer in itertools.cycle(self._peers):
            peer.cut()
            await asyncio.sleep(every_s)

    # ---- feeding ----------------------------------------------------------------------------------------------------

    async def feed(self, per_s: float, seconds: float | None = None) -> None:
        """Begin to publish, over all streams in turn; for ever unless told how long."""
        self._stop.clear()
        self._feeding = asyncio.create_task(self._feed(per_s, seconds))

    async def fed(self) -> int:
        """How many were given out, once it has come to its end."""
        assert self._feeding is not None
        return await self._feeding

    async def stop_feeding(self) -> int:
        self._stop.set()
        return await self.fed()

    async def _feed(self, per_s: float, seconds: float | None) -> int:
        streams = [(peer, stream) for peer in self._peers for stream in peer.streams]
        streams.sort(key=lambda pair: pair[0].streams.index(pair[1]))  # publishers take turns
        begin_ns, sent = time.monotonic_ns(), 0
        total = None if seconds is None else int(per_s * seconds)
        while not self._stop.is_set() and (total is None or sent < total):
            due = int((time.monotonic_ns() - begin_ns) / 1e9 * per_s) + 1
            while sent < (due if total is None else min(due, total)):
                peer, stream = streams[sent % len(streams)]
                peer.publish(stream, begin_ns + int(sent / per_s * 1e9))
                sent += 1
            await asyncio.sleep(FEED_LOOK_S)
        return sent

    async def settle(self, timeout_s: float) -> tuple[bool, int]:
        """Whether all that was given has a good answer and is durable (counted streams), and when that was (ns)."""
        deadline = time.monotonic() + timeout_s
        streams = [stream for peer in self._peers for stream in peer.streams]
        while time.monotonic() < deadline:
            if all(stream.durable >= stream.given for stream in streams):
                return True, time.monotonic_ns()
            await asyncio.sleep(LOOK_S)
        return False, time.monotonic_ns()

    async def wait_answered(self, timeout_s: float) -> int:
        """How many are without an answer, as soon as it is 0, or when the time is over."""
        deadline = time.monotonic() + timeout_s
        streams = [stream for peer in self._peers for stream in peer.streams]
        while waiting := sum(stream.unanswered for stream in streams):
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(LOOK_S)
        return waiting

    async def wait_read(self, wanted: dict[str, int], timeout_s: float) -> tuple[bool, int]:
        """Whether every reader has all up to its session's number, and when that was (ns)."""
        deadline = time.monotonic() + timeout_s
        readings = [peer.reading for peer in self._peers if peer.reading is not None]
        while time.monotonic() < deadline:
            if all(one.last >= wanted.get(one.session, 0) for one in readings):
                return True, time.monotonic_ns()
            await asyncio.sleep(LOOK_S)
        return False, time.monotonic_ns()

    # ---- accounts ---------------------------------------------------------------------------------------------------

    async def accounts(self) -> Accounts:
        fed = tuple(stream.account() for peer in self._peers for stream in peer.streams)
        read = tuple(peer.reading.account() for peer in self._peers if peer.reading is not None)
        return Accounts(fed, read, tuple(error for peer in self._peers for error in peer.errors))

    async def samples(self) -> tuple[bytes, bytes]:
        """Both arrays of `Samples`, since the last time; they begin anew."""
        at_ns, late_ms = self._samples.at_ns.tobytes(), self._samples.late_ms.tobytes()
        del self._samples.at_ns[:]
        del self._samples.late_ms[:]
        return at_ns, late_ms

    async def moves(self) -> Moves:
        return Moves(
            tuple(one for peer in self._peers for one in peer.returns),
            tuple(at for peer in self._peers for at in peer.told_ns),
            tuple(at for peer in self._peers for at in peer.cut_ns),
            tuple(at for peer in self._peers for at in peer.welcomed_ns),
            sum(not peer.up for peer in self._peers),
        )

    async def close(self) -> None:
        self._stop.set()
        for peer in self._peers:
            peer.stop()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
