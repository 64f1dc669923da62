"""The chart's alerts, by promtool: each fires when it should, stays quiet when it should, and says what is wrong."""

import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.monitoring.alerts import NAMESPACE, RUNBOOKS, all_alerts, cases, groups, promtool_tests

from heliograph.local.prometheus import Programs

TIMEOUT_S = 120.0
MISSED = {"HeliographNoEdgeReady", "HeliographServiceDown", "HeliographOperatorDown"}
"""Alerts that fire for what is not there."""


def promtool(programs: Programs, *arguments: str) -> str:
    done = subprocess.run(
        [str(programs.promtool), *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def hold(programs: Programs, directory: Path, tests: Iterable[dict[str, Any]]) -> None:
    """Run promtool's tests, each alert's with its rule alone: all rules for every test would take minutes."""
    rules = {rule["alert"]: rule for group in groups() for rule in group["rules"]}
    by_alert: dict[str, list[dict[str, Any]]] = {}
    for test in tests:
        by_alert.setdefault(test["alert_rule_test"][0]["alertname"], []).append(test)
    files = []
    for name, listed in by_alert.items():
        of_alert = directory / f"{name}.rules.yaml"
        of_alert.write_text(yaml.safe_dump({"groups": [{"name": name, "rules": [rules[name]]}]}), encoding="utf-8")
        document = {"rule_files": [str(of_alert)], "evaluation_interval": "1m", "tests": listed}
        files.append(directory / f"{name}.tests.yaml")
        files[-1].write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    assert promtool(programs, "test", "rules", *map(str, files)).count("SUCCESS") == len(files)


@pytest.mark.parametrize("runbooks", [RUNBOOKS, ""], ids=["linked", "carried"])
def test_prometheus_takes_the_rules(runbooks: str, prometheus_programs: Programs, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(yaml.safe_dump({"groups": groups(runbooks=runbooks)}), encoding="utf-8")
    assert f"SUCCESS: {len(all_alerts())} rules found" in promtool(prometheus_programs, "check", "rules", str(rules))


def test_every_alert_has_series_that_make_it_fire_and_series_that_do_not() -> None:
    known = cases()
    assert set(known) == {alert["alert"] for alert in all_alerts()}
    for name, of_alert in known.items():
        assert of_alert["fires"], name
        assert of_alert["quiet"], name


def test_every_alert_fires_when_it_should_and_is_quiet_when_it_should(
    prometheus_programs: Programs, tmp_path: Path
) -> None:
    hold(prometheus_programs, tmp_path, promtool_tests())


def test_what_is_wrong_in_another_namespace_is_not_told_here(prometheus_programs: Programs, tmp_path: Path) -> None:
    elsewhere = [
        test
        for test in promtool_tests(namespace=f"not-{NAMESPACE}")
        if test["alert_rule_test"][0]["alertname"] not in MISSED
    ]
    hold(prometheus_programs, tmp_path, elsewhere)


def test_alerts_say_what_is_wrong_how_bad_it_is_and_what_to_do_first() -> None:
    listed = all_alerts()
    names = [alert["alert"] for alert in listed]
    assert len(set(names)) == len(names)
    for alert in listed:
        assert alert.keys() - {"for"} == {"alert", "expr", "severity", "summary", "description"}, alert["alert"]
        assert alert["severity"] in {"critical", "warning"}
        assert alert["summary"].endswith(".")
        assert 80 < len(alert["description"]) < 400, alert["alert"]
        assert "{{" not in alert["description"], "equal for all that fire at once"
        assert "$ns" in alert["expr"], "alerts are of one installation"
