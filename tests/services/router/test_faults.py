"""What goes wrong around a router, in memory: nothing is lost, and nobody waits for somebody else's trouble."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from tests.services.router.helpers import MemoryWorld, RunningRouter, until

from heliograph.core.positions import Position
from heliograph.protocol.codes import GapReason
from heliograph.protocol.gaps import gap_reason
from heliograph.protocol.messages import Message, record_headers, record_value
from heliograph.stores.memory.live import MemoryLiveStore
from heliograph.stores.memory.log import MemoryLogConsumer
from heliograph.stores.ports import CorruptError, Head, IndexEntry, LogRecord, StoreError

Item = tuple[str, str, Sequence[tuple[int, int]]]


class FaultyLive(MemoryLiveStore):
    """A live store that answers for some sessions as it is told to."""

    answers: dict[str, Exception]

    async def confirm_many(self, batch: Sequence[Item]) -> list[Head | StoreError]:
        found = await super().confirm_many(batch)
        for at, (session, _, _) in enumerate(batch):
            answer = self.answers.get(session)
            if isinstance(answer, StoreError):
                found[at] = answer
            elif answer is not None:
                raise answer
        return found


async def with_live(world: MemoryWorld, answers: dict[str, Exception], **settings: Any) -> RunningRouter:
    """A router whose live store is faulty."""
    stores = await world.stores()
    live = FaultyLive(world.server)
    live.answers = answers
    stores.live = live

    async def made() -> Any:
        return stores

    world.stores = made  # type: ignore[method-assign]
    return await world.router(**settings)


async def test_while_the_live_store_is_away_batches_wait_uncommitted_and_then_go_on(memory: MemoryWorld) -> None:
    router = await memory.router(log_delivery_timeout_s=1_000)
    session = memory.session()
    messages = await memory.publish(session, 5, logged=False)
    memory.server.stop()
    await asyncio.gather(*map(memory.log, messages))
    await until(lambda: not router.service.readiness.ready)
    assert memory.memory_log.group("router").committed == {}
    assert "live" in router.service.readiness.waiting_for()
    memory.server.restart(keep=True)
    await memory.until_confirmed_old(session, messages[-1])
    await until(lambda: sum(memory.memory_log.group("router").committed.values()) == 5)
    await until(lambda: router.service.readiness.ready)


async def test_while_the_log_is_away_the_router_says_so_and_then_writes_what_it_missed(memory: MemoryWorld) -> None:
    router = await memory.router()
    session = memory.session()
    memory.memory_log.available = False
    await memory.publish(session, 3, logged=False)  # edges give up on these
    await until(lambda: "log" in router.service.readiness.waiting_for())
    await until(lambda: router.value("reconcile_failures_total", step="ends") > 0)
    memory.memory_log.available = True
    await memory.until_confirmed(session, 3)
    await until(lambda: router.value("reconciled_total") == 3)  # counted when the writer hears, which may be after
    await until(lambda: router.service.readiness.ready)


async def test_a_router_whose_call_of_the_client_library_does_not_end_says_that_it_is_not_alive(
    memory: MemoryWorld,
) -> None:
    """And not before two looks found it: after one the whole process may have stood still."""
    router = await memory.router(read_stuck_s=1)
    held_up, looks = [100.0, 0.0, 100.0, 0.0, 100.0, 0.0], []

    def held_up_s() -> float:
        looks.append(router.service.liveness.failure)
        return held_up[len(looks) - 1] if len(looks) <= len(held_up) else 100.0

    router.stores.consumer.held_up_s = held_up_s  # type: ignore[method-assign]
    await until(lambda: router.service.liveness.failure is not None)
    assert "a call of Kafka's client lasts 100 s" in router.service.liveness.failure.text
    assert looks == [None] * (len(held_up) + 2)


async def test_a_dead_letter_that_can_not_be_written_stalls_nobody_and_is_not_lost(memory: MemoryWorld) -> None:
    for pending_bytes in (1 << 20, 0):  # kept in memory, and read again
        router = await memory.router(dead_pending_bytes=pending_bytes)
        dead = memory.names.dead
        memory.memory_log.refused_topics.add(dead)
        session, before = memory.session(), len(await memory.records(dead))
        partition = (await memory.live.partition_of((await memory.publish(session, 1))[0].session)) or 0
        await memory.until_confirmed(session, 1)
        for number in range(3):
            value = b"poison %d" % number
            await memory.write(session.encode(), value, [], topic=memory.topic, partition=partition)
        await memory.publish(session, 5, first=2)
        await memory.until_confirmed(session, 6)
        await until(lambda router=router: router.value("dead_letter_retries_total") > 0)  # type: ignore[misc]
        end = (await memory.reader.bounds(memory.topic, partition))[1]

        async def committed(end: int, partition: int = partition) -> bool:
            return memory.memory_log.group("router").committed.get((memory.topic, partition)) == end

        await until(partial(committed, end - 8))
        memory.memory_log.refused_topics.clear()
        await until(partial(committed, end))
        written = (await memory.records(dead))[before:]
        assert [record.value for record in written] == [b"poison 0", b"poison 1", b"poison 2"]
        await router.stop()


async def test_a_missing_dead_letter_topic_is_made(memory: MemoryWorld) -> None:
    memory.memory_log.delete(memory.names.dead)
    await memory.router()
    await memory.write(b"k", b"poison", [], topic=memory.topic)

    async def written() -> bool:
        return len(await memory.records(memory.names.dead)) == 1

    await until(written)


async def test_a_record_in_another_tenants_topic_is_dead_and_confirms_nothing(memory: MemoryWorld) -> None:
    router = await memory.router(log_delivery_timeout_s=1_000)
    session = memory.session()
    (message,) = await memory.publish(session, 1, logged=False)
    topic, tenant = memory.topic, memory.tenant
    memory.tenant = "mallory"
    memory.topic = memory.names.log("mallory")
    await memory.set_up_tenant()
    await memory.log(message)
    await until(lambda: router.value("dead_letters_total", reason="wrong_topic") == 1)
    assert await memory.confirmed(session) == 0
    memory.tenant, memory.topic = tenant, topic
    await memory.log(message)
    await memory.until_confirmed(session, 1)


async def test_one_session_that_always_fails_is_given_up_and_others_go_on(memory: MemoryWorld) -> None:
    bad, good = memory.session("bad"), memory.session("good")
    answers: dict[str, Exception] = {bad: StoreError("live_unavailable", "this one")}
    router = await with_live(memory, answers, log_delivery_timeout_s=1_000)
    for number in range(1, 4):
        await asyncio.gather(memory.publish(bad, 1, first=number), memory.publish(good, 1, first=number))
    await memory.until_confirmed(good, 3)
    await memory.publish(good, 1, first=4)
    await memory.until_confirmed(good, 4)
    await until(lambda: router.value("confirm_given_up_total") >= 1)


async def test_a_session_with_corrupt_keys_is_counted_and_others_go_on(memory: MemoryWorld) -> None:
    bad, good = memory.session("bad"), memory.session("good")
    answers: dict[str, Exception] = {bad: CorruptError("hg:…", "not ours")}
    router = await with_live(memory, answers, log_delivery_timeout_s=1_000)
    await asyncio.gather(memory.publish(bad, 2), memory.publish(good, 2))
    await memory.until_confirmed(good, 2)
    await until(lambda: router.value("confirm_corrupt_total") >= 1)


async def test_a_record_that_meets_an_error_of_ours_is_put_aside_and_others_go_on(memory: MemoryWorld) -> None:
    bad, good = memory.session("bad"), memory.session("good")
    router = await with_live(memory, {bad: ZeroDivisionError("a bug")}, log_delivery_timeout_s=1_000)
    await asyncio.gather(memory.publish(bad, 1), memory.publish(good, 3))
    await memory.until_confirmed(good, 3)
    await until(lambda: router.value("dead_letters_total", reason="router_error") == 1)
    assert router.value("work_errors_total") >= 1


async def test_an_index_that_is_away_costs_index_entries_alone(memory: MemoryWorld) -> None:
    async def add(_entries: Sequence[tuple[str, IndexEntry]], _ttl_s: float) -> None:
        raise StoreError("unavailable", "away")

    memory.memory_index.add = add  # type: ignore[assignment]
    router = await memory.router()
    sessions = [memory.session() for _ in range(4)]
    for session in sessions:
        await memory.publish(session, 2)
        await memory.until_confirmed(session, 2)
    assert router.value("index_failures_total") == 1
    assert router.value("index_skipped_total") >= 3


async def test_messages_that_the_window_lost_or_that_are_corrupt_become_gaps(memory: MemoryWorld) -> None:
    router = await memory.router()
    session = memory.session()
    messages = await memory.publish(session, 4, logged=False)
    found = memory.server.session(session)
    assert found is not None
    found.entries[2].frame = b'{"type":"message","position":"x'
    del found.entries[1]
    await memory.until_confirmed(session, 4)
    written = await memory.messages(session)
    assert [gap_reason(message) for message in written] == [
        None,
        GapReason.NEVER_WRITTEN,
        GapReason.NEVER_WRITTEN,
        None,
    ]
    assert [message.position for message in written] == [message.position for message in messages]
    assert router.value("never_written_total") == 2
    assert router.value("reconcile_corrupt_total") == 1
    await until(lambda: router.value("gaps_total", reason=GapReason.NEVER_WRITTEN) == 2)


async def test_what_an_old_epoch_left_unconfirmed_is_written_too(memory: MemoryWorld) -> None:
    await memory.router()
    session = memory.session()
    before = await memory.publish(session, 2, logged=False)
    memory.server.restart(keep=True)
    await memory.live.start()
    (after,) = await memory.publish(session, 1, first=3, logged=False)
    assert Position.parse(after.position or "").epoch > Position.parse(before[0].position or "").epoch
    await memory.until_confirmed(session, 1)
    await memory.until_confirmed_old(session, before[-1])
    assert [message.position for message in await memory.messages(session)] == [
        message.position for message in (*before, after)
    ]


async def test_idle_sessions_are_forgotten(memory: MemoryWorld) -> None:
    router = await memory.router(session_ttl_s=0.05, expire_interval_s=0.1)
    session = memory.session()
    await memory.publish(session, 1)
    await until(lambda: router.value("expired_sessions_total") == 1)
    assert memory.server.session(session) is None


async def test_two_routers_share_the_work_and_one_goes_on_alone(memory: MemoryWorld) -> None:
    first, second = await memory.router(), await memory.router()
    sessions = [memory.session() for _ in range(20)]
    await asyncio.gather(*(memory.publish(session, 2) for session in sessions))
    for session in sessions:
        await memory.until_confirmed(session, 2)
    assert first.value("records_total") > 0
    assert second.value("records_total") > 0
    await first.kill()
    await asyncio.gather(*(memory.publish(session, 2, first=3) for session in sessions))
    for session in sessions:
        await memory.until_confirmed(session, 4)


async def test_a_stopped_router_has_committed_its_work_and_freed_its_shards(memory: MemoryWorld) -> None:
    router = await memory.router(commit_interval_s=60)
    session = memory.session()
    await memory.publish(session, 3)
    await memory.until_confirmed(session, 3)
    await router.stop()
    assert sum(memory.memory_log.group("router").committed.values()) == 3
    assert await memory.leases.acquire("reconcile/3", "another", 1)


async def test_a_late_copy_of_a_record_is_not_indexed(memory: MemoryWorld) -> None:
    """Behind a copy of P there may be nothing of P + W any more: an entry for it would hide that."""
    router = await memory.router(index_positions=1, index_interval_s=0, log_delivery_timeout_s=1_000)
    session = memory.session()
    messages: list[Message] = []
    for first in (1, 601):
        messages += await memory.publish(session, 600, first=first)
        await memory.until_confirmed(session, first + 599)
    await router.stop()
    await memory.router(index_positions=1, index_interval_s=0, log_delivery_timeout_s=1_000)
    await memory.write(
        session.encode(),
        record_value(messages[10]),
        record_headers(messages[10]),
        topic=memory.topic,
        partition=(await memory.live.partition_of(session)) or 0,
    )
    await memory.publish(session, 1, first=1_201)
    await memory.until_confirmed(session, 1_201)
    found = await memory.index.at_or_before(session, messages[10].position or "")
    assert found is not None
    assert found.offset <= 10


async def test_a_commit_is_made_once_an_interval_not_for_every_batch(
    memory: MemoryWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is a write to Kafka: a hundred small batches a second would cost it more than their records."""
    commits, commit = list[int](), MemoryLogConsumer.commit

    async def counted(consumer: MemoryLogConsumer, records: Sequence[LogRecord]) -> None:
        commits.append(len(records))
        await commit(consumer, records)

    monkeypatch.setattr(MemoryLogConsumer, "commit", counted)
    router = await memory.router(commit_interval_s=60)
    session = memory.session()
    for number in range(1, 11):
        await memory.publish(session, 1, first=number)
        await memory.until_confirmed(session, number)
    assert router.value("batches_total") >= 10
    assert commits == []
    await router.stop()
    assert commits == [1], "what was done is committed at the end"
