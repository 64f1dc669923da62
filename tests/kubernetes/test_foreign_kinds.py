"""Resources whose kinds are other projects', which no cluster for tests has: by those projects' own definitions.

They come as Go modules, a schema where the module holds one, else the types that it is generated from.
"""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from tests.kubernetes.cluster import ROOT, Cluster, run
from tests.kubernetes.rendering import VALUES, Chart
from tests.structural import unknown

BUILD_TIMEOUT_S = 600.0
GITOPS = ROOT / "deploy" / "examples" / "gitops"
DEFINITIONS = {
    "HTTPRoute": (
        "sigs.k8s.io/gateway-api@v1.6.3",
        "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml",
    ),
    "Application": ("github.com/argoproj/argo-cd/v2@v2.14.11", "manifests/crds/application-crd.yaml"),
    "GitRepository": (
        "github.com/fluxcd/source-controller@v1.8.0",
        "config/crd/bases/source.toolkit.fluxcd.io_gitrepositories.yaml",
    ),
}
"""Module, and the file in it."""

Complaints = Callable[[dict[str, Any]], str]


@pytest.fixture(scope="module")
def everything(cluster: Cluster) -> dict[str, dict[str, Any]]:
    """By kind, one of each: as the chart renders it with every switch on, and as in the examples."""
    rendered = Chart(cluster).render(values=VALUES / "everything.yaml").objects
    services = Chart(cluster).render("monitoring.monitor=ServiceMonitor").all("ServiceMonitor")
    examples = [
        document
        for path in sorted(GITOPS.iterdir())
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
    ]
    return {item["kind"]: item for item in (*rendered, *services, *examples)}


# ---- by schema -------------------------------------------------------------------------------------------------------


def definition(kind: str, cluster: Cluster) -> dict[str, Any]:
    module, file = DEFINITIONS[kind]
    said = run(["go", "mod", "download", "-json", module], env=cluster.env, timeout_s=BUILD_TIMEOUT_S)
    found: dict[str, Any] = yaml.safe_load((Path(json.loads(said)["Dir"]) / file).read_text(encoding="utf-8"))
    return found


def complaints(document: dict[str, Any], definition: dict[str, Any]) -> list[str]:
    """What its version's schema does not allow, and what it does not know."""
    group, _, name = document["apiVersion"].partition("/")
    assert definition["spec"]["group"] == group
    (schema,) = (v["schema"]["openAPIV3Schema"] for v in definition["spec"]["versions"] if v["name"] == name)
    wrong = [error.message for error in jsonschema.Draft4Validator(schema).iter_errors(document)]
    return [*wrong, *unknown(document, schema)]


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_what_others_define_is_as_they_define_it(
    kind: str, cluster: Cluster, everything: dict[str, dict[str, Any]]
) -> None:
    if cluster.script is None:
        pytest.skip("definitions come through Go, which is asked for only where the cluster script runs")
    document, defined = everything[kind], definition(kind, cluster)
    assert complaints(document, defined) == []
    slip = {**document, "spec": {**document["spec"], "sumary": "a slip"}}
    assert complaints(slip, defined) == [".spec.sumary"]


# ---- by type ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def said_by_types(tmp_path_factory: pytest.TempPathFactory) -> Complaints:
    """A program that has the types, made by Go (half a minute, once on a machine)."""
    if shutil.which("go") is None:
        pytest.skip("Go is not on PATH, which makes the program that has others' types")
    program = tmp_path_factory.mktemp("go") / "foreign_types"
    source = Path(__file__).parent / "foreign_types"
    subprocess.run(["go", "build", "-o", str(program), "."], cwd=source, check=True, timeout=BUILD_TIMEOUT_S)

    def said(document: dict[str, Any]) -> str:
        text = yaml.safe_dump(document)
        return subprocess.run([program], input=text, capture_output=True, text=True, check=False).stderr

    return said


@pytest.mark.parametrize("kind", ["PodMonitor", "ServiceMonitor", "PrometheusRule", "HelmRelease"])
def test_others_types_know_every_field(
    kind: str, said_by_types: Complaints, everything: dict[str, dict[str, Any]]
) -> None:
    document = everything[kind]
    assert said_by_types(document) == ""
    slip = {**document, "spec": {**document["spec"], "sumary": "a slip"}}
    assert 'unknown field "sumary"' in said_by_types(slip)
