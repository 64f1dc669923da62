"""Workers, the sessions that wait for one, and who has which."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct


class Worker(Struct, omit_defaults=True):
    """A connection that serves an agent type, by one offer. Names are never used twice: an edge that has to offer
    anew (it was taken for dead) does so by another name."""

    name: str
    edge: str
    incarnation: str
    """Of the edge: another one means that this worker's connection is gone."""
    connection: str
    subject: str
    capacity: int
    """Sessions that it takes at a time; 0: no more."""
    agent: str | None = None
    offered_ms: int = 0
    """By the store's clock; set by the store."""


class DueSession(Struct, frozen=True):
    """A session that waits for a worker."""

    session: str
    since_ms: int
    first: str
    """The first position that was marked since nothing of it waited: nothing before it is known to be unserved."""
    last: str
    """The newest position that is known of it, of messages that no worker published."""
    cursor: str
    """Where the worker before came to; empty: not known."""
    previous: str | None
    """Worker that had it before."""


class ServeView(Struct):
    """What a dispatcher decides by."""

    workers: list[tuple[Worker, int]]
    """Each with the number of sessions that it holds."""
    due: list[DueSession]
    """Those that have waited longest."""
    now_ms: int
    """The store's clock."""


class Served(Struct):
    """What is known of one session of a served agent type."""

    session: str
    worker: str | None
    fence: int
    since_ms: int
    """When the worker got it, or gave it back."""
    taken: bool
    """The worker's edge has it."""
    last: str
    cursor: str
    """Where the worker before came to, as told when it gave the session back; empty: not known."""


class Order(Struct, frozen=True):
    """To an edge: a connection of yours has this session now. Not taken up within some seconds, it is void."""

    kind: str
    session: str
    worker: str
    fence: int
    start: str | None
    """The cursor; None: there is none."""


class ServeStore(Protocol):
    """Workers, the sessions that wait for one, and who has which: each call is atomic.

    `kind` is an agent type of a tenant, `<tenant>:<agent type>`. A fence is a number that rises with every assignment
    of a kind, also when the store lost its data (it is never below the clock): who has a lower one than another has
    lost the session to it.
    """

    async def kinds(self) -> dict[str, int]:
        """What is served, and when (ms) a worker was last known of."""

    async def keep(self, kind: str) -> None:
        """There is a worker of it now."""

    async def forget(self, kind: str) -> None:
        """Nobody serves it any more."""

    async def offer(self, kind: str, workers: Sequence[Worker]) -> None:
        """Add workers, or change what they offer."""

    async def known(self, kind: str, workers: Sequence[str]) -> list[bool]:
        """Whether each is there: one that is not was taken for lost, or the store lost its data."""

    async def leave(self, kind: str, workers: Sequence[str]) -> None:
        """Remove workers. What they hold is for the caller to release, else for whoever looks for it."""

    async def mark(self, kind: str, positions: Mapping[str, str]) -> None:
        """Session → a position that a worker should see. Due, unless it is held or its cursor is at or past that."""

    async def view(self, kind: str, limit: int) -> ServeView:
        """All workers, and the `limit` sessions that have waited longest."""

    async def assign(self, kind: str, pairs: Sequence[tuple[str, str]], above: int = 0) -> list[int]:
        """(session, worker) → its fence, which is higher than `above`; 0 where somebody has it, it is not due, or the
        worker is gone or full."""

    async def take(self, kind: str, leases: Sequence[tuple[str, int]]) -> list[bool]:
        """(session, fence): the edge has it. False where that is not the lease any more."""

    async def release(self, kind: str, leases: Sequence[tuple[str, int, str]]) -> list[bool]:
        """(session, fence, cursor or empty): given back; due again where a position behind the cursor is known.
        False, and nothing changed, where that is not the lease any more."""

    async def sessions(self, kind: str, cursor: int = 0) -> tuple[int, list[Served]]:
        """Some of all that is known, and where to go on; 0: that was all. One that changes meanwhile may come twice."""

    async def prune(self, kind: str, sessions: Sequence[str], before_ms: int) -> int:
        """Forget those of `sessions` that nobody has, that are not due, and unchanged since; how many."""

    async def order(self, edge: str, orders: Sequence[Order]) -> None: ...

    async def orders(self, edge: str, wait_s: float) -> list[Order]:
        """The next ones, once; empty after `wait_s`."""

    async def changed(self, wait_s: float) -> set[str]:
        """Kinds of which something became due, or a worker got room, since the last call; empty after `wait_s`.

        A hint: some may be missed while the connection is away.
        """
