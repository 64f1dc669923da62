"""docs/operations.md has a runbook for every alert, and none for anything else."""

import re

from tests.monitoring.alerts import ROOT, all_alerts, runbook_texts
from tests.monitoring.everything import everything_served
from tests.monitoring.naming import SUFFIXES

PAGE = ROOT / "docs" / "operations.md"
PARTS = ["Means", "Look", "Do", "Don't"]
"""What it means, how to look, what to do, what not to do."""


def runbooks() -> dict[str, str]:
    """By heading, in the order of the page."""
    text = PAGE.read_text(encoding="utf-8").partition("\n## Runbooks\n")[2]
    text = re.split(r"^## ", text, maxsplit=1, flags=re.MULTILINE)[0]
    _, *parts = re.split(r"^### (.*)$", text, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert sorted(runbooks()) == sorted(alert["alert"] for alert in all_alerts())


def test_every_runbook_says_what_it_means_how_to_look_what_to_do_and_what_not_to_do() -> None:
    for name, text in runbooks().items():
        assert re.findall(r"^- \*\*([^*]+)\.\*\* \S", text, re.MULTILINE) == PARTS, name


def test_runbooks_lead_to_sections_that_exist() -> None:
    anchors = {anchor(heading) for heading in re.findall(r"^#+ (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)}
    for name, text in runbooks().items():
        assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors, name
    assert {alert["alert"].lower() for alert in all_alerts()} <= anchors


def test_alerts_can_carry_their_runbooks_word_for_word() -> None:
    """As text of one line a part, that Prometheus takes as it is; links say where they lead."""
    carried = runbook_texts()
    assert list(carried) == list(runbooks())
    for name, text in carried.items():
        assert [line.partition(": ")[0] for line in text.splitlines()] == PARTS, name
        assert not re.search(r"\]\(|\*\*|\{\{", text), name
        assert words(re.sub(r" \(docs/\S+\.md(#[\w-]+)?\)", "", text)) == words(runbooks()[name]), name
        for path in re.findall(r"\(docs/([\w-]+\.md)", text):
            assert (PAGE.parent / path).is_file()


def words(text: str) -> list[str]:
    """Without marks and the targets of links."""
    return re.findall(r"\w+", re.sub(r"\]\([^)]*\)", "]", text))


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


async def test_the_page_names_only_metrics_that_are_served() -> None:
    served = await everything_served()
    named = set(re.findall(r"\bheliograph_(?:edge|router|replay|registry|operator)_[a-z_]*[a-z]\b", PAGE.read_text()))
    families = {name.removesuffix(suffix) for name in served for suffix in SUFFIXES} | set(served)
    prefixes = {name for name in named if any(one.startswith(f"{name}_") for one in families)}
    assert len(named) > 80
    assert named - families - prefixes == set()
