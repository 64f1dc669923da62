"""Whose address a connection comes from, where proxies stand before the edge.

A proxy adds the address that it was called from at the right end of a header; what stands left of that, the caller
wrote, whoever it was. So the header is read from the right, over the hops that are known to be ours, and the first that
is not is the client.

What this must never do: believe anything that somebody else wrote. The header of a peer that is no trusted proxy is not
looked at.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from heliograph.core.errors import InvalidValueError

IPV6_PREFIX = 64
"""What one IPv6 customer has at least (RFC 6177): single addresses would be no bound for anybody."""

MAX_HOPS = 32
"""Of a header, from the right; nobody has so many proxies."""

Address = IPv4Address | IPv6Address

_FOR = re.compile(r'(?:^|;)\s*for\s*=\s*("[^"]*"|[^;,"]*)', re.IGNORECASE)
"""The `for` parameter of one element of `Forwarded` (RFC 7239, 4)."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a connection comes from."""

    address: str | None
    """The client's, an IPv6 one as its network; None where nobody who is trusted said it."""
    proxied: bool
    """A trusted proxy said so; else it is the peer's own."""


class ClientAddresses:
    """Finds clients' addresses behind the proxies that are trusted."""

    def __init__(self, trusted: Iterable[str]) -> None:
        """`trusted`: networks like 10.0.0.0/8, or addresses. Raises InvalidValueError for what is neither."""
        self._trusted = [_network(text) for text in trusted]

    def of(self, peer: str | None, hops: Sequence[str]) -> Origin:
        """`peer`: who opened the connection. `hops`: what the header says, from left to right."""
        address = _address(peer or "")
        if address is None:
            return Origin(None, proxied=False)
        if not self._is_trusted(address):
            return Origin(_key(address), proxied=False)
        found = None
        for hop in reversed(hops[-MAX_HOPS:]):
            address = _address(hop)
            if address is None:
                return Origin(None, proxied=True)
            found = address
            if not self._is_trusted(address):
                break
        return Origin(_key(found) if found is not None else None, proxied=True)

    def _is_trusted(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)


def hops_of_x_forwarded_for(values: Iterable[str]) -> list[str]:
    """The hops of all `X-Forwarded-For` lines of a request, from left to right."""
    return [hop.strip() for value in values for hop in value.split(",")]


def hops_of_forwarded(values: Iterable[str]) -> list[str]:
    """The `for` of each element of all `Forwarded` lines (RFC 7239), from left to right; empty where one has none."""
    elements = [element for value in values for element in value.split(",")]
    found = [_FOR.search(element) for element in elements]
    return [match.group(1).strip().strip('"') if match else "" for match in found]


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        raise InvalidValueError("value_invalid", "trusted_proxies", text, "a network like 10.0.0.0/8") from None


def _address(text: str) -> Address | None:
    """The address of a hop, with a port or without (RFC 7239, 6); None where it is none."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def _key(address: Address) -> str:
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, IPV6_PREFIX), strict=False))
    return str(address)
