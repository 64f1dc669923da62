import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import EdgeThread

from heliograph.cli import stdin


def give(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """`data` on a pipe as standard input."""
    read, write = os.pipe()
    os.write(write, data)
    os.close(write)
    monkeypatch.setattr(sys, "stdin", os.fdopen(read))


async def test_lines_are_what_stands_between_line_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdin, "CHUNK_BYTES", 3)
    give(monkeypatch, b"one\r\n\ntwo and more\nlast")
    assert [line async for line in stdin.lines()] == [b"one", b"", b"two and more", b"last"]
    sys.stdin.close()


async def test_everything_is_read_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, b"x" * 60_000)
    assert await stdin.everything() == b"x" * 60_000
    sys.stdin.close()


def test_ctrl_c_ends_a_command_that_waits_for_input(running: EdgeThread) -> None:
    command = [sys.executable, "-m", "heliograph.cli", "publish", "acme:planner:1", "-", "--lines"]
    environment = {"PATH": os.environ["PATH"], "NO_PROXY": "127.0.0.1", "HOME": str(Path.home())}
    with subprocess.Popen(
        [*command, "--url", running.edge.url],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as publish:
        running.call(running.edge.until, lambda: bool(running.edge.connections))
        publish.send_signal(signal.SIGINT)
        assert publish.wait(20) == 130
        assert publish.stderr is not None
        assert publish.stderr.read() == ""
