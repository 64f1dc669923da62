"""A stack in a test: as many of each service as wanted, each one to be killed and brought back."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from heliograph.local.errors import NotReadyError
from heliograph.local.providers import GivenKafka, Redis
from heliograph.local.redis import RedisServer
from heliograph.local.services import ServiceProcess, service_environment
from heliograph.local.stack import Stack

FAKE = [sys.executable, str(Path(__file__).with_name("fake_service.py"))]


def fake_stack(directory: Path, kafka_bootstrap: str, redis: Redis) -> Stack:
    return Stack(directory, GivenKafka(kafka_bootstrap), redis, edges=2, command=lambda _service: FAKE)


def test_a_killed_service_comes_back_on_its_port_and_the_others_stay(
    tmp_path: Path, kafka_bootstrap: str, redis_server: Callable[..., Redis]
) -> None:
    with fake_stack(tmp_path, kafka_bootstrap, redis_server()) as stack:
        assert [service.name for service in stack.services] == [
            "edge-1",
            "edge-2",
            "router-1",
            "replay-1",
            "registry-1",
        ]
        first, second = stack.edges
        port, pid = first.port, second.pid
        first.kill()
        assert not first.ready()
        assert second.ready()
        first.restart()
        assert first.ready()
        assert (first.port, second.pid) == (port, pid)
    assert not any(service.running for service in stack.services)


def test_a_stack_ends_only_the_stores_that_it_started(tmp_path: Path, kafka_bootstrap: str) -> None:
    theirs = RedisServer(tmp_path / "theirs")
    theirs.start()
    with fake_stack(tmp_path / "a", kafka_bootstrap, theirs):
        pass
    assert theirs.running
    theirs.kill()
    ours = RedisServer(tmp_path / "ours")
    with fake_stack(tmp_path / "b", kafka_bootstrap, ours):
        assert ours.running
    assert not ours.running


def test_one_that_does_not_come_up_takes_the_others_down_and_is_named(tmp_path: Path, kafka_bootstrap: str) -> None:
    redis = RedisServer(tmp_path / "redis")
    broken = [sys.executable, "-c", "raise SystemExit('no such setting')"]
    stack = Stack(
        tmp_path,
        GivenKafka(kafka_bootstrap),
        redis,
        command=lambda service: broken if service == "router" else FAKE,
    )
    with pytest.raises(NotReadyError, match=r"(?s)router-1 ended with status 1.*no such setting"):
        stack.start()
    assert not redis.running
    assert not any(service.running for service in stack.services)


def test_a_service_that_stays_unready_is_quoted(tmp_path: Path) -> None:
    answer = """
import os
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503); self.end_headers(); self.wfile.write(b"waiting for kafka")
HTTPServer((os.environ["HELIOGRAPH_HOST"], int(os.environ["HELIOGRAPH_PORT"])), Handler).serve_forever()
"""
    service = ServiceProcess("edge", tmp_path, {}, command=[sys.executable, "-c", answer])
    service.launch()
    with pytest.raises(NotReadyError, match="/readyz: 503 waiting for kafka"):
        service.wait_ready(timeout_s=2)
    service.kill()


def test_only_the_settings_given_reach_a_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOGRAPH_TOPIC_PREFIX", "of-this-shell")
    monkeypatch.setenv("HELIOGRAPH_LOCAL_EDGE_PORT", "9000")
    environment = service_environment({"HELIOGRAPH_PORT": "1"})
    assert {name for name in environment if name.startswith("HELIOGRAPH_")} == {"HELIOGRAPH_PORT"}
    assert "PATH" in environment


def test_a_service_may_have_settings_of_its_own(tmp_path: Path) -> None:
    stack = Stack(
        tmp_path,
        GivenKafka("127.0.0.1:1"),
        RedisServer(tmp_path / "redis"),
        edges=2,
        settings={"log_level": "info", "lease_s": "6"},
        own={"edge-2": {"lease_s": "3"}},
    )
    assert stack.settings_of("edge-1")["lease_s"] == stack.settings_of("router-1")["lease_s"] == "6"
    assert stack.settings_of("edge-2") == {**stack.settings_of("edge-1"), "lease_s": "3"}


def test_a_service_may_have_variables_besides_its_settings(tmp_path: Path) -> None:
    says = [sys.executable, "-c", "import os; print(os.environ['LD_BIND_NOW'], os.environ['HELIOGRAPH_LEASE_S'])"]
    service = ServiceProcess("edge", tmp_path, {"lease_s": "3"}, command=says, environment={"LD_BIND_NOW": "1"})
    service.launch()
    assert service.wait(30.0) == 0
    assert service.log.read_text() == "1 3\n"
