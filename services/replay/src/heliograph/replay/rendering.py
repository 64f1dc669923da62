"""What was read, as bytes: a JSON page, or NDJSON lines. Frames are spliced as they are, never decoded."""

from collections.abc import Iterable, Sequence

from heliograph.core.history import Gap
from heliograph.core.positions import MAX_SEQ, Position
from heliograph.protocol import frames
from heliograph.protocol.codes import GapReason
from heliograph.protocol.frames import encode
from heliograph.replay.reading import End, Epoch, Part, Unread

JSON = "application/json"
NDJSON = "application/x-ndjson"


def gap_frame(session: str, gap: Gap) -> frames.Gap:
    """`to` is left out where it is not known: up to the next frame."""
    hole = gap.hole
    last = None if hole.to_seq == MAX_SEQ else str(Position(hole.epoch, hole.to_seq))
    return frames.Gap(session, gap.why.value, str(Position(hole.epoch, hole.from_seq)), last)


def frame_of(session: str, part: Part) -> bytes:
    """One part as a frame of `heliograph.v1`."""
    if isinstance(part, tuple):
        return part[1]
    if isinstance(part, Gap):
        return encode(gap_frame(session, part))
    if isinstance(part, Epoch):
        return encode(frames.Epoch(session, part.epoch, part.certain, str(part.last)))
    return encode(frames.Gap(session, GapReason.HISTORY_UNAVAILABLE))


def next_position(end: End) -> str | None:
    """What to ask for as `after` to go on; None where all was read, or nothing was and it begins at the beginning."""
    return None if end.complete or end.last is None else str(end.last)


class Page:
    """A JSON page in the making."""

    def __init__(self, session: str) -> None:
        self._session = session
        self._messages: list[bytes] = []
        self._gaps: list[bytes] = []
        self._epochs: list[bytes] = []

    def add(self, parts: Sequence[Part]) -> None:
        for part in parts:
            if isinstance(part, tuple):
                self._messages.append(part[1])
            elif isinstance(part, Gap | Unread):
                self._gaps.append(frame_of(self._session, part))
            else:
                self._epochs.append(frame_of(self._session, part))

    def body(self, end: End) -> bytes:
        return b'{"session":%b,"messages":[%b],"gaps":[%b],"epochs":[%b],"next":%b,"complete":%b,"resume":%b}' % (
            encode(self._session),
            b",".join(self._messages),
            b",".join(self._gaps),
            b",".join(self._epochs),
            encode(next_position(end)),
            encode(end.complete),
            encode(None if end.resume is None else str(end.resume)),
        )


def lines(session: str, parts: Iterable[Part]) -> bytes:
    """NDJSON: one frame a line. No frame holds a line break."""
    frames_ = [part[1] if isinstance(part, tuple) else frame_of(session, part) for part in parts]
    return b"\n".join(frames_) + b"\n" if frames_ else b""


def end_line(end: End) -> bytes:
    """The last line of a stream: without it, the stream was cut off."""
    resume = None if end.resume is None else str(end.resume)
    return encode({"type": "end", "next": next_position(end), "complete": end.complete, "resume": resume}) + b"\n"


def error_line(code: str, message: str) -> bytes:
    """A failure in the middle of a stream, as the frame that it would be on a connection; the end line follows."""
    return encode(frames.Error(code, message)) + b"\n"
