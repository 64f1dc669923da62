"""The dashboards: what every panel has, what they ask for, and that Grafana's schema has it so.

No Grafana is at hand where these tests run; its schema is, in the SDK that made them.
"""

import json
import re
from pathlib import Path

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from tests.monitoring.dashboards import FILES, expressions, load, panels
from tests.monitoring.everything import everything_served
from tests.monitoring.naming import SCRAPED, faults, grouped_by, selectors

from heliograph.local.dashboards.rendering import rendered

GRID = 24
CONFIG_MAP_MAX_BYTES = 1024 * 1024


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


def test_the_files_are_what_the_code_makes(path: Path) -> None:
    assert {one.name for one in FILES} == set(rendered())
    assert path.read_text(encoding="utf-8") == rendered()[path.name], "run `make docs`"
    assert path.stat().st_size < CONFIG_MAP_MAX_BYTES


def test_grafanas_schema_has_all_of_it(path: Path) -> None:
    register_default_plugins()
    written = load(path)
    assert json.loads(JSONEncoder().encode(Dashboard.from_json(written))) == written


def test_every_panel_has_a_unit_a_description_and_a_legend(path: Path) -> None:
    titles = [panel["title"] for panel in panels(load(path))]
    assert len(set(titles)) == len(titles) > 5
    for panel in panels(load(path)):
        title = panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], title
        assert panel["description"].endswith("."), title
        assert panel["datasource"]["uid"] == "${datasource}"
        if panel["type"] != "stat":
            assert panel["options"]["legend"]["showLegend"], title
            assert panel["options"]["legend"]["displayMode"] == "table", title
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs) > 0, title
        for target in panel["targets"]:
            assert target["legendFormat"], title
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= SCRAPED | grouped_by(target["expr"])


def test_panels_stand_side_by_side_and_in_rows(path: Path) -> None:
    dashboard = load(path)
    assert dashboard["panels"][0]["type"] == "row"
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= GRID
        taken |= cells
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)


def test_everything_is_asked_of_the_namespace_that_was_chosen(path: Path) -> None:
    dashboard = load(path)
    variables = {variable["name"]: variable["type"] for variable in dashboard["templating"]["list"]}
    assert variables == {"datasource": "datasource", "namespace": "query"}
    for where, text in expressions(dashboard).items():
        for selector in selectors(text):
            assert "namespace" in selector.labels or selector.name == "ALERTS", where


async def test_every_metric_and_label_of_a_dashboard_is_served(path: Path) -> None:
    assert faults(expressions(load(path)), await everything_served()) == []
