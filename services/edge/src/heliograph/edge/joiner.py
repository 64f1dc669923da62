"""Drives the join of history with live (`heliograph.core.joining`): reads the pages that it asks for.

Used for each subscriber that comes from behind, and for a session whose live frames had a hole (then the sink is the
session's hub, and what it reads goes to every subscriber). Reading a page is the one task in it; it is never on the
path of a live frame.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from heliograph.core.contiguity import Hole
from heliograph.core.history import Gap, Page, Request, Source, Start, Why
from heliograph.core.joining import Ask, EpochBegins, Join, Live, Send
from heliograph.core.positions import EPOCH_LENGTH, RUN_STARTS, Position
from heliograph.edge.cursors import Cursors
from heliograph.edge.metrics import EdgeMetrics
from heliograph.edge.reading import Begin, Shared, Turns
from heliograph.protocol.expiries import frame_time_ms
from heliograph.protocol.messages import FRAME_START
from heliograph.service.expiries import ExpiryDirectory
from heliograph.stores import ports
from heliograph.stores.ports import LiveStore, RehydratedPage, Rehydration, RehydrationRequest, StoreError

RETRY_S = (0.1, 0.5)
"""Between tries of the hot window while it can't be read: the live store reconnects in about that time."""

_AT = len(FRAME_START)
_EPOCH_END = _AT + EPOCH_LENGTH
_SEQ_END = _EPOCH_END + 17


class History:
    """Where pages come from."""

    def __init__(
        self,
        live: LiveStore,
        rehydration: Rehydration,
        cursors: Cursors,
        expiries: ExpiryDirectory,
        metrics: EdgeMetrics,
        rehydration_timeout_s: float,
        window_reads: int = 16,
    ) -> None:
        self._live = live
        self._rehydration = rehydration
        self._cursors = cursors
        self._expiries = expiries
        self._metrics = metrics
        self._timeout_s = rehydration_timeout_s
        self._turns = Turns[Page[bytes]](window_reads, metrics.history_shared)
        self._shared = Shared[Page[bytes]](metrics.history_shared)
        metrics.metrics.sampled_gauge(
            "history_reads_waiting",
            "Pages of hot windows that wait for their turn.",
            lambda: float(self._turns.waiting),
        )

    async def read(self, session: str, source: Source, after: Position | Start, begin: Begin) -> Page[bytes] | None:
        """One page; None where it was not wanted any more when its turn came. Raises StoreError.

        `begin` is called when it is sent, which may be a while: a crowd has to queue.
        """
        at = after if isinstance(after, Position) else None
        try:
            if source is Source.LOG:
                begin()
                return await self._shared.read((session, at), lambda: self._log(session, at))
            if after is not Start.LATEST:
                tenant = session.partition(":")[0]
                return await self._turns.read(tenant, (session, at), begin, lambda: self._window(session, at))
            begin()
            self._metrics.history_reads.labels(source.value).n += 1
            (head,) = await self._live.heads([session])
            return Page((), more=False, head=_head(head), before_first=_before_first(head))
        except StoreError:
            self._metrics.history_failures.labels(source.value).n += 1
            raise

    async def close(self) -> None:
        """End what is being read."""
        await self._turns.close()

    async def _window(self, session: str, after: Position | None) -> Page[bytes]:
        """A page of the hot window, without what has expired: a gap stands for it."""
        self._metrics.history_reads.labels(Source.WINDOW.value).n += 1
        gone_until_ms = await self._expiries.gone_until(session)
        page = await self._live.page(session, after)
        complete = page.complete
        entries = [(position_of(frame), frame) for frame in page.frames]
        if not gone_until_ms:
            head, before_first = _head(page.head), _before_first(page.head)
            return Page(entries, more=page.more, complete=complete, head=head, before_first=before_first)
        gaps: list[Gap] = []
        entries = _left(entries, gone_until_ms, gaps)
        while page.more and page.frames and not entries:  # a page that brings nothing would be asked for again
            page = await self._live.page(session, position_of(page.frames[-1]))
            complete = complete and page.complete
            entries = _left([(position_of(frame), frame) for frame in page.frames], gone_until_ms, gaps)
        head, before_first = _head(page.head), _before_first(page.head)
        return Page(entries, more=page.more, complete=complete, head=head, before_first=before_first, gaps=gaps)

    async def cursor(self, session: str, consumer: str) -> Position | None:
        """Where a consumer stands. Raises StoreError."""
        try:
            return await self._cursors.find(session, consumer)
        except StoreError:
            self._metrics.history_failures.labels("cursor").n += 1
            raise

    async def _log(self, session: str, after: Position | None) -> Page[bytes]:
        self._metrics.history_reads.labels(Source.LOG.value).n += 1
        request = RehydrationRequest(session, None if after is None else str(after), None)
        page = await self._rehydration.ask(request, self._timeout_s)
        if page.code is not None:
            raise StoreError("history_unavailable", f"replay answered {page.code}")
        return log_page(page)


def log_page(page: RehydratedPage) -> Page[bytes]:
    """What replay answered, as a page."""
    entries = [(position_of(frame), frame) for frame in page.frames if frame.startswith(FRAME_START)]
    gaps: list[Gap] = []
    if page.gap_before is not None:
        first, last, why = page.gap_before
        start, end = Position.parse(first), Position.parse(last)
        gaps.append(Gap(Hole(end.epoch, start.seq if start.epoch == end.epoch else 1, end.seq), Why(why)))
    return Page(entries, more=page.more, complete=page.gap_before is None, gaps=gaps)


def _left(entries: list[tuple[Position, bytes]], gone_until_ms: int, gaps: list[Gap]) -> list[tuple[Position, bytes]]:
    """The entries that have not expired; the others are put to `gaps`."""
    left: list[tuple[Position, bytes]] = []
    for position, frame in entries:
        if frame_time_ms(frame) > gone_until_ms:
            left.append((position, frame))
            continue
        epoch, seq = position
        begin = seq
        if gaps and gaps[-1].hole[::2] == (epoch, seq - 1):
            begin = gaps.pop().hole.from_seq
        gaps.append(Gap(Hole(epoch, begin, seq), Why.EXPIRED))
    return left


def position_of(frame: bytes) -> Position:
    """The position of a sequenced message frame. Raises ValueError where there is none."""
    return Position(frame[_AT:_EPOCH_END].decode(), int(frame[_EPOCH_END + 1 : _SEQ_END]))


def _head(head: ports.Head) -> Position | None:
    return Position(head.epoch, head.seq) if head.epoch else None


def _before_first(head: ports.Head) -> Position | None:
    return None if head.epoch else Position(head.next_epoch, 0)


@dataclass(frozen=True, slots=True)
class Cursor:
    """A start that has to be looked up: where a consumer stands, and the earliest message where it stands nowhere."""

    consumer: str


class Sink(Protocol):
    """Where a join's results go."""

    def has_room(self, joiner: "Joiner") -> bool:
        """Whether a page may be read now. If not, the sink calls `pump` once it may."""

    def found(self, cursor: Position | None) -> None:
        """What a start that was a cursor is."""

    def failed(self, code: str) -> None:
        """The cursor can't be had, now or later; nothing follows."""

    def joined(self, frames: list[bytes]) -> None: ...

    def gap(self, gap: Gap) -> None: ...

    def unread(self) -> None:
        """Called behind `begin`: what there was before the first message that comes is not known, since the log can't
        be read. Only for a start at the earliest message."""

    def epoch(self, after: Position, epoch: str, *, certain: bool) -> None: ...

    def live(self, at: Position | None, *, recovered: bool) -> None: ...

    def begin(self, *, recovered: bool) -> None:
        """Called before any of the others but `live`, once something is known."""


class Joiner:
    """One join under way."""

    def __init__(
        self,
        session: str,
        start: Position | Start | Cursor,
        sink: Sink,
        history: History,
        spawn: Callable[[asyncio.Task[None]], None],
    ) -> None:
        self._session = session
        self._cursor = start if isinstance(start, Cursor) else None
        """Looked up before anything else; live frames of that time are on the pages that are read then."""
        self._start = Start.EARLIEST if isinstance(start, Cursor) else start
        self._join: Join[bytes] = Join(self._start)
        self._sink = sink
        self._history = history
        self._spawn = spawn
        self._reading = False
        self._request: Request | None = None
        self._begun = False
        self._log_failed = False
        self.over = False

    def pump(self) -> None:
        """Read the next page, if one is wanted and there is room for it."""
        if self._reading or self.over or not self._sink.has_room(self):
            return
        self._reading = True
        work = self._read(*self._join.wanted) if self._cursor is None else self._look(self._cursor)
        self._spawn(asyncio.create_task(work))

    def offer(self, position: Position, frame: bytes) -> None:
        """A live frame."""
        if not self.over and self._cursor is None:
            self._join.live(position, frame)

    def cancel(self) -> None:
        """Nobody wants it any more."""
        self.over = True

    async def _look(self, cursor: Cursor) -> None:
        try:
            position = await self._history.cursor(self._session, cursor.consumer)
        except ports.CorruptError as error:
            if not self.over:
                self.over = True
                self._sink.failed(error.code)
            return
        except StoreError:
            await asyncio.sleep(random.uniform(*RETRY_S))  # noqa: S311 - a pace, no secret
        else:
            self._cursor = None
            self._start = position or Start.EARLIEST
            self._join = Join(self._start)
            if not self.over:
                self._sink.found(position)
        self._reading = False
        self.pump()

    def _begin(self) -> bool:
        """The page is read now: live frames count from here on. False: nobody wants it any more."""
        if not self.over:
            self._request = self._join.request()
        return not self.over

    async def _read(self, source: Source, after: Position | Start) -> None:
        try:
            page = await self._history.read(self._session, source, after, self._begin)
        except (StoreError, ports.CorruptError, ValueError):
            page = None
            if source is Source.WINDOW:
                await asyncio.sleep(random.uniform(*RETRY_S))  # noqa: S311 - a pace, no secret
            else:
                self._log_failed = True
        self._reading = False
        request, self._request = self._request, None
        if not self.over and request is not None:
            self._act(self._join.unavailable(request) if page is None else self._join.page(request, page))

    def _act(self, actions: list[Ask | Send[bytes] | Gap | EpochBegins | Live]) -> None:
        sink = self._sink
        for action in actions:
            if isinstance(action, Ask):
                self.pump()
                continue
            if not self._begun and not isinstance(action, Live):
                self._begun = True
                unread = self._log_failed and self._start is Start.EARLIEST
                sink.begin(recovered=not unread and not any(_tells_loss(one) for one in actions))
                if unread:
                    sink.unread()
            if isinstance(action, Send):
                sink.joined([frame for _, frame in action.entries])
            elif isinstance(action, Gap):
                sink.gap(action)
            elif isinstance(action, EpochBegins):
                same_run = action.after.epoch[RUN_STARTS:] == action.epoch[RUN_STARTS:]
                sink.epoch(action.after, action.epoch, certain=same_run and not self._log_failed)
            else:
                self.over = True
                sink.live(action.at, recovered=action.recovered)


def _tells_loss(action: object) -> bool:
    return isinstance(action, Gap) or (isinstance(action, Live) and not action.recovered)
