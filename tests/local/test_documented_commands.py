"""The papers do what they say: commands, snippets and conversations are run against a stack, links and names exist.

The stack is one of its own on free ports; where a paper names the ports of `make up`, these are put in their place.
Commands of `make` are not run here (they start stacks of their own, and have tests): their targets exist.
"""

import asyncio
import os
import re
import secrets
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from tests.local.papers import (
    PAPERS,
    ROOT,
    Block,
    anchors,
    blocks,
    commands,
    name_of,
    paths_named,
    relative_links,
    rows_of,
)
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from heliograph.client import Client
from heliograph.edge.settings import EdgeSettings
from heliograph.local.providers import GivenKafka, throwaway_redis
from heliograph.local.services import service_environment
from heliograph.local.stack import Stack
from heliograph.local.tenant import DevelopmentTenant
from heliograph.local.up import Ports, apply_tenant, port_variable
from heliograph.operator.settings import OperatorSettings
from heliograph.protocol.frames import CONNECT_PATH, SUBPROTOCOL, decode_server_frame
from heliograph.registry.settings import RegistrySettings
from heliograph.replay.settings import ReplaySettings
from heliograph.router.settings import RouterSettings
from heliograph.service.settings import variable

pytestmark = pytest.mark.xdist_group("documents")

COMMAND_TIMEOUT_S = 240
"""Of all commands of a paper, or one snippet: each is a Python that starts, on a machine that may be busy."""
ANSWER_TIMEOUT_S = 10
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
ANYTHING = "…"
CLIENT_VARIABLES = set(re.findall(r"^\| `(HELIOGRAPH_\w+)` \|", (ROOT / "docs" / "cli.md").read_text(), re.MULTILINE))


@dataclass(frozen=True)
class Desk:
    """Where papers are tried out: a stack, and a shell with what `make up` tells people to export."""

    stack: Stack
    directory: Path
    variables: dict[str, str]
    token: str

    @property
    def url(self) -> str:
        return self.stack.edges[0].url

    def here(self, text: str) -> str:
        """`text` with this stack's ports in place of those of `make up`."""
        ports = {
            "kafka": int(self.stack.kafka.bootstrap_servers.rpartition(":")[2]),
            "redis": int(re.findall(r":(\d+)", self.stack.redis.url)[0]),
            "edge": self.stack.edges[0].port,
            "replay": self.stack.replays[0].port,
            "registry": self.stack.registries[0].port,
            "router": self.stack.routers[0].port,
        }
        for entry in fields(Ports):
            text = text.replace(f"127.0.0.1:{entry.default}", f"127.0.0.1:{ports[entry.name]}")
        return text


@pytest.fixture(scope="module")
def desk(kafka_bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """One stack for all papers, with the tenant `demo`, and a folder that looks like the checkout."""
    directory = tmp_path_factory.mktemp("documents")
    prefix = f"documents-{secrets.token_hex(4)}"
    with throwaway_redis(directory / "redis") as redis:
        stack = Stack(directory / "logs", GivenKafka(kafka_bootstrap), redis, settings={"topic_prefix": prefix})
        with stack:
            tenant = DevelopmentTenant(directory / "tenant")
            settings = {f"HELIOGRAPH_{name.upper()}": value for name, value in stack.settings.items()}
            apply_tenant(tenant.write(), settings)
            token = tenant.token()
            checkout = directory / "checkout"
            checkout.mkdir()
            for entry in ("deploy", "docs", "libs", "services"):
                (checkout / entry).symlink_to(ROOT / entry)
            yield Desk(stack, checkout, _shell(directory, stack, settings, token), token)


def _shell(directory: Path, stack: Stack, settings: dict[str, str], token: str) -> dict[str, str]:
    """The environment of commands. `uv run` is this test's own environment, so that nothing is synchronised."""
    tools = directory / "bin"
    tools.mkdir()
    uv = tools / "uv"
    uv.write_text('#!/bin/sh\n[ "$1" = run ] || { echo "only uv run" >&2; exit 2; }\nshift\nexec "$@"\n')
    uv.chmod(0o755)
    path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])
    edge, replay = stack.edges[0].url, stack.replays[0].url
    client = {
        "HELIOGRAPH_URL": edge,
        "HELIOGRAPH_REPLAY_URL": replay,
        "HELIOGRAPH_REGISTRY_URL": stack.registries[0].url,
        "HELIOGRAPH_TOKEN": token,
    }
    return service_environment({**settings, **client, "PATH": path, "NO_PROXY": "127.0.0.1"})


def is_make(command: str) -> bool:
    return command.startswith("make ")


WITH_COMMANDS = [
    paper for paper in PAPERS if any(not is_make(c) for b in blocks(paper, "console") for c in commands(b))
]


@pytest.mark.parametrize("paper", WITH_COMMANDS, ids=name_of)
def test_every_command_succeeds_when_typed_in_order(paper: Path, desk: Desk) -> None:
    script = ["set -euo pipefail"]
    for block in blocks(paper, "console"):
        for command in commands(block):
            if not is_make(command):
                script += [f"echo '## {block}' >&2", desk.here(command)]
    done = subprocess.run(
        ["bash", "-xc", "\n".join(script)],
        cwd=desk.directory,
        env=desk.variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_TIMEOUT_S,
    )
    said = done.stderr.replace(desk.token, "<token>")
    assert done.returncode == 0, f"{said[-3000:]}\n{done.stdout[-1000:]}"


def test_the_papers_show_commands_in_blocks_that_are_run() -> None:
    """A `sh` block is not run, so it holds nothing but `make`."""
    assert name_of(ROOT / "README.md") in {name_of(paper) for paper in WITH_COMMANDS}
    for paper in PAPERS:
        for block in [*blocks(paper, "sh"), *blocks(paper, "bash"), *blocks(paper, "shell")]:
            for line in block.text.splitlines():
                assert is_make(line), f"{block}: {line}"
        hidden = re.findall(r"^ +```console", paper.read_text(encoding="utf-8"), re.MULTILINE)
        assert not hidden, f"{name_of(paper)}: a block inside a list is not found, and so not run"


ELSEWHERE = {
    "cat": "of files that only the reader has",
    "curl": "at a pod",
    "docker": "is not everywhere; tests/local/test_compose*.py, tests/kubernetes/test_compose_schema.py judge the file",
    "for": "has images built by docker; tests/local/test_chart.py compares it with the chart",
    "helm": "wants a cluster: tests/kubernetes/test_install_page.py types those of docs/install.md",
    "heliograph": "docs/dev.md: what `make dev` runs, which has tests of its own",
    "kafka-acls.sh": "is Kafka's own; the rights are tried by users that have them",
    "kafka-configs.sh": "is Kafka's own",
    "kubectl": "wants a cluster: tests/kubernetes applies the examples, scales fleets and changes Secrets",
    "redis-cli": "tests/stores/test_redis_rights.py changes passwords in the same way",
    "uv": "docs/install.md: typed with what is around it, on a cluster",
    "export": "for those that follow it",
}
"""Programs of commands that are shown and not run here, with the reason: they are in `text` blocks."""


@pytest.mark.parametrize("paper", PAPERS, ids=name_of)
def test_commands_that_are_not_run_here_are_listed_with_the_reason(paper: Path) -> None:
    for block in blocks(paper, "text"):
        for command in commands(block):
            assert command.split()[0] in ELSEWHERE, f"{block}: {command}"


@pytest.mark.parametrize("paper", PAPERS, ids=name_of)
def test_every_target_of_make_that_is_named_exists(paper: Path) -> None:
    text = paper.read_text(encoding="utf-8")
    named = set(re.findall(r"^(?:\$ )?make ([a-z-]+)", text, re.MULTILINE)) | set(re.findall(r"`make ([a-z-]+)", text))
    assert named - TARGETS == set()


# ---- snippets --------------------------------------------------------------------------------------------------------

WITH_SNIPPETS = [paper for paper in PAPERS if blocks(paper, "python")]


@pytest.mark.parametrize("paper", WITH_SNIPPETS, ids=name_of)
async def test_every_snippet_runs(paper: Path, desk: Desk) -> None:
    """A program with `asyncio.run` runs beside what follows; one with `await` outside a function has a `client`."""
    running: list[asyncio.subprocess.Process] = []
    try:
        for block in blocks(paper, "python"):
            compile(block.text, str(block), "exec", flags=_TOP_LEVEL_AWAIT)
            if "asyncio.run(" in block.text:
                running.append(await _program(block, desk))
                await _subscribed(re.findall(r'subscribe\("([^"]+)"', block.text), desk)
            elif re.search(r"^\S.*\bawait ", block.text, re.MULTILINE):
                await _fragment(block, desk)
            else:
                program = await _program(block, desk)
                out, err = await asyncio.wait_for(program.communicate(), COMMAND_TIMEOUT_S)
                assert program.returncode == 0, f"{block}: {out.decode()}{err.decode()}"
        for program in running:
            assert program.returncode in (None, 0), paper
    finally:
        for program in running:
            if program.returncode is None:
                program.kill()
            await program.communicate()


_TOP_LEVEL_AWAIT = 0x2000
"""`ast.PyCF_ALLOW_TOP_LEVEL_AWAIT`."""


async def _program(block: Block, desk: Desk) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    code = desk.here(block.text)
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, cwd=desk.directory, env=desk.variables, stdout=pipe, stderr=pipe
    )


async def _subscribed(sessions: list[str], desk: Desk) -> None:
    """Return when somebody is connected and subscribed to each, as the registry tells."""
    for session in sessions:
        path = f"/v1/presence/{session.replace(':', '/')}"
        deadline = asyncio.get_running_loop().time() + COMMAND_TIMEOUT_S
        while not await asyncio.to_thread(_connections, desk, path):
            assert asyncio.get_running_loop().time() < deadline, f"nobody subscribed to {session}"
            await asyncio.sleep(0.05)


def _connections(desk: Desk, path: str) -> list[Any]:
    headers = {"Authorization": f"Bearer {desk.token}"}
    answer = httpx.get(desk.stack.registries[0].url + path, headers=headers, trust_env=False)
    found: list[Any] = answer.raise_for_status().json()["connections"]
    return found


async def _fragment(block: Block, desk: Desk) -> None:
    names: dict[str, Any] = {}
    exec(f"async def fragment(client):\n{textwrap.indent(block.text, '    ')}", names)
    async with Client(desk.url, token=desk.token, proxy=None) as client:
        await asyncio.wait_for(names["fragment"](client), COMMAND_TIMEOUT_S)


def test_the_agent_in_the_readme_is_the_one_of_the_sdk() -> None:
    ours, theirs = blocks(ROOT / "README.md", "python"), blocks(ROOT / "libs" / "client" / "README.md", "python")
    assert [block.text for block in ours[:2]] == [block.text for block in theirs[:2]]
    assert len([line for line in ours[0].text.splitlines() if line.strip()]) <= 10


# ---- conversations ---------------------------------------------------------------------------------------------------

CONVERSATIONS = [block for paper in PAPERS for block in blocks(paper, "conversation")]


async def test_every_conversation_goes_as_shown(desk: Desk) -> None:
    """In the order of the paper: later ones build on what earlier ones published."""
    assert CONVERSATIONS
    for block in CONVERSATIONS:
        await _converse(block, desk)


async def _converse(block: Block, desk: Desk) -> None:
    address = desk.url.replace("http", "ws") + CONNECT_PATH
    async with connect(address, subprotocols=[Subprotocol(SUBPROTOCOL)], proxy=None) as ws:
        last = lease = ""  # position of the last message, and the lease that was told
        for said, answers in _turns(block):
            if said.get("token") == ANYTHING:
                said["token"] = desk.token
            if said.get("position") == ANYTHING:
                said["position"] = last
            if said.get("lease") == ANYTHING:
                said["lease"] = lease
            await ws.send(msgspec.json.encode(said).decode())
            got = [await _next_frame(ws, block) for _ in answers]
            last = next((frame["position"] for frame in reversed(got) if frame["type"] == "message"), last)
            lease = next((frame["lease"] for frame in got if frame["type"] == "assigned"), lease)
            for expected in answers:
                found = next((frame for frame in got if _matches(expected, frame)), None)
                assert found is not None, f"{block}: expected {expected}, got {got}"
                got.remove(found)


def _turns(block: Block) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """What the client says, and what it gets for it, in any order."""
    turns: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
    for line in block.text.splitlines():
        frame = msgspec.json.decode(line[2:])
        match line[:2]:
            case "> ":
                turns.append((frame, []))
            case "< ":
                turns[-1][1].append(frame)
            case _:
                raise AssertionError(f"{block}: neither > nor <: {line}")
    return turns


async def _next_frame(ws: ClientConnection, block: Block) -> dict[str, Any]:
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            while True:
                frame: dict[str, Any] = msgspec.json.decode(await ws.recv())
                if frame["type"] != "ping":
                    return frame
    except TimeoutError:
        raise AssertionError(f"{block}: no answer") from None


def _matches(expected: dict[str, Any], frame: dict[str, Any]) -> bool:
    """The same fields, no more and no fewer, with the same values where one is shown."""
    return expected.keys() == frame.keys() and all(value in (ANYTHING, frame[name]) for name, value in expected.items())


def test_frames_that_are_shown_alone_are_frames() -> None:
    shown = [line for block in blocks(ROOT / "docs" / "protocol.md", "json") for line in block.text.splitlines()]
    assert shown
    for line in shown:
        assert decode_server_frame(line) is not None, line


# ---- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("paper", PAPERS, ids=name_of)
def test_every_link_and_every_file_named_exists(paper: Path) -> None:
    for link in relative_links(paper):
        target, _, anchor = link.partition("#")
        found = (paper.parent / target).resolve() if target else paper
        assert found.exists(), link
        if anchor:
            assert anchor in anchors(found), link
    for path in paths_named(paper):
        assert (ROOT / path).exists(), path


def test_every_metric_named_is_served(desk: Desk) -> None:
    served = set()
    for service in desk.stack.services:
        served |= set(re.findall(r"^# TYPE (\S+)", service.metrics(), re.MULTILINE))
    for paper in PAPERS:
        named = re.findall(r"`(heliograph_(?:edge|router|replay|registry)_[a-z_]+)`", paper.read_text(encoding="utf-8"))
        assert set(named) - served == set(), name_of(paper)


def test_the_page_on_security_lists_every_port_and_what_it_shows(desk: Desk) -> None:
    """As the services say themselves, and as the chart's policies have it."""
    policies = (ROOT / "charts/heliograph/templates/access/networkpolicies.yaml").read_text(encoding="utf-8")
    listed = {row[0]: row[1:] for row in rows_of(ROOT / "docs" / "security.md", "service")}
    assert {name: int(cells[0]) for name, cells in listed.items()} == SERVICE_PORTS
    for name, port in SERVICE_PORTS.items():
        assert f'"{name}" {port}' in policies, name
    for service in (desk.stack.edges[0], desk.stack.replays[0], desk.stack.registries[0], desk.stack.routers[0]):
        _, with_token, without, _ = listed[service.service]
        shown = httpx.get(f"{service.url}/openapi.json", trust_env=False).raise_for_status().json()
        websocket = {CONNECT_PATH} if service.service == "edge" else set()
        assert set(re.findall(r"`(\S+)`", with_token)) == set(shown["paths"]) | websocket, service.service
        for path in re.findall(r"`(\S+)`", without):
            assert httpx.get(service.url + path, trust_env=False).status_code in (200, 503), path


SERVICE_PORTS = {
    kind.__module__.split(".")[1]: int(kind().port)
    for kind in (EdgeSettings, ReplaySettings, RegistrySettings, OperatorSettings)
} | {"router": 8083}
"""Of the services' settings; a router has an edge's unless the chart, or `make up`, says otherwise."""


def test_every_variable_named_is_a_setting() -> None:
    settings = (EdgeSettings, RouterSettings, ReplaySettings, RegistrySettings, OperatorSettings)
    known = {variable(name) for kind in settings for name in kind.model_fields}
    known |= set(re.findall(r"\$\{(HELIOGRAPH_[A-Z_]+)", (ROOT / "deploy" / "docker-compose.yaml").read_text()))
    known |= {"HELIOGRAPH_SESSION"}  # told to the command of `heliograph serve`
    known |= CLIENT_VARIABLES | {port_variable(entry.name) for entry in fields(Ports)}
    for module in (ROOT / "deploy" / "local" / "src").rglob("*.py"):
        known |= set(re.findall(r"\"(HELIOGRAPH_[A-Z_]+)\"", module.read_text(encoding="utf-8")))
    for paper in PAPERS:
        text = paper.read_text(encoding="utf-8")
        named = {name for name in re.findall(r"\bHELIOGRAPH_[A-Z_]+\b", text) if not name.endswith("_")}
        assert named - known == set(), name_of(paper)
