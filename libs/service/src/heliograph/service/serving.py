"""Tells the metadata store which sessions have something for a worker: of agent types that somebody serves, in batches.

Edges call it for what they publish, routers for what they read from the log; whoever comes first makes a session due.
What this must never do: cost a publish anything for an agent type that nobody serves (one attribute is looked at), or
make one wait for the store. Marks that the store can't take are kept, within a bound, and told later.
"""

import asyncio
from weakref import WeakValueDictionary

from heliograph.service.logs import RateLimitedLog, get_logger
from heliograph.service.metrics import Metrics
from heliograph.stores.ports import ServeStore, StoreError

GATHER_S = 0.02
"""Marks of this long go in one call. The first after a pause goes at once."""

FOLLOW_S = 0.5
"""Between looks at which agent types are served."""

RETRY_S = 0.5

MAX_PENDING = 100_000
"""Sessions of one kind with a mark that the store hasn't taken, some 20 MB. More are found by the routers' scans."""


class Kind:
    """An agent type of a tenant. `pending` is None while nobody serves it: then there is nothing to mark."""

    __slots__ = ("__weakref__", "_marks", "name", "pending")

    def __init__(self, name: str, marks: "ServeMarks") -> None:
        self.name = name
        self._marks = marks
        self.pending: dict[str, str] | None = None
        """Session → the newest position to tell."""

    def mark(self, session: str, position: str) -> None:
        """A message that a worker should see. Call it only while `pending` is not None."""
        pending = self.pending
        assert pending is not None
        if position > pending.get(session, ""):
            if len(pending) >= MAX_PENDING and session not in pending:
                self._marks.dropped()
                return
            pending[session] = position
            self._marks.wake()


class ServeMarks:
    """The marks of one process."""

    def __init__(self, store: ServeStore, metrics: Metrics) -> None:
        self._store = store
        self._kinds: WeakValueDictionary[str, Kind] = WeakValueDictionary()
        self.served: dict[str, Kind] = {}
        """By name. Kept for as long as they are served, whoever else refers to them."""
        self._here: set[str] = set()
        """Served by this process's own clients: the store may not have been told yet."""
        self._wake = asyncio.Event()
        self._log = RateLimitedLog(get_logger(__name__))
        self._told = metrics.ticks("serve_marks_total", "Sessions told to have something for a worker.")
        self._failures = metrics.ticks("serve_mark_failures_total", "Calls about that which failed and are repeated.")
        self._dropped = metrics.ticks("serve_marks_dropped_total", "Marks dropped: too many waited for the store.")
        metrics.sampled_gauge("serve_kinds", "Agent types that are served.", lambda: float(len(self.served)))

    def kind(self, name: str) -> Kind:
        """The one object for `<tenant>:<agent type>`."""
        found = self._kinds.get(name)
        if found is None:
            found = self._kinds[name] = Kind(name, self)
        return found

    def serve(self, name: str) -> None:
        """A client of this process serves it from now on."""
        self._here.add(name)
        self._begin(name)

    def unserve(self, name: str) -> None:
        """No client of this process serves it any more; the store says whether another does."""
        self._here.discard(name)

    def wake(self) -> None:
        """Something is pending."""
        self._wake.set()

    def dropped(self) -> None:
        self._dropped.n += 1

    async def tell(self) -> None:
        """For ever: tell the store what is pending."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self.flush()
            except StoreError as error:
                self._failures.n += 1
                self._log.warning("serve_marks_not_told", error=str(error))
                self._wake.set()
                await asyncio.sleep(RETRY_S)
            else:
                await asyncio.sleep(GATHER_S)

    async def flush(self) -> None:
        """One round. Raises StoreError; what was not told stays to be told."""
        for kind in tuple(self.served.values()):
            pending = kind.pending
            if not pending:
                continue
            kind.pending = {}
            try:
                await self._store.mark(kind.name, pending)
            except BaseException:
                if kind.pending is not None:
                    newer, kind.pending = kind.pending, pending
                    for session, position in newer.items():
                        kind.mark(session, position)
                raise
            self._told.n += len(pending)

    async def follow(self) -> None:
        """For ever: learn which agent types are served."""
        while True:
            try:
                await self.refresh()
            except StoreError as error:
                self._failures.n += 1
                self._log.warning("serve_kinds_unknown", error=str(error))
            await asyncio.sleep(FOLLOW_S)

    async def refresh(self) -> None:
        """One look. Raises StoreError; then it stays as it was."""
        known = set(await self._store.kinds()) | self._here
        for name in known - self.served.keys():
            self._begin(name)
        for name in self.served.keys() - known:
            self.served.pop(name).pending = None

    def _begin(self, name: str) -> None:
        if name not in self.served:
            kind = self.served[name] = self.kind(name)
            kind.pending = {}
