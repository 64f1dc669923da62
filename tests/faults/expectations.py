"""What scenarios expect besides that the checker finds nothing: while the fault lasts, and once it is over."""

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
