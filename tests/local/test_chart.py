"""The chart's papers, without helm: what can be set is described in the README, and known to the schema."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from heliograph.edge.settings import EdgeSettings
from heliograph.local.docs.chart import install_page, readme, undescribed, values, values_schema
from heliograph.registry.settings import RegistrySettings
from heliograph.replay.settings import ReplaySettings
from heliograph.router.settings import RouterSettings
from heliograph.service.settings import Settings

CHART = Path(__file__).parents[2] / "charts" / "heliograph"
VALUES = (CHART / "values.yaml").read_text(encoding="utf-8")
SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))


def test_every_value_is_described() -> None:
    assert undescribed(VALUES) == []


def test_a_description_belongs_to_the_value_below_it() -> None:
    text = "# no\na:\n  # -- first\n  # line\n  b: 1\n\n  # -- gone\n\n  c: [1]\n# -- d\nd: {e: x}\n"
    found = [(value.path, value.default, value.text) for value in values(text)]
    assert found == [("a.b", 1, "first line"), ("d", {"e": "x"}, "d")]
    assert undescribed(text) == ["a.c"]


def test_the_readme_lists_the_values_as_they_are() -> None:
    assert readme(CHART) == (CHART / "README.md").read_text(encoding="utf-8")


def test_the_schema_knows_what_a_fleet_can_be_told() -> None:
    assert values_schema(CHART) == (CHART / "values.schema.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "spec", [{"targetConnection": 5}, {"mode": "auto"}, {"behavior": {"scaleDown": {"policy": 1}}}]
)
def test_a_slip_in_what_a_fleet_is_told_is_refused(spec: dict[str, Any]) -> None:
    right = yaml.safe_load((CHART.parents[1] / "deploy" / "examples" / "kubernetes" / "edgefleet.yaml").read_text())[
        "spec"
    ]
    jsonschema.validate({"edge": {"fleet": {"spec": right}}}, SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"edge": {"fleet": {"spec": spec}}}, SCHEMA)


def test_the_page_on_installing_lists_what_the_operator_may() -> None:
    page = CHART.parents[1] / "docs" / "install.md"
    text = page.read_text(encoding="utf-8")
    assert install_page(page, CHART) == text
    assert "| tenants (heliograph.dev) | get, list, watch, patch |" in text


def test_the_page_on_installing_makes_the_images_that_the_chart_asks_for() -> None:
    text = (CHART.parents[1] / "docs" / "install.md").read_text(encoding="utf-8")
    parsed, chart = yaml.safe_load(VALUES), yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    (loop,) = re.findall(r"^\$ for name in (.+); do \\$", text, re.MULTILINE)
    assert set(loop.split()) == {name for name in parsed if "image" in parsed[name]} - {"tests"} | {"cli"}
    image = f"{parsed['image']['registry']}/$name:{chart['appVersion']}"
    assert f"--build-arg SERVICE=$name -t {image} ." in text
    assert f"kind load docker-image {image};" in text


def test_the_schema_knows_every_value_and_no_other() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    given, known = paths(yaml.safe_load(VALUES)), schema_paths(SCHEMA)
    assert given - known == set()
    # What is beyond: free-form maps whose usual parts the schema names, and values shared by all charts.
    assert {
        path
        for path in known - given
        if not re.match(r"global$|\w+\.(pods\.|fleet\.spec\.|resources\.(claims|limits)$)", path)
    } == set()


FREE_FORM = ("ecurityContext", "annotations", "labels", "resources", "requests")


def paths(document: dict[str, Any], before: str = "") -> set[str]:
    """Every key at any depth, but for free-form maps."""
    found = set()
    for name, value in document.items():
        path = f"{before}{name}"
        found.add(path)
        if isinstance(value, dict) and not path.endswith(FREE_FORM):
            found |= paths(value, f"{path}.")
        elif path.endswith(".resources") and not path.startswith("dev."):
            found |= {f"{path}.requests"}
    return found


def schema_paths(schema: dict[str, Any], before: str = "") -> set[str]:
    """The same of a schema that refuses additional properties."""
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    found = set()
    for name, inner in schema.get("properties", {}).items():
        found |= {f"{before}{name}", *schema_paths(inner, f"{before}{name}.")}
    return found


@pytest.mark.parametrize("name", ["values.yaml", "values-dev.yaml"])
def test_the_charts_own_values_fit_the_schema(name: str) -> None:
    jsonschema.validate(yaml.safe_load((CHART / name).read_text(encoding="utf-8")), SCHEMA)


@pytest.mark.parametrize("settings", [EdgeSettings, RouterSettings, ReplaySettings, RegistrySettings])
def test_what_the_chart_sets_are_settings(settings: type[Settings]) -> None:
    """Names in templates are no free text: a setting that is renamed must be renamed here too."""
    text = "".join(path.read_text(encoding="utf-8") for path in (CHART / "templates").rglob("*") if path.is_file())
    for name in ("host", "port", "drain_timeout_s"):
        assert f"HELIOGRAPH_{name.upper()}" in text
        assert name in settings.model_fields
