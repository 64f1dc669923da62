"""When a message is written again, and when not: round by round, on memory stores and a driven clock."""

import asyncio
import gc
import warnings

import pytest
from tests.services.router.helpers import SHARDS, MemoryWorld, now_ms

from heliograph.router.metrics import RouterMetrics
from heliograph.router.reconciling import MESSAGES_PER_SESSION, ReconcileLimits, Reconciler
from heliograph.router.sharing import ShardShares
from heliograph.service.health import Readiness
from heliograph.service.metrics import Metrics
from heliograph.service.tenants import TenantDirectory
from heliograph.stores.memory.log import MemoryLogConsumer

TIMEOUT_S, MARGIN_S = 10.0, 5.0


class Desk:
    """A reconciler, and the group whose commits it waits for."""

    def __init__(self, world: MemoryWorld, messages_per_s: float = 1_000_000.0) -> None:
        self.world = world
        metrics = Metrics("router", process=False)
        self.metrics = RouterMetrics(metrics)
        self.directory = TenantDirectory(world.memory_tenants, Readiness().condition("tenants"), metrics)
        self.consumer = MemoryLogConsumer(world.memory_log, "router")
        self.later_ms = 0
        self.slept_s: list[float] = []
        self.now_s = 0.0
        self.shares = ShardShares(world.leases, self.metrics, holder="router", shards=SHARDS, ttl_s=1_000)
        self.reconciler = Reconciler(
            world.live,
            self.consumer,
            world.writer,
            self.directory,
            world.names,
            self.shares,
            self.metrics,
            ReconcileLimits(TIMEOUT_S, MARGIN_S, messages_per_s),
            now_ms=lambda: now_ms() + self.later_ms,
            clock=lambda: self.now_s,
            sleep=self.sleep,
        )

    async def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_s += seconds

    async def start(self) -> None:
        await self.directory.start()
        await self.shares.round()
        await self.consumer.start([self.world.topic])

    async def read_all(self) -> None:
        """The group reads and commits what is there, and confirms nothing: that is somebody else's part here."""
        while records := await self.consumer.poll(1_000, 0):
            await self.consumer.commit(records)

    async def rounds(self, count: int = 3) -> None:
        for _ in range(count):
            await self.reconciler.round()

    async def written(self) -> list[str | None]:
        return [record.key.decode() if record.key else None for record in await self.world.records()]


@pytest.fixture
async def desk(memory: MemoryWorld) -> Desk:
    desk = Desk(memory)
    await desk.start()
    return desk


async def test_nothing_is_written_before_an_edge_has_given_up(desk: Desk) -> None:
    await desk.world.publish(desk.world.session(), 1, logged=False)
    desk.later_ms = int((TIMEOUT_S + MARGIN_S) * 1000) - 2_000
    await desk.rounds()
    assert await desk.written() == []
    desk.later_ms += 4_000
    await desk.rounds()
    assert len(await desk.written()) == 1


async def test_nothing_is_written_before_the_group_has_read_what_may_hold_it(desk: Desk) -> None:
    session = desk.world.session()
    await desk.world.publish(session, 3)  # in the log, and nobody has read it
    desk.later_ms = 60_000
    await desk.rounds(5)
    assert len(await desk.written()) == 3
    await desk.world.live.confirm(session, (await desk.world.live.heads([session]))[0].epoch, [(1, 1), (2, 1), (3, 1)])
    await desk.read_all()
    await desk.rounds(5)
    assert len(await desk.written()) == 3
    assert desk.metrics.reconciled.n == 0


async def test_a_message_is_written_once_though_rounds_go_on_before_it_is_confirmed(desk: Desk) -> None:
    await desk.world.publish(desk.world.session(), 1, logged=False)
    desk.later_ms = 60_000
    await desk.rounds(6)
    assert len(await desk.written()) == 1


async def test_young_messages_behind_old_ones_are_left_alone(desk: Desk) -> None:
    session = desk.world.session()
    old = [desk.world.message(session, number) for number in (1, 2)]
    for message in old:
        message.time_ms -= 60_000
        await desk.world.append(message)
    await desk.world.publish(session, 2, first=3, logged=False)
    desk.later_ms = 16_000
    young = [desk.world.message(session, 5)]
    young[0].time_ms += 60_000
    await desk.world.append(young[0])
    await desk.rounds()
    assert [message.message_id for message in await desk.world.messages(session)] == ["m-1", "m-2", "m-3", "m-4"]


async def test_what_was_too_young_is_written_once_it_is_old_enough_however_late_the_others_were_confirmed(
    memory: MemoryWorld,
) -> None:
    desk = Desk(memory)
    memory.server.now_ms = lambda: now_ms() + desk.later_ms
    await desk.start()
    session = memory.session()
    for number, at_ms in ((1, 0), (2, 6_000)):
        desk.later_ms = at_ms
        message = memory.message(session, number)
        message.time_ms += at_ms
        await memory.append(message)
    desk.later_ms = 16_000
    await desk.rounds()
    assert len(await desk.written()) == 1
    epoch = (await memory.live.heads([session]))[0].epoch
    await memory.live.confirm(session, epoch, [(1, 1)])  # from here on the store counts for what is left
    await desk.read_all()
    desk.later_ms = 22_000
    await desk.rounds()
    assert [message.message_id for message in await memory.messages(session)] == ["m-1", "m-2"]


async def test_messages_of_an_edge_whose_clock_was_an_hour_ahead_are_as_old_as_the_look_that_found_them(
    desk: Desk,
) -> None:
    session = desk.world.session()

    async def publish(*numbers: int) -> None:
        for number in numbers:
            message = desk.world.message(session, number)
            message.time_ms += 3_600_000 + number
            await desk.world.append(message)

    async def written() -> list[str | None]:
        return [message.message_id for message in await desk.world.messages(session)]

    age_ms = int((TIMEOUT_S + MARGIN_S) * 1000)
    await publish(1, 2, 3)
    desk.later_ms = age_ms + 1_000
    await desk.rounds()
    assert await written() == []
    await publish(4)
    desk.later_ms += age_ms - 1_000
    await desk.rounds()
    assert await written() == [], "looks in between make them no younger, and no older"
    desk.later_ms += 2_000
    await desk.rounds()
    assert await written() == ["m-1", "m-2", "m-3"], "the last one was found later"
    epoch = (await desk.world.live.heads([session]))[0].epoch
    await desk.world.live.confirm(session, epoch, [(1, 1), (2, 1), (3, 1)])
    await desk.read_all()
    desk.later_ms += age_ms + 1_000
    await desk.rounds()
    assert await written() == ["m-1", "m-2", "m-3", "m-4"]


async def test_a_clock_that_was_an_hour_ahead_holds_nothing_back_once_it_is_right(desk: Desk) -> None:
    """What is noted by a wrong clock is not believed by the right one."""
    session = desk.world.session()
    message = desk.world.message(session, 1)
    message.time_ms += 7_200_000
    await desk.world.append(message)
    desk.later_ms = 3_600_000
    await desk.rounds()
    assert await desk.written() == []
    age_ms = int((TIMEOUT_S + MARGIN_S) * 1000)
    desk.later_ms = age_ms + 1_000
    await desk.rounds()
    desk.later_ms += age_ms + 1_000
    await desk.rounds()
    assert len(await desk.written()) == 1


async def test_what_is_too_much_for_a_round_is_written_in_the_next(desk: Desk) -> None:
    session = desk.world.session()
    await desk.world.publish(session, MESSAGES_PER_SESSION + 10, logged=False)
    desk.later_ms = 60_000
    await desk.rounds(2)
    assert len(await desk.written()) == MESSAGES_PER_SESSION
    epoch = (await desk.world.live.heads([session]))[0].epoch
    await desk.world.live.confirm(session, epoch, [(seq, 1) for seq in range(1, MESSAGES_PER_SESSION + 1)])
    await desk.read_all()
    await desk.rounds(2)
    assert len(await desk.written()) == MESSAGES_PER_SESSION + 10


async def test_young_messages_before_one_that_was_deferred_are_left_alone(desk: Desk) -> None:
    """It has its place long after its time: what stands before it may have been published just now."""
    session = desk.world.session()
    old, young, deferred = (desk.world.message(session, number) for number in (1, 2, 3))
    young.time_ms += 60_000
    deferred.time_ms -= 1_000
    for message in (old, young, deferred):
        await desk.world.append(message)
    desk.later_ms = 16_000
    await desk.rounds()
    assert [message.message_id for message in await desk.world.messages(session)] == ["m-1"]


async def test_writing_is_paced(memory: MemoryWorld) -> None:
    desk = Desk(memory, messages_per_s=10.0)
    await desk.start()
    await memory.publish(memory.session(), 20, logged=False)
    desk.later_ms = 60_000
    await desk.rounds()
    assert len(await desk.written()) == 20
    assert 1.5 <= sum(desk.slept_s) <= 2.1


async def test_sessions_that_can_not_be_written_are_counted_and_block_nobody(desk: Desk) -> None:
    gone = desk.world.tenant
    desk.world.tenant = "unknown"
    for _ in range(200):
        await desk.world.publish(desk.world.session(), 1, logged=False)
    desk.world.tenant = gone
    session = desk.world.session()
    await desk.world.publish(session, 1, logged=False)
    desk.later_ms = 60_000
    await desk.rounds(4)
    assert await desk.written() == [session]
    assert sum(desk.metrics._blocked.values()) == 200
    assert set(desk.metrics._blocked) == {"tenant_unknown"}


async def test_a_session_whose_partition_is_gone_waits_for_it(desk: Desk) -> None:
    session = desk.world.session()
    await desk.world.publish(session, 1, logged=False)
    desk.world.memory_log.delete(desk.world.topic)
    desk.later_ms = 60_000
    await desk.rounds(2)
    assert desk.metrics._blocked == {"partition_missing": 1}
    await desk.world.set_up_tenant()
    await desk.rounds(3)
    assert await desk.written() == [session]
    assert desk.metrics._blocked == {}


async def test_without_the_lease_nothing_is_written(desk: Desk) -> None:
    await desk.world.publish(desk.world.session(), 1, logged=False)
    desk.later_ms = 60_000
    await desk.shares.release()
    await desk.rounds()
    assert await desk.written() == []
    await desk.shares.round()
    await desk.rounds()
    assert len(await desk.written()) == 1


async def test_a_write_that_fails_is_repeated(desk: Desk) -> None:
    await desk.world.publish(desk.world.session(), 2, logged=False)
    desk.later_ms = 60_000
    desk.world.memory_log.refused_topics.add(desk.world.topic)
    await desk.rounds(2)
    assert desk.metrics.reconcile_failures.labels("write").n >= 2
    desk.world.memory_log.refused_topics.clear()
    await desk.rounds(2)
    assert len(await desk.written()) == 2
    assert desk.metrics.reconciled.n == 2


async def test_a_round_that_ends_before_its_steps_began_leaves_none_unawaited(desk: Desk) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        ending = asyncio.create_task(desk.reconciler.round())
        await asyncio.sleep(0)  # it has made a step for each shard; they run next
        ending.cancel()
        await asyncio.gather(ending, return_exceptions=True)
        gc.collect()
    assert [str(one.message) for one in told] == []
