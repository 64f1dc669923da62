"""The examples fit the schemas of what they are for, and are all explained. Rendered and applied: tests/kubernetes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from tests.local.papers import ROOT, relative_links
from tests.structural import unknown

from heliograph.operator.crds import CRDS

EXAMPLES = ROOT / "deploy" / "examples"
CHART = ROOT / "charts" / "heliograph"
VALUES = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
DEFINITIONS = {made["spec"]["names"]["kind"]: made for made in (make() for make in CRDS.values())}


def documents(folder: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted((EXAMPLES / folder).glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            yield path, document


def test_every_example_is_explained() -> None:
    linked = {(EXAMPLES / link).resolve() for link in relative_links(EXAMPLES / "README.md")}
    examples = {path for path in EXAMPLES.rglob("*") if path.suffix in {".yaml", ".xml"}}
    assert {path.relative_to(EXAMPLES) for path in examples - linked if "target" not in path.parts} == set()


@pytest.mark.parametrize("path", sorted((EXAMPLES / "values").iterdir()), ids=lambda path: path.stem)
def test_values_fit_the_charts_schema(path: Path) -> None:
    jsonschema.validate(yaml.safe_load(path.read_text(encoding="utf-8")), VALUES)


def test_values_inside_gitops_examples_fit_it_too_and_leave_definitions_to_who_syncs() -> None:
    found = {document["kind"]: document for _, document in documents("gitops")}
    assert found.keys() == {"Application", "GitRepository", "HelmRelease"}
    source = found["Application"]["spec"]["source"]
    assert (ROOT / source["path"]).resolve() == CHART
    files = [(CHART / file).resolve() for file in source["helm"]["valueFiles"]]
    given = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in files]
    release = found["HelmRelease"]["spec"]
    assert release["chart"]["spec"]["chart"] == source["path"]
    assert release["install"]["crds"] == release["upgrade"]["crds"] == "CreateReplace"
    for values in (*given, release["values"]):
        jsonschema.validate(values, VALUES)
        assert values["crds"]["upgrade"] is False, "no job besides"


@pytest.mark.parametrize(
    ("path", "document"),
    [(path, document) for path, document in documents("kubernetes") if document["kind"] in DEFINITIONS],
    ids=lambda value: value.stem if isinstance(value, Path) else value["kind"],
)
def test_resources_fit_their_definitions_and_have_no_field_besides(path: Path, document: dict[str, Any]) -> None:
    (version,) = DEFINITIONS[document["kind"]]["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    assert document["apiVersion"] == f"heliograph.dev/{version['name']}"
    jsonschema.Draft4Validator(schema).validate(document)  # exclusive bounds are flags, as in OpenAPI 3.0
    assert list(unknown(document, schema)) == []


def test_a_field_too_many_would_be_seen() -> None:
    _, document = next(found for found in documents("kubernetes") if found[1]["kind"] == "EdgeFleet")
    schema = DEFINITIONS["EdgeFleet"]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    wrong = {**document, "spec": {**document["spec"], "minimum": 1}}
    assert list(unknown(wrong, schema)) == [".spec.minimum"]


def test_production_is_what_it_says() -> None:
    values = yaml.safe_load((EXAMPLES / "values" / "production.yaml").read_text(encoding="utf-8"))
    assert values["kafka"]["tls"]["enabled"]
    assert values["kafka"]["sasl"]["mechanism"].startswith("SCRAM")
    for store in ("live", "metadata", "token"):
        assert values["redis"][store]["existingSecret"]["name"]
    (spread,) = values["edge"]["pods"]["topologySpreadConstraints"]
    assert spread["topologyKey"] == "topology.kubernetes.io/zone"
    assert values["edge"]["fleet"]["min"] >= 3
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    named = {values["kafka"]["sasl"]["existingSecret"], values["kafka"]["tls"]["caSecret"]["name"]}
    named |= {values["redis"][store]["existingSecret"]["name"] for store in ("live", "metadata", "token")}
    for name in named:
        assert f"create secret generic {name} " in text, name
