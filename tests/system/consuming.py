"""A consumer that remembers nothing itself: it acknowledges what it was given, and comes back with `from: cursor`.

Each connection is a life of its own, with a view of its own: whatever ended the one before (a kill of its edge, or of
the consumer), all it has to go on from is what the server kept.
"""

import asyncio
from collections.abc import Sequence

from tests.system import history
from tests.system.history import (
    LIFE,
    AckAnswered,
    AckSent,
    CursorFound,
    Delivered,
    EpochTold,
    GapTold,
    History,
    Parted,
    View,
)
from tests.system.lines import Edges, Line

from heliograph.core.positions import Position
from heliograph.protocol.frames import (
    CURSOR,
    Ack,
    Acked,
    Epoch,
    Gap,
    Hello,
    MessageFrame,
    Refused,
    ServerFrame,
    Subscribe,
    Subscribed,
    Subscription,
)

ACK_SHARE = 0.2
"""Of the messages: the others are covered by a later ack."""
OLD_SHARE = 0.05
"""Of the acks: followed by one of long ago, which must move nothing."""
AHEAD_SHARE = 0.05
"""Of the acks: followed by one of a position that nobody was given, which must be refused."""
FAR = 1_000_000
"""Positions ahead that no run of a test reaches."""
WHILE_AWAY = frozenset({"live_unavailable", "unavailable", "rate_limited"})
"""Refusals of an ack that a later one makes up for."""


class RawConsumer:
    """Reads its sessions as one consumer, one line at a time."""

    def __init__(
        self,
        record: History,
        name: str,
        edges: Sequence[str],
        token: str,
        sessions: Sequence[str],
        *,
        first_edge: int = 0,
        seed: int = 0,
        lies: bool = True,
    ) -> None:
        """`lies`: it acknowledges, now and then, what it was not given. Nobody can tell in an epoch before the former
        one, nor where the live store that gave it is gone with its data.
        """
        self.name = name
        self.sessions = list(sessions)
        self.token = token
        self.lives = 0
        self.acked = 0
        """Answers that said that a cursor is stored."""
        self._record = record
        self._edges = Edges(edges, first_edge, seed)
        self._dice = self._edges.random
        self._ahead_share = AHEAD_SHARE if lies else 0.0
        self._last: dict[str, str] = {}
        self._first: dict[str, str] = {}
        self._request = 0
        self._under_way: dict[int, str] = {}
        self._task: asyncio.Task[None] | None = None

    def last(self, session: str) -> str:
        """Where its present life stands."""
        return self._last.get(session, "")

    def start(self) -> None:
        assert self._task is None
        self._task = asyncio.create_task(self._run())

    async def kill(self) -> None:
        """It ends without a word, as a process that is killed does; `start` begins its next life."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait([self._task])
        task, self._task = self._task, None
        if not task.cancelled():
            task.result()

    async def stop(self) -> None:
        """The end, at rest: what its last life was given is all there is."""
        await self.kill()
        for session in self.sessions:
            self._view(session).to_the_end = True

    async def _run(self) -> None:
        await self._edges.keep(self._begin, self._hello, self._read, parted=self._parted)

    async def _read(self, line: Line) -> None:
        """Until the server asks to go elsewhere."""
        async for data, frame in line.frames():
            await self._saw(line, data, frame)
            if line.leave_after_ms is not None:
                return

    def _begin(self) -> str:
        self.lives += 1
        self._last.clear()
        self._under_way.clear()
        return f"{self.name}#{self.lives}"

    def _hello(self) -> Hello:
        wanted = [Subscription(session, CURSOR) for session in self.sessions]
        return Hello(token=self.token, consumer=self.name, subscriptions=wanted)

    def _view(self, session: str) -> View:
        return self._record.view(f"{self.name}{LIFE}{self.lives}", session)

    async def _saw(self, line: Line, data: bytes, frame: ServerFrame) -> None:
        now = self._record.now()
        match frame:
            case MessageFrame(position=str(position)):
                self._view(frame.session).sights.append(
                    Delivered(now, position, frame.message_id, bytes(frame.payload), data)
                )
                self._last[frame.session] = position
                self._first.setdefault(frame.session, position)
                await self._acknowledge(line, frame.session, position)
            case Subscribed():
                found = None if frame.cursor_missing else frame.position
                self._record.cursors.append(CursorFound(now, self.name, frame.session, found))
                told = history.Subscribed(now, line.name, CURSOR, frame.position, frame.recovered)
                self._view(frame.session).sights.append(told)
                self._last[frame.session] = found or ""
            case Gap():
                self._view(frame.session).sights.append(GapTold(now, frame.first, frame.last, frame.reason))
                if frame.last is not None:
                    self._last[frame.session] = max(frame.last, self.last(frame.session))
            case Epoch():
                self._view(frame.session).sights.append(EpochTold(now, frame.start, frame.last, frame.certain))
                self._last[frame.session] = f"{frame.start}-{0:016d}"
            case Acked():
                assert frame.id is not None
                assert self._under_way.pop(frame.id) == frame.session
                self.acked += 1
                answered = AckAnswered(now, self.name, frame.session, line.name, frame.id, frame.position)
                self._record.cursors.append(answered)
            case Refused(id=int(request)):
                session = self._under_way.pop(request)
                assert frame.code in WHILE_AWAY or frame.code == "position_ahead", frame
                answered = AckAnswered(now, self.name, session, line.name, request, code=frame.code)
                self._record.cursors.append(answered)
            case Refused(session=str(session)):
                assert frame.retry_after_ms is not None, frame
                await asyncio.sleep(frame.retry_after_ms / 1000)
                await line.send(Subscribe(session, start=CURSOR))
            case _:
                pass

    async def _acknowledge(self, line: Line, session: str, position: str) -> None:
        if self._dice.random() > ACK_SHARE:
            return
        await self._ack(line, session, position)
        if self._dice.random() < OLD_SHARE:
            await self._ack(line, session, self._first[session])
        if self._dice.random() < self._ahead_share:
            at = Position.parse(position)
            await self._ack(line, session, str(Position(at.epoch, at.seq + FAR)), given=False)

    async def _ack(self, line: Line, session: str, position: str, *, given: bool = True) -> None:
        self._request += 1
        self._under_way[self._request] = session
        sent = AckSent(self._record.now(), self.name, session, position, line.name, self._request, given)
        self._record.cursors.append(sent)
        await line.send(Ack(session, position, self._request))

    def _parted(self, line: Line) -> None:
        self._record.ended.add(line.name)
        now = self._record.now()
        for session in self.sessions:
            view = self._view(session)
            view.sights.append(Parted(now, line.name))
            view.to_the_end = False
