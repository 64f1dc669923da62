"""The join of history with live: how a subscriber that comes from behind gets everything, once, in order.

History is read in pages, and messages keep arriving while a page is under way. The rule that makes it whole: *attach to
live first, then read*. A page asked for after live frames are being kept overlaps them, so nothing can fall between;
what both have is dropped. A subscriber that is far behind would keep a flood, so it discards live frames while it
pages, and attaches only when it is near. A window that no longer reaches back to the subscriber is bridged by the log.

One `Join` serves one subscriber of one session, from its subscription (or from the moment it has drained, or a hole
was noticed) until it is live. It is told what happened (`live`, `page`, `unavailable`) and answers what to do, as a
list of actions to be carried out in order. It never reads: on `Ask`, the caller takes `request()` as soon as the
connection has room for a page, so a slow reader is never sent more than it takes, and reads what it says.

    WINDOW, far ──page──▶ WINDOW, near: frames are kept ──page with nothing left──▶ kept frames that fit ──▶ Live
        ▲  │ doesn't reach back                 │ a hole (pub/sub lost one, too many to keep): one round less
        │  ▼                                    └──▶ again; after the last round Gap and `recovered` false
        LOG: pages until it has no more (or is away: `recovered` false)

What this must never do: send a position twice or out of order, leave a hole without a Gap, keep more than its bounds,
or go round without getting further for ever.
"""

from collections import deque
from dataclasses import dataclass
from typing import Generic

from heliograph.core.contiguity import NOTHING, Contiguity, EpochChange, Hole, Verdict
from heliograph.core.history import Frame, Gap, Page, Request, Source, Start, Why
from heliograph.core.positions import Position


@dataclass(frozen=True, slots=True)
class JoinLimits:
    """Bounds of one join."""

    near_messages: int = 256
    """Nearer to the head than this, frames are kept while the rest is read: a page or two."""
    kept_messages: int = 512
    """Frames kept at most; twice `near_messages`, so that a burst during a read doesn't cost a round."""
    kept_bytes: int = 512 * 1024
    """Bytes of frames kept at most (the newest one always)."""
    rounds: int = 8
    """Tries that may fail. Each is a page's time: a reader that can't be joined is told so within seconds."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Take `request()` once the connection has room for a page."""


@dataclass(frozen=True, slots=True)
class Send(Generic[Frame]):
    """Send these, in order."""

    entries: list[tuple[Position, Frame]]


@dataclass(frozen=True, slots=True)
class EpochBegins:
    """Tell the subscriber that the next message is of another epoch than `after`."""

    after: Position
    epoch: str


@dataclass(frozen=True, slots=True)
class Live:
    """It is joined: from here on it gets every live frame after `at` (None: every one)."""

    at: Position | None
    recovered: bool
    """False: something between its start and here was lost, or may have been."""


Action = Ask | Send[Frame] | Gap | EpochBegins | Live
_ASK = Ask()


class Join(Generic[Frame]):
    """The join of one subscriber. Begins with `request()`."""

    def __init__(self, start: Position | Start, limits: JoinLimits | None = None) -> None:
        self._limits = limits or JoinLimits()
        self._rounds_left = self._limits.rounds
        self._stream = Contiguity(start if isinstance(start, Position) else None)
        self._start = start
        self._source = Source.LOG if start is Start.EARLIEST else Source.WINDOW
        """The window can't know that it has a session's very first message, so `earliest` begins in the log."""
        self._asked_log_at: Position | Start = start
        self._log_spoke: tuple[Position | Start, Why] | None = None
        self._request: Request | None = None
        self._far = False
        self._kept: deque[tuple[Position, Frame]] | None = None
        """Live frames since before the outstanding request; None while they are discarded."""
        self._kept_bytes = 0
        self._actions: list[Action[Frame]] = []
        self._recovered = True
        self.is_live = False
        self.discarded = 0
        """Live frames that were not kept: history has them."""

    @property
    def last(self) -> Position | None:
        """The last position sent, declared or resumed from."""
        return self._stream.last

    @property
    def wanted(self) -> tuple[Source, Position | Start]:
        """What `request` will ask for: for who has to wait before it may read."""
        return self._source, self._at

    def request(self) -> Request:
        """The page to read now. Taken again (after a time-out, say), it replaces the one before."""
        self._check_joining()
        if self._source is Source.WINDOW and not self._far:
            if self._kept is None:
                self._kept = deque()
                self._kept_bytes = 0
        else:
            self._discard()
        self._request = Request(self._at, self._source)
        return self._request

    def live(self, position: Position, frame: Frame) -> None:
        """A live frame arrived: kept if the join is near, else left to history."""
        self._check_joining()
        kept = self._kept
        if kept is None:
            self.discarded += 1
            return
        kept.append((position, frame))
        self._kept_bytes += len(frame)
        while len(kept) > 1 and (
            len(kept) > self._limits.kept_messages or self._kept_bytes > self._limits.kept_bytes
        ):  # the oldest go: that is a hole like any other, and the next page fills it
            self._kept_bytes -= len(kept.popleft()[1])
            self.discarded += 1

    def page(self, request: Request, page: Page[Frame]) -> list[Action[Frame]]:
        """The page for `request` arrived. What to do, in order; ends with Ask or Live."""
        if not self._take(request):
            return []
        if request.source is Source.LOG:
            self._read_log(page)
        else:
            self._read_window(page)
        return self._done()

    def unavailable(self, request: Request) -> list[Action[Frame]]:
        """The source of `request` didn't answer in its time.

        Without the log, the join goes on with what the window has. Without the window there is no live path either:
        it is asked for again, at the caller's pace.
        """
        if not self._take(request):
            return []
        if request.source is Source.LOG:
            self._recovered = False
            self._leave_log(Why.HISTORY_UNAVAILABLE)
        self._do(_ASK)
        return self._done()

    def _read_log(self, page: Page[Frame]) -> None:
        """The log is the authority: what it leaves out does not exist."""
        before = self._stream.last
        if not page.complete and before is not None:
            self._recovered = False
        self._pass_on(page, Why.NEVER_WRITTEN if page.complete else Why.RETENTION)
        if not page.more:
            self._leave_log(None)
        elif self._stream.last == before and not self._spend_round():
            self._recovered = False
            self._leave_log(Why.TOO_FAR_BEHIND)
        self._do(_ASK)

    def _read_window(self, page: Page[Frame]) -> None:
        last = self._stream.last
        if self._start is Start.LATEST and last is None:
            self._stream = Contiguity(page.head or page.before_first or NOTHING)
            self._catch_live(page)
            return
        if last is not None and page.head != last and not page.complete and self._log_said() is None:
            if self._spend_round():
                self._ask_log()
                return
            self._recovered = False
        if last is None and page.entries and not self._recovered and page.entries[0][0].seq > 1:
            # `earliest` without the log: what came before the window is unknown, but this much of it existed.
            self._stream = Contiguity(Position(page.entries[0][0].epoch, 0))
            self._log_spoke = (self._at, Why.HISTORY_UNAVAILABLE)
        while (hole := self._pass_on(page, None)) is not None:
            why = self._log_said()
            if why is None:
                if self._spend_round():
                    self._ask_log()
                    return
                why = Why.TOO_FAR_BEHIND
            self._declare(hole, why)
        if page.more or self._is_behind(page.head):
            self._go_on_reading(page, progressed=self._stream.last != last)
        elif self._kept is None:
            self._far = False
            self._do(_ASK)
        else:
            self._catch_live(page)

    def _go_on_reading(self, page: Page[Frame], *, progressed: bool) -> None:
        """There is more in the window than this page. Pages that bring something are free: a subscriber may be as far
        behind as the window is long.
        """
        if not progressed and not self._spend_round():
            if self._kept is not None:
                self._give_up(page)
                return
            self._far = False  # live has to be attached to before it can be gone on with
        else:
            self._far = self._rounds_left > 0 and not self._is_near(page.head)
        self._do(_ASK)

    def _catch_live(self, page: Page[Frame]) -> None:
        """The page reached the head while frames were kept: what was kept and fits makes it live."""
        last, head = self._stream.last, page.head
        if last is None:
            self._stream = Contiguity(head or page.before_first or NOTHING)
        elif head is not None and last > head and last == self._start:
            # A position that this session never gave (or lost since): all that is certain is what comes from here on.
            self._stream = Contiguity(head)
            self._recovered = False
        if self._pass_on_kept(None):
            self._go_live()
        elif self._spend_round():
            self._do(_ASK)
        else:
            self._give_up(page)

    def _give_up(self, page: Page[Frame]) -> None:
        """The last round is over: name what is missing and go on with live."""
        self._recovered = False
        if not self._kept and page.head is not None:
            # Nothing came since before the page was read, so its head is where live goes on.
            self._pass_over(page.head)
        self._pass_on_kept(Why.TOO_FAR_BEHIND)
        self._go_live()

    def _go_live(self) -> None:
        self.is_live = True
        last = self._stream.last
        self._do(Live(None if last == NOTHING else last, self._recovered))
        self._discard()

    def _pass_on_kept(self, declare: Why | None) -> bool:
        """Pass on the kept frames, up to a hole unless it is declared; False: the rest stays kept.

        A new epoch counts as a hole: pub/sub may have lost the end of the old one, which only history can show. Not
        the first one of a session that had no message when the page was read.
        """
        kept = self._kept or deque()
        while kept:
            position, frame = kept[0]
            last = self._stream.last
            follows = last is None or last == NOTHING or position.epoch <= last.epoch or position.begins_after(last)
            if declare is None and not follows:
                return False
            if self._pass(position, frame, declare) is not None:
                return False
            self._kept_bytes -= len(frame)
            kept.popleft()
        return True

    def _pass_on(self, page: Page[Frame], declare: Why | None) -> Hole | None:
        """Pass on what is new of a page, and the gaps it knows, in order. Ends at a hole, unless it is declared."""
        gaps = deque(page.gaps)
        for position, frame in page.entries:
            while gaps and Position(gaps[0].hole.epoch, gaps[0].hole.from_seq) < position:
                self._pass_gap(gaps.popleft(), declare)
            hole = self._pass(position, frame, declare)
            if hole is not None:
                return hole
        for gap in gaps:
            self._pass_gap(gap, declare)
        return None

    def _pass(self, position: Position, frame: Frame, declare: Why | None) -> Hole | None:
        """Send a frame if it is new. A hole before it is declared, or (None) returned and nothing is sent."""
        last = self._stream.last
        if not self._recovered and last is not None and position.begins_after(last):
            self._enter(EpochChange(last, position.epoch))  # no beginning that goes without saying
        judgement = self._stream.observe(position)
        if isinstance(judgement, EpochChange):
            self._enter(judgement)
            judgement = self._stream.observe(position)
        if isinstance(judgement, Hole):
            if declare is None:
                return judgement
            self._declare(judgement, declare)
            judgement = self._stream.observe(position)
        if judgement is Verdict.DELIVER:
            self._send((position, frame))
        return None

    def _pass_gap(self, gap: Gap, declare: Why | None) -> None:
        """Declare a gap that the source knows, as far as it is news; not if there is a hole before it to be settled."""
        epoch, from_seq, to_seq = gap.hole
        last = self._stream.last
        if last is None or last >= Position(epoch, to_seq):
            return
        if last.epoch != epoch:
            self._enter(EpochChange(last, epoch))
            last = Position(epoch, 0)
        if last.seq + 1 < from_seq:
            if declare is None:
                return
            self._declare(Hole(epoch, last.seq + 1, from_seq - 1), declare)
        self._declare(Hole(epoch, max(from_seq, last.seq + 1), to_seq), gap.why)

    def _pass_over(self, head: Position) -> None:
        """Declare everything up to `head`."""
        last = self._stream.last
        if last is not None and last.epoch < head.epoch:
            self._enter(EpochChange(last, head.epoch))
            last = Position(head.epoch, 0)
        if last is not None and last.epoch == head.epoch and last.seq < head.seq:
            self._declare(Hole(head.epoch, last.seq + 1, head.seq), Why.TOO_FAR_BEHIND)

    def _enter(self, change: EpochChange) -> None:
        self._stream.enter(change.epoch)
        if change.after != NOTHING:
            self._do(EpochBegins(change.after, change.epoch))

    def _declare(self, hole: Hole, why: Why) -> None:
        self._recovered = False
        self._stream.skip(hole)
        self._do(Gap(hole, why))

    def _ask_log(self) -> None:
        self._source = Source.LOG
        self._asked_log_at = self._at
        self._do(_ASK)

    def _leave_log(self, given_up: Why | None) -> None:
        """Go on with the window. What it doesn't have right here is certain to be nowhere if the log brought nothing
        since the window was found too short (else that may have been trimmed meanwhile), or if the log is given up.
        """
        self._source = Source.WINDOW
        self._far = False
        if given_up is not None:
            self._log_spoke = (self._at, given_up)
        elif self._at == self._asked_log_at:
            self._log_spoke = (self._at, Why.RETENTION)

    def _log_said(self) -> Why | None:
        """Why a hole of the window right here can't be filled; None where the log was not asked yet."""
        if self._log_spoke is not None and self._log_spoke[0] == self._at:
            return self._log_spoke[1]
        return None

    def _spend_round(self) -> bool:
        """Whether there was one left."""
        if self._rounds_left == 0:
            return False
        self._rounds_left -= 1
        return True

    @property
    def _at(self) -> Position | Start:
        last = self._stream.last
        return self._start if last is None else last

    def _is_behind(self, head: Position | None) -> bool:
        last = self._stream.last
        return head is not None and last is not None and last < head

    def _is_near(self, head: Position | None) -> bool:
        last = self._stream.last
        return (
            head is not None
            and last is not None
            and last.epoch == head.epoch
            and head.seq - last.seq <= self._limits.near_messages
        )

    def _discard(self) -> None:
        if self._kept is not None:
            self.discarded += len(self._kept)
        self._kept = None
        self._kept_bytes = 0

    def _take(self, request: Request) -> bool:
        if self.is_live or request is not self._request:
            return False
        self._request = None
        return True

    def _send(self, entry: tuple[Position, Frame]) -> None:
        if self._actions and isinstance(self._actions[-1], Send):
            self._actions[-1].entries.append(entry)
        else:
            self._actions.append(Send([entry]))

    def _do(self, action: Action[Frame]) -> None:
        self._actions.append(action)

    def _done(self) -> list[Action[Frame]]:
        actions, self._actions = self._actions, []
        return actions

    def _check_joining(self) -> None:
        if self.is_live:
            raise RuntimeError("the join is over: live frames go straight to the subscriber")
