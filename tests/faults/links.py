"""The test's hand on the proxy: links by name, each to be cut, held, slowed and healed."""

import json
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from heliograph.local.ports import LOOPBACK, accepts, free_port
from heliograph.local.processes import ServerProcess

READY_TIMEOUT_S = 30.0
ANSWER_TIMEOUT_S = 30.0
BOTH = ("up", "down")
"""From who connects to whom it connects to, and back."""
CLEAR = {"hold": False, "delay_s": 0.0, "jitter_s": 0.0, "bytes_per_s": 0.0}


class Link:
    """One link of the proxy."""

    def __init__(self, links: "Links", name: str, port: int) -> None:
        self._links = links
        self.name = name
        self.port = port

    def cut(self) -> None:
        """Reset what is there, and whoever comes, until it is healed."""
        self._ask(cut=True)

    def reset(self) -> None:
        """Reset what is there; who comes again is carried."""
        self._ask(reset=True)

    def hold(self, *directions: str) -> None:
        """Not a byte passes, and nobody is told: a cable that is pulled, a peer that is half open."""
        self._shape(directions, hold=True)

    def freeze(self) -> None:
        """The same for the connections there are; who comes anew is carried."""
        self._ask(freeze=True)

    def delay(self, delay_s: float, jitter_s: float = 0.0, *directions: str) -> None:
        self._shape(directions, delay_s=delay_s, jitter_s=jitter_s)

    def throttle(self, bytes_per_s: float, *directions: str) -> None:
        self._shape(directions, bytes_per_s=bytes_per_s)

    def heal(self) -> None:
        """As if nothing had been; what was held passes."""
        self._ask(cut=False, freeze=False, up=CLEAR, down=CLEAR)

    def told(self) -> dict[str, int]:
        """`open` and `made` connections, bytes `up` and `down` that came in."""
        return self._ask()

    def _shape(self, directions: tuple[str, ...], **shape: Any) -> None:
        self._ask(**dict.fromkeys(directions or BOTH, shape))

    def _ask(self, **asked: Any) -> dict[str, int]:
        return self._links.ask(link=self.name, **asked)


class Links:
    """The proxy's process."""

    def __init__(self, directory: Path) -> None:
        self._port = free_port()
        script = str(Path(__file__).with_name("proxy.py"))
        self._process = ServerProcess(
            "proxy", [sys.executable, "-I", "-S", script, str(self._port)], directory / "proxy.log"
        )
        self._socket: socket.socket | None = None
        self._links: dict[str, Link] = {}

    def start(self) -> None:
        self._process.start()
        self._process.wait_until(lambda: accepts(self._port), READY_TIMEOUT_S)
        self._socket = socket.create_connection((LOOPBACK, self._port), timeout=ANSWER_TIMEOUT_S)

    def end(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._process.kill()

    def add(self, name: str, target: int, port: int = 0, *, buffer_bytes: int = 0) -> Link:
        """One more, to a port of this machine that need not be served yet; `port` 0: any; `buffer_bytes` of the
        kernel's for each socket, 0: as many as it likes.
        """
        told = self.ask(link=name, target=target, port=port, buffer_bytes=buffer_bytes)
        link = self._links[name] = Link(self, name, told["port"])
        return link

    def __getitem__(self, name: str) -> Link:
        return self._links[name]

    def heal(self) -> None:
        for link in self._links.values():
            link.heal()

    def ask(self, **asked: Any) -> dict[str, int]:
        assert self._socket is not None, "the proxy is not started"
        self._socket.sendall(json.dumps(asked).encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            more = self._socket.recv(65_536)
            if not more:
                raise ConnectionError("the proxy has ended")
            answer += more
        told: dict[str, int] = json.loads(answer)
        if "error" in told:
            raise ValueError(f"proxy: {told['error']}")
        return told


@contextmanager
def running_links(directory: Path) -> Iterator[Links]:
    """A proxy for as long as it is needed."""
    links = Links(directory)
    try:
        links.start()
        yield links
    finally:
        links.end()
