import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.cli.conftest import EdgeThread
from tests.client.fake_edge import FakeConnection
from typer.testing import Result

from heliograph.protocol.frames import Gap, Refused, Subscribe, decode_server_frame, encode

SESSION = "acme:planner:1"
Invoke = Callable[..., Result]


def test_a_session_is_shown_from_its_beginning(running: EdgeThread, invoke: Invoke) -> None:
    running.call(running.edge.publish_many, SESSION, [{"step": 1}, "two"])
    done = invoke("tail", SESSION, "--from", "earliest", "-n", "2", "--url", running.edge.url)
    assert done.exit_code == 0, done.output
    first, second = done.stdout.splitlines()
    assert first.split()[1:] == ["event", "other", '{"step":1}']
    assert second.endswith('"two"')


def test_a_position_begins_after_it(running: EdgeThread, invoke: Invoke) -> None:
    running.call(running.edge.publish_many, SESSION, [1, 2, 3])
    position = str(running.edge.session(SESSION).log[1][0])
    done = invoke("tail", SESSION, "--from", position, "-n", "1", "--json", "--url", running.edge.url)
    assert [json.loads(line)["payload"] for line in done.stdout.splitlines()] == [3]


def test_json_is_the_frame_of_the_message(running: EdgeThread, invoke: Invoke) -> None:
    running.call(running.edge.publish, SESSION, {"a": "ü"})
    done = invoke("tail", SESSION, "--from", "earliest", "-n", "1", "--json", "--url", running.edge.url)
    frame = running.edge.session(SESSION).log[0][1]
    decoded = decode_server_frame(done.stdout.strip())
    assert decoded is not None
    assert encode(decoded) == encode(frame)


def test_a_gap_is_shown(running: EdgeThread, invoke: Invoke) -> None:
    position = running.call(running.edge.publish, SESSION, 1)
    running.edge.session(SESSION).seq += 1
    missing = str(position.next)

    def with_gap(connection: FakeConnection, frame: Subscribe) -> None:
        running.loop.call_soon(connection.send, Gap(SESSION, "retention", missing, missing))
        running.loop.call_soon(running.edge.publish, SESSION, 3)

    running.edge.on_subscribe = with_gap
    done = invoke("tail", SESSION, "--from", "earliest", "-n", "2", "--url", running.edge.url)
    assert done.exit_code == 0, done.output
    assert [line.split()[0] for line in done.stdout.splitlines()][1] == "gap"
    assert f"retention: messages will not come ({missing} … {missing})" in done.stdout


def test_what_a_terminal_would_obey_is_shown_instead(running: EdgeThread, invoke: Invoke) -> None:
    running.call(running.edge.publish, SESSION, "\x9b31m[bold]red[/] \u202e")
    done = invoke("tail", SESSION, "--from", "earliest", "-n", "1", "--url", running.edge.url)
    assert "\x9b" not in done.stdout
    assert "\u202e" not in done.stdout
    assert "[bold]red[/]" in done.stdout


def test_a_session_that_may_not_be_read_is_told(running: EdgeThread, invoke: Invoke) -> None:
    running.edge.on_subscribe = lambda connection, frame: Refused("forbidden", "no scope", frame.id, frame.session)
    done = invoke("tail", SESSION, "--url", running.edge.url)
    assert done.exit_code == 4
    assert "scopes" in done.stderr


def test_a_start_that_is_no_place_is_a_usage_error(running: EdgeThread, invoke: Invoke) -> None:
    assert invoke("tail", SESSION, "--from", "yesterday", "--url", running.edge.url).exit_code == 2


def test_ctrl_c_ends_it_cleanly_and_says_how_to_go_on(running: EdgeThread) -> None:
    position = running.call(running.edge.publish, SESSION, 1)
    command = [sys.executable, "-m", "heliograph.cli", "tail", SESSION, "--from", "earliest", "--url", running.edge.url]
    environment = {"PATH": os.environ["PATH"], "NO_PROXY": "127.0.0.1", "HOME": str(Path.home())}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as tail:
        assert tail.stdout is not None
        assert tail.stdout.readline()
        tail.send_signal(signal.SIGINT)
        _, errors = tail.communicate(timeout=20)
    assert tail.returncode == 130
    assert "Traceback" not in errors
    assert f"--from {position}" in errors


def test_a_reader_that_goes_away_is_no_error(running: EdgeThread) -> None:
    running.call(running.edge.publish_many, SESSION, ["a long line" * 1000] * 200)
    program = f"{sys.executable} -m heliograph.cli tail {SESSION} --from earliest --url {running.edge.url} -n 200"
    environment = {"PATH": os.environ["PATH"], "NO_PROXY": "127.0.0.1", "HOME": str(Path.home())}
    script = f"{program} | head -c 10 > /dev/null; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=False, timeout=30, env=environment
    )
    assert "Traceback" not in done.stderr
    assert done.stdout.strip() == "0"


# ---- consumers ------------------------------------------------------------------------------------------------------


def test_a_consumer_goes_on_behind_what_it_was_shown(running: EdgeThread, invoke: Invoke) -> None:
    running.call(running.edge.publish_many, SESSION, [1, 2, 3])
    command = ("tail", SESSION, "--consumer", "desk", "--from", "cursor", "--json", "--url", running.edge.url)
    done = invoke(*command, "-n", "2")
    assert [json.loads(line)["payload"] for line in done.stdout.splitlines()] == [1, 2]
    assert running.edge.cursors["desk", SESSION] == str(running.edge.session(SESSION).log[1][0])
    done = invoke(*command, "-n", "1")
    assert [json.loads(line)["payload"] for line in done.stdout.splitlines()] == [3]


def test_a_consumer_that_is_new_is_told_so(running: EdgeThread, invoke: Invoke) -> None:
    running.call(running.edge.publish_many, SESSION, [1, 2])
    command = ("tail", SESSION, "--consumer", "desk", "--from", "cursor", "-n", "1", "--url", running.edge.url)
    assert "nothing was acknowledged under this name yet" in invoke(*command).stderr
    assert "nothing was acknowledged" not in invoke(*command).stderr


def test_a_consumer_is_acknowledged_from_wherever_it_began(running: EdgeThread, invoke: Invoke) -> None:
    running.call(running.edge.publish_many, SESSION, [1, 2])
    done = invoke("tail", SESSION, "--consumer", "desk", "--from", "earliest", "-n", "2", "--url", running.edge.url)
    assert done.exit_code == 0, done.output
    assert running.edge.cursors["desk", SESSION] == str(running.edge.session(SESSION).head)


def test_without_a_consumer_nothing_is_acknowledged_and_a_cursor_is_a_usage_error(
    running: EdgeThread, invoke: Invoke
) -> None:
    running.call(running.edge.publish_many, SESSION, [1])
    invoke("tail", SESSION, "--from", "earliest", "-n", "1", "--url", running.edge.url)
    done = invoke("tail", SESSION, "--from", "cursor", "--url", running.edge.url)
    assert done.exit_code == 2
    assert "--consumer NAME" in done.stderr
    assert running.edge.acks == []


def test_ctrl_c_tells_what_was_shown_and_how_to_go_on(running: EdgeThread) -> None:
    position = running.call(running.edge.publish, SESSION, 1)
    command = [sys.executable, "-m", "heliograph.cli", "tail", SESSION, "--consumer", "my desk", "--from", "cursor"]
    environment = {"PATH": os.environ["PATH"], "NO_PROXY": "127.0.0.1", "HOME": str(Path.home())}
    with subprocess.Popen(
        [*command, "--url", running.edge.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as tail:
        assert tail.stdout is not None
        assert tail.stdout.readline()
        tail.send_signal(signal.SIGINT)
        _, errors = tail.communicate(timeout=20)
    assert tail.returncode == 130
    assert f"tail {SESSION} --consumer 'my desk' --from cursor" in errors
    assert running.edge.cursors["my desk", SESSION] == str(position)
