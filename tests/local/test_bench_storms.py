"""Storms in small: what they do, what they count, and that what fails is said. Not how long anything takes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.systems import Systems

from heliograph.local.bench.machine import Cores
from heliograph.local.bench.report import Report
from heliograph.local.bench.rig import Rig
from heliograph.local.bench.storms import STORMS, Options, Scene
from heliograph.local.bench.storms.actors import Actor, StormError
from heliograph.local.bench.storms.judging import Loss

pytestmark = pytest.mark.xdist_group("storms")  # one rig for all

NO_PINS = Cores(None, None)
ROOT = Path(__file__).parents[2]


class Talker:
    """A handler to ask."""

    def __init__(self, word: str) -> None:
        self._word = word

    async def say(self, times: int) -> str:
        return self._word * times

    async def fail(self) -> None:
        raise ValueError("no such word")

    async def close(self) -> None: ...


def test_an_actor_answers_from_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)  # where the other process finds this module
    with Actor("talker", NO_PINS, Talker, "ab") as actor:
        assert actor.ask("say", 2) == "abab"
        with pytest.raises(StormError, match=r"no such word"):
            actor.ask("fail")
        assert actor.ask("say", 1) == "ab"
        assert len(actor.ask("say", 1_000_000)) == 2_000_000


@pytest.fixture(scope="module")
def scene(systems: Systems, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    systems.end()
    with Rig(tmp_path_factory.mktemp("storms"), Cores.choose(), lambda _line: None) as rig:
        yield Scene(rig, Report(), Options(repeat=1, scale=0.004))


@pytest.fixture(autouse=True)
def fresh(request: pytest.FixtureRequest) -> None:
    """A report for each test; the servers stay."""
    if "scene" in request.fixturenames:
        request.getfixturevalue("scene").report = Report()


@pytest.mark.parametrize("name", ["lost-edge", "poison", "redis", "slow"])  # one of each kind: all take minutes
def test_a_storm_in_small_loses_nothing_and_judges_what_it_is_about(name: str, scene: Scene) -> None:
    STORMS[name](scene)
    report = scene.report
    assert report.faults == []
    assert report.rows
    assert report.gates
    (row,) = report.rows
    assert row.median("lost") in (0, None)


def test_a_loss_is_a_fault(scene: Scene) -> None:
    scene.judge_loss("here", Loss(lost=1, disordered=0, repeated=0, gaps=0, unanswered=0))
    assert scene.report.failed
    assert "here: 1 lost" in scene.report.verdict()


def test_a_service_that_died_is_a_fault(scene: Scene, tmp_path: Path) -> None:
    edge = scene.edge("edge-that-dies")
    edge.kill()
    scene.judge_alive("here")
    assert "edge-that-dies ended with status -9" in scene.report.verdict()
    scene.rig.stop("edge-that-dies")
