"""The pytest plugin in suites of other people: each is a run of pytest of its own, with what they may have there."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.local.papers import ROOT, blocks

from heliograph.dev.process import DevProcessError, HeliographDev

RUN_TIMEOUT_S = 240
SYNC_TEST = """
import asyncio

async def talk(dev, session):
    async with dev.client() as client:
        await client.publish(session, {"n": 1})
        async for item in client.subscribe(session, "earliest"):
            return item.data

def test_it(heliograph_dev, heliograph_session):
    assert asyncio.run(talk(heliograph_dev, heliograph_session)) == {"n": 1}
"""


def pytest_run(directory: Path, *arguments: str, **files: str) -> str:
    """Run pytest on these files in a directory of its own, with no configuration but theirs; what it said."""
    for name, text in files.items():
        (directory / f"{name}.py").write_text(text)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "HELIOGRAPH"))}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:rerunfailures", *arguments]
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, check=False, timeout=RUN_TIMEOUT_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_example_of_the_page_runs(tmp_path: Path) -> None:
    examples = [block.text for block in blocks(ROOT / "docs" / "dev.md", "python")]
    files = {f"test_example_{number}": text for number, text in enumerate(examples) if "def test_" in text}
    assert files
    said = pytest_run(tmp_path, "-o", "asyncio_mode=auto", **files)
    assert "failed" not in said


MARKED_TEST = """
import pytest

{mark}
async def test_it(heliograph_dev, heliograph_session):
    async with heliograph_dev.client() as client:
        receipt = await client.publish(heliograph_session, 1)
        assert not receipt.duplicate
"""


def test_it_works_with_each_asyncio_plugin_in_each_mode(tmp_path: Path) -> None:
    """All in one run, on one server: tests with loops of their own, with one of their module, anyio's, and none."""
    said = pytest_run(
        tmp_path,
        *("-o", "asyncio_mode=strict"),
        conftest="import pytest\n\n@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n",
        test_own=MARKED_TEST.format(mark="@pytest.mark.asyncio"),
        test_of_the_module=MARKED_TEST.format(mark="@pytest.mark.asyncio(loop_scope='module')"),
        test_anyio=MARKED_TEST.format(mark="@pytest.mark.anyio"),
        test_sync=SYNC_TEST,
    )
    assert "4 passed" in said


def test_each_process_of_xdist_has_its_own(tmp_path: Path) -> None:
    two = SYNC_TEST + SYNC_TEST[SYNC_TEST.index("def test_it") :].replace("test_it", "test_it_again")
    assert "2 passed" in pytest_run(tmp_path, "-n", "2", test_sync=two)


def test_what_a_suite_does_to_its_own_process_does_not_reach_the_server(tmp_path: Path) -> None:
    """Warnings that are errors, a clock that stands still, a shell set up for an installation; and no plugin at all."""
    hostile = (
        """
import os, time, warnings
os.environ["HELIOGRAPH_REDIS_URL"] = "nonsense"
os.environ["HELIOGRAPH_PORT"] = "1"
warnings.simplefilter("error")
"""
        + SYNC_TEST
        + """
def test_a_clock_that_stands(heliograph_dev, heliograph_session, monkeypatch):
    monkeypatch.setattr("time.time_ns", lambda: 0)
    assert asyncio.run(talk(heliograph_dev, heliograph_session)) == {"n": 1}
"""
    )
    assert "2 passed" in pytest_run(tmp_path, "-W", "error", "-p", "no:asyncio", "-p", "no:anyio", test_hostile=hostile)


def test_tenants_are_what_a_conftest_says(tmp_path: Path) -> None:
    conftest = """
import pytest

@pytest.fixture(scope="session")
def heliograph_dev_tenants():
    return ["acme", {"tenant": "globex", "limits": {"max_payload_bytes": 100}}]
"""
    test = """
def test_it(heliograph_dev, heliograph_session):
    assert heliograph_dev.tenants == ["acme", "globex"]
    assert heliograph_session.startswith("acme:test:")
    assert heliograph_dev.session("planner", tenant="globex").startswith("globex:planner:")
"""
    assert "1 passed" in pytest_run(tmp_path, conftest=conftest, test_tenants=test)


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(DevProcessError, match="tenant"):
        HeliographDev(tmp_path / "dev.log", ["Not A Label"]).start()


def test_the_server_ends_with_a_run_that_was_killed(tmp_path: Path) -> None:
    """Nobody is left to end it: it notices that its stdin did."""
    test = "def test_it(heliograph_dev):\n    print('PID', heliograph_dev.pid, flush=True)\n    input()\n"
    (tmp_path / "test_hang.py").write_text(test)
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", "-s", "-p", "no:cacheprovider", "test_hang.py"],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stdout is not None
        pid = next(int(line.split("PID ")[1]) for line in run.stdout if "PID " in line)
        assert _alive(pid)
        run.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + RUN_TIMEOUT_S
        while _alive(pid):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
