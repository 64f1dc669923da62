"""skaffold.yaml fits the schema that its version documents, and names what is there.

The program itself is not to be had everywhere; the schema comes with its module, through Go.
"""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from tests.kubernetes.cluster import ROOT, Cluster, run
from tests.kubernetes.images import SERVICES
from tests.kubernetes.rendering import Chart

SKAFFOLD = yaml.safe_load((ROOT / "skaffold.yaml").read_text(encoding="utf-8"))
MODULE = "github.com/GoogleContainerTools/skaffold/v2@v2.16.1"
DOWNLOAD_TIMEOUT_S = 300.0
RELEASE = SKAFFOLD["deploy"]["helm"]["releases"][0]


@pytest.fixture(scope="module")
def schema(cluster: Cluster) -> Any:
    if cluster.script is None:
        pytest.skip("skaffold's schema comes through Go, which is asked for only where the cluster script runs")
    said = run(["go", "mod", "download", "-json", MODULE], env=cluster.env, timeout_s=DOWNLOAD_TIMEOUT_S)
    version = SKAFFOLD["apiVersion"].removeprefix("skaffold/")
    path = Path(json.loads(said)["Dir"]) / "docs-v2" / "content" / "en" / "schemas" / f"{version}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def test_skaffolds_file_fits_its_schema(schema: Any) -> None:
    jsonschema.validate(SKAFFOLD, schema)


def test_a_mistake_in_it_would_be_seen(schema: Any) -> None:
    wrong = {**SKAFFOLD, "deploy": {"helm": {"releases": [{**RELEASE, "valueFiles": []}]}}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema)


def test_skaffold_builds_every_image_and_gives_each_to_the_chart() -> None:
    built = {
        artifact["docker"]["buildArgs"]["SERVICE"]: artifact["image"] for artifact in SKAFFOLD["build"]["artifacts"]
    }
    assert built == {service: f"heliograph/{service}" for service in SERVICES}
    given = {value: name for name, value in RELEASE["setValueTemplates"].items()}
    for service, image in built.items():
        name = given.pop(f"{{{{.IMAGE_FULLY_QUALIFIED_{re.sub('[^a-z]', '_', image)}}}}}")
        assert name == ("tests.image" if service == "cli" else f"{service}.image")
    assert not given


def test_skaffold_forwards_to_services_that_the_chart_makes(cluster: Cluster) -> None:
    values = [f"{name}=registry.example/x:1" for name in RELEASE["setValueTemplates"]]
    values += [f"{name}={value}" for name, value in SKAFFOLD["profiles"][0]["patches"][0]["value"].items()]
    rendered = Chart(cluster).render(*values, values=ROOT / RELEASE["valuesFiles"][0], release=RELEASE["name"])
    ports = {item["metadata"]["name"]: item["spec"]["ports"][0]["port"] for item in rendered.all("Service")}
    for forward in SKAFFOLD["portForward"]:
        assert ports[forward["resourceName"]] == forward["port"]
    for component in ("edge", "router", "replay", "registry", "operator"):
        assert rendered.container(component)["image"] == "registry.example/x:1"
    assert rendered.settings["HELIOGRAPH_LOG_LEVEL"] == "debug"
