"""What the edge makes of what it measures: each signal alone, on a clock of the test's."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from heliograph.core.pressure import Level, Marks, Source, Verdict
from heliograph.edge import pressure_settings as signals
from heliograph.edge.deferrals import HELD_MOST, PATIENCE_S, Deferrals
from heliograph.edge.metrics import EdgeMetrics
from heliograph.edge.pressure import GAUGES, WINDOW_PASSES, EdgePressure
from heliograph.edge.pressure_settings import PressureSettings, marks_of
from heliograph.edge.process_memory import cgroup_limit_bytes, resident_bytes
from heliograph.edge.publishing import PublishLimits, PublishPath
from heliograph.service.metrics import Metrics
from heliograph.stores.ports import LiveLoad, LiveMemory, LogLoad, StoreError


class Live:
    """Says what the test wants."""

    def __init__(self) -> None:
        self.available = True
        self.load = LiveLoad(0, 20_000)
        self.answer: asyncio.Future[LiveMemory] | None = None
        self.known: set[str] = set()
        self.asked: list[str] = []

    async def memory(self) -> LiveMemory:
        self.answer = asyncio.get_running_loop().create_future()
        return await self.answer

    async def placed(self, session: str, message_ids: Sequence[str]) -> list[bool]:
        if session == "corrupt":
            raise StoreError("internal", "corrupt")
        self.asked += message_ids
        return [one in self.known for one in message_ids]


class Log:
    load = LogLoad(0, 200_000, 0.0, 1_000)
    """Errors of long ago."""


class Bench:
    def __init__(self, **settings: Any) -> None:
        self.now = 100.0
        self.live, self.log = Live(), Log()
        live: Any = self.live
        log: Any = self.log
        unused: Any = None
        self.metrics = EdgeMetrics(Metrics("edge", process=False))
        self.path = PublishPath(live, log, self.metrics, unused, PublishLimits(0.0, 10))
        self.outbound = self.used = 0
        self.told: list[bytes | None] = []
        self.pressure = EdgePressure(
            live,
            log,
            self.path,
            self.metrics,
            marks_of(PressureSettings(**settings)),
            outbound_bytes=lambda: self.outbound,
            memory_limit_bytes=1_000,
            told=self.told.append,
            used_bytes=lambda: self.used,
            clock=lambda: self.now,
        )

    def passes(self, count: int, each_s: float = 0.25, append_s: float | None = None) -> None:
        """So many passes; in each an append that took so long."""
        for _ in range(count):
            self.now += each_s
            if append_s is not None:
                self.metrics.append_s.observe(append_s)
            self.pressure.measure(self.now)

    def level(self, source: Source) -> Level:
        return self.pressure.pressure.levels[source]

    def value(self, key: tuple[Source, str]) -> float:
        return self.metrics.metrics.value(GAUGES[key][0])


# ---- the live path --------------------------------------------------------------------------------------------------


def test_the_latency_is_the_median_of_three_seconds() -> None:
    bench = Bench()
    bench.passes(40, append_s=0.01)
    assert bench.value(signals.LIVE_LATENCY) < 0.05
    bench.passes(4, append_s=3.0)
    assert bench.value(signals.LIVE_LATENCY) < 0.05, "a slow second is no pressure"
    bench.passes(30, append_s=3.0)
    assert bench.value(signals.LIVE_LATENCY) > 2
    assert bench.level(Source.LIVE) is Level.CRITICAL
    bench.passes(60, append_s=0.01)
    assert bench.level(Source.LIVE) is Level.NORMAL


def test_what_the_loop_was_late_is_not_the_stores_latency() -> None:
    bench = Bench()
    for _ in range(WINDOW_PASSES):
        bench.pressure._lags.append(1.0)
    bench.passes(60, append_s=1.0)
    assert bench.level(Source.LIVE) is Level.NORMAL
    assert bench.level(Source.EDGE) is Level.ELEVATED


async def test_a_question_that_is_not_answered_is_latency_too_and_so_is_an_answer_that_was_slow() -> None:
    """No publish tells it: under pressure none may be let through."""
    bench = Bench()
    asking = asyncio.create_task(bench.pressure.ask_once())
    await asyncio.sleep(0)
    bench.passes(20)
    assert bench.value(signals.LIVE_LATENCY) == pytest.approx(5.0)
    assert bench.level(Source.LIVE) is Level.CRITICAL
    assert bench.live.answer is not None
    bench.live.answer.set_result(LiveMemory(1, 0))
    await asking
    bench.passes(60)
    assert bench.value(signals.LIVE_LATENCY) == pytest.approx(5.0)
    asking = asyncio.create_task(bench.pressure.ask_once())
    await asyncio.sleep(0)
    bench.live.answer.set_result(LiveMemory(1, 0))
    await asking
    bench.passes(60)
    assert bench.level(Source.LIVE) is Level.NORMAL


async def test_its_memory_counts_at_once_and_stays_known_while_nothing_answers() -> None:
    bench = Bench()
    for answer, level in ((LiveMemory(98, 100), Level.CRITICAL), (StoreError("live_unavailable", ""), Level.CRITICAL)):
        asking = asyncio.create_task(bench.pressure.ask_once())
        await asyncio.sleep(0)
        assert bench.live.answer is not None
        if isinstance(answer, StoreError):
            bench.live.answer.set_exception(answer)
        else:
            bench.live.answer.set_result(answer)
        await asking
        bench.passes(1)
        assert bench.level(Source.LIVE) is level
    bench.live.available = False
    await bench.pressure.ask_once()
    assert bench.value(signals.LIVE_MEMORY) == 0.98


def test_commands_without_an_answer_are_pressure_before_they_are_refused() -> None:
    bench = Bench()
    bench.live.load = LiveLoad(18_500, 20_000)
    bench.passes(12)
    assert bench.level(Source.LIVE) is Level.CRITICAL


def test_one_that_is_away_counts_after_a_second_and_no_longer_than_it_is() -> None:
    bench = Bench()
    bench.live.available = False
    bench.passes(4)
    assert bench.level(Source.LIVE) is Level.NORMAL
    bench.passes(1)
    assert bench.level(Source.LIVE) is Level.CRITICAL
    bench.live.available = True
    bench.passes(1)
    assert bench.level(Source.LIVE) is Level.NORMAL


# ---- the log --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("load", "level"),
    [
        (LogLoad(60_000, 200_000, 0.5, 1_000), Level.ELEVATED),
        (LogLoad(190_000, 200_000, 0.5, 1_000), Level.CRITICAL),
        (LogLoad(10, 200_000, 7.0, 1_000), Level.HIGH),
        (LogLoad(10, 0, 0.5, 1_000), Level.NORMAL),
    ],
)
def test_the_logs_queue_and_its_oldest_record_count(load: LogLoad, level: Level) -> None:
    bench = Bench()
    bench.log.load = load
    bench.passes(12)
    assert bench.level(Source.LOG) is level
    assert (bench.path.pressed is None) == (level is Level.NORMAL)
    if bench.path.pressed is not None:
        assert (bench.path.pressed.event, bench.path.pressed.control) == (Verdict.ADMIT, Verdict.ADMIT)


def test_errors_of_brokers_count_by_the_second_and_only_new_ones() -> None:
    bench = Bench()
    bench.passes(WINDOW_PASSES)
    assert bench.value(signals.LOG_BROKER_ERRORS) == 0
    for number in range(30):  # now and then, as brokers have them
        bench.log.load = LogLoad(0, 200_000, 0.0, 1_000 + 20 * (number // 4))
        bench.passes(1)
    assert bench.value(signals.LOG_BROKER_ERRORS) == pytest.approx(20, rel=0.35)
    assert bench.level(Source.LOG) is Level.HIGH
    bench.passes(60)
    assert bench.level(Source.LOG) is Level.NORMAL


# ---- the edge -------------------------------------------------------------------------------------------------------


def test_memory_near_its_limit_is_critical_at_once() -> None:
    bench = Bench()
    bench.used = 930
    bench.passes(1)
    assert bench.level(Source.EDGE) is Level.CRITICAL
    assert bench.pressure.overloaded


def test_a_single_hang_is_no_pressure_and_lasting_lag_is() -> None:
    bench = Bench()
    bench.pressure._lags.append(4.9)
    bench.passes(40)
    assert bench.level(Source.EDGE) is Level.NORMAL
    bench.pressure._lags.extend([0.6] * WINDOW_PASSES)
    bench.passes(12)
    assert bench.level(Source.EDGE) is Level.ELEVATED
    assert not bench.pressure.overloaded


def test_each_change_is_counted_and_told_once() -> None:
    bench = Bench()
    bench.used = 800
    bench.passes(10)
    assert len(bench.told) == 1
    assert bench.told[0] is not None
    assert b'"level":"elevated","sources":["edge"]' in bench.told[0]
    bench.used = 0
    bench.passes(40)
    assert bench.told[1:] == [None]
    assert bench.path.pressed is None
    changes = {level: bench.metrics.metrics.value("pressure_changes_total", {"source": "edge", "level": level})
               for level in ("elevated", "normal", "high")}  # fmt: skip
    assert changes == {"elevated": 1, "normal": 1, "high": 0}


# ---- settings, and what the process is told of its memory -----------------------------------------------------------


def test_defaults_are_what_core_takes_and_each_signal_has_a_metric() -> None:
    marks = marks_of(PressureSettings())
    assert set(marks) == set(GAUGES)
    assert all(isinstance(one, Marks) for one in marks.values())


@pytest.mark.parametrize("wrong", ["1,2", "3,2,1", "0,1,2", "a,b,c", "1,2,3,4", "1,nan,3", "-1,2,3", ""])
def test_marks_that_make_no_sense_end_the_service_at_its_start(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOGRAPH_PRESSURE_LIVE_LATENCY_S", wrong)
    if wrong == "":
        assert PressureSettings().pressure_live_latency_s == (0.5, 1.0, 2.0), "an empty variable is none"
        return
    with pytest.raises(ValidationError):
        PressureSettings()


def test_marks_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOGRAPH_PRESSURE_LIVE_LATENCY_S", "0.1, 0.2, 5")
    assert PressureSettings().pressure_live_latency_s == (0.1, 0.2, 5.0)


@pytest.mark.parametrize(
    ("cgroup", "files", "limit"),
    [
        ("0::/\n", {"memory.max": "max\n"}, 0),
        ("0::/\n", {"memory.max": "1073741824\n"}, 1 << 30),
        ("0::/a/b\n", {"a/memory.max": "2000\n", "a/b/memory.max": "3000\n", "memory.max": "max\n"}, 2_000),
        ("9:cpu:/x\n4:memory:/x\n0::/\n", {"memory/x/memory.limit_in_bytes": "4000\n"}, 4_000),
        ("4:memory:/x\n", {"memory/memory.limit_in_bytes": "5000\n"}, 5_000),  # a container sees its own as the root
        ("4:memory:/x\n", {"memory/x/memory.limit_in_bytes": "9223372036854771712\n"}, 0),
        ("0::/a\n", {}, 0),
    ],
)
def test_the_limit_is_the_lowest_of_the_cgroups(tmp_path: Path, cgroup: str, files: dict[str, str], limit: int) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cgroup").write_text(cgroup)
    for name, text in files.items():
        path = tmp_path / "cgroups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert cgroup_limit_bytes(tmp_path / "proc", tmp_path / "cgroups") == limit


def test_where_nothing_tells_memory_is_not_known(tmp_path: Path) -> None:
    assert (cgroup_limit_bytes(tmp_path, tmp_path), resident_bytes(tmp_path)) == (0, 0)


def test_resident_memory_is_some() -> None:
    grown = bytearray(32 << 20)
    assert resident_bytes() > len(grown)


# ---- publishers without a counter -----------------------------------------------------------------------------------


class Held:
    def __init__(self) -> None:
        self.live = Live()
        self.metrics = EdgeMetrics(Metrics("edge", process=False))
        live: Any = self.live
        self.deferrals = Deferrals(live, self.metrics)

    def defer(self, session: str, message_id: str, now: float = 100.0) -> None:
        self.deferrals.began((session, "robot"))
        self.deferrals.ended((session, "robot"), message_id, now)


async def test_a_publisher_is_free_once_its_last_deferred_message_is_in_its_place() -> None:
    held = Held()
    held.defer("a", "m-1")
    held.defer("a", "m-2")
    held.live.known = {"m-1"}
    await held.deferrals.look(101.0)
    assert (list(held.deferrals.held), held.live.asked) == ([("a", "robot")], ["m-2"])
    held.live.known = {"m-1", "m-2"}
    await held.deferrals.look(101.0)
    assert not held.deferrals.held


async def test_nothing_is_asked_while_more_is_on_its_way_or_the_store_is_away() -> None:
    held = Held()
    held.defer("a", "m-1")
    held.deferrals.began(("a", "robot"))
    held.live.known = {"m-1"}
    await held.deferrals.look(101.0)
    assert (held.live.asked, len(held.deferrals.held)) == ([], 1)
    held.deferrals.ended(("a", "robot"), None, 101.0)
    held.live.available = False
    await held.deferrals.look(101.0)
    assert len(held.deferrals.held) == 1
    held.live.available = True
    await held.deferrals.look(101.0)
    assert not held.deferrals.held, "the second could not be deferred: the first is what counts"


async def test_a_session_that_can_not_be_asked_about_keeps_no_other() -> None:
    held = Held()
    held.defer("corrupt", "m-1")
    held.defer("a", "m-2")
    held.live.known = {"m-2"}
    await held.deferrals.look(101.0)
    assert list(held.deferrals.held) == [("corrupt", "robot")]


async def test_what_never_comes_to_its_place_is_not_waited_for_for_ever() -> None:
    held = Held()
    held.defer("a", "m-1", now=100.0)
    await held.deferrals.look(100.0 + PATIENCE_S)
    assert len(held.deferrals.held) == 1
    await held.deferrals.look(101.0 + PATIENCE_S)
    assert not held.deferrals.held
    assert held.metrics.deferred_unplaced.n == 1


def test_they_are_bounded_and_the_one_unused_longest_goes() -> None:
    held = Held()
    for number in range(HELD_MOST + 5):
        held.defer(f"s{number}", "m")
    assert len(held.deferrals.held) == HELD_MOST
    assert ("s4", "robot") not in held.deferrals.held
    assert ("s5", "robot") in held.deferrals.held
    assert held.metrics.deferred_unplaced.n == 5
    held.deferrals.ended(("s0", "robot"), "m", 100.0)
    assert len(held.deferrals.held) == HELD_MOST, "its answer comes later than it was forgotten"
