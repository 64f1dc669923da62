"""Leases of edges, and who is connected where."""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct


class Connection(Struct, omit_defaults=True):
    """One client connection, as the registry knows it."""

    connection: str
    tenant: str
    subject: str
    agent: str | None
    since_ms: int
    sessions: list[str]
    """Sessions it is subscribed to."""
    registration: int = 1
    """How often its edge had registered all that it has, when this was written: a connection that was registered anew
    joins anew, and what is said about its former registration is no word about this one."""
    joins: list[int] = []
    """For each of `sessions` the number of the subscription, from which the ids of its join and leave are made; 0
    where neither is announced."""


class EdgeLease(Struct, omit_defaults=True):
    """One edge, as the registry knows it."""

    edge: str
    incarnation: str
    address: str
    connections: int
    started_ms: int
    ends_ms: int = 0
    """When the lease runs out, by the store's clock; set by the store."""
    draining: bool = False
    lease_ms: int = 0
    """How long it was renewed for; set by the store."""
    messages_in_per_s: float = 0.0
    """From publishers, since the renewal before."""
    messages_out_per_s: float = 0.0
    """To subscribers."""
    outbound_bytes: int = 0
    """Written for readers that had not taken it yet."""
    cpu: float | None = None
    """Of its process, in cores, since the renewal before; None: not measured yet."""
    ready: bool = True
    """It takes new clients."""
    drain_order: str = ""
    """Id of the drain order that it obeys (`edge_orders`)."""
    shed_order: str = ""
    """Id of the last shed order that it obeyed, and how many clients it has still to ask."""
    shed_left: int = 0


class ConnectionStore(Protocol):
    """Leases of edges and who is connected where."""

    async def renew(self, lease: EdgeLease, ttl_s: float) -> bool:
        """False: the store did not know this incarnation of the edge (it ran out, or is new): register all anew."""

    async def release(self, edge: str) -> None:
        """Lease and connections of an edge that goes."""

    async def update(self, edge: str, changed: Sequence[Connection], gone: Sequence[Connection]) -> None:
        """Add or replace, and remove, in one batch. `changed` of a known connection replaces its sessions."""

    async def edges(self) -> list[EdgeLease]:
        """Those whose lease holds."""

    async def lease(self, edge: str) -> EdgeLease | None:
        """What is stored of an edge, whether its lease holds or not."""

    async def lapsed(self) -> list[EdgeLease]:
        """Leases that ran out and were not buried yet."""

    async def left_behind(self, lease: EdgeLease, limit: int) -> list[Connection]:
        """Some of the connections that were registered under a lease as it was read; none once the edge renewed it or
        registered anew: then they are not lost.
        """

    async def remove(self, lease: EdgeLease, lost: Sequence[Connection]) -> list[bool]:
        """Forget these of `left_behind`, each as it was registered then. For each whether it was still there: of any
        number of callers one is told so.
        """

    async def bury(self, lease: EdgeLease) -> bool:
        """Forget an edge of which nothing is left behind. Whether this call did; never one that is back."""

    async def connections(self, scope: str, limit: int, after: str = "") -> list[tuple[EdgeLease, Connection]]:
        """Of a tenant, `tenant:agent-type` or session, on edges whose lease holds, in the order of their names
        `<edge>/<connection>`, from behind the name `after`."""

    async def agents(self, sessions: Sequence[str], besides: str) -> list[set[tuple[str, str | None]]]:
        """Subject and agent name of each session's subscribers, on edges whose lease holds and not called `besides`."""

    async def counts(self, tenants: Sequence[str]) -> list[int]:
        """About how many connections each tenant has: those of edges that were lost count until they are reaped."""
