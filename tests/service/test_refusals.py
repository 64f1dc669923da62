"""Refusals in the log."""

from collections.abc import Callable
from typing import Any

from heliograph.service.refusals import Refusals

Lines = Callable[[], list[dict[str, Any]]]


def test_the_log_says_one_of_a_kind_in_a_while_and_how_many_it_was(log_lines: Lines) -> None:
    now = 0.0
    refusals = Refusals(10.0, clock=lambda: now)
    for _ in range(3):
        refusals.say("refused", "forbidden", "acme", subject="planner", operation=None)
    refusals.say("refused", "forbidden", "other")
    refusals.say("refused", "backlog", "acme")
    now = 10.0
    refusals.say("refused", "forbidden", "acme")
    said = [(line["code"], line["tenant"], line.get("suppressed")) for line in log_lines()]
    assert said == [("forbidden", "acme", None), ("forbidden", "other", None), ("backlog", "acme", None),
                    ("forbidden", "acme", 2)]  # fmt: skip
    assert log_lines()[0]["subject"] == "planner"
    assert "operation" not in log_lines()[0]


def test_an_interval_of_nothing_says_each(log_lines: Lines) -> None:
    refusals = Refusals(0.0, clock=lambda: 7.0)
    for _ in range(3):
        refusals.say("refused", "forbidden", "acme")
    assert len(log_lines()) == 3
