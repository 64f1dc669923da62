"""The publish path alone: what happens between its questions and their answers."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from tests.services.edge.rig import until

from heliograph.core.messages import AckMode, MessageClass
from heliograph.core.positions import Position
from heliograph.edge.metrics import EdgeMetrics
from heliograph.edge.publication import Publication
from heliograph.edge.publishing import FOLLOW_BATCH, PublishLimits, PublishPath
from heliograph.edge.quotas import QuotaLeases
from heliograph.edge.tenants import Target, TenantState
from heliograph.protocol.messages import Message
from heliograph.protocol.tenants import Tenant
from heliograph.service.health import Readiness
from heliograph.service.metrics import Metrics
from heliograph.service.serving import ServeMarks
from heliograph.stores.keys import Topics
from heliograph.stores.memory.metadata import MemoryConnectionStore, MemoryQuotaStore
from heliograph.stores.ports import StoreError

EPOCH = "1764000000000-1a2b3c4d"


class Live:
    """Answers `confirmed` when the test says so."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[Position], asyncio.Future[list[bool | None]]]] = []

    async def confirmed(self, session: str, positions: Sequence[Position]) -> list[bool | None]:
        future: asyncio.Future[list[bool | None]] = asyncio.get_running_loop().create_future()
        self.asked.append((session, list(positions), future))
        return await future


class Told:
    """What a publisher was answered."""

    def __init__(self) -> None:
        self.answers: list[str] = []

    def published(self, publication: Publication, *, durable: bool, pending: bool, duplicate: bool) -> None:
        self.answers.append(f"{publication.seq} {'pending' if pending else 'durable' if durable else 'accepted'}")

    def confirmed(self, publication: Publication) -> None:
        self.answers.append(f"{publication.seq} confirmed")

    def refused(self, request_id: int | None, code: str, message: str, **_: Any) -> None:
        self.answers.append(code)


class Bench:
    def __init__(self, **limits: Any) -> None:
        self.live = Live()
        self.told = Told()
        self.metrics = EdgeMetrics(Metrics("edge", process=False))
        live: Any = self.live
        unused: Any = None
        leases = QuotaLeases(MemoryQuotaStore(), MemoryConnectionStore(), self.metrics, Readiness().condition("quotas"))
        self.path = PublishPath(live, unused, self.metrics, unused, PublishLimits(0.0, 10, **limits), lambda: 100.0)
        self._tenant = TenantState(Tenant("acme"), Topics("heliograph"), 256, leases)
        self._marks = ServeMarks(unused, Metrics("edge", process=False))

    def pending(self, seq: int, session: str = "acme:planner:1", started: float = 100.0) -> Publication:
        """A publication that is followed and was answered as pending."""
        message = Message(
            session=session, message_id="m", time_ms=1, producer="p", class_=MessageClass.EVENT, payload=b"1"
        )
        target = Target(session, self._tenant, "topic", 0, b"key", self._marks.kind("acme:planner"))
        publication = Publication(self.path, self.told, target, message, AckMode.DURABLE, seq)
        publication.epoch, publication.seq, publication.started = EPOCH, seq, started
        message.position = publication.position
        publication.overdue()
        self.path.follow(publication)
        return publication

    async def round(self, now: float = 100.0) -> "asyncio.Task[None]":
        """A round of questions, once the first is asked."""
        task = asyncio.create_task(self.path.look_after_followed(now))
        count = len(self.live.asked)
        await until(lambda: len(self.live.asked) > count)
        return task


async def test_what_is_followed_while_the_store_is_asked_is_asked_about_next_time() -> None:
    bench = Bench()
    bench.pending(1)
    first = await bench.round()
    bench.pending(2)
    bench.live.asked[0][2].set_result([True])
    await first
    assert bench.told.answers == ["1 pending", "2 pending", "1 confirmed"]
    assert bench.path.followed == 1
    second = await bench.round()
    assert bench.live.asked[1][1] == [Position(EPOCH, 2)]
    bench.live.asked[1][2].set_result([True])
    await second
    assert bench.told.answers[-1] == "2 confirmed"
    assert bench.path.followed == 0


async def test_while_nothing_is_confirmed_a_session_costs_one_small_question_a_round() -> None:
    bench = Bench(follow_most=1_000)
    count = 10 * FOLLOW_BATCH
    for seq in range(1, count + 1):
        bench.pending(seq)
    task = await bench.round()
    assert bench.live.asked[0][1] == [Position(EPOCH, seq) for seq in (*range(1, FOLLOW_BATCH + 1), count)]
    bench.live.asked[0][2].set_result([False] * (FOLLOW_BATCH + 1))
    await task
    assert (len(bench.live.asked), bench.path.followed) == (1, count)


async def test_once_some_are_confirmed_all_are_asked_about_in_the_same_round() -> None:
    bench = Bench(follow_most=1_000)
    count = 3 * FOLLOW_BATCH
    for seq in range(1, count + 1):
        bench.pending(seq)
    task = await bench.round()
    answers: list[int] = []
    while len(answers) < 3:
        await until(lambda: len(bench.live.asked) > len(answers))
        positions, answer = bench.live.asked[-1][1:]
        answers.append(len(positions))
        answer.set_result([True] * len(positions))
    await task
    assert bench.path.followed == 0
    assert sorted(bench.told.answers) == sorted(
        f"{seq} {what}" for seq in range(1, count + 1) for what in ("pending", "confirmed")
    )


async def test_one_session_that_cannot_be_asked_does_not_keep_the_others_from_being_told() -> None:
    bench = Bench()
    bench.pending(1, "acme:planner:corrupt")
    bench.pending(2)
    task = await bench.round()
    bench.live.asked[0][2].set_exception(StoreError("internal", "corrupt"))
    await until(lambda: len(bench.live.asked) == 2)
    bench.live.asked[1][2].set_result([True])
    await task
    assert bench.told.answers[-1] == "2 confirmed"
    assert bench.path.followed == 1


@pytest.mark.parametrize("answer", [False, None])
async def test_after_its_time_a_publish_is_left_to_status(answer: bool | None) -> None:
    bench = Bench(follow_s=10.0)
    bench.pending(1)
    for now, left in ((105.0, 1), (111.0, 0)):
        task = await bench.round(now)
        bench.live.asked[-1][2].set_result([answer])
        await task
        assert bench.path.followed == left
    assert bench.told.answers == ["1 pending"]


async def test_more_than_can_be_followed_is_counted_and_left_to_status() -> None:
    bench = Bench(follow_most=2)
    for seq in range(1, 5):
        bench.pending(seq)
    assert (bench.path.followed, bench.metrics.unfollowed.n) == (2, 2)


async def test_a_publish_is_answered_as_pending_once_and_only_when_it_is_overdue() -> None:
    bench = Bench()
    publication = bench.pending(1)
    bench.told.answers.clear()
    publication.answered = publication.pending = False
    publication.started = 99.0
    bench.path.await_log(publication)
    bench.path.tick(98.0)
    assert bench.told.answers == []
    bench.path.tick(99.5)
    bench.path.tick(99.6)
    assert bench.told.answers == ["1 pending"]


async def test_failures_of_the_log_are_told_once_a_tick_however_many_there_were() -> None:
    """Naming one without secrets costs five times what is done about it, and a second's writes fail at once."""
    bench, told = Bench(), list[str]()
    bench.path.log_failed = lambda error: told.append(error.message)
    for seq in range(1, 4):
        bench.pending(seq).logged(StoreError("log_unavailable", f"write {seq}"))
    assert told == []
    bench.path.tick(100.0)
    bench.path.tick(100.1)
    assert told == ["write 3"]
