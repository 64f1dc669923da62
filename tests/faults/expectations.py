"""What scenarios expect besides that the checker finds nothing: while the fault lasts, and once it is over."""

import asyncio
import time
from email.utils import parsedate_to_datetime

import httpx
from tests.faults.faults import Stage
from tests.system.history import Outcome
from tests.system.rig import until

MEANWHILE_S = 45.0


class Expectation:
    """Looked at in the order in which a scenario lists them."""

    async def meanwhile(self, stage: Stage) -> None:
        """Return when it is so, while the fault lasts; raise after a deadline."""

    async def afterwards(self, stage: Stage) -> None:
        """The fault is over and everybody gets on."""


class _Publishing(Expectation):
    """Every publisher is answered for good."""

    def __init__(self, *, settled: bool) -> None:
        self._settled = settled

    async def meanwhile(self, stage: Stage) -> None:
        await stage.run.more(settled=self._settled, timeout_s=MEANWHILE_S)


class _Delivery(Expectation):
    async def meanwhile(self, stage: Stage) -> None:
        await stage.run.seen_more(timeout_s=MEANWHILE_S)


publishing_goes_on = _Publishing(settled=True)
"""Every publisher has more messages settled: durable where it asks for that."""
publishes_are_answered = _Publishing(settled=False)
"""Every publisher is answered, be it `pending`."""
delivery_goes_on = _Delivery()
"""Every subscriber gets more."""


class answered(Expectation):  # noqa: N801 - reads as what is expected: answered(Outcome.DEFERRED, 20)
    """So many publishes are answered so, while the fault lasts."""

    def __init__(self, outcome: Outcome, count: int) -> None:
        self._outcome, self._count = outcome, count

    async def meanwhile(self, stage: Stage) -> None:
        already = stage.run.outcomes(self._outcome)
        await until(
            f"{self._count} more are answered {self._outcome}",
            lambda: stage.run.outcomes(self._outcome) >= already + self._count,
            MEANWHILE_S,
            lambda: f"{stage.run.outcomes(self._outcome) - already} are",
        )


class deferred_is_delivered(Expectation):  # noqa: N801
    """All of what was deferred, within so many seconds of the fault's end and healing."""

    def __init__(self, within_s: float) -> None:
        self._within_s = within_s

    async def afterwards(self, stage: Stage) -> None:
        await until(
            "what was deferred is delivered",
            lambda: not stage.run.deferred(),
            self._within_s,
            lambda: f"{len(stage.run.deferred())} are not",
        )


class counted(Expectation):  # noqa: N801
    """A metric of a service has risen, while the fault lasts; `later`: looked at once it is over, where nobody could be
    asked before.
    """

    def __init__(self, name: str, metric: str, *, label: str = "", at_least: float = 1.0, later: bool = False) -> None:
        self._name, self._metric, self._label, self._at_least = name, metric, label, at_least
        self._later = later

    async def meanwhile(self, stage: Stage) -> None:
        if not self._later:
            await self._risen(stage)

    async def afterwards(self, stage: Stage) -> None:
        if self._later:
            await self._risen(stage)

    async def _risen(self, stage: Stage) -> None:
        before = metric(stage.before[self._name], self._metric, self._label)
        deadline, risen = time.monotonic() + MEANWHILE_S, 0.0
        while time.monotonic() < deadline:
            text = await asyncio.to_thread(stage.rig.service(self._name).metrics)
            risen = metric(text, self._metric, self._label) - before
            if risen >= self._at_least:
                return
            await asyncio.sleep(0.1)
        raise AssertionError(
            f"{self._name}: {self._metric} {self._label} has risen by {risen:g}, not {self._at_least:g}"
        )


class stays_alive(Expectation):  # noqa: N801
    """The same process, from before the fault until everybody gets on."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._pid = 0

    async def meanwhile(self, stage: Stage) -> None:
        self._pid = stage.rig.service(self._name).pid

    async def afterwards(self, stage: Stage) -> None:
        now = stage.rig.service(self._name)
        assert now.running, f"{self._name} has ended with status {now.returncode}"
        assert now.pid == self._pid, f"{self._name} is another process"


class clock_is_off(Expectation):  # noqa: N801
    """A service's own clock says so, in the `Date` of its answers: within a minute, for machines that are busy."""

    def __init__(self, name: str, by_s: float) -> None:
        self._name, self._by_s = name, by_s

    async def meanwhile(self, stage: Stage) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=20.0) as http:
            deadline, off_s = time.monotonic() + MEANWHILE_S, 0.0
            while time.monotonic() < deadline:
                answer = await http.get(stage.rig.service(self._name).url + "/healthz")
                off_s = parsedate_to_datetime(answer.headers["date"]).timestamp() - time.time()
                if abs(off_s - self._by_s) < 60.0:
                    return
                await asyncio.sleep(0.1)
        raise AssertionError(f"the clock of {self._name} is off by {off_s:g} s, not by {self._by_s:g} s")


def metric(text: str, name: str, label: str = "") -> float:
    """A metric's sum over its labels, or over those with `label`."""
    lines = [line for line in text.splitlines() if line.split("{")[0].split(" ")[0] == name and label in line]
    return sum(float(line.rpartition(" ")[2]) for line in lines)
