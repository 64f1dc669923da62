"""Subscriptions: one feed per session on the wire, any number of inboxes behind it. No I/O, no clock.

The server knows one subscription per session and connection; a program may read one session in several places, from
different positions. So a *feed* asks the server once, and each *inbox* judges by itself what arrives (`Contiguity`):
what it had is dropped, what it lacks is asked for. Whenever an inbox needs what the feed is past (it is new, it was
parked, something is missing), the feed is started again from the lowest position that any of its inboxes needs.

    inbox     WAITING ──subscribed──▶ LIVE ──full──▶ PARKED ──read down to a quarter──▶ WAITING
              a hole, a lost connection: back to WAITING, from its last message

A full inbox is parked rather than leaving the socket unread: on an unread socket the answers to publishes, the other
sessions' messages and the heartbeats would wait behind the slow reader, and a reader that publishes would wait for
itself. What arrives for a parked inbox is dropped here; when all are parked the server is told to stop, and resumes it
later from where it was.

What this must never do: give an inbox a position twice, out of order, or past a hole that no gap or epoch explains.
"""

from collections import deque
from collections.abc import Callable
from enum import Enum

from heliograph.client.messages import Gap, Message, Presence
from heliograph.client.settings import ClientSettings
from heliograph.core.backoff import Backoff
from heliograph.core.contiguity import NOTHING, Contiguity, EpochChange, Hole, Verdict
from heliograph.core.errors import HeliographError
from heliograph.core.limits import RECORD_OVERHEAD_BYTES
from heliograph.core.positions import EPOCH_LENGTH, Position, check_epoch
from heliograph.protocol.codes import GapReason
from heliograph.protocol.frames import (
    CURSOR,
    EARLIEST,
    LATEST,
    Epoch,
    Subscribe,
    Subscribed,
    Unsubscribe,
)
from heliograph.protocol.frames import Gap as GapFrame

NO_EPOCH = "0" * 13
"""How the position begins that a server tells who gets all there is, from the earliest message on."""
EPOCH = "epoch"
HOLE = "hole"
HOLES_BEFORE_GAP = 3
"""Resubscriptions at one position that bring nothing new, until the hole is handed on as a gap."""

Item = Message | Gap


class InboxState(Enum):
    WAITING = "waiting"
    LIVE = "live"
    PARKED = "parked"


class Inbox:
    """What one reader of a session gets, bounded."""

    def __init__(
        self,
        session: str,
        start: str,
        settings: ClientSettings,
        wake: Callable[[], None],
        *,
        wants_presence: bool = False,
    ) -> None:
        """`wake` is called when there is something to take, or `error` is set."""
        self.wants_presence = wants_presence
        self.dropped_presence = 0
        self.session = session
        self._settings = settings
        self._wake = wake
        self._start = start
        self._stream: Contiguity | None = None
        """None: its place is not known yet (`earliest`, `latest`, `cursor`)."""
        self.cursor_missing = False
        if start not in (EARLIEST, LATEST, CURSOR):
            self._stream = Contiguity(Position.parse(start))
        self._open_gap = False
        """A gap without an end: the next message is where it ends."""
        self._holes = 0
        self._beginning: Position | None = None
        """Where `earliest` seemed to begin, when it was first asked."""
        self.state = InboxState.WAITING
        self.accepted = False
        """The server has taken it, once at least."""
        self.items: deque[Item | Presence] = deque()
        self.bytes = 0
        self.error: HeliographError | None = None
        self.parked = 0
        """How often it was full."""
        self.dropped_telemetry = 0
        self.holes = 0
        """Positions that the server left out without a word; more than none is a bug of the server."""

    @property
    def needs(self) -> str:
        """`latest`, `cursor`, `earliest`, or the position after which it needs everything."""
        last = self.last
        if last is None:
            return self._start
        return EARLIEST if last == NOTHING else str(last)

    @property
    def last(self) -> Position | None:
        return None if self._stream is None else self._stream.last

    @property
    def full(self) -> bool:
        return len(self.items) >= self._settings.buffered_messages or self.bytes >= self._settings.buffered_bytes

    @property
    def repeated_holes(self) -> int:
        """Holes in a row, without a message between them."""
        return self._holes

    def begin(self, at: Position | None) -> None:
        """Its place, for one that had none: messages after `at` are its."""
        if self._stream is None or self._stream.last is None:
            self._stream = Contiguity(at)

    def found_cursor(self, at: Position | None, *, missing: bool) -> None:
        """Where the server says that it begins: where its consumer stands, or (`missing`) with the earliest message;
        None: wherever that is.
        """
        self.cursor_missing = missing
        if at is None:
            self._start = EARLIEST
        else:
            self.begin(at)

    def go_live(self) -> None:
        self.state = InboxState.LIVE
        if not self.accepted:
            self.accepted = True
            self._wake()

    def take(self) -> tuple[Item | None, bool]:
        """`take_any`, for a reader that did not ask for presence."""
        item, has_room = self.take_any()
        assert not isinstance(item, Presence)
        return item, has_room

    def take_any(self) -> tuple[Item | Presence | None, bool]:
        """The next item, and whether the inbox has just got room again after it was parked."""
        if not self.items:
            return None, False
        item = self.items.popleft()
        self.bytes -= _weight(item)
        low = (
            len(self.items) <= self._settings.buffered_messages // 4
            and self.bytes <= self._settings.buffered_bytes // 4
        )
        if self.state is InboxState.PARKED and low:
            self.state = InboxState.WAITING
            return item, True
        return item, False

    def fail(self, error: HeliographError) -> None:
        """The end: raised after what is still in the inbox."""
        if self.error is None:
            self.error = error
            self._wake()

    # ---- what the server sends; True: something is missing, ask again ------------------------------------------------

    def message(self, message: Message) -> bool:
        if message.position is None:
            if self.full:
                self.dropped_telemetry += 1
            else:
                self._put(message)
            return False
        if self.full:
            self._park()
            return False
        position = Position.parse(message.position)
        assert self._stream is not None
        if self._stream.last is None and position.seq > 1 and not self._open_gap and not self._begins_at(position):
            return True
        judgement = self._judge(position)
        if judgement is Verdict.DUPLICATE:
            return False
        if judgement is not Verdict.DELIVER:
            return self._hole(position)
        self._holes = 0
        self._put(message)
        return False

    def _begins_at(self, position: Position) -> bool:
        """Whether a first message that is not number 1 is the earliest there is (retention took those before it), or
        the first that was not lost: then asking again brings another.
        """
        if position == self._beginning or self._holes >= HOLES_BEFORE_GAP:
            return True
        self._beginning = position
        self._holes += 1
        self.state = InboxState.WAITING
        return False

    def _judge(self, position: Position) -> Verdict | Hole | EpochChange:
        assert self._stream is not None
        last = self._stream.last
        if self._open_gap:
            if last is not None and position <= last:
                return Verdict.DUPLICATE
            self._open_gap = False
            self._stream = Contiguity(position)
            return Verdict.DELIVER
        if last == NOTHING:
            self._stream.enter(position.epoch)  # there is no epoch to leave
        return self._stream.observe(position)

    def presence(self, event: Presence) -> bool:
        if self.wants_presence:
            if self.full:
                self.dropped_presence += 1
            else:
                self._put(event)
        return False

    def gap(self, frame: GapFrame) -> bool:
        assert self._stream is not None
        last = self._stream.last
        until = Position.parse(frame.last) if frame.last else None
        first = Position.parse(frame.first) if frame.first else until
        if until is not None and last is not None and until <= last:
            return False
        if self.full:
            self._park()
            return False
        if until is None:
            if first is not None and last is not None and last != NOTHING and last.epoch == first.epoch:
                if first.seq > last.seq + 1:
                    return self._hole(first)
                first = last.next
            self._open_gap = True
            self._put(Gap(self.session, frame.reason, str(first) if first else None))
            return False
        assert first is not None
        if last is not None:
            if last == NOTHING:
                self._stream.enter(until.epoch)
            if first.epoch != until.epoch:
                self._stream = Contiguity(until)
            elif isinstance(self._stream.skip(Hole(first.epoch, first.seq, until.seq)), Hole | EpochChange):
                return self._hole(until)
            if last.epoch == first.epoch:
                first = max(first, last.next)
        else:
            self._stream = Contiguity(until)
        self._holes = 0
        self._put(Gap(self.session, frame.reason, str(first), str(until)))
        return False

    def epoch(self, frame: Epoch) -> bool:
        """A new life of the session's counter. Silent where nothing was lost."""
        assert self._stream is not None
        epoch = check_epoch(frame.start[:EPOCH_LENGTH])
        last = self._stream.last
        if last is None or epoch <= last.epoch:
            return False
        if self.full:
            self._park()
            return False
        sealed = Position.parse(frame.last) if frame.last and frame.certain else None
        if last != NOTHING and self._stream.enter(epoch, sealed) is not None:
            return self._hole(Position(epoch, 1))
        self._stream.enter(epoch)
        self._open_gap = False
        self._holes = 0
        for first, until in frame.gaps:
            self._put(Gap(self.session, GapReason.NEVER_WRITTEN, first, until))
        if not frame.certain:
            self._put(Gap(self.session, EPOCH, str(last.next) if last != NOTHING else None, certain=False))
        return False

    def _hole(self, before: Position) -> bool:
        """Something before `before` is missing. Ask again; where that brings nothing, hand the hole on as a gap."""
        self.holes += 1
        self._holes += 1
        if self._holes <= HOLES_BEFORE_GAP:
            self.state = InboxState.WAITING
            return True
        last = self.last
        first = str(last.next) if last is not None and last != NOTHING else None
        same = last is not None and last.epoch == before.epoch
        self._holes = 0
        self._put(Gap(self.session, HOLE, first, str(Position(before.epoch, before.seq - 1)) if same else None, False))
        self._stream = Contiguity(Position(before.epoch, before.seq - 1))
        self.state = InboxState.WAITING
        return True

    def _park(self) -> None:
        self.parked += 1
        self.state = InboxState.PARKED

    def _put(self, item: Item | Presence) -> None:
        self.items.append(item)
        self.bytes += _weight(item)
        self._wake()


def _weight(item: Item | Presence) -> int:
    return RECORD_OVERHEAD_BYTES + (len(item.payload) if isinstance(item, Message) else 0)


class Wire(Enum):
    """What the server has been told about a session, on this connection."""

    OFF = "off"
    ASKED = "asked"
    ON = "on"


class Feed:
    """One session's subscription on the wire."""

    def __init__(self, session: str, settings: ClientSettings, uniform: Callable[[], float]) -> None:
        self.session = session
        self.inboxes: list[Inbox] = []
        self.wire = Wire.OFF
        self.asked_id: int | None = None
        self.asked_from = ""
        self.asked_presence = False
        self.resume_s = 0.0
        """Not before: the server refused for now, or a hole showed up again."""
        self.backoff = Backoff(settings.refusal, uniform)

    def wanting(self) -> list[Inbox]:
        """Those that are not parked and have not ended."""
        return [inbox for inbox in self.inboxes if inbox.state is not InboxState.PARKED and inbox.error is None]

    def restart(self, send: Callable[[Subscribe | Unsubscribe], None]) -> None:
        """End it on the wire; `reconcile` begins it anew from what is needed now."""
        if self.wire is Wire.ON:
            send(Unsubscribe(self.session))
            self.off()

    def off(self) -> None:
        self.wire, self.asked_id = Wire.OFF, None
        for inbox in self.inboxes:
            if inbox.state is InboxState.LIVE:
                inbox.state = InboxState.WAITING

    def reconcile(self, send: Callable[[Subscribe | Unsubscribe], None], request_id: Callable[[], int]) -> None:
        """Bring the wire to what the inboxes want."""
        wanting = self.wanting()
        presence = any(inbox.wants_presence for inbox in wanting)
        if self.wire is Wire.ASKED:
            return  # its answer comes first
        if self.wire is Wire.ON:
            enough = self.asked_presence or not presence
            if enough and wanting and all(inbox.state is InboxState.LIVE for inbox in wanting):
                return
            self.restart(send)
        if not wanting:
            return
        needs = [inbox.needs for inbox in wanting]
        # `latest` and `cursor` first: they tell those readers their place, after which everybody has one. `earliest`
        # sorts last as text, positions by age.
        self.asked_from = next((one for one in (LATEST, CURSOR, EARLIEST) if one in needs), min(needs))
        self.asked_presence = presence
        self.asked_id = request_id()
        self.wire = Wire.ASKED
        send(Subscribe(self.session, id=self.asked_id, start=self.asked_from, presence=presence))

    def subscribed(self, answer: Subscribed) -> None:
        """The server begins after `answer.position`: whoever needs just that, or less, is live."""
        self.wire = Wire.ON
        at: Position | None = Position.parse(answer.position)
        if answer.position.startswith(NO_EPOCH):
            at = NOTHING if self.asked_from == LATEST else None
        if self.asked_from == CURSOR:
            for inbox in self.wanting():
                if inbox.needs == CURSOR:
                    inbox.found_cursor(at, missing=answer.cursor_missing)
            self.asked_from = EARLIEST if at is None else str(at)
        for inbox in self.wanting():
            needs = inbox.needs
            if self.asked_from == LATEST:
                if needs == LATEST:
                    inbox.begin(at)
                    self._go_live(inbox)
                elif inbox.last == at:
                    self._go_live(inbox)
            elif needs in (LATEST, CURSOR) or (
                self.asked_from != EARLIEST and (needs == EARLIEST or needs < self.asked_from)
            ):
                continue  # came after the question: ask again
            else:
                if needs == EARLIEST:
                    inbox.begin(at)
                self._go_live(inbox)

    def _go_live(self, inbox: Inbox) -> None:
        if self.asked_presence or not inbox.wants_presence:  # else it came after the question: ask again
            inbox.go_live()

    def follow(self, at: Position | None) -> None:
        """The session is sent anyway, to be worked on, and has come to `at`: whoever needs no more than that is live.
        The others wait until it is asked for again."""
        self.wire, self.asked_id = Wire.ON, None
        for inbox in self.wanting():
            if inbox.needs == LATEST:
                inbox.begin(at)
                inbox.go_live()
            elif inbox.last is not None and (at is None or inbox.last >= at):
                inbox.go_live()

    def live(self) -> list[Inbox]:
        return [inbox for inbox in self.inboxes if inbox.state is InboxState.LIVE]
