"""Which addresses the operator may fetch keys from. Decisions only.

A Tenant's author chooses the URL, and the operator stands inside the cluster's network: without this it could be made
to call the cloud's metadata service, or any service that trusts the network.
"""

import ipaddress
from urllib.parse import urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
"""RFC 6052: an IPv4 address in its last 32 bits."""


def url_problem(url: str, hosts: frozenset[str]) -> str | None:
    """Why a URL may not be fetched; None where it may. `hosts`: lower case."""
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        return "it is no URL"
    if parts.scheme != "https":
        return "it is not https"
    if parts.username is not None or parts.password is not None:
        return "it holds a user or password"
    if port == 0 or not host:
        return "it names no host"
    if host.rstrip(".") not in hosts:
        return f"its host {host} is not among those that the operator's HELIOGRAPH_JWKS_HOSTS allows"
    return None


def address_problem(address: str, *, private: bool) -> str | None:
    """Why an address may not be connected to; None where it may. `private`: its host may be at a private one."""
    try:
        found: Address = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "is no address"
    inner = _embedded(found)
    if inner is not None:
        return address_problem(str(inner), private=private)
    reserved = found.is_reserved and not found.is_loopback  # ::1 is both
    if found.is_link_local or found.is_multicast or found.is_unspecified or reserved:
        return "is link-local, multicast or reserved"
    if not found.is_global and not private:
        return "is not public"
    return None


def _embedded(address: Address) -> Address | None:
    """The IPv4 address that an IPv6 one stands for."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
