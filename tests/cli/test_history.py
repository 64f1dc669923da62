import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec
import pytest
from typer.testing import Result

from heliograph.cli import history as module
from heliograph.core.messages import MessageClass
from heliograph.core.positions import Position
from heliograph.protocol.frames import Epoch, Error, Gap, MessageFrame, encode

SESSION = "acme:planner:1"
Invoke = Callable[..., Result]


def at(seq: int) -> str:
    return str(Position("1764000000000-1a2b3c4d", seq))


def message(seq: int) -> bytes:
    payload = msgspec.Raw(msgspec.json.encode({"seq": seq}))
    frame = MessageFrame(SESSION, f"m{seq}", 1_764_000_000_000 + seq, "p", payload, MessageClass.EVENT, at(seq))
    return encode(frame) + b"\n"


def end(*, complete: bool, next_: str | None = None, resume: str | None = None) -> bytes:
    return json.dumps({"type": "end", "next": next_, "complete": complete, "resume": resume}).replace(
        '": ', '":'
    ).encode() + b"\n"  # fmt: skip


class Replay:
    """A replay service that gives the answers it was told to give, in order."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, bytes, bool]] = []
        self.requests: list[tuple[str, dict[str, str], dict[str, str]]] = []
        replay = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                replay.requests.append((parts.path, dict(parse_qsl(parts.query)), dict(self.headers.items())))
                status, body, whole = replay.answers.pop(0)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body) + (0 if whole else 100)))
                self.end_headers()
                self.wfile.write(body)
                self.close_connection = True

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, *lines: bytes, status: int = 200, whole: bool = True) -> None:
        self.answers.append((status, b"".join(lines), whole))

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def replay(monkeypatch: pytest.MonkeyPatch) -> Iterator[Replay]:
    monkeypatch.setattr(module, "PAUSE_S", 0.01)
    replay = Replay()
    yield replay
    replay.close()


def payloads(done: Result) -> list[int]:
    assert done.exit_code == 0, done.output
    return [json.loads(line)["payload"]["seq"] for line in done.stdout.splitlines() if '"message"' in line]


def test_a_session_is_shown_as_the_log_has_it(replay: Replay, invoke: Invoke) -> None:
    replay.answer(message(1), message(2), end(complete=True))
    done = invoke("history", SESSION, "--replay-url", replay.url, "--token", "t")
    assert [line.split()[-1] for line in done.stdout.splitlines()] == ['{"seq":1}', '{"seq":2}']
    path, query, headers = replay.requests[0]
    assert (path, query) == ("/v1/history/acme/planner/1", {})
    assert (headers["Authorization"], headers["Accept"]) == ("Bearer t", "application/x-ndjson")


def test_json_is_the_frames_of_the_log(replay: Replay, invoke: Invoke) -> None:
    replay.answer(message(1), end(complete=True))
    done = invoke("history", SESSION, "--json", "--replay-url", replay.url)
    assert json.loads(done.stdout) == json.loads(message(1))


def test_what_is_asked_for_is_in_the_query(replay: Replay, invoke: Invoke) -> None:
    replay.answer(end(complete=True))
    replay.answer(end(complete=True))
    options = ["--after", at(3), "--until", at(9), "-n", "5"]
    assert invoke("history", SESSION, *options, "--replay-url", replay.url).exit_code == 0
    options = ["--since", "2025-11-24T16:00:00Z", "--until", "2025-11-24T17:00:00+01:00"]
    assert invoke("history", SESSION, *options, "--replay-url", replay.url).exit_code == 0
    assert replay.requests[0][1] == {"after": at(3), "until": at(9), "limit": "5"}
    assert replay.requests[1][1] == {
        "from_time": "2025-11-24T16:00:00.000+00:00",
        "until_time": "2025-11-24T17:00:00.000+01:00",
    }


def test_it_goes_on_where_an_answer_was_bounded(replay: Replay, invoke: Invoke) -> None:
    replay.answer(message(1), message(2), end(complete=False, next_=at(2), resume="topic~0.17"))
    replay.answer(message(3), end(complete=True))
    done = invoke("history", SESSION, "--since", "2025-11-24T16:00:00Z", "--json", "--replay-url", replay.url)
    assert payloads(done) == [1, 2, 3]
    assert replay.requests[1][1] == {"after": at(2), "resume": "topic~0.17"}


def test_it_goes_on_where_an_answer_was_cut_off(replay: Replay, invoke: Invoke) -> None:
    replay.answer(message(1), message(2), whole=False)
    replay.answer(message(3), end(complete=True))
    assert payloads(invoke("history", SESSION, "--json", "--replay-url", replay.url)) == [1, 2, 3]
    assert replay.requests[1][1] == {"after": at(2)}


def test_it_goes_on_after_a_failure_in_the_middle(replay: Replay, invoke: Invoke) -> None:
    error = encode(Error("log_unavailable", "The log is away.")) + b"\n"
    replay.answer(message(1), error, end(complete=False, next_=at(1)))
    replay.answer(message(2), end(complete=True))
    assert payloads(invoke("history", SESSION, "--json", "--replay-url", replay.url)) == [1, 2]


def test_it_waits_for_a_service_that_is_busy(replay: Replay, invoke: Invoke) -> None:
    problem = {"code": "too_many_requests", "error": {"code": "too_many_requests", "message": "", "retry_after_ms": 1}}
    replay.answer(json.dumps(problem).encode(), status=429)
    replay.answer(message(1), end(complete=True))
    assert payloads(invoke("history", SESSION, "--json", "--replay-url", replay.url)) == [1]


def test_answers_that_get_no_further_are_given_up(replay: Replay, invoke: Invoke) -> None:
    for _ in range(module.FRUITLESS_ANSWERS + 1):
        replay.answer(end(complete=False))
    done = invoke("history", SESSION, "--replay-url", replay.url)
    assert done.exit_code == 5
    assert "history_unavailable" in done.stderr


def test_no_more_than_the_limit_is_shown(replay: Replay, invoke: Invoke) -> None:
    replay.answer(message(1), message(2), end(complete=False, next_=at(2)))
    replay.answer(message(3), message(4), end(complete=False, next_=at(4)))
    assert payloads(invoke("history", SESSION, "-n", "3", "--json", "--replay-url", replay.url)) == [1, 2, 3]
    assert [request[1]["limit"] for request in replay.requests] == ["3", "1"]


def test_gaps_and_lost_epochs_are_shown(replay: Replay, invoke: Invoke) -> None:
    gap = encode(Gap(SESSION, "retention", at(1), at(4))) + b"\n"
    epoch = encode(Epoch(SESSION, "1764000000001-1a2b3c4d", False, at(5))) + b"\n"
    replay.answer(gap, message(5), epoch, end(complete=True))
    done = invoke("history", SESSION, "--replay-url", replay.url)
    lines = done.stdout.splitlines()
    assert lines[0] == f"gap      retention: messages will not come ({at(1)} … {at(4)})"
    assert lines[2].startswith("gap      epoch: messages may be missing")


@pytest.mark.parametrize(
    ("status", "code", "exit_"), [(401, "unauthenticated", 4), (403, "forbidden", 4), (404, "not_found", 3)]
)
def test_a_refusal_is_told_with_its_code(replay: Replay, invoke: Invoke, status: int, code: str, exit_: int) -> None:
    replay.answer(json.dumps({"error": {"code": code, "message": "because"}}).encode(), status=status)
    done = invoke("history", SESSION, "--replay-url", replay.url, "--token", "eyJ.secret")
    assert done.exit_code == exit_
    assert f"error {code}: because" in done.stderr
    assert "secret" not in done.output


def test_an_answer_of_something_else_is_told(replay: Replay, invoke: Invoke) -> None:
    replay.answer(b"<html>", status=502)
    done = invoke("history", SESSION, "--replay-url", replay.url)
    assert done.exit_code == 5
    assert "502" in done.stderr


def test_nobody_there_is_told(invoke: Invoke) -> None:
    assert invoke("history", SESSION, "--replay-url", "http://127.0.0.1:1").exit_code == 5


@pytest.mark.parametrize(
    "options",
    [["--after", "x"], ["--since", "soon"], ["--until", "x"], ["--after", at(1), "--since", "1h"], ["--limit", "0"]],
)
def test_what_can_not_be_asked_for_is_a_usage_error(invoke: Invoke, options: list[str]) -> None:
    assert invoke("history", SESSION, *options).exit_code == 2
