"""A process that has no file descriptor left: it survives, says so, serves who is there, and takes others in later."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.service.test_lifecycle_process import PROGRAM

from heliograph.service.sockets import WANTED_DESCRIPTORS

DESCRIPTORS = 64
DEADLINE_S = 20.0


class Scarce:
    """A service whose process may have few descriptors."""

    def __init__(self, directory: Path) -> None:
        program, self.log = directory / "program.py", directory / "log"
        program.write_text(textwrap.dedent(PROGRAM))
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HELIOGRAPH_")}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                ["/bin/sh", "-c", f'ulimit -n {DESCRIPTORS}; exec "$0" "$1"', sys.executable, str(program)],
                env={**kept, "HELIOGRAPH_PORT": "0", "HELIOGRAPH_DESCRIPTOR_RESERVE": "16"},
                stderr=log,
            )
        self.until(lambda: '"listening"' in self.log.read_text(), "it listens")
        line = next(line for line in self.log.read_text().splitlines() if '"listening"' in line)
        self.port = int(line.split('"port": ')[1].split(",")[0].strip("}"))

    def until(self, state: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not state():
            assert self.process.poll() is None, "it ended"
            assert time.monotonic() < deadline, f"not in {DEADLINE_S:g} s: {what}"
            time.sleep(0.02)

    def cpu_s(self) -> float:
        user, system = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@pytest.fixture
def scarce(tmp_path: Path) -> Iterator[Scarce]:
    found = Scarce(tmp_path)
    yield found
    found.process.kill()
    found.process.wait()


def ask(connection: http.client.HTTPConnection, path: str = "/livez") -> tuple[int, str]:
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def accept_failures(connection: http.client.HTTPConnection) -> float:
    text = ask(connection, "/metrics")[1]
    name = 'heliograph_probe_accept_failures_total{error="EMFILE"'
    lines = [line for line in text.splitlines() if line.startswith(name)]
    return float(lines[0].split()[-1]) if lines else 0.0


def test_without_a_descriptor_left_it_survives_says_so_and_goes_on(scarce: Scarce) -> None:
    kept = http.client.HTTPConnection("127.0.0.1", scarce.port, timeout=DEADLINE_S)
    assert ask(kept)[0] == 200
    crowd = [socket.create_connection(("127.0.0.1", scarce.port), timeout=DEADLINE_S) for _ in range(2 * DESCRIPTORS)]
    scarce.until(lambda: accept_failures(kept) >= 2, "it counts what it could not accept, and tries again")
    before = scarce.cpu_s()
    waiting_from = time.monotonic()
    scarce.until(lambda: time.monotonic() > waiting_from + 1, "a second")
    assert scarce.cpu_s() - before < 0.5, "it does not spin"
    assert "accept_failed" in scarce.log.read_text()
    assert scarce.log.read_text().count("accept_failed") == 1, "once in a while"
    assert ask(kept)[0] == 200, "who is there is served"
    for peer in crowd:
        peer.close()
    late = http.client.HTTPConnection("127.0.0.1", scarce.port, timeout=DEADLINE_S)
    assert ask(late)[0] == 200, "and others later"
    late.close()
    kept.close()
    scarce.process.send_signal(signal.SIGTERM)
    assert scarce.process.wait(DEADLINE_S) == 0


def test_a_soft_limit_is_raised_to_what_is_of_use() -> None:
    program = (
        "import resource\n"
        "from heliograph.service.sockets import raise_descriptor_limit\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))\n"
        "print(raise_descriptor_limit(), hard)\n"
    )
    raised, hard = map(int, subprocess.check_output([sys.executable, "-c", program], text=True).split())
    assert raised == (WANTED_DESCRIPTORS if hard < 0 else min(hard, WANTED_DESCRIPTORS))
