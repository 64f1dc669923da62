import base64
import json
from collections.abc import Callable

import msgspec
import pytest
from tests.cli.conftest import EdgeThread
from typer.testing import Result

from heliograph.protocol.frames import Published, Refused

SESSION = "acme:planner:1"
Invoke = Callable[..., Result]


def test_a_message_is_published_and_its_place_shown(running: EdgeThread, invoke: Invoke) -> None:
    done = invoke("publish", SESSION, '{"step": 1}', "--url", running.edge.url, "--token", "t", "--id", "m1")
    assert done.exit_code == 0, done.output
    position = str(running.edge.session(SESSION).head)
    assert done.stdout.startswith(f"durable at {position} (m1")
    assert running.edge.session(SESSION).payloads == [{"step": 1}]
    assert running.edge.hellos[0].token == "t"


def test_json_is_one_object(running: EdgeThread, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOGRAPH_URL", running.edge.url)
    monkeypatch.setenv("HELIOGRAPH_TOKEN", "from the variable")
    done = invoke("publish", SESSION, "1", "--json")
    shown = json.loads(done.stdout)
    assert shown["position"] == str(running.edge.session(SESSION).head)
    assert (shown["durable"], shown["duplicate"], shown["session"]) == (True, False, SESSION)
    assert running.edge.hellos[0].token == "from the variable"


def test_everything_can_be_said(running: EdgeThread, invoke: Invoke) -> None:
    options = ["--class", "control", "--ack", "accepted", "--type", "com.acme.stop", "--correlation-id", "c"]
    options += ["--causation-id", "d", "--reply-to", "acme:caller:1", "--url", running.edge.url]
    assert invoke("publish", SESSION, "null", *options).exit_code == 0
    frame = running.edge.publishes[0]
    assert (frame.class_, frame.ack, frame.event_type) == ("control", "accepted", "com.acme.stop")
    assert (frame.correlation_id, frame.causation_id, frame.reply_to) == ("c", "d", "acme:caller:1")


def test_a_dash_reads_stdin(running: EdgeThread, invoke: Invoke) -> None:
    assert invoke("publish", SESSION, "-", "--url", running.edge.url, stdin='{"a":\n 1}\n').exit_code == 0
    assert running.edge.session(SESSION).payloads == [{"a": 1}]


def test_bytes_are_sent_as_they_are(running: EdgeThread, invoke: Invoke) -> None:
    done = invoke("publish", SESSION, "-", "--content-type", "image/png", "--url", running.edge.url, stdin=b"\x89PNG\n")
    assert done.exit_code == 0
    assert base64.b64decode(running.edge.session(SESSION).payloads[0]) == b"\x89PNG\n"


def test_text_is_sent_as_a_json_string(running: EdgeThread, invoke: Invoke) -> None:
    assert invoke("publish", SESSION, "hello", "--text", "--url", running.edge.url).exit_code == 0
    assert running.edge.session(SESSION).payloads == ["hello"]


def test_lines_are_messages_in_order(running: EdgeThread, invoke: Invoke) -> None:
    lines = "".join(f"{number}\n\n" for number in range(300))
    done = invoke("publish", SESSION, "-", "--lines", "--url", running.edge.url, stdin=lines)
    assert done.exit_code == 0, done.output
    assert running.edge.session(SESSION).payloads == list(range(300))
    assert "300 messages" in done.stdout


def test_lines_with_json_say_the_place_of_each(running: EdgeThread, invoke: Invoke) -> None:
    done = invoke("publish", SESSION, "-", "--lines", "--json", "--url", running.edge.url, stdin="1\n2\n")
    shown = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["line"] for each in shown] == [1, 2]
    assert [each["position"] for each in shown] == [str(place) for place, _ in running.edge.session(SESSION).log]


def test_a_line_that_is_no_json_is_a_usage_error(running: EdgeThread, invoke: Invoke) -> None:
    done = invoke("publish", SESSION, "-", "--lines", "--url", running.edge.url, stdin="1\n{\n2\n")
    assert done.exit_code == 2
    assert 2 not in running.edge.session(SESSION).payloads


def test_data_that_is_no_json_is_a_usage_error_with_advice(invoke: Invoke) -> None:
    done = invoke("publish", SESSION, "hello world")
    assert done.exit_code == 2
    assert "--text" in done.stderr


def test_what_is_no_session_is_a_usage_error_with_advice(invoke: Invoke) -> None:
    done = invoke("publish", "planner", "1")
    assert done.exit_code == 2
    assert "session_invalid" in done.stderr
    assert "acme:planner:42" in done.stderr


def test_an_id_for_many_lines_is_a_usage_error(invoke: Invoke) -> None:
    assert invoke("publish", SESSION, "-", "--lines", "--id", "x", stdin="1\n").exit_code == 2


@pytest.mark.parametrize(("code", "status"), [("payload_too_large", 3), ("message_id_reused", 3), ("forbidden", 4)])
def test_a_refusal_is_told_with_its_code(running: EdgeThread, invoke: Invoke, code: str, status: int) -> None:
    running.edge.on_publish = lambda connection, frame: Refused(code, "because", id=frame.id)
    done = invoke("publish", SESSION, "1", "--url", running.edge.url)
    assert (done.exit_code, done.stdout) == (status, "")
    assert f"error {code}: because" in done.stderr


def test_an_error_as_json_names_code_hint_and_status(running: EdgeThread, invoke: Invoke) -> None:
    running.edge.on_publish = lambda connection, frame: Refused("backlog", "too much", id=frame.id, retry_after_ms=1)
    done = invoke("publish", SESSION, "1", "--no-retry", "--json", "--url", running.edge.url)
    error = msgspec.json.decode(done.stderr)["error"]
    assert (error["code"], error["exit"], done.exit_code) == ("backlog", 3, 3)
    assert error["hint"]


def test_nobody_there_is_told_in_time(invoke: Invoke) -> None:
    done = invoke("publish", SESSION, "1", "--url", "ws://127.0.0.1:1", "--connect-timeout", "0.2")
    assert done.exit_code == 5
    assert "HELIOGRAPH_URL" in done.stderr


def test_a_log_that_does_not_answer_is_told_in_time(running: EdgeThread, invoke: Invoke) -> None:
    running.edge.session(SESSION).durable = False
    done = invoke("publish", SESSION, "1", "--wait", "0.1", "--url", running.edge.url)
    assert done.exit_code == 6
    assert "durability_unknown" in done.stderr


def test_a_token_that_is_not_taken_is_told(running: EdgeThread, invoke: Invoke) -> None:
    async def refuse(ws: object, hello: object) -> bool:
        await ws.close(4500, "token_refused")  # type: ignore[attr-defined]
        return True

    running.edge.on_hello = refuse
    done = invoke("publish", SESSION, "1", "--url", running.edge.url, "--token", "eyJ.wrong")
    assert done.exit_code == 4
    assert "heliograph token" in done.stderr
    assert "eyJ" not in done.output


def test_a_duplicate_and_a_deferred_message_are_called_so(running: EdgeThread, invoke: Invoke) -> None:
    invoke("publish", SESSION, "1", "--id", "x", "--url", running.edge.url)
    assert "had it already" in invoke("publish", SESSION, "1", "--id", "x", "--url", running.edge.url).stdout
    running.edge.on_publish = lambda connection, frame: Published(True, id=frame.id, message_id="x", deferred=True)
    done = invoke("publish", SESSION, "1", "--class", "control", "--url", running.edge.url)
    assert "once the live path is back" in done.stdout
