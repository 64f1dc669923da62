"""Where a Redis is, from its URL: one server, servers behind Sentinel, or a Redis Cluster.

`RedisLocation` is what a setting says, `RedisAddress` one server of it. Neither shows a password. What is said about a
URL that can't be read shows nothing of it but its scheme: of a password that is not escaped, any part may hold some.
"""

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv6Address
from urllib.parse import parse_qsl, unquote

from heliograph.core.errors import InvalidValueError

DEFAULT_PORT = 6379
SENTINEL_PORT = 26379
MAX_PORT = 65_535


class RedisKind(StrEnum):
    """What a URL leads to."""

    SINGLE = "single"
    """One server, or whatever stands in its place behind one address."""
    SENTINEL = "sentinel"
    """A primary that sentinels name, another one after a failover."""
    CLUSTER = "cluster"
    """A Redis Cluster: each key on the primary that has its slot."""


_SCHEMES = {
    f"{scheme}{suffix}": (kind, tls)
    for kind, suffix in ((RedisKind.SINGLE, ""), (RedisKind.SENTINEL, "+sentinel"), (RedisKind.CLUSTER, "+cluster"))
    for scheme, tls in (("redis", False), ("rediss", True))
}
_FORMS = {
    RedisKind.SINGLE: "redis://[user:password@]host[:port][/database]",
    RedisKind.SENTINEL: "redis+sentinel://[user:password@]host[:port],host[:port],…/master-name[/database]",
    RedisKind.CLUSTER: "redis+cluster://[user:password@]host[:port],host[:port],…",
}
WANTED = f"{', or '.join(_FORMS.values())}; with rediss in place of redis for TLS"

_TLS_PARAMETERS = {"ssl_ca_certs", "ssl_cert_reqs"}
_SENTINEL_PARAMETERS = {"sentinel_username", "sentinel_password"}

_URL = re.compile(r"([^/?#]*)(?:/([^?#]*))?(?:\?([^#]*))?")
"""What follows `://`, as RFC 3986 takes it apart; a fragment means that something was not escaped."""
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{1,5}))?", re.ASCII)
_MASTER = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
"""What Sentinel takes as a name."""
_DATABASE = re.compile(r"[0-9]{1,5}", re.ASCII)


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """One server. `tls` with `ca_file` None: the system's certificates."""

    host: str
    port: int = DEFAULT_PORT
    database: int = 0
    username: str = ""
    password: str = field(default="", repr=False)
    tls: bool = False
    ca_file: str | None = None
    verify: bool = True

    @classmethod
    def parse(cls, url: str) -> "RedisAddress":
        """The one server of a `redis://` or `rediss://` URL. Raises InvalidValueError, for the other kinds as well."""
        location = RedisLocation.parse(url)
        if location.kind is not RedisKind.SINGLE:
            raise _refused(url.partition("://")[0], _FORMS[RedisKind.SINGLE], "only one server is possible here")
        return location.at(*location.seeds[0])

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def tls_context(self) -> ssl.SSLContext | None:
        """None for plain TCP."""
        if not self.tls:
            return None
        context = ssl.create_default_context(cafile=self.ca_file)
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def hello(self) -> tuple[str, ...]:
        """The first command: RESP3, and who we are (HELLO, Redis 6)."""
        if not self.password:
            return ("HELLO", "3")
        return ("HELLO", "3", "AUTH", self.username or "default", self.password)


@dataclass(frozen=True, slots=True)
class RedisLocation:
    """What a URL says. `seeds`: the server, the sentinels, or nodes of the cluster that are asked for the others."""

    kind: RedisKind
    seeds: tuple[tuple[str, int], ...]
    master: str = ""
    """The name that sentinels know the primary by."""
    database: int = 0
    username: str = ""
    password: str = field(default="", repr=False)
    sentinel_username: str = ""
    sentinel_password: str = field(default="", repr=False)
    tls: bool = False
    ca_file: str | None = None
    verify: bool = True

    @classmethod
    def parse(cls, url: str) -> "RedisLocation":
        """Raises InvalidValueError, whose text holds nothing of the URL but its scheme.

        TLS takes `?ssl_ca_certs=FILE` and `?ssl_cert_reqs=none`, as redis-py does; sentinels with credentials of their
        own `?sentinel_username=…&sentinel_password=…` (without: none are given to them).
        """
        scheme, _, rest = url.partition("://")
        if scheme not in _SCHEMES:
            raise InvalidValueError("value_invalid", "Redis URL", "…", WANTED)
        kind, tls = _SCHEMES[scheme]
        form = _FORMS[kind].replace("redis", "rediss", 1) if tls else _FORMS[kind]
        parts = _URL.fullmatch(rest)
        if parts is None:
            raise _refused(scheme, form, "/ ? # and @ of a user or password are written %2F %3F %23 and %40")
        authority, path, query = (part or "" for part in parts.groups())
        credentials, _, hosts = authority.rpartition("@")
        seeds = _seeds(scheme, form, hosts, SENTINEL_PORT if kind is RedisKind.SENTINEL else DEFAULT_PORT)
        if kind is RedisKind.SINGLE and len(seeds) > 1:
            why = "several hosts are sentinels (redis+sentinel://) or nodes of a cluster (redis+cluster://)"
            raise _refused(scheme, form, why)
        master, database = _path(scheme, form, kind, path)
        parameters = _parameters(scheme, form, kind, tls, query)
        username, _, password = credentials.partition(":")
        return cls(
            kind,
            seeds,
            master,
            database,
            unquote(username),
            unquote(password),
            parameters.get("sentinel_username", ""),
            parameters.get("sentinel_password", ""),
            tls,
            parameters.get("ssl_ca_certs"),
            parameters.get("ssl_cert_reqs", "required") != "none",
        )

    def at(self, host: str, port: int) -> RedisAddress:
        """A server that holds data: the one of the URL, or one that was found through it."""
        return RedisAddress(
            host, port, self.database, self.username, self.password, self.tls, self.ca_file, self.verify
        )

    def sentinel_at(self, host: str, port: int) -> RedisAddress:
        """A sentinel: it has no databases, and credentials of its own."""
        return RedisAddress(
            host, port, 0, self.sentinel_username, self.sentinel_password, self.tls, self.ca_file, self.verify
        )

    def __str__(self) -> str:
        """For logs: what it is and where, without credentials."""
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.seeds)
        return {
            RedisKind.SINGLE: hosts,
            RedisKind.SENTINEL: f"{self.master} by sentinels {hosts}",
            RedisKind.CLUSTER: f"cluster {hosts}",
        }[self.kind]


def _refused(scheme: str, form: str, why: str) -> InvalidValueError:
    return InvalidValueError("value_invalid", "Redis URL", f"{scheme}://…", f"{form}: {why}")


def _seeds(scheme: str, form: str, hosts: str, default_port: int) -> tuple[tuple[str, int], ...]:
    found = []
    for text in hosts.split(","):
        match = _HOST.fullmatch(text.strip())
        if match is None:
            raise _refused(
                scheme, form, "each host is a name or address with a port of 1 to 65535 or none, IPv6 in brackets"
            )
        ipv6, name, port = match[1], match[2], int(match[3] or default_port)
        if not 0 < port <= MAX_PORT:
            raise _refused(scheme, form, "a port is 1 to 65535")
        if ipv6 is not None:
            try:
                IPv6Address(ipv6)
            except ValueError:
                raise _refused(scheme, form, "what is in brackets is no IPv6 address") from None
        found.append((ipv6 or name, port))
    return tuple(found)


def _path(scheme: str, form: str, kind: RedisKind, path: str) -> tuple[str, int]:
    """The master's name ('' but for Sentinel) and the database."""
    master = ""
    if kind is RedisKind.SENTINEL:
        master, _, path = path.partition("/")
        if not _MASTER.fullmatch(master):
            raise _refused(scheme, form, "the name that the sentinels monitor the primary by comes after the hosts")
    text = path.strip("/")
    if text and not _DATABASE.fullmatch(text):
        raise _refused(scheme, form, "a database is a number")
    database = int(text or 0)
    if database and kind is RedisKind.CLUSTER:
        raise _refused(scheme, form, "a Redis Cluster has only database 0")
    return master, database


def _parameters(scheme: str, form: str, kind: RedisKind, tls: bool, query: str) -> Mapping[str, str]:
    known = (_TLS_PARAMETERS if tls else set()) | (_SENTINEL_PARAMETERS if kind is RedisKind.SENTINEL else set())
    found = dict(parse_qsl(query, keep_blank_values=True))
    if not known.issuperset(found):
        names = ", ".join(sorted(known)) or "none"
        raise _refused(scheme, form, f"parameters after ? that are possible with {scheme}:// are {names}")
    if found.get("ssl_cert_reqs", "required") not in ("required", "none"):
        raise _refused(scheme, form, "ssl_cert_reqs is required or none")
    return found
