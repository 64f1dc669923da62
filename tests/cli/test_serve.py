"""`heliograph serve` against real services in memory: an agent made of any program."""

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from heliograph.client import Message
from heliograph.dev.process import HeliographDev

Invoke = Callable[..., Result]


class Type:
    """An agent type that only this test has."""

    def __init__(self, dev: HeliographDev) -> None:
        self.dev = dev
        self.name = f"c{secrets.token_hex(5)}"
        self.options = ("--url", dev.url, "--token", dev.token(), "--idle", "0.3")

    def session(self, name: str = "one") -> str:
        return f"{self.dev.tenants[0]}:{self.name}:{name}"

    def publish(self, *payloads: Any, session: str = "one") -> None:
        async def publish() -> None:
            async with self.dev.client() as client:
                for payload in payloads:
                    await client.publish(self.session(session), payload)

        asyncio.run(publish())

    def read(self, count: int) -> list[Message]:
        async def read() -> list[Message]:
            found: list[Message] = []
            async with asyncio.timeout(20), self.dev.client() as client:
                async for item in client.subscribe(self.session(), start="earliest"):
                    assert isinstance(item, Message)
                    found.append(item)
                    if len(found) == count:
                        break
            return found

        return asyncio.run(read())


@pytest.fixture
def kind(heliograph_dev: HeliographDev) -> Type:
    return Type(heliograph_dev)


def test_without_a_command_the_messages_of_all_sessions_are_shown(kind: Type, invoke: Invoke) -> None:
    kind.publish(1, session="a")
    kind.publish(2, session="b")
    done = invoke("serve", kind.name, "-n", "2", "--json", *kind.options)
    assert done.exit_code == 0, done.output
    shown = [json.loads(line) for line in done.stdout.splitlines()]
    assert {(one["session"], one["payload"]) for one in shown} == {(kind.session("a"), 1), (kind.session("b"), 2)}


def test_what_was_shown_does_not_come_again(kind: Type, invoke: Invoke) -> None:
    for payload in (1, 2):
        kind.publish(payload)
        done = invoke("serve", kind.name, "-n", "1", "--json", *kind.options)
        assert [json.loads(line)["payload"] for line in done.stdout.splitlines()] == [payload]


def test_a_command_gets_each_message_as_a_line_of_json_and_can_answer(
    kind: Type, invoke: Invoke, tmp_path: Path
) -> None:
    program = tmp_path / "agent.py"
    program.write_text(
        "import json, os, sys\n"
        "message = json.loads(sys.stdin.readline())\n"
        "assert os.environ['HELIOGRAPH_SESSION'] == message['session']\n"
        "print(json.dumps({'twice': 2 * message['payload']}))\n"
    )
    kind.publish(3, 4)
    done = invoke("serve", kind.name, "--exec", f"{sys.executable} {program}", "--reply", "-n", "2", *kind.options)
    assert done.exit_code == 0, done.output
    messages = kind.read(4)
    assert [one.data for one in messages] == [3, 4, {"twice": 6}, {"twice": 8}]
    assert [one.causation_id for one in messages[2:]] == [one.id for one in messages[:2]]


def test_a_text_is_an_answer_too(kind: Type, invoke: Invoke) -> None:
    kind.publish("x")
    done = invoke("serve", kind.name, "--exec", "echo well done", "--reply", "-n", "1", *kind.options)
    assert done.exit_code == 0, done.output
    assert kind.read(2)[1].data == "well done"


def test_a_command_that_fails_gets_the_message_again(kind: Type, invoke: Invoke, tmp_path: Path) -> None:
    program = tmp_path / "agent.sh"
    program.write_text(f'echo tried >> {tmp_path}/tries\ntest "$(wc -l < {tmp_path}/tries)" -ge 2\n')
    kind.publish("x")
    done = invoke("serve", kind.name, "--exec", f"sh {program}", "-n", "1", *kind.options)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "tries").read_text().count("tried") == 2
    assert "the message comes again" in done.stderr


def test_a_command_that_is_none_ends_it(kind: Type, invoke: Invoke) -> None:
    kind.publish("x")
    done = invoke("serve", kind.name, "--exec", "/no/such/program", *kind.options)
    assert done.exit_code == 2
    assert "can't be run" in done.stderr


@pytest.mark.parametrize(
    "options", [("--exec", ""), ("--reply",), ("--capacity", "0"), ("--exec", "cat", "--idle", "0")]
)
def test_options_that_make_no_sense_are_usage_errors(kind: Type, invoke: Invoke, options: tuple[str, ...]) -> None:
    assert invoke("serve", kind.name, *kind.options, *options).exit_code == 2


def test_an_agent_type_that_is_none_is_a_usage_error(kind: Type, invoke: Invoke) -> None:
    assert invoke("serve", "Not-A-Label", *kind.options).exit_code == 2


def test_without_the_scope_it_says_so(kind: Type, invoke: Invoke) -> None:
    token = kind.dev.token(scopes=["subscribe:*:*"])
    done = invoke("serve", kind.name, "--url", kind.dev.url, "--token", token)
    assert done.exit_code == 4
    assert "scopes" in done.stderr


def test_ctrl_c_ends_it_cleanly(kind: Type) -> None:
    kind.publish("x")
    command = [sys.executable, "-m", "heliograph.cli", "serve", kind.name, *kind.options]
    environment = {"PATH": os.environ["PATH"], "NO_PROXY": "127.0.0.1", "HOME": str(Path.home())}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as served:
        assert served.stdout is not None
        assert served.stdout.readline()
        served.send_signal(signal.SIGINT)
        _, errors = served.communicate(timeout=20)
    assert served.returncode == 130
    assert "Traceback" not in errors
