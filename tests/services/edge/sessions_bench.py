"""Sessions with fakes around them: a live store and a log that answer when the test says so, in whatever order."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
from tests.services.edge.rig import until

from heliograph.core.history import Start
from heliograph.core.positions import Position
from heliograph.edge.cursors import Cursors
from heliograph.edge.joiner import History
from heliograph.edge.metrics import EdgeMetrics
from heliograph.edge.sessions import Sessions
from heliograph.edge.subscription import Subscription
from heliograph.protocol.messages import FRAME_START
from heliograph.service.expiries import ExpiryDirectory
from heliograph.service.health import Readiness
from heliograph.service.metrics import Metrics
from heliograph.stores.memory.metadata import MemorySessionExpiries
from heliograph.stores.ports import Head, LiveLoad, Page, RehydratedPage, RehydrationRequest, StoreError

NAME = "acme:planner:1"
EPOCH = "1764000000000-1a2b3c4d"
LATER = "1764000009999-1a2b3c4d"


def at(seq: int, epoch: str = EPOCH) -> Position:
    return Position(epoch, seq)


def message(seq: int, epoch: str = EPOCH) -> bytes:
    return b'%b%b","session":"%b","payload":%d}' % (FRAME_START, str(at(seq, epoch)).encode(), NAME.encode(), seq)


def telemetry() -> bytes:
    return b'{"type":"message","session":"%b","payload":"t"}' % NAME.encode()


def page(*seqs: int, head: int | None = None, epoch: str = EPOCH, more: bool = False, complete: bool = True) -> Page:
    """A page of the window with these messages; `head` as given, or the last of them."""
    stands = head if head is not None else (seqs[-1] if seqs else 0)
    first = seqs[0] if seqs else stands + 1
    return Page([message(seq, epoch) for seq in seqs], Head(epoch, stands, stands, first, epoch), complete, more)


EMPTY = Page([], Head("", 0, 0, 0, EPOCH), complete=True, more=False)


class Store:
    """A live store and a log whose reads wait for `answer`."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, asyncio.Future[Any]]] = []
        self.subscribed: list[str] = []
        self.unsubscribed: list[str] = []
        self.head: Head | StoreError = EMPTY.head
        self.load = LiveLoad(0, 1)

    def subscribe(self, session: str) -> None:
        self.subscribed.append(session)

    def unsubscribe(self, session: str) -> None:
        self.unsubscribed.append(session)

    async def heads(self, sessions: Sequence[str]) -> list[Head]:
        if isinstance(self.head, StoreError):
            raise self.head
        return [self.head for _ in sessions]

    async def heads_many(self, sessions: Sequence[str]) -> list[Head | StoreError]:
        return [self.head for _ in sessions]

    async def page(self, session: str, after: Position | None) -> Page:
        found: Page = await self._ask(after)
        return found

    async def ask(self, request: RehydrationRequest, deadline_s: float) -> RehydratedPage:
        found: RehydratedPage = await self._ask(request)
        return found

    async def _ask(self, what: Any) -> Any:
        future = asyncio.get_running_loop().create_future()
        self.asked.append((what, future))
        return await future

    async def question(self, count: int = 1) -> list[Any]:
        """What is asked, once so many questions wait."""
        await until(lambda: len(self.asked) >= count, f"{count} questions")
        return [what for what, _ in self.asked]

    async def answer(self, given: Any, which: int = 0) -> Any:
        """Answer a waiting question; what it was."""
        await self.question(which + 1)
        what, future = self.asked.pop(which)
        if isinstance(given, Exception):
            future.set_exception(given)
        else:
            future.set_result(given)
        await settle()
        return what


class Reader:
    """Stands for a connection: what it was sent, and whether it has room."""

    def __init__(self) -> None:
        self.out: list[bytes] = []
        self.parked: list[Any] = []
        self.room = True
        self.telemetry = 0
        self.waits = False

    def post(self, data: bytes, *, late: bool = False) -> None:
        self.out.append(data)

    def post_telemetry(self, data: bytes, *, late: bool = False) -> None:
        self.telemetry += 1

    def send(self, frame: object) -> None:
        self.out.append(b"\x81\x00" + msgspec.json.encode(frame))

    def has_room(self) -> bool:
        return self.room

    @property
    def frames(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(data[data.index(b"{") :]) for data in self.out]

    @property
    def payloads(self) -> list[int]:
        return [frame["payload"] for frame in self.frames if frame["type"] == "message"]

    def kinds(self) -> list[str]:
        return [frame["type"] for frame in self.frames]


class Writer:
    """Stands for the tick's writer: a test reads `out` itself."""

    def schedule(self, _connection: object) -> None:
        """Nothing is written."""


async def settle() -> None:
    """Let what was just answered be acted on."""
    for _ in range(6):
        await asyncio.sleep(0)


class Bench:
    """Sessions with the fakes around them."""

    def __init__(self) -> None:
        self.store = Store()
        self.metrics = EdgeMetrics(Metrics("edge", process=False))
        cursors = Cursors(self.store, self.metrics)  # type: ignore[arg-type]
        expiries = ExpiryDirectory(MemorySessionExpiries(), Readiness().condition("expiries"), self.metrics.metrics)
        history = History(self.store, self.store, cursors, expiries, self.metrics, 1.0)  # type: ignore[arg-type]
        self.sessions = Sessions(self.store, history, Writer(), self.metrics)  # type: ignore[arg-type]

    def subscribe(self, start: Position | Start, *, confirm: bool = True) -> tuple[Reader, Subscription]:
        reader = Reader()
        subscription = Subscription(NAME, start, reader, self.sessions, 7)  # type: ignore[arg-type]
        self.sessions.subscribe(subscription)
        if confirm:
            self.sessions.on_subscribed(NAME)
        return reader, subscription

    async def live_at(self, seq: int) -> tuple[Reader, Subscription]:
        """A subscriber that is live and has everything up to `seq`."""
        reader, subscription = self.subscribe(at(seq))
        await self.store.answer(page(head=seq))
        assert reader.kinds() == ["subscribed"]
        return reader, subscription

    def arrive(self, *seqs: int, epoch: str = EPOCH) -> None:
        for seq in seqs:
            self.sessions.on_frame(NAME, message(seq, epoch))
