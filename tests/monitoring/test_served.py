"""What alerts ask for is there: every metric by its name, every label of it."""

import pytest
from tests.monitoring.alerts import all_alerts, expression
from tests.monitoring.everything import everything_served
from tests.monitoring.naming import Selector, faults, grouped_by, selectors


async def test_every_metric_and_label_of_an_alert_is_served() -> None:
    served = await everything_served()
    assert len(served) > 200
    assert faults({alert["alert"]: expression(alert) for alert in all_alerts()}, served) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("sum(heliograph_edge_redy)", "nobody serves heliograph_edge_redy"),
        (
            'rate(heliograph_edge_refused_total{reason="backlog"}[5m])',
            "heliograph_edge_refused_total has no label reason",
        ),
        ("sum by (cod) (heliograph_edge_refused_total)", "nothing of it has a label cod"),
        ('{__name__=~"heliograph_(edge|router)_redy"} == 0', "nobody serves heliograph_(edge|router)_redy"),
        ("vector(1)", "names no metric"),
    ],
)
def test_what_is_not_served_is_found(text: str, fault: str) -> None:
    served = {"heliograph_edge_ready": frozenset[str](), "heliograph_edge_refused_total": frozenset({"code"})}
    assert faults({"it": text}, served) == [f"it: {fault}"]


def test_names_and_labels_are_read_from_expressions() -> None:
    first = 'sum by (pod, code) (rate(heliograph_edge_refused_total{namespace="a", code=~"b|c"}[5m]))'
    text = f'{first} or {{__name__=~"x_(a|b)"}}'
    assert selectors(text) == [
        Selector("x_(a|b)", frozenset(), pattern=True),
        Selector("heliograph_edge_refused_total", frozenset({"namespace", "code"})),
    ]
    assert grouped_by(text) == {"pod", "code"}
