"""Processes: told apart by start time, ended in order or with their owner, their failures explained."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from heliograph.local.errors import NotReadyError
from heliograph.local.identity import ProcessIdentity
from heliograph.local.processes import ServerProcess

SLEEP = [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(600)"]
DEADLINE_S = 20.0


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[ServerProcess]:
    process = ServerProcess("sleeper", SLEEP, tmp_path / "log")
    process.start()
    yield process
    process.kill()


def test_a_reused_pid_is_another_process_and_gets_no_signal(sleeper: ServerProcess) -> None:
    earlier = ProcessIdentity(sleeper.pid, "a start time of long ago")
    assert not earlier.alive()
    assert not earlier.end(timeout_s=1)
    assert sleeper.running


def test_a_process_is_recognised_by_pid_and_start(sleeper: ServerProcess) -> None:
    identity = sleeper.identity()
    assert identity.alive()
    assert identity == ProcessIdentity.of(sleeper.pid)


def test_a_process_that_was_not_waited_for_counts_as_gone(sleeper: ServerProcess) -> None:
    identity = sleeper.identity()
    os.kill(sleeper.pid, signal.SIGKILL)
    assert identity.wait_gone(DEADLINE_S)


def test_end_insists_where_sigterm_is_ignored(tmp_path: Path) -> None:
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('here', flush=True); time.sleep(600)"
    )
    process = ServerProcess("stubborn", [sys.executable, "-c", stubborn], tmp_path / "log")
    process.start()
    process.wait_until(lambda: "here" in process.log.read_text(), DEADLINE_S)
    assert process.identity().end(timeout_s=0.1)
    assert process.wait(DEADLINE_S) == -signal.SIGKILL


def test_children_end_with_their_server(tmp_path: Path) -> None:
    parent = f"import subprocess; print(subprocess.Popen({SLEEP!r}).pid, flush=True); import time; time.sleep(600)"
    process = ServerProcess("parent", [sys.executable, "-c", parent], tmp_path / "log")
    process.start()
    process.wait_until(lambda: "here" in process.log.read_text(), DEADLINE_S)
    child = ProcessIdentity.of(int(next(line for line in process.log.read_text().split() if line.isdigit())))
    assert child is not None
    process.kill()
    assert child.wait_gone(DEADLINE_S)


def test_a_server_started_by_a_thread_outlives_the_thread(tmp_path: Path) -> None:
    process = ServerProcess("sleeper", SLEEP, tmp_path / "log")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(process.start).result()
    process.wait_until(lambda: "here" in process.log.read_text(), DEADLINE_S)
    assert process.running
    process.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's death signal is Linux's")
def test_a_server_dies_with_an_owner_that_was_killed(tmp_path: Path) -> None:
    owner_code = f"""
import sys, time
from pathlib import Path
from heliograph.local.processes import ServerProcess
server = ServerProcess("sleeper", {SLEEP!r}, Path({str(tmp_path / "log")!r}))
server.start()
server.wait_until(lambda: "here" in server.log.read_text(), {DEADLINE_S})
print(server.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", owner_code], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        server = ProcessIdentity.of(int(owner.stdout.readline()))
        assert server is not None
        owner.kill()
    assert server.wait_gone(DEADLINE_S)


def test_a_server_that_ends_at_once_is_explained_by_the_end_of_its_log(tmp_path: Path) -> None:
    process = ServerProcess("broken", [sys.executable, "-c", "raise SystemExit('no such setting')"], tmp_path / "log")
    process.start()
    with pytest.raises(NotReadyError, match=r"(?s)broken ended with status 1 .*no such setting"):
        process.wait_until(lambda: False, DEADLINE_S)


def test_a_server_that_is_not_ready_in_time_is_said_to_be_late(sleeper: ServerProcess) -> None:
    began = time.monotonic()
    with pytest.raises(NotReadyError, match=r"sleeper was not ready after 0\.1 s"):
        sleeper.wait_until(lambda: False, 0.1)
    assert time.monotonic() - began < DEADLINE_S


def test_an_interrupt_while_a_process_is_made_leaves_none_behind(tmp_path: Path) -> None:
    """Ctrl-C comes at any moment, also while the fork is under way: who is to end the process must know of it."""
    log = tmp_path / "log"
    os.mkfifo(log)  # opening it blocks until somebody reads: the fork is under way for as long as we like
    process = ServerProcess("late", SLEEP, log)
    main = threading.get_ident()
    interrupted = threading.Timer(0.2, signal.pthread_kill, (main, signal.SIGINT))
    reader: list[int] = []
    released = threading.Timer(0.6, lambda: reader.append(os.open(log, os.O_RDONLY | os.O_NONBLOCK)))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        interrupted.start()
        released.start()
        with pytest.raises(KeyboardInterrupt):
            process.start()
    finally:
        signal.signal(signal.SIGINT, before)
    assert process.running
    process.kill()
    os.close(reader[0])
