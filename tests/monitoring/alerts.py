"""The chart's alerts as Prometheus takes them, and promtool's tests of them.

What the template does to the files is done here once more, so that these tests need no helm; a test on a cluster's helm
(tests/kubernetes/test_chart_rendering.py) holds that both come to the same.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FILES = ROOT / "charts" / "heliograph" / "files"
ALERTS = FILES / "alerts"
CASES = Path(__file__).parent / "cases"

NAMESPACE = "messaging"
RUNBOOKS = "https://docs.example/operations"
AT_MINUTE = 100
"""When it is looked at: the longest `for` and range are an hour each, and neither begins before what it looks at."""

Alert = dict[str, Any]


def alerts() -> Mapping[str, list[Alert]]:
    """By area: what is in the file of that name."""
    return {path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))["alerts"] for path in sorted(ALERTS.iterdir())}


def all_alerts() -> list[Alert]:
    return [alert for area in alerts().values() for alert in area]


def expression(alert: Alert, namespace: str = NAMESPACE) -> str:
    return str(alert["expr"]).replace("$ns", f'"{namespace}"')


def annotations(alert: Alert, runbooks: str = RUNBOOKS) -> dict[str, str]:
    said = {"summary": alert["summary"], "description": alert["description"]}
    if runbooks:
        return {**said, "runbook_url": f"{runbooks}#{alert['alert'].lower()}"}
    return {**said, "runbook": runbook_texts()[alert["alert"]]}


def runbook_texts() -> dict[str, str]:
    """By alert: what it carries where nobody said where the page is."""
    found: dict[str, str] = yaml.safe_load((FILES / "runbooks.yaml").read_text(encoding="utf-8"))
    return found


def groups(
    prefix: str = "hg-heliograph", namespace: str = NAMESPACE, *, runbooks: str = RUNBOOKS
) -> list[dict[str, Any]]:
    """Rule groups, as the chart renders them for a release of that name."""
    return [
        {
            "name": f"{prefix}-{area}",
            "rules": [
                {
                    "alert": alert["alert"],
                    "expr": expression(alert, namespace),
                    **({"for": alert["for"]} if "for" in alert else {}),
                    "labels": {"severity": alert["severity"]},
                    "annotations": annotations(alert, runbooks),
                }
                for alert in listed
            ],
        }
        for area, listed in alerts().items()
    ]


def cases() -> dict[str, dict[str, list[dict[str, Any]]]]:
    """By alert: with which series it fires, and with which it is quiet."""
    found: dict[str, Any] = {}
    for path in sorted(CASES.iterdir()):
        found |= yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def promtool_tests(namespace: str = NAMESPACE) -> Iterator[dict[str, Any]]:
    """One for each case, its series being of `namespace`: of another one than the alerts' nothing may fire but what
    misses its own.
    """
    known = {alert["alert"]: alert for alert in all_alerts()}
    for name, of_alert in cases().items():
        for kind in ("fires", "quiet"):
            for case in of_alert[kind]:
                fires = kind == "fires" and namespace == NAMESPACE
                yield promtool_test(known[name], case, fires, namespace)


def promtool_test(alert: Alert, case: Mapping[str, Any], fires: bool, namespace: str) -> dict[str, Any]:
    series = [
        {"series": _in(namespace, name), "values": values if isinstance(values, str) else f"{values}x300"}
        for name, values in case["series"].items()
    ]
    expected = {
        "exp_labels": {"severity": alert["severity"], **case.get("labels", {})},
        "exp_annotations": annotations(alert) | ({"summary": case["summary"]} if "summary" in case else {}),
    }
    expected["exp_labels"].pop("__name__", None)
    return {
        "name": f"{alert['alert']} {'fires' if fires else 'is quiet'}",
        "interval": "1m",
        "input_series": series,
        "alert_rule_test": [
            {
                "eval_time": f"{AT_MINUTE}m",
                "alertname": alert["alert"],
                "exp_alerts": [expected] if fires else [],
            }
        ],
    }


def _in(namespace: str, series: str) -> str:
    name, _, rest = series.partition("{")
    return f'{name}{{namespace="{namespace}",{rest or "}"}'
