"""History as pages: how a bounded part of a session's past is asked for and handed over.

The hot window and the log both answer in this shape, so that what reads them (`joining`) decides without knowing how
either is stored. Nothing here reads anything, and nothing here is unbounded: a page is as large as its source allows,
and says whether there is more.
"""

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Generic, TypeVar

from heliograph.core.contiguity import Hole
from heliograph.core.positions import Position

Frame = TypeVar("Frame", bound=Sized)
"""A frame as the caller sends it; its `len` is its size in bytes."""


class Start(Enum):
    """Where to begin without a position."""

    EARLIEST = "earliest"
    """With the first message that still exists."""
    LATEST = "latest"
    """With whatever comes next."""


class Source(Enum):
    """Where a page is read from."""

    WINDOW = "window"
    LOG = "log"


class Why(StrEnum):
    """Why positions will not come; the values are those of `heliograph.protocol.codes.GapReason`."""

    RETENTION = "retention"
    TOO_FAR_BEHIND = "too_far_behind"
    NEVER_WRITTEN = "never_written"
    CORRUPT = "corrupt"
    HISTORY_UNAVAILABLE = "history_unavailable"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Gap:
    """These positions will not come."""

    hole: Hole
    why: Why


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """A page to read. Each is one of its kind: an answer to an older request is told from one to the newest."""

    after: Position | Start
    """The page begins with the first message after this. LATEST: no messages, only the head."""
    source: Source


@dataclass(frozen=True, slots=True)
class Page(Generic[Frame]):
    """A part of a session's history, in order."""

    entries: Sequence[tuple[Position, Frame]]
    more: bool
    """The page ended before the source did."""
    complete: bool = True
    """Nothing is missing between the asked position and the first entry. False: that was trimmed (and the log has it),
    or retention removed it, or the asked position is of an epoch about which the source can't tell."""
    head: Position | None = None
    """The session's last position when the page was read. None: the source knows no such session, or (the log) no head.
    """
    before_first: Position | None = None
    """Where a session without messages stands, for who begins there: seq 0 of an epoch that is not later than the one
    it will begin with. None: it has messages, or the source can't tell."""
    gaps: Sequence[Gap] = ()
    """What the source knows will never come, in order; before, between or behind the entries."""
