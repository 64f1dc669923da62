"""Which web pages may connect (RFC 6454): a browser sends its page's origin with the handshake, agents send none.

Without this check any page that somebody opens could use what their browser knows of us (cross-site WebSocket
hijacking; RFC 6455, 10.2).
"""

import re
from collections.abc import Iterable

ANY = "*"
_SUBDOMAINS = r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*"
"""What `*` stands for in `https://*.example.com`: one label or several, and nothing that ends the host."""


class Origins:
    """An allow-list: origins, `https://*.example.com` for all hosts below one, or `*` for any."""

    def __init__(self, patterns: Iterable[str]) -> None:
        parts = {ANY if one == ANY else _SUBDOMAINS.join(map(re.escape, one.split("*"))) for one in patterns}
        self._any = ANY in parts
        self._pattern = re.compile("|".join(sorted(parts - {ANY})), re.ASCII) if parts - {ANY} else None

    def allow(self, origin: str) -> bool:
        """Whether a page of this origin may connect."""
        return self._any or (self._pattern is not None and self._pattern.fullmatch(origin) is not None)
