"""`make demo` for real: it plays, it is judged, it leaves nothing behind, and says where to look when it fails."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from confluent_kafka.admin import AdminClient
from tests.local.test_demo_verdict import good, lose_in_kafka

from heliograph.local.demo import __main__ as demo
from heliograph.local.demo import stage
from heliograph.local.demo.verdict import judge
from heliograph.local.errors import CannotProvideError
from heliograph.local.providers import KAFKA_VARIABLE, REDIS_VARIABLE, Redis
from heliograph.local.services import service_environment

pytestmark = pytest.mark.xdist_group("demo")

POLL_S = 0.05
ALL = {"control", "event", "telemetry"}


def command(directory: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "heliograph.local.demo", "--directory", str(directory), *arguments]


def environment(kafka_bootstrap: str, redis_url: str) -> dict[str, str]:
    return service_environment({KAFKA_VARIABLE: kafka_bootstrap, REDIS_VARIABLE: redis_url})


@pytest.fixture(scope="module")
def performance(
    kafka_bootstrap: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path]:
    """Played once: the result, and the directory it ran in."""
    directory = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        command(directory, "--json", "--seconds", "8"),
        env=environment(kafka_bootstrap, redis_url),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout), directory


def test_nothing_is_lost_doubled_or_out_of_order_over_the_kill(performance: tuple[dict[str, Any], Path]) -> None:
    result, _ = performance
    assert result["ok"]
    assert result["problems"] == []
    assert result["gaps"] == 0
    assert result["duplicates"]["left"] == 0
    assert result["killed"] in {"edge-1", "edge-2"}
    assert "planner" in result["moved"]
    assert result["reconnects"] >= len(result["moved"])


def test_all_of_each_class_is_delivered_and_what_has_a_position_is_read_back(
    performance: tuple[dict[str, Any], Path],
) -> None:
    result, _ = performance
    messages = result["messages"]
    assert set(messages) == ALL
    for class_ in ("control", "event"):
        assert messages[class_]["published"] == messages[class_]["delivered"] == messages[class_]["durable"] > 0
    assert messages["telemetry"]["delivered"] > 0
    assert messages["telemetry"]["durable"] == 0
    durable = messages["control"]["durable"] + messages["event"]["durable"]
    assert result["read_back"] == {"kafka": durable, "replay": durable}


def test_every_question_is_sent_twice_and_answered_once(performance: tuple[dict[str, Any], Path]) -> None:
    result, _ = performance
    assert result["questions"] == result["answers"] == result["duplicates"]["on_purpose"] > 0
    assert result["duplicates"]["collapsed"] >= result["duplicates"]["on_purpose"]
    assert result["messages"]["control"]["published"] == result["questions"]


def test_the_phone_that_was_away_got_what_it_missed(performance: tuple[dict[str, Any], Path]) -> None:
    resumed = performance[0]["resumed"]
    assert resumed["missed"] > 0
    assert resumed["away_s"] > 0
    assert len(resumed["from"]) == 39


def test_latency_is_measured_from_publish_to_delivery(performance: tuple[dict[str, Any], Path]) -> None:
    latency = performance[0]["latency_ms"]
    assert 0 < latency["p50"] <= latency["p99"] <= latency["longest"]


def test_nothing_of_it_is_left(performance: tuple[dict[str, Any], Path], kafka_bootstrap: str, redis_url: str) -> None:
    _, directory = performance
    assert list(directory.iterdir()) == []
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    deadline = time.monotonic() + 30
    while True:  # brokers forget a deleted topic one after the other
        topics = [topic for topic in admin.list_topics(timeout=30).topics if topic.startswith("heliograph-demo-")]
        if not topics or time.monotonic() > deadline:
            break
        time.sleep(POLL_S)
    with redis.Redis.from_url(redis_url) as client:
        keys = list(client.scan_iter(match="*demo-*:*", count=1000))
    assert (topics, keys) == ([], [])


def processes_with(variable: str) -> list[int]:
    """Pids of the processes that have `variable` in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                variables = (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if variable.encode() in variables:
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_ends_all_that_it_started(
    number: signal.Signals, kafka_bootstrap: str, redis_server: Callable[..., Redis], tmp_path: Path
) -> None:
    url = redis_server().url
    playing = subprocess.Popen(
        command(tmp_path / "demo"),
        env=environment(kafka_bootstrap, url),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert playing.stdout is not None
    for line in playing.stdout:
        if "two edges" in line:
            break
    service = f"HELIOGRAPH_REDIS_URL={url}"
    while not processes_with(service):
        assert playing.poll() is None
        time.sleep(POLL_S)
    playing.send_signal(number)
    rest = playing.stdout.read()
    assert playing.wait() == demo.INTERRUPTED, rest
    assert "everything that was started is ended" in rest
    assert processes_with(service) == []
    assert list((tmp_path / "demo").iterdir()) == []
    playing.stdout.close()


def run_main(monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str]) -> int:
    monkeypatch.setattr(sys, "argv", ["demo", *arguments])
    before = signal.getsignal(signal.SIGTERM)
    try:
        return demo.main()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_where_no_kafka_can_be_had_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def none(*_arguments: object, **_options: object) -> None:
        raise CannotProvideError("no Kafka to be had: java is missing")

    monkeypatch.setattr(stage, "provide_kafka", none)
    assert run_main(monkeypatch, ["--directory", str(tmp_path)]) == 1
    assert "java is missing" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_what_is_off_is_said_with_where_the_logs_are_and_the_status_is_not_zero(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    evidence = good()
    lose_in_kafka(evidence)

    class Performed:
        def __init__(self, *_: object) -> None: ...

        async def perform(self) -> object:
            await asyncio.sleep(0)
            return evidence

    @contextmanager
    def no_stage(directory: Path, _progress: object) -> Iterator[None]:
        directory.mkdir(parents=True)
        yield None

    monkeypatch.setattr(demo, "Play", Performed)
    monkeypatch.setattr(demo, "set_up", no_stage)
    assert run_main(monkeypatch, ["--directory", str(tmp_path), *arguments]) == 1
    out, err = capsys.readouterr()
    told = err if arguments else out
    assert "delivered, but not in Kafka" in told
    (kept,) = tmp_path.iterdir()
    assert str(kept / "logs") in told.replace("\n", "")
    if arguments:
        assert json.loads(out) == judge(evidence).as_json()
        assert json.loads(out)["ok"] is False


def test_too_short_a_run_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(monkeypatch, ["--seconds", "1"]) == 2
    assert "at least 5" in capsys.readouterr().err
