"""One connection's subscription to one session: from `subscribe` until it is live, and again after it fell behind."""

from typing import TYPE_CHECKING

from heliograph.core.history import Gap, Start, Why
from heliograph.core.positions import BEFORE_ALL, Position
from heliograph.edge.joiner import Cursor, Joiner, position_of
from heliograph.protocol import frames
from heliograph.protocol.frames import EARLIEST, LATEST, encode
from heliograph.protocol.websocket import text_frame

if TYPE_CHECKING:
    from heliograph.edge.connection import Connection
    from heliograph.edge.sessions import SessionHub, Sessions


def parse_start(text: str) -> Position | Start:
    """The `from` of a subscription. Raises InvalidValueError(`position_invalid`)."""
    if text == LATEST:
        return Start.LATEST
    if text == EARLIEST:
        return Start.EARLIEST
    position = Position.parse(text)
    return Start.EARLIEST if position == BEFORE_ALL else position


def gap_frame(session: str, gap: Gap) -> frames.Gap:
    hole = gap.hole
    first, last = Position(hole.epoch, hole.from_seq), Position(hole.epoch, hole.to_seq)
    return frames.Gap(session, gap.why.value, str(first), str(last))


def epoch_frame(session: str, after: Position, epoch: str, *, certain: bool) -> frames.Epoch:
    """`last` is left out where nothing of the epoch before was had."""
    return frames.Epoch(session, epoch, certain, str(after) if after.seq else None)


class Subscription:
    """The sink of its join, and what is left of it once it is live."""

    __slots__ = (
        "answered",
        "behind",
        "connection",
        "cursor_missing",
        "hub",
        "joiner",
        "number",
        "presence",
        "request_id",
        "session",
        "sessions",
        "start",
        "told",
        "told_loss",
        "was_live",
    )

    hub: "SessionHub"

    def __init__(
        self,
        session: str,
        start: Position | Start | Cursor,
        connection: "Connection",
        sessions: "Sessions",
        id_: int | None,
        *,
        presence: bool = False,
    ) -> None:
        self.session = session
        self.start = start
        self.cursor_missing = False
        self.connection = connection
        self.sessions = sessions
        self.request_id = id_
        self.presence = presence
        """It gets the session's joins and leaves."""
        self.number = 0
        """Of this edge's subscriptions that are announced; 0: this one isn't."""
        self.told = 0
        """The registration (`Announcer.registration`) under which its join was last told; 0: not yet."""
        self.answered = False
        self.told_loss = False
        self.was_live = False
        """It had caught up before: where it is not live now, its connection is too slow."""
        self.joiner: Joiner | None = None
        self.behind: Position | Start | None = None
        """Where to go on once the connection has drained; None while it flows."""

    # the sink of its join

    def has_room(self, joiner: Joiner) -> bool:
        if not self.hub.subscribed:
            return False
        if self.connection.has_room():
            return True
        self.connection.parked.append(joiner)
        return False

    def found(self, cursor: Position | None) -> None:
        self.start = cursor or Start.EARLIEST
        self.cursor_missing = cursor is None

    def failed(self, code: str) -> None:
        self.connection.end_subscription(self, code)

    def begin(self, *, recovered: bool) -> None:
        """Answer `subscribe`, with the start that is known by now; `live` corrects `latest`."""
        if not self.answered and self.start is not Start.LATEST:
            self._answer(self.start if isinstance(self.start, Position) else BEFORE_ALL, recovered=recovered)

    def joined(self, frames_: list[bytes]) -> None:
        if not self.answered:  # `latest`, and these came while the head was asked for
            first = position_of(frames_[0])
            self._answer(Position(first.epoch, first.seq - 1), recovered=True)
        self.sessions.metrics.deliveries.n += len(frames_)
        post = self.connection.post
        for frame in frames_:
            post(text_frame(frame))

    def gap(self, gap: Gap) -> None:
        if not self.answered:  # `latest`, and what came while the head was asked for is lost
            self._answer(Position(gap.hole.epoch, gap.hole.from_seq - 1), recovered=True)
        self.told_loss = True
        self.sessions.metrics.gaps.labels(gap.why.value).n += 1
        self.connection.send(gap_frame(self.session, gap))

    def unread(self) -> None:
        self.told_loss = True
        self.sessions.metrics.gaps.labels(Why.HISTORY_UNAVAILABLE.value).n += 1
        self.connection.send(frames.Gap(self.session, Why.HISTORY_UNAVAILABLE.value))

    def epoch(self, after: Position, epoch: str, *, certain: bool) -> None:
        if not self.answered:  # `latest`, and the head that was asked for is of an epoch that is over
            self._answer(after, recovered=True)
        self.told_loss = self.told_loss or not certain
        self.connection.send(epoch_frame(self.session, after, epoch, certain=certain))

    def live(self, at: Position | None, *, recovered: bool) -> None:
        if not self.answered:
            self._answer(at or BEFORE_ALL, recovered=recovered)
        if not recovered and not self.told_loss:
            self.unread()
        self.sessions.attach(self, at)

    def _answer(self, position: Position, *, recovered: bool) -> None:
        self.answered = True
        data = encode(frames.Subscribed(self.session, str(position), recovered, self.request_id, self.cursor_missing))
        self.connection.post(text_frame(data))
