"""`heliograph dev`, as a process: what it says, what people can do with that, how it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from heliograph.cli.exit_codes import ExitCode
from heliograph.local.ports import PORTS

DEADLINE_S = 60.0
"""Of a process that starts or ends, on a machine that may be busy."""

Process = subprocess.Popen[str]


def environment(**variables: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("HELIOGRAPH_")}
    return {**own, "NO_PROXY": "127.0.0.1", "COLUMNS": "200", **variables}


@contextmanager
def running(*arguments: str, **variables: str) -> Iterator[Process]:
    """`heliograph dev ARGUMENTS…`, killed at the end where it has not ended."""
    with subprocess.Popen(
        [sys.executable, "-m", "heliograph.cli", "dev", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**variables),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def first_line(process: Process) -> Any:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate(timeout=DEADLINE_S)[1]
    return json.loads(line)


def end(process: Process, number: signal.Signals = signal.SIGINT) -> tuple[str, str]:
    process.send_signal(number)
    return process.communicate(timeout=DEADLINE_S)


def test_json_says_where_it_is_and_that_nothing_is_durable() -> None:
    with running("--port", "0", "--json") as process:
        said = first_line(process)
        assert said["durable"] is False
        assert said["note"].startswith("nothing is durable")
        assert said["tenants"] == ["demo"]
        headers = {"authorization": f"Bearer {said['token']}"}
        with httpx.Client(trust_env=False, headers=headers) as http:
            path = "/v1/sessions/demo/planner/hello/messages"
            answer = http.post(said["url"] + path, json={"payload": {"text": "hello"}})
            assert answer.json()["durable"] is True
            page = http.get(said["replay_url"] + "/v1/history/demo/planner/hello").json()
            assert [message["payload"] for message in page["messages"]] == [{"text": "hello"}]
            assert http.get(said["registry_url"] + "/v1/presence/demo").json() == {"connections": []}
            assert http.get(said["router_url"] + "/metrics").status_code == 200
        out, err = end(process)
    assert process.returncode == ExitCode.OK
    assert (out, err) == ("", "")


def test_people_are_told_first_that_nothing_is_durable_and_what_durable_true_means() -> None:
    with running("--port", "0", "--tenant", "acme", "--tenant", "globex") as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        while "Ctrl-C ends it" not in said:
            line = process.stdout.readline()
            assert line, process.communicate(timeout=DEADLINE_S)[1]
            said += line
        _, err = end(process, signal.SIGTERM)
    assert said.startswith("Nothing is durable")
    assert "`durable: true` in an answer means" in said.splitlines()[0]
    for wanted in ("edge", "replay", "registry", "router", "acme, globex", "export HELIOGRAPH_TOKEN=ey"):
        assert wanted in said
    assert process.returncode == ExitCode.OK
    assert err == ""


def test_the_port_chosen_is_the_edges_and_the_next_ones_are_the_others() -> None:
    with running("--port", "0", "--json") as process:
        assert first_line(process)["url"].startswith("http://127.0.0.1:")
    taken = four_free_ports()
    with running("--port", str(taken), "--json") as process:
        said = first_line(process)
    assert said["url"] == f"http://127.0.0.1:{taken}"
    assert said["replay_url"] == f"http://127.0.0.1:{taken + 1}"
    assert said["registry_url"] == f"http://127.0.0.1:{taken + 2}"
    assert said["router_url"] == f"http://127.0.0.1:{taken + 3}"


def four_free_ports() -> int:
    """The first of four in a row that nothing listens on, past those that other tests' servers are started on."""
    for port in range(PORTS.stop, PORTS.stop + 2_000, 4):
        try:
            for number in range(4):
                socket.create_server(("127.0.0.1", port + number)).close()
        except OSError:
            continue
        return port
    raise AssertionError("no four free ports")


def test_a_port_that_is_taken_is_said_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with running("--port", str(min(port, 65_532)), "--json") as process:
            out, err = process.communicate(timeout=DEADLINE_S)
    error = json.loads(err.splitlines()[-1])["error"]
    assert process.returncode == ExitCode.FAILED
    assert error["code"] == "port_taken"
    assert "--port" in error["hint"]
    assert out == ""


@pytest.mark.parametrize("arguments", [["--tenant", "Not A Label"], ["--key", "/nowhere/dev.jwk"]])
def test_what_is_wrong_on_the_command_line_is_a_usage_error(arguments: list[str]) -> None:
    with running("--port", "0", "--json", *arguments) as process:
        _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == ExitCode.USAGE
    assert json.loads(err)["error"]["code"] == "value_invalid"


def test_settings_of_services_are_their_variables_as_ever() -> None:
    with running("--port", "0", "--json", HELIOGRAPH_HEARTBEAT_INTERVAL_S="nonsense") as process:
        _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == ExitCode.USAGE
    assert "HELIOGRAPH_HEARTBEAT_INTERVAL_S" in json.loads(err)["error"]["message"]


def test_variables_meant_for_an_installation_do_not_lead_it_elsewhere() -> None:
    with running(
        "--port",
        "0",
        "--json",
        HELIOGRAPH_PORT="1",
        HELIOGRAPH_TOPIC_PREFIX="other",
        HELIOGRAPH_VIRTUAL_SHARDS="7",
        HELIOGRAPH_REDIS_URL="redis://127.0.0.1:1",
        HELIOGRAPH_KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1",
    ) as process:
        said = first_line(process)
        with httpx.Client(trust_env=False) as http:
            assert http.get(said["url"] + "/readyz").json()["ready"]


def test_a_second_ctrl_c_ends_it_at_once() -> None:
    """The first one waits for a drain that may take its time."""
    with running("--port", "0", "--json") as process:
        first_line(process)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=DEADLINE_S)
    assert process.returncode in (ExitCode.OK, ExitCode.INTERRUPTED)
