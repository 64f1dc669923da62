"""What the chart tells the services is what they take: by their own settings, and by librdkafka."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from confluent_kafka import Producer
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.installation import DEV_VALUES
from tests.kubernetes.rendering import MINIMAL, VALUES, Chart, Rendered

from heliograph.edge.settings import EdgeSettings
from heliograph.operator.settings import OperatorSettings
from heliograph.registry.settings import RegistrySettings
from heliograph.replay.settings import ReplaySettings
from heliograph.router.settings import RouterSettings
from heliograph.service.settings import Settings, variable

CASES = [MINIMAL, VALUES / "everything.yaml", DEV_VALUES]
SERVICES: dict[str, type[Settings]] = {
    "edge": EdgeSettings,
    "router": RouterSettings,
    "replay": ReplaySettings,
    "registry": RegistrySettings,
    "operator": OperatorSettings,
}
IN_SECRETS = {"url": "rediss+cluster://user:password@node-1:6379,node-2:6379", "username": "user", "password": "p&w"}
"""By key."""
OF_THE_POD = {"metadata.name": "hg-heliograph-edge-1", "metadata.namespace": "messaging", "status.podIP": "10.0.0.1"}


@pytest.fixture(scope="module")
def chart(cluster: Cluster) -> Chart:
    return Chart(cluster)


def told(rendered: Rendered, component: str) -> dict[str, str]:
    """The environment as the kubelet makes it: the ConfigMap, then entries in order, which may name those before."""
    found = dict(rendered.settings)
    for entry in rendered.container(component)["env"]:
        value = entry.get("value")
        if value is None:
            source: dict[str, Any] = entry["valueFrom"]
            of_pod = "fieldRef" in source
            value = OF_THE_POD[source["fieldRef"]["fieldPath"]] if of_pod else IN_SECRETS[source["secretKeyRef"]["key"]]
        found[entry["name"]] = re.sub(r"\$\((\w+)\)", lambda name: found.get(name[1], name[0]), value)
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
@pytest.mark.parametrize("service", SERVICES)
def test_a_service_takes_what_it_is_told(
    service: str, case: Path, chart: Chart, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = told(chart.render(values=case), service)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    SERVICES[service]()
    own = {variable(field) for field in SERVICES[service].model_fields}
    every = {variable(field) for settings in SERVICES.values() for field in settings.model_fields}
    given = {name for name in environment if name.startswith("HELIOGRAPH_")}
    assert given - every == set(), "no setting of any service"
    listed = {entry["name"] for entry in chart.render(values=case).container(service)["env"]}
    assert {name for name in listed if name.startswith("HELIOGRAPH_")} - own - SHARED == set(), "not its own"


SHARED = {"HELIOGRAPH_KAFKA_PROPERTIES", "HELIOGRAPH_REDIS_URL", "HELIOGRAPH_METADATA_REDIS_URL"}
"""Of Secrets, given to all alike."""


def test_numbers_are_written_as_they_are_read(chart: Chart) -> None:
    """Helm reads those of a file as floats, and writes a large one with an exponent."""
    rendered = chart.render(values=VALUES / "everything.yaml")
    assert rendered.settings["HELIOGRAPH_TRACE_SAMPLE_RATIO"] == "0.05"
    assert rendered.environment("router")["HELIOGRAPH_BATCH_RECORDS"] == "2000000"
    assert rendered.environment("edge")["HELIOGRAPH_ALLOWED_ORIGINS"] == "https://a.example,https://b.example"
    assert rendered.environment("edge")["HELIOGRAPH_PRESSURE_OUTBOUND_BYTES"] == "100000000,200000000,300000000"


def test_librdkafka_takes_the_properties(chart: Chart, tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    given = {"message.max.bytes": 2_000_000, "linger.ms": 5, "socket.keepalive.enable": True, "client.rack": "a"}
    document = yaml.safe_load(MINIMAL.read_text(encoding="utf-8"))
    document["kafka"]["properties"] = given
    values.write_text(yaml.safe_dump(document), encoding="utf-8")
    properties = json.loads(chart.render(values=values).settings["HELIOGRAPH_KAFKA_PROPERTIES"])
    assert properties.keys() == given.keys()
    Producer({"bootstrap.servers": "127.0.0.1:1", "log_level": 0, **properties})
