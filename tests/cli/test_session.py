"""`heliograph session expire`."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from typer.testing import Result

SESSION = "acme:planner:1"
AT_MS = 1_764_000_000_000
Invoke = Callable[..., Result]


class Edge:
    """An edge that answers what it is told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.status = 200
        self.gone_until_ms = 0
        self.problem: dict[str, Any] = {}
        self.requests: list[tuple[str, dict[str, Any], str | None]] = []
        edge = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                edge.requests.append((self.path, body, self.headers["Authorization"]))
                found = {"session": SESSION, "expires_at_ms": AT_MS, "gone_until_ms": edge.gone_until_ms}
                answer = json.dumps(found if edge.status == 200 else edge.problem).encode()
                self.send_response(edge.status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        self.url = f"ws://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def expiring() -> Iterator[Edge]:
    edge = Edge()
    yield edge
    edge.close()


def test_a_session_is_made_to_expire_in_at_or_now(expiring: Edge, invoke: Invoke) -> None:
    for arguments, body in (
        (["--in", "2h"], {"expires_in_s": 7_200}),
        (["--at", "2025-11-24T16:00:00Z"], {"expires_at_ms": AT_MS}),
        (["--now"], {"expires_in_s": 0}),
    ):
        done = invoke("session", "expire", SESSION, *arguments, "--url", expiring.url, "--token", "t")
        assert done.exit_code == 0, done.output
        assert expiring.requests[-1] == ("/v1/sessions/acme/planner/1/expiry", body, "Bearer t")
    assert done.stdout == "expires acme:planner:1: messages up to 2025-11-24T16:00:00.000Z\n"


def test_how_long_ago_is_a_time_too(expiring: Edge, invoke: Invoke) -> None:
    expiring.gone_until_ms = AT_MS
    done = invoke("session", "expire", SESSION, "--at", "7d", "--url", expiring.url)
    assert "has expired" in done.stdout
    asked = expiring.requests[0][1]["expires_at_ms"] / 1000
    assert abs(datetime.now(UTC).timestamp() - 7 * 86_400 - asked) < 60


def test_json_is_what_the_edge_said(expiring: Edge, invoke: Invoke) -> None:
    done = invoke("session", "expire", SESSION, "--now", "--url", expiring.url, "--json")
    assert json.loads(done.stdout) == {"session": SESSION, "expires_at_ms": AT_MS, "gone_until_ms": 0}


def test_exactly_one_moment_must_be_given(expiring: Edge, invoke: Invoke) -> None:
    for arguments in ([], ["--now", "--in", "1h"], ["--in", "soon"], ["--at", "tomorrow"]):
        assert invoke("session", "expire", SESSION, *arguments, "--url", expiring.url).exit_code == 2
    assert expiring.requests == []


def test_a_refusal_says_why_and_an_edge_that_is_not_there_too(expiring: Edge, invoke: Invoke) -> None:
    expiring.status = 403
    expiring.problem = {"code": "forbidden", "error": {"code": "forbidden", "message": "no scope admin"}}
    done = invoke("session", "expire", SESSION, "--now", "--url", expiring.url)
    assert done.exit_code != 0
    assert "no scope admin" in done.stderr
    assert invoke("session", "expire", SESSION, "--now", "--url", "ws://127.0.0.1:1").exit_code != 0
