"""A publisher that keeps its own account of the protocol: what it sent, what it was answered, what it sends again.

It is written from the protocol's rules, not from the SDK's code, so that each checks the other: at most `window`
unanswered publishes per session and class with rising producer seqs; after a refusal nothing is sent until all that is
under way is answered, then from the refused one on; after a lost connection everything unanswered again, same seqs.
What was answered as deferred may still be expected, and is waited for. A counter that the server does not know any
more begins anew under another incarnation, and messages keep their ids.
"""

import asyncio
import random
import secrets
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from msgspec import Raw
from tests.system import history
from tests.system.history import Answer, Attempt, History, Outcome
from tests.system.lines import Edges, Line

from heliograph.core.messages import AckMode, MessageClass
from heliograph.protocol.codes import CODES
from heliograph.protocol.frames import (
    Confirmed,
    Error,
    Hello,
    Publish,
    Published,
    Refused,
    ServerFrame,
    Status,
    StatusAnswer,
)
from heliograph.protocol.message_ids import derived_message_id

FORGOTTEN = frozenset({"producer_unknown", "producer_seq_expired", "producer_seq_reused"})
STATUS_EVERY_S = 1.0
BURST = 20
"""Messages made at once at most, so that something is under way when something dies."""
DRAIN_PATIENCE_S = 2.0
DEFERRED_WAIT_S = 0.2


@dataclass(slots=True)
class Item:
    """One message, until it is answered."""

    key: str
    content: bytes
    message_id: str | None = None
    sent_as: tuple[str, int] | None = None
    done: bool = False
    refusal: Refused | None = None


@dataclass(slots=True)
class Lane:
    """One session and class: a window of messages with consecutive seqs."""

    session: str
    class_: MessageClass
    items: deque[Item] = field(default_factory=deque)
    base: int = 1
    cursor: int = 0
    under_way: int = 0
    halted: bool = False
    resume_s: float = 0.0
    made: int = 0
    deferred: tuple[int, int] | None = None
    """First and last seq answered as deferred, until one behind them has a position."""

    def restart(self) -> None:
        """Everything unanswered is sent again, on this connection or under another incarnation."""
        self.cursor, self.under_way, self.halted = 0, 0, False
        for item in self.items:
            item.refusal = None


class RawPublisher:
    """Publishes to its lanes at a pace, over one line at a time."""

    def __init__(
        self,
        record: History,
        name: str,
        edges: Sequence[str],
        token: str,
        lanes: Sequence[tuple[str, MessageClass]],
        *,
        per_s: float = 20.0,
        window: int = 32,
        ack: AckMode = AckMode.DURABLE,
        payload_bytes: int = 0,
        first_edge: int = 0,
        seed: int = 0,
    ) -> None:
        self.name = name
        self.lanes = [Lane(session, class_) for session, class_ in lanes]
        self.answered = 0
        """Messages that were answered for good (not: refused)."""
        self.settled = 0
        """Messages answered as they were asked for: durable at last, or accepted."""
        self.waiting: dict[tuple[str, str], float] = {}
        """Pending ones that are not confirmed yet, and when to ask."""
        self.refusals: dict[str, int] = {}
        self._record = record
        self._edges = Edges(edges, first_edge, seed)
        self._token = token
        self._interval_s = 1 / per_s
        self._window = window
        self._ack = ack
        self._filling = "x" * payload_bytes
        self._random = random.Random(seed)
        self._incarnation = secrets.token_urlsafe(9)
        self._rotate = False
        self._lines = 0
        self._ids = 0
        self._under_way: dict[int, tuple[Lane, Item, Attempt]] = {}
        self._attempts: dict[int, Attempt] = {}
        self._wake = asyncio.Event()
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self.changed = asyncio.Event()

    # ---- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._make())]

    def rest(self) -> None:
        """Make no more messages; what there is goes on until it is answered."""
        self._stopping = True

    @property
    def under_way(self) -> int:
        """Publishes whose answer is due."""
        return len(self._under_way)

    @property
    def at_rest(self) -> bool:
        """Everything is answered, and what was pending is confirmed."""
        return not self.waiting and not any(lane.items for lane in self.lanes)

    @property
    def state(self) -> str:
        """What keeps it from being at rest, for whoever debugs."""
        lanes = [
            f"{lane.session} {lane.class_}: {len(lane.items)} from {lane.base}, {lane.under_way} under way"
            + (", halted" if lane.halted else "")
            for lane in self.lanes
            if lane.items
        ]
        waiting = [" ".join(place) for place in self.waiting][:5]
        return f"{self._lines} lines, incarnation {self._incarnation}, lanes {lanes}, unconfirmed {waiting}"

    def check_alive(self) -> None:
        """Raise what ended one of its tasks."""
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()

    def forget(self, lost: set[str]) -> None:
        """Pending ones of live stores that are gone with their data can't be told about any more."""
        self.waiting = {key: due for key, due in self.waiting.items() if key[1][14:22] not in lost}

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        self.check_alive()

    async def _make(self) -> None:
        """New messages, in bursts at the pace, where a lane has room: agents are not evenly busy."""
        while not self._stopping:
            count = self._random.randint(1, BURST)
            for _ in range(count):
                lane = self._random.choice(self.lanes)
                if len(lane.items) < self._window:
                    self.add(lane)
            await asyncio.sleep(self._random.uniform(0.5, 1.5) * self._interval_s * count)

    def add(self, lane: Lane) -> None:
        """One more message."""
        lane.made += 1
        key = f"{self.name}/{lane.session}/{lane.class_}/{lane.made}"
        content = f'{{"key":"{key}"' + (f',"filling":"{self._filling}"' if self._filling else "") + "}"
        lane.items.append(Item(key, content.encode()))
        self._wake.set()

    # ---- the line ---------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        await self._edges.keep(
            self._name, self._hello, self._read, write=self._write, parted=self._broken, stays=lambda: self._rotate
        )

    def _name(self) -> str:
        self._lines += 1
        return f"{self.name}#{self._lines}"

    def _hello(self) -> Hello:
        if self._rotate:
            self._begin_anew()
        return Hello(token=self._token, producer=self.name, incarnation=self._incarnation)

    def _begin_anew(self) -> None:
        """Another incarnation: counters from 1, messages keep the ids that they may be in under."""
        self._rotate = False
        self._incarnation = secrets.token_urlsafe(9)
        for lane in self.lanes:
            lane.items = deque(item for item in lane.items if not item.done)
            for item in lane.items:
                if item.sent_as is not None and item.message_id is None:
                    item.message_id = derived_message_id(item.sent_as[0], lane.class_, item.sent_as[1])
            lane.base, lane.deferred = 1, None
            lane.restart()

    def _broken(self, line: Line) -> None:
        """All that is under way is in doubt."""
        if self._under_way:
            self._record.ended.add(line.name)
        self._under_way.clear()
        for lane in self.lanes:
            lane.restart()
        for key in self.waiting:
            self.waiting[key] = 0.0

    async def _write(self, line: Line) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            now = loop.time()
            if line.leave_after_ms is None and not self._rotate:
                for lane in self.lanes:
                    await self._write_lane(line, lane, now)
                for (session, position), due_s in list(self.waiting.items()):
                    if due_s <= now:
                        self.waiting[session, position] = now + STATUS_EVERY_S
                        await line.send(Status(session, position))
            try:
                async with asyncio.timeout(0.1):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _write_lane(self, line: Line, lane: Lane, now: float) -> None:
        if lane.halted:
            if lane.under_way:
                return
            self._settle(lane, now)
        if lane.resume_s > now:
            return
        while lane.cursor < len(lane.items) and lane.under_way < self._window and not lane.halted:
            item = lane.items[lane.cursor]
            lane.cursor += 1
            if not item.done:
                await self._send(line, lane, item, lane.base + lane.cursor - 1)

    async def _send(self, line: Line, lane: Lane, item: Item, seq: int) -> None:
        self._ids += 1
        item.sent_as, item.refusal = (self._incarnation, seq), None
        attempt = Attempt(
            self._record.now(),
            line.name,
            lane.session,
            lane.class_,
            item.content,
            item.key,
            self._ack,
            self.name,
            self._incarnation,
            seq,
            item.message_id,
        )
        self._record.attempts.append(attempt)
        self._under_way[self._ids] = (lane, item, attempt)
        self._attempts[self._ids] = attempt
        lane.under_way += 1
        await line.send(
            Publish(
                lane.session,
                Raw(item.content),
                id=self._ids,
                class_=lane.class_,
                ack=self._ack,
                seq=seq,
                message_id=item.message_id,
            )
        )

    def _settle(self, lane: Lane, now: float) -> None:
        """Go on from the first that was refused."""
        lane.halted, lane.cursor = False, 0
        refusal = next((item.refusal for item in lane.items if item.refusal is not None), None)
        if refusal is None:
            return
        first_deferred = lane.deferred[0] if lane.deferred is not None else None
        if first_deferred is not None and (
            (refusal.code == "producer_unknown" and first_deferred == 1)
            or (refusal.code == "out_of_order" and first_deferred <= (refusal.expected or 0) < lane.base)
        ):
            lane.resume_s = now + DEFERRED_WAIT_S
        elif refusal.code in FORGOTTEN:
            self._rotate = True
        elif refusal.code == "out_of_order":
            assert refusal.expected is not None, refusal
            self._rotate = refusal.expected < lane.base  # its memory is older than what it has answered
        elif refusal.retry_after_ms is not None:
            lane.resume_s = now + refusal.retry_after_ms / 1000 * self._random.uniform(0.5, 1.0)
        else:
            assert CODES[refusal.code].retry, f"{self.name}: {refusal}"

    async def _read(self, line: Line) -> None:
        """Until the server asks to go elsewhere and what is under way is answered, or a new incarnation is due."""
        loop = asyncio.get_running_loop()
        leave_s: float | None = None
        async for _, frame in line.frames():
            self._answered(line, frame)
            self._wake.set()
            self.changed.set()
            if line.leave_after_ms is not None:
                leave_s = leave_s or loop.time() + DRAIN_PATIENCE_S
                if not self._under_way or loop.time() > leave_s:
                    return
            if self._rotate and not self._under_way:
                return

    def _answered(self, line: Line, frame: ServerFrame) -> None:
        now = self._record.now()
        if isinstance(frame, Published):
            outcome = Outcome.DURABLE if frame.durable else Outcome.PENDING if frame.pending else Outcome.ACCEPTED
            if frame.deferred:
                outcome = Outcome.DEFERRED
            answer = Answer(now, outcome, frame.position, frame.message_id, duplicate=frame.duplicate)
            found = self._take(frame.id, answer)
            if found is None:
                return
            lane, item = found
            item.done = True
            seq = item.sent_as[1] if item.sent_as is not None else 0
            if frame.deferred:
                first, last = lane.deferred or (seq, seq)
                lane.deferred = (min(first, seq), max(last, seq))
            elif lane.deferred is not None and seq > lane.deferred[1]:
                lane.deferred = None
            self.answered += 1
            self.settled += outcome is not Outcome.PENDING
            if frame.pending:
                assert frame.position is not None
                self.waiting[lane.session, frame.position] = asyncio.get_running_loop().time() + 4 * STATUS_EVERY_S
            while lane.items and lane.items[0].done:
                lane.items.popleft()
                lane.base += 1
                lane.cursor = max(0, lane.cursor - 1)
        elif isinstance(frame, Refused | Error):
            assert isinstance(frame, Refused), frame
            found = self._take(frame.id, Answer(now, Outcome.REFUSED, code=frame.code))
            if found is None:
                return
            lane, item = found
            item.refusal = frame
            lane.halted = True
            self.refusals[frame.code] = self.refusals.get(frame.code, 0) + 1
        elif isinstance(frame, Confirmed) or (isinstance(frame, StatusAnswer) and frame.durable):
            told = history.Confirmed(now, line.name, frame.session, frame.position)
            self._record.confirmed.append(told)
            if self.waiting.pop((frame.session, frame.position), None) is not None:
                self.settled += 1

    def _take(self, request_id: int | None, answer: Answer) -> tuple[Lane, Item] | None:
        """The message that this answers; None where it had its answer already, which is for the checker to find."""
        assert request_id is not None, answer
        self._attempts[request_id].answers.append(answer)
        found = self._under_way.pop(request_id, None)
        if found is None:
            return None
        lane, item, _ = found
        lane.under_way -= 1
        return lane, item
