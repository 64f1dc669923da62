"""Who may come in: everything that is judged of a handshake but its token and origin, in the order of what it costs.

Before the upgrade a refusal is an HTTP answer, which a browser shows its page as "failed" and nothing else; so whoever
may be told is let in, told when to come back, and closed. What an admitted connection holds of limits is its `Place`.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from heliograph.core.addresses import ClientAddresses, hops_of_forwarded, hops_of_x_forwarded_for
from heliograph.core.pacing import Admit, HandshakeAdmission, RefuseHandshake, TellToReconnect, jittered_after_ms
from heliograph.edge.usage import Usage
from heliograph.service.sockets import OpenSockets

if TYPE_CHECKING:
    from heliograph.edge.metrics import EdgeMetrics
    from heliograph.edge.tenants import TenantState

LIMIT_RETRY_MS = (2_000.0, 8_000.0)
"""Told to who is above a limit: at least, and spread over so much more. Others must leave first."""

UNREADY_RETRY_MS = (500.0, 2_500.0)
"""Told while this edge can't serve: another one may."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Answer the handshake with an error, before the upgrade."""

    code: str
    retry_after_s: int
    cause: str


@dataclass(slots=True)
class Place:
    """What a connection holds of limits."""

    address: str | None = None
    tenant: str | None = None
    subject: str = ""


NOWHERE = Place()


class AddressLimit:
    """Connections by the address of the client, where that is known."""

    def __init__(self, most: int, addresses: ClientAddresses, *, header: str, direct: bool) -> None:
        """`most`: 0 is no limit. `direct`: also of peers that are no trusted proxy."""
        self._most = most
        self._addresses = addresses
        self._header = header.encode()
        self._hops = hops_of_forwarded if header == "forwarded" else hops_of_x_forwarded_for
        self._direct = direct
        self._open: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def of(self, peer: tuple[str, int] | None, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """The address that is to be counted; None where none is."""
        if self._most == 0:
            return None
        values = [value.decode("latin-1") for name, value in headers if name == self._header]
        origin = self._addresses.of(peer[0] if peer else None, self._hops(values))
        return origin.address if origin.proxied or self._direct else None

    def full(self, address: str | None) -> bool:
        return address is not None and self._open[address] >= self._most

    def take(self, address: str) -> None:
        self._open[address] += 1

    def give_back(self, address: str) -> None:
        self._open[address] -= 1
        if self._open[address] <= 0:
            del self._open[address]


class Admission:
    """Judges the handshakes of one edge, and counts who is in."""

    def __init__(
        self,
        handshakes: HandshakeAdmission,
        sockets: OpenSockets,
        usage: Usage,
        addresses: AddressLimit,
        metrics: "EdgeMetrics",
    ) -> None:
        self._handshakes = handshakes
        self._sockets = sockets
        self._usage = usage
        self._addresses = addresses
        self._metrics = metrics
        self.ready: Callable[[], bool] = lambda: True
        """Whether this edge can serve."""
        self.refuse_new: Callable[[], str | None] = lambda: None
        """The code with which nobody new is let in just now, or None: whoever measures the edge puts its own here."""
        metrics.metrics.sampled_gauge(
            "client_addresses", "Addresses whose connections are counted.", lambda: float(len(addresses))
        )

    def judge(self, now: float) -> Admit | TellToReconnect | Refusal:
        """What becomes of a handshake whose head came at `now` (seconds, monotonic)."""
        code = self.refuse_new()
        if code is not None:
            return Refusal(code, _after_s(LIMIT_RETRY_MS), "pressure")
        if self._sockets.full:
            return Refusal("unavailable", _after_s(LIMIT_RETRY_MS), "descriptors")
        answer = self._handshakes.judge(now, self._sockets.under_way)
        if isinstance(answer, RefuseHandshake):
            return Refusal("unavailable", answer.retry_after_s, answer.cause)
        if not self.ready():
            return Refusal("unavailable", _after_s(UNREADY_RETRY_MS), "not_ready")
        return answer

    def place(self, peer: tuple[str, int] | None, headers: Iterable[tuple[bytes, bytes]]) -> Place | Refusal:
        """A place for one more connection from this peer; nothing is held yet."""
        address = self._addresses.of(peer, headers)
        if self._addresses.full(address):
            self._metrics.over_limit.labels("address").n += 1
            return Refusal("too_many_connections", _after_s(LIMIT_RETRY_MS), "address")
        return Place(address)

    def full(self, tenant: "TenantState", subject: str) -> Refusal | None:
        """Whether one more connection of an identity would be above a limit."""
        limit = self._usage.full(tenant, subject)
        if limit is None:
            return None
        self._metrics.over_limit.labels(limit).n += 1
        return Refusal("too_many_connections", _after_s(LIMIT_RETRY_MS), limit)

    def enter(self, place: Place) -> None:
        """The connection of a place is open."""
        if place.address is not None:
            self._addresses.take(place.address)

    def identify(self, place: Place, tenant: "TenantState", subject: str) -> None:
        """It is known whose it is."""
        place.tenant, place.subject = tenant.record.tenant, subject
        self._usage.connected(tenant, subject)

    def leave(self, place: Place) -> None:
        """It is closed."""
        if place.address is not None:
            self._addresses.give_back(place.address)
        if place.tenant is not None:
            self._usage.gone(place.tenant, place.subject)
            place.tenant = None


def retry_after_ms() -> int:
    """When to come back for who is above a limit, each at another moment."""
    return jittered_after_ms(*LIMIT_RETRY_MS, random.random)


def _after_s(spread: tuple[float, float]) -> int:
    return max(1, round(jittered_after_ms(*spread, random.random) / 1000))
