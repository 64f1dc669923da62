import asyncio
import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from tests.cli.conftest import EdgeThread
from typer.testing import Result

from heliograph.cli import presence as module
from heliograph.protocol import frames

SESSION = "acme:planner:1"
Invoke = Callable[..., Result]


def connection(name: str, *sessions: str, **fields: Any) -> dict[str, Any]:
    found = {"connection": name, "subject": f"user-{name}", "since_ms": 1_764_000_000_000, "edge": "edge-1"}
    return {**found, "sessions": list(sessions or [SESSION]), **fields}


class Registry:
    """A registry that gives the answers it was told to give, in order; the last again and again."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, bytes]] = []
        self.requests: list[tuple[str, dict[str, str], dict[str, str]]] = []
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                registry.requests.append((parts.path, dict(parse_qsl(parts.query)), dict(self.headers.items())))
                status, body = registry.answers.pop(0) if len(registry.answers) > 1 else registry.answers[0]
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def page(self, *connections: dict[str, Any], next_: str | None = None) -> None:
        self.answers.append((200, json.dumps({"connections": connections, "next": next_}).encode()))

    def error(self, status: int, code: str) -> None:
        self.answers.append((status, json.dumps({"error": {"code": code, "message": "no"}}).encode()))

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    monkeypatch.setattr(module, "POLL_S", 0.01)
    registry = Registry()
    yield registry
    registry.close()


def lines(done: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("scope", "path"), [("acme", "acme"), ("acme:planner", "acme/planner"), (SESSION, "acme/planner/1")]
)
def test_who_is_connected_is_shown(registry: Registry, invoke: Invoke, scope: str, path: str) -> None:
    registry.page(connection("c1", agent="planner-7"), connection("c2", draining=True))
    done = invoke("presence", scope, "--registry-url", registry.url, "--token", "t")
    assert done.exit_code == 0, done.output
    for text in ("planner-7", "user-c1", SESSION, "edge-1", "edge-1 (drains)", "c2"):
        assert text in done.stdout
    asked, _, headers = registry.requests[0]
    assert asked == f"/v1/presence/{path}"
    assert headers["Authorization"] == "Bearer t"


def test_as_json_each_connection_is_a_line_over_all_pages(registry: Registry, invoke: Invoke) -> None:
    registry.page(connection("c1"), next_="edge-1/c1")
    registry.page(connection("c2", draining=True))
    done = invoke("presence", "acme", "--registry-url", registry.url, "--json")
    assert done.exit_code == 0, done.output
    assert lines(done) == [connection("c1"), connection("c2", draining=True)]
    assert registry.requests[1][1] == {"after": "edge-1/c1"}


def test_nobody_is_said(registry: Registry, invoke: Invoke) -> None:
    registry.page()
    done = invoke("presence", "acme", "--registry-url", registry.url)
    assert (done.exit_code, done.stdout) == (0, "")
    assert "nobody is connected" in done.stderr


@pytest.mark.parametrize("scope", ["", "ACME", "acme:Planner", "acme:planner:", "a:b:c:d", "acme:planner:../x"])
def test_what_is_no_scope_is_said_before_anybody_is_asked(registry: Registry, invoke: Invoke, scope: str) -> None:
    done = invoke("presence", scope, "--registry-url", registry.url)
    assert done.exit_code == 2
    assert "acme:planner:42" in done.stderr
    assert registry.requests == []


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [(401, "token_expired", 4), (403, "forbidden", 4), (503, "unavailable", 3), (400, "value_invalid", 3)],
)
def test_a_refusal_ends_it_with_its_status(
    registry: Registry, invoke: Invoke, status: int, code: str, exit_code: int
) -> None:
    registry.error(status, code)
    done = invoke("presence", "acme", "--registry-url", registry.url, "--json")
    assert done.exit_code == exit_code, done.output
    assert json.loads(done.stderr)["error"]["code"] == code


def test_who_is_no_registry_is_unreachable(registry: Registry, invoke: Invoke) -> None:
    registry.answers.append((404, b"<html>"))
    assert invoke("presence", "acme", "--registry-url", registry.url).exit_code == 5
    registry.answers[:] = [(200, b"[]")]
    assert invoke("presence", "acme", "--registry-url", registry.url).exit_code == 5
    assert invoke("presence", "acme", "--registry-url", "http://127.0.0.1:1").exit_code == 5


def test_a_tenant_that_is_watched_is_asked_again_and_what_changed_is_shown(registry: Registry, invoke: Invoke) -> None:
    registry.page(connection("c1"), connection("c2"))
    registry.error(503, "unavailable")
    registry.page(connection("c2", SESSION, "acme:planner:2"), connection("c3"))
    registry.error(401, "token_expired")
    done = invoke("presence", "acme", "--watch", "--registry-url", registry.url, "--json")
    assert done.exit_code == 4
    shown = [(line["event"], line["connection"], line["session"]) for line in lines(done)[2:]]
    assert shown == [("leave", "c1", SESSION), ("join", "c2", "acme:planner:2"), ("join", "c3", SESSION)]


@pytest.mark.parametrize("json_", [True, False])
def test_a_session_that_is_watched_shows_joins_and_leaves_as_they_come(
    registry: Registry, running: EdgeThread, invoke: Invoke, json_: bool
) -> None:
    registry.page(connection("c1"))
    edge = running.edge

    async def meanwhile() -> None:
        await edge.until(lambda: bool(registry.requests))
        left = frames.Presence(SESSION, "leave", "c1", "robot", 1, "e/c1/1/1/leave", "arm\x1b-7", "lost")
        await edge.connections[0].ws.send(frames.encode(left), text=True)
        await edge.connections[0].close(4500, "token_refused")

    future = asyncio.run_coroutine_threadsafe(meanwhile(), running.loop)
    options = ["--json"] if json_ else []
    done = invoke("presence", SESSION, "--watch", "--registry-url", registry.url, "--url", edge.url, *options)
    future.result(20)
    assert done.exit_code == 4, done.output
    if json_:
        first, event = lines(done)
        assert first["connection"] == "c1"
        assert (event["event"], event["reason"], event["agent"]) == ("leave", "lost", "arm\x1b-7")
    else:
        assert f"leave lost  arm\\x1b-7 (robot)  {SESSION}" in done.stdout


def test_names_are_shown_without_what_a_terminal_would_obey(registry: Registry, invoke: Invoke) -> None:
    registry.page(connection("c1", agent="[red]\x1b[2J"))
    done = invoke("presence", "acme", "--registry-url", registry.url)
    assert "\x1b" not in done.stdout
    assert "[red]" in done.stdout
