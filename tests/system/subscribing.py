"""A subscriber that records every frame of its sessions, and comes back after whatever happens to its connection."""

import asyncio
from collections.abc import Sequence

from tests.system import history
from tests.system.history import Delivered, EpochTold, GapTold, History, Parted
from tests.system.lines import Edges, Line

from heliograph.protocol.frames import (
    EARLIEST,
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


class RawSubscriber:
    """Reads sessions over one line at a time. `leave` and `start` make it go away and come back."""

    def __init__(
        self,
        record: History,
        name: str,
        edges: Sequence[str],
        token: str,
        sessions: Sequence[str],
        *,
        start: str = EARLIEST,
        first_edge: int = 0,
        seed: int = 0,
    ) -> None:
        self.name = name
        self.sessions = list(sessions)
        self.token = token
        self._record = record
        self._edges = Edges(edges, first_edge, seed)
        self._start = start
        self._last: dict[str, str] = {}
        self._asked: dict[str, str] = {}
        self._lines = 0
        self._task: asyncio.Task[None] | None = None
        self.live: set[str] = set()
        """Sessions whose subscription was answered, on the present line."""
        self.changed = asyncio.Event()

    def last(self, session: str) -> str:
        """The last position it was given; empty before there is one."""
        return self._last.get(session, "")

    def start(self) -> None:
        assert self._task is None
        for session in self.sessions:
            self._record.view(self.name, session).to_the_end = True
        self._task = asyncio.create_task(self._run())

    async def leave(self) -> None:
        """Go away without a word; `start` comes back."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait([self._task])
        task, self._task = self._task, None
        for session in self.sessions:
            self._record.view(self.name, session).to_the_end = False
        if not task.cancelled():
            task.result()

    async def stop(self) -> None:
        """The end, at rest."""
        await self.leave()
        for session in self.sessions:
            self._record.view(self.name, session).to_the_end = True

    async def _run(self) -> None:
        await self._edges.keep(self._name, self._hello, self._read, parted=self._parted)

    def _name(self) -> str:
        self._lines += 1
        return f"{self.name}#{self._lines}"

    def _hello(self) -> Hello:
        self._asked = {session: self._last.get(session) or self._start for session in self.sessions}
        return Hello(
            token=self.token,
            consumer=self.name,
            subscriptions=[Subscription(session, start) for session, start in self._asked.items()],
        )

    async def _read(self, line: Line) -> None:
        """Until the server asks to go elsewhere."""
        async for data, frame in line.frames():
            if isinstance(frame, Refused):
                await self._again(line, frame)
            else:
                self._saw(line, data, frame)
            if line.leave_after_ms is not None:
                return

    async def _again(self, line: Line, refused: Refused) -> None:
        """A subscription that was refused for now."""
        session = refused.session
        assert session is not None, refused
        assert refused.retry_after_ms is not None, refused
        await asyncio.sleep(refused.retry_after_ms / 1000)
        self._asked[session] = self._last.get(session) or self._start
        await line.send(Subscribe(session, start=self._asked[session]))

    def _saw(self, line: Line, data: bytes, frame: ServerFrame) -> None:
        now = self._record.now()
        if isinstance(frame, MessageFrame):
            content = bytes(frame.payload)
            sight = Delivered(now, frame.position, frame.message_id, content, data)
            self._record.view(self.name, frame.session).sights.append(sight)
            if frame.position is not None:
                self._last[frame.session] = frame.position
        elif isinstance(frame, Subscribed):
            asked = self._asked[frame.session]
            answered = history.Subscribed(now, line.name, asked, frame.position, frame.recovered)
            self._record.view(self.name, frame.session).sights.append(answered)
            self.live.add(frame.session)
        elif isinstance(frame, Gap):
            told = GapTold(now, frame.first, frame.last, frame.reason)
            self._record.view(self.name, frame.session).sights.append(told)
            if frame.last is not None:
                self._last[frame.session] = max(frame.last, self.last(frame.session))
        elif isinstance(frame, Epoch):
            begun = EpochTold(now, frame.start, frame.last, frame.certain)
            self._record.view(self.name, frame.session).sights.append(begun)
            self._last[frame.session] = f"{frame.start}-{0:016d}"
        self.changed.set()

    def _parted(self, line: Line) -> None:
        self.live.clear()
        now = self._record.now()
        for session in self.sessions:
            self._record.view(self.name, session).sights.append(Parted(now, line.name))
