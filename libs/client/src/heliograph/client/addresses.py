"""Which edge to try next: the last good one first, else any other, spread evenly."""

from collections.abc import Callable, Sequence
from urllib.parse import urlsplit, urlunsplit

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
    """The edges of one client."""

    def __init__(self, urls: str | Sequence[str], uniform: Callable[[], float]) -> None:
        given = [urls] if isinstance(urls, str) else list(urls)
        if not given:
            raise InvalidValueError("value_invalid", "url", urls, "at least one URL of an edge")
        self.urls = tuple(dict.fromkeys(connect_url(url) for url in given))
        self._uniform = uniform
        self._good: str | None = None
        self._untried = list(self.urls)

    def next(self) -> str:
        """The one to try now. Each is tried once before any is tried again."""
        if self._good is not None:
            good, self._good = self._good, None
            self._untried = [url for url in self.urls if url != good]
            return good
        if not self._untried:
            self._untried = list(self.urls)
        return self._untried.pop(int(self._uniform() * len(self._untried)))

    def succeeded(self, url: str) -> None:
        self._good = url
        self._untried = list(self.urls)

    def leave(self, url: str) -> None:
        """This one asked to be left: the others come first."""
        self._good = None
        self._untried = [other for other in self.urls if other != url] or list(self.urls)
