"""`make up` and `make down`: idempotent, exact, and clear about what is in the way. Services are stand-ins here."""

import json
import shutil
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from heliograph.core.scopes import Operation
from heliograph.core.sessions import SessionKey
from heliograph.local import providers
from heliograph.local.errors import LocalError, NotReadyError, PortTakenError
from heliograph.local.identity import ProcessIdentity
from heliograph.local.ports import accepts, free_ports
from heliograph.local.record import Record
from heliograph.local.tenant import AUDIENCE, DevelopmentTenant
from heliograph.local.up import Background, Ports
from heliograph.protocol.tenants import Tenant, parse_tenant
from heliograph.service.metrics import Metrics
from heliograph.service.tokens import TokenVerifier

FAKE = Path(__file__).with_name("fake_service.py")
ALL = ("kafka", "redis", "edge", "replay", "registry", "router")


@dataclass
class KnownTenant:
    record: Tenant
    generation: int = 1


class Rig:
    """A background stack on free ports, with what it said."""

    def __init__(self, directory: Path) -> None:
        self.said: list[str] = []
        self.applied: list[Path] = []
        self.directory = directory
        self.ports = Ports(**dict(zip(ALL, free_ports(len(ALL)), strict=True)))
        self.command: Callable[[str], list[str]] = lambda _service: [sys.executable, str(FAKE)]
        self.background = Background(
            directory,
            self.said.append,
            command=self._command_of,
            apply=lambda file, _variables: self.applied.append(file),
        )

    def _command_of(self, service: str) -> list[str]:
        return self.command(service)

    @property
    def text(self) -> str:
        return "\n".join(self.said)

    def record(self) -> Record:
        return Record.load(self.directory / "state.json")

    def listening(self) -> list[int]:
        ports = [self.ports.redis, self.ports.edge, self.ports.replay, self.ports.registry, self.ports.router]
        return [port for port in ports if accepts(port)]


@pytest.fixture
def rig(tmp_path: Path, kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    if shutil.which("redis-server") is None:
        pytest.fail("redis-server is needed here; `make prepare` installs it")
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka_bootstrap)
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setattr(providers, "compose_problem", lambda: "not in this test")
    made = Rig(tmp_path / "up")
    yield made
    made.background.down()


def test_up_then_down_leaves_nothing_that_up_started(rig: Rig, kafka_bootstrap: str) -> None:
    rig.background.up(rig.ports)
    processes = rig.record().processes
    assert [process.name for process in processes] == ["redis", "edge", "router", "replay", "registry"]
    assert len(rig.listening()) == 5
    rig.background.down()
    assert rig.listening() == []
    assert not any(process.identity.alive() for process in processes)
    assert rig.record().empty
    assert accepts(int(kafka_bootstrap.rpartition(":")[2])), "a Kafka that was given is not ours to end"


def test_a_second_up_says_that_it_is_up_and_starts_nothing(rig: Rig) -> None:
    rig.background.up(rig.ports)
    before = rig.record().processes
    rig.said.clear()
    rig.background.up(rig.ports)
    assert rig.said[0] == "already up"
    assert f"http://127.0.0.1:{rig.ports.edge}" in rig.text
    assert rig.record().processes == before


def test_up_after_a_service_died_starts_all_afresh(rig: Rig) -> None:
    rig.background.up(rig.ports)
    before = {process.name: process for process in rig.record().processes}
    before["router"].identity.end(timeout_s=10)
    rig.background.up(rig.ports)
    assert "router ended: stopping the rest and starting afresh" in rig.said
    assert len(rig.listening()) == 5
    assert not any(process.identity.alive() for process in before.values())


def test_down_leaves_a_process_alone_that_has_a_recorded_pid_but_is_another(rig: Rig, tmp_path: Path) -> None:
    rig.background.up(rig.ports)
    path = rig.directory / "state.json"
    state = json.loads(path.read_text())
    real = ProcessIdentity(state["processes"][1]["pid"], state["processes"][1]["started"])
    state["processes"][1]["started"] = "another time"
    path.write_text(json.dumps(state))
    rig.background.down()
    assert real.alive()
    real.end(timeout_s=10)


def test_a_taken_port_is_named_with_what_changes_it_and_nothing_is_left_running(rig: Rig) -> None:
    with socket.create_server(("127.0.0.1", rig.ports.replay)):
        with pytest.raises(
            PortTakenError, match=rf"port {rig.ports.replay} for replay .* HELIOGRAPH_LOCAL_REPLAY_PORT"
        ):
            rig.background.up(rig.ports)
        assert rig.listening() == [rig.ports.replay]
    assert rig.record().empty


def test_a_service_that_does_not_start_is_explained_and_the_rest_is_ended(rig: Rig) -> None:
    broken = [sys.executable, "-c", "raise SystemExit('HELIOGRAPH_X is wrong')"]
    rig.command = lambda service: broken if service == "replay" else [sys.executable, str(FAKE)]
    with pytest.raises(NotReadyError, match="replay"):
        rig.background.up(rig.ports)
    assert rig.listening() == []
    assert rig.record().empty


def test_down_with_nothing_up_says_so(rig: Rig) -> None:
    rig.background.down()
    assert rig.said == ["nothing is up"]


def test_status_shows_each_part_and_whether_all_is_ready(rig: Rig) -> None:
    assert not rig.background.status()
    rig.background.up(rig.ports)
    rig.said.clear()
    assert rig.background.status()
    assert [line.split()[0] for line in rig.said] == ["redis", "edge", "router", "replay", "registry"]
    assert all(line.endswith("ready") for line in rig.said)


def test_up_applies_the_demo_tenant_and_prints_a_token_that_its_key_signed(rig: Rig) -> None:
    rig.background.up(rig.ports)
    (file,) = rig.applied
    tenant = parse_tenant(json.loads(file.read_text()))
    assert tenant.tenant == "demo"
    token = rig.text.partition("HELIOGRAPH_TOKEN=")[2].split()[0]
    known = KnownTenant(tenant)
    verifier = TokenVerifier(lambda name: known if name == "demo" else None, Metrics("test"), audience=AUDIENCE)
    identity = verifier.verify(token)
    assert identity.tenant == "demo"
    assert identity.scopes.allows(Operation.PUBLISH, SessionKey.parse("demo:planner:hello"))
    assert identity.scopes.allows(Operation.HISTORY, SessionKey.parse("demo:planner:hello"))


def test_the_tenants_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    first = DevelopmentTenant(tmp_path).jwks()
    assert DevelopmentTenant(tmp_path).jwks() == first
    assert "d" not in first["keys"][0], "the private part must not be in a key set"
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600


def test_ports_come_from_flags_before_the_environment_before_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOGRAPH_LOCAL_EDGE_PORT", "9001")
    monkeypatch.setenv("HELIOGRAPH_LOCAL_ROUTER_PORT", "9002")
    assert Ports.chosen({"edge": 9003}) == Ports(edge=9003, router=9002)


@pytest.mark.parametrize("value", ["0", "65536", "http", "-1", "8.5"])
def test_a_port_that_is_none_is_refused_with_its_variable(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOGRAPH_LOCAL_EDGE_PORT", value)
    with pytest.raises(LocalError, match="HELIOGRAPH_LOCAL_EDGE_PORT"):
        Ports.chosen({})


def test_one_port_for_two_things_is_refused() -> None:
    with pytest.raises(LocalError, match="once"):
        Ports.chosen({"edge": 8081})


def test_an_unreadable_record_counts_as_none(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text('{"processes": [{"pid": ')
    assert Record.load(path).empty
