"""The edges of a client: how they are written, which one comes next, and what tells a balancer where to go back to."""

import hashlib
import secrets
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit, urlunsplit

from heliograph.core.choosing import Choice
from heliograph.core.errors import InvalidValueError
from heliograph.protocol.frames import CONNECT_PATH

_SCHEMES = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}


def connect_url(url: str) -> str:
    """The WebSocket URL of an edge, from its address: `http:` becomes `ws:`, a missing path the endpoint's."""
    parts = urlsplit(url)
    try:
        valid = parts.scheme in _SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or parts.username or parts.query or parts.fragment:
        shown = f"{parts.scheme}://{parts.hostname or ''}"  # the rest may hold a secret
        wanted = "ws://host[:port] or wss://host[:port], without user, query and fragment"
        raise InvalidValueError("value_invalid", "url", shown, wanted)
    path = parts.path.rstrip("/") or CONNECT_PATH
    return urlunsplit((_SCHEMES[parts.scheme], parts.netloc, path, "", ""))


class Addresses:
    """The edges of one client: their URLs, and what is remembered of these and of the addresses behind their names."""

    def __init__(self, urls: str | Sequence[str], uniform: Callable[[], float], affinity: str | None = None) -> None:
        given = [urls] if isinstance(urls, str) else list(urls)
        if not given:
            raise InvalidValueError("value_invalid", "url", urls, "at least one URL of an edge")
        self.urls = tuple(dict.fromkeys(connect_url(url) for url in given))
        self.choice = Choice(uniform)
        self._affinity = affinity if affinity is not None else secrets.token_hex(16)
        self._moves = 0

    @property
    def hint(self) -> str:
        """What a balancer may hash: the same for as long as the edge does that it leads to. It says nothing of us."""
        return hashlib.sha256(f"{self._affinity}\n{self._moves}".encode()).hexdigest()[:16]

    def next(self, now: float) -> str:
        """The URL to try now."""
        return self.choice.order(self.urls, now)[0]

    def succeeded(self, url: str, peer: str | None) -> None:
        """The session is there now. `peer` is the address behind the URL, where it is known."""
        self.choice.succeeded(url, *_known(peer))

    def failed(self, url: str, peer: str | None, now: float) -> None:
        """It did not do, or asked to be left: others come first, also where a balancer chooses."""
        self._moves += 1
        for name in (url, *_known(peer)):
            self.choice.failed(name, now)


def _known(peer: str | None) -> tuple[str, ...]:
    return () if peer is None else (peer,)
