"""Where a Redis is, from its URL. The password is never shown."""

import ssl
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

from heliograph.core.errors import InvalidValueError

DEFAULT_PORT = 6379
WANTED = "redis://[user:password@]host[:port][/database], or rediss:// for TLS"


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
        """`redis://` or `rediss://`; TLS takes `?ssl_ca_certs=FILE` and `?ssl_cert_reqs=none`, as redis-py does.

        Raises InvalidValueError that shows host and path only.
        """
        parts = urlsplit(url)
        try:
            port = parts.port or DEFAULT_PORT
            database = int(parts.path.strip("/") or 0)
        except ValueError:
            port = database = -1
        if parts.scheme not in ("redis", "rediss") or not parts.hostname or port < 0 or database < 0:
            shown = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
            raise InvalidValueError("value_invalid", "Redis URL", shown, WANTED)
        query = parse_qs(parts.query)
        return cls(
            host=parts.hostname,
            port=port,
            database=database,
            username=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
            tls=parts.scheme == "rediss",
            ca_file=query.get("ssl_ca_certs", [None])[0],
            verify=query.get("ssl_cert_reqs", ["required"])[0] != "none",
        )

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
