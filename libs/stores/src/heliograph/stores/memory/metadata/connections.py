"""Edges' leases and connections in memory."""

from collections.abc import Sequence

from msgspec.structs import replace

from heliograph.stores.memory.metadata.clock import Clock, now_ms
from heliograph.stores.ports import Connection, EdgeLease
from heliograph.stores.registrations import check_edge, member, past, registered, scopes


class MemoryConnectionStore:
    """`heliograph.stores.ports.ConnectionStore`."""

    def __init__(self, clock: Clock = now_ms) -> None:
        self._clock = clock
        self._leases: dict[str, EdgeLease] = {}
        self._connections: dict[str, dict[str, Connection]] = {}
        """By edge and registration: what is said about a former one of a connection does not touch the present."""

    async def renew(self, lease: EdgeLease, ttl_s: float) -> bool:
        held = self._held(check_edge(lease.edge))
        known = held is not None and held.incarnation == lease.incarnation
        ttl_ms = max(1, int(ttl_s * 1000))
        self._leases[lease.edge] = replace(lease, ends_ms=self._clock() + ttl_ms, lease_ms=ttl_ms)
        if not known:
            self._connections.pop(lease.edge, None)
        return known

    async def release(self, edge: str) -> None:
        self._leases.pop(check_edge(edge), None)
        self._connections.pop(edge, None)

    async def update(self, edge: str, changed: Sequence[Connection], gone: Sequence[Connection]) -> None:
        connections = self._connections.setdefault(check_edge(edge), {})
        for connection in changed:
            scopes(connection)
            connections[registered(connection)] = replace(connection, sessions=list(connection.sessions))
        for connection in gone:
            connections.pop(registered(connection), None)

    async def edges(self) -> list[EdgeLease]:
        held = [lease for edge in self._leases if (lease := self._held(edge)) is not None]
        return sorted(held, key=lambda lease: (lease.ends_ms, lease.edge))

    async def lease(self, edge: str) -> EdgeLease | None:
        return self._leases.get(check_edge(edge))

    async def lapsed(self) -> list[EdgeLease]:
        return [lease for edge, lease in self._leases.items() if self._held(edge) is None]

    async def left_behind(self, lease: EdgeLease, limit: int) -> list[Connection]:
        if not self._stands(lease):
            return []
        return list(self._connections.get(lease.edge, {}).values())[:limit]

    async def remove(self, lease: EdgeLease, lost: Sequence[Connection]) -> list[bool]:
        connections = self._connections.get(lease.edge, {})
        return [connections.pop(registered(connection), None) is not None for connection in lost]

    async def bury(self, lease: EdgeLease) -> bool:
        if not self._stands(lease) or self._held(lease.edge) is not None:
            return False
        del self._leases[lease.edge]
        self._connections.pop(lease.edge, None)
        return True

    async def connections(self, scope: str, limit: int, after: str = "") -> list[tuple[EdgeLease, Connection]]:
        found = [
            (member(edge, name), lease, connection)
            for edge, connections in self._connections.items()
            if (lease := self._held(edge)) is not None
            for name, connection in connections.items()
            if (not after or member(edge, name) > past(after)) and scope in scopes(connection)
        ]
        found.sort(key=lambda entry: entry[0])
        return [(lease, connection) for _, lease, connection in found[:limit]]

    async def agents(self, sessions: Sequence[str], besides: str) -> list[set[tuple[str, str | None]]]:
        return [
            {
                (connection.subject, connection.agent)
                for edge, connections in self._connections.items()
                if edge != besides and self._held(edge) is not None
                for connection in connections.values()
                if session in connection.sessions
            }
            for session in sessions
        ]

    async def counts(self, tenants: Sequence[str]) -> list[int]:
        everyone = [found.tenant for connections in self._connections.values() for found in connections.values()]
        return [everyone.count(tenant) for tenant in tenants]

    def _stands(self, lease: EdgeLease) -> bool:
        """Whether nobody renewed it since it was read."""
        stored = self._leases.get(lease.edge)
        return stored is not None and (stored.incarnation, stored.ends_ms) == (lease.incarnation, lease.ends_ms)

    def _held(self, edge: str) -> EdgeLease | None:
        lease = self._leases.get(edge)
        return lease if lease is not None and lease.ends_ms > self._clock() else None
