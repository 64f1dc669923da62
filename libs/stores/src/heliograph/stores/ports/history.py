"""What finds and fetches older messages: the position index, and requests of edges to replay."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from msgspec import Struct


class IndexEntry(Struct, frozen=True):
    """Where a position is in the log."""

    position: str
    topic_id: str
    partition: int
    offset: int


class PositionIndex(Protocol):
    """Sparse: session and position → place in the log. Losing it makes reads slower, never wrong."""

    async def add(self, entries: Sequence[tuple[str, IndexEntry]], ttl_s: float) -> None:
        """Of a session with many entries the first and the newest are kept."""

    async def at_or_before(self, session: str, position: str) -> IndexEntry | None:
        """The entry with the highest position at or below; positions compare as text."""

    async def first(self, session: str) -> IndexEntry | None: ...

    async def last(self, session: str) -> IndexEntry | None: ...


class RehydrationRequest(Struct, frozen=True):
    """Frames of a session after a position (None: from the first), up to and including `until`."""

    session: str
    after: str | None
    until: str | None

    @property
    def name(self) -> str:
        return f"{self.session}|{self.after or ''}|{self.until or ''}"


class RehydratedPage(Struct):
    """What replay answers. `code` set: it could not."""

    frames: list[bytes]
    more: bool
    gap_before: list[str] | None = None
    """[from, to, reason] where retention took what was asked first."""
    code: str | None = None


class Rehydration(Protocol):
    """Requests of edges to replay, through the metadata store. Equal requests are one read."""

    async def ask(self, request: RehydrationRequest, deadline_s: float) -> RehydratedPage:
        """The page. Raises StoreError(`history_unavailable`) past the deadline."""

    def requests(self, worker: str) -> AsyncIterator[RehydrationRequest]:
        """What this worker of the group should answer; the asking edge has not given up yet."""

    async def answer(self, request: RehydrationRequest, page: RehydratedPage) -> None: ...
