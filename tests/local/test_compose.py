"""The compose file: the services as they are meant to run, with settings that exist. Its schema: tests/kubernetes."""

import re
from typing import Any

import pytest
import yaml
from tests.local.papers import ROOT

from heliograph.edge.settings import EdgeSettings
from heliograph.local.compose import FILE
from heliograph.local.up import Ports, port_variable
from heliograph.registry.settings import RegistrySettings
from heliograph.replay.settings import ReplaySettings
from heliograph.router.settings import RouterSettings
from heliograph.service.settings import Settings, variable

DOCUMENT: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
SETTINGS: dict[str, type[Settings]] = {
    "edge": EdgeSettings,
    "router": RouterSettings,
    "replay": ReplaySettings,
    "registry": RegistrySettings,
}
STORES = {"kafka", "redis"}
OURS = {name: service for name, service in DOCUMENT["services"].items() if name not in STORES}


def test_without_the_profile_there_are_stores_only() -> None:
    """What `make up` relies on."""
    assert {name for name, one in DOCUMENT["services"].items() if not one.get("profiles")} == STORES
    assert OURS.keys() == {*SETTINGS, "tenant"}


@pytest.mark.parametrize("name", OURS)
def test_a_service_may_nothing_that_it_does_not_need(name: str) -> None:
    service = OURS[name]
    assert service["user"] == "65532:65532"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert service["restart"] == ("on-failure:5" if name == "tenant" else "unless-stopped")


@pytest.mark.parametrize("name", OURS)
def test_an_image_is_built_from_the_one_dockerfile(name: str) -> None:
    component = {"tenant": "cli"}.get(name, name)
    build = OURS[name]["build"]
    assert (FILE.parent / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).is_file()
    assert build["args"] == {"SERVICE": component}
    assert OURS[name]["image"].startswith(f"heliograph/{component}:")


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_is_one_of_the_service_and_has_a_value_it_takes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {variable(field) for field in SETTINGS[name].model_fields}
    environment = OURS[name]["environment"]
    assert environment.keys() - known == set()
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    SETTINGS[name]()


@pytest.mark.parametrize("name", SETTINGS)
def test_a_service_is_published_on_loopback_on_its_port_of_make_up_and_ready_when_it_says_so(name: str) -> None:
    service, port = OURS[name], getattr(Ports(), name)
    assert service["environment"]["HELIOGRAPH_PORT"] == str(port)
    assert service["ports"] == [f"127.0.0.1:${{{port_variable(name)}:-{port}}}:{port}"]
    assert "/readyz" in service["healthcheck"]["test"][-1]
    compile(service["healthcheck"]["test"][-1], name, "exec")


@pytest.mark.parametrize("name", SETTINGS)
def test_a_drain_has_its_time(name: str) -> None:
    settings = SETTINGS[name]()
    drain, stop = settings.drain_timeout_s, settings.stop_timeout_s  # type: ignore[attr-defined]
    grace = re.fullmatch(r"(\d+)s", OURS[name]["stop_grace_period"])
    assert grace is not None
    assert int(grace[1]) >= drain + 2 * stop + 5


def test_waiting_for_all_knows_that_the_tenant_is_applied_once() -> None:
    """`up --wait` takes a container that ended for a failure, but where another one wanted just that."""
    assert OURS["edge"]["depends_on"] == {"tenant": {"condition": "service_completed_successfully"}}
    stores = {name: {"condition": "service_healthy"} for name in STORES}
    assert OURS["tenant"]["depends_on"] == stores
    assert all("healthcheck" in DOCUMENT["services"][name] for name in STORES)


def test_services_and_this_machine_are_each_sent_to_a_listener_that_they_reach() -> None:
    environment = DOCUMENT["services"]["kafka"]["environment"]
    advertised = dict(one.split("://") for one in environment["KAFKA_ADVERTISED_LISTENERS"].split(","))
    assert advertised["PLAINTEXT"] == OURS["edge"]["environment"]["HELIOGRAPH_KAFKA_BOOTSTRAP_SERVERS"]
    assert advertised["HOST"].startswith("127.0.0.1:")
