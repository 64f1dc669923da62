"""A topic deleted and made again under a running router: said, and nothing of the old one counts as durable."""

import pytest
from tests.services.router.helpers import PARTITIONS, MemoryWorld, until

from heliograph.router import voiding
from heliograph.stores.ports import TopicSpec


def make_again(world: MemoryWorld) -> None:
    world.memory_log.delete(world.topic)
    world.memory_log.create(TopicSpec(world.topic, PARTITIONS, None, {}))


async def test_what_the_hot_window_holds_is_unconfirmed_and_written_to_the_new_topic(memory: MemoryWorld) -> None:
    router = await memory.router(topics_check_s=0.1)
    sessions = [memory.session() for _ in range(3)]
    sent = {session: await memory.publish(session, 5) for session in sessions}
    for session in sessions:
        await memory.until_confirmed(session, 5)
    make_again(memory)
    await until(lambda: router.value("topics_recreated_total") == 1)
    await until(lambda: router.value("voided_total") == 15)
    await until(lambda: router.value("reconciled_total") == 15)
    for session in sessions:
        await memory.until_confirmed(session, 5)
        written = sorted(await memory.messages(session), key=lambda message: message.position or "")
        assert written == sent[session]
    assert memory.server.pressure().unconfirmed_bytes == 0
    ready = (await router.get("/readyz")).json()
    assert "topics" in ready["degraded"]
    (condition,) = [one for one in ready["conditions"] if one["name"] == "topics"]
    assert memory.topic in condition["last_error"]


async def test_until_it_is_written_again_nobody_is_told_that_the_log_has_it(memory: MemoryWorld) -> None:
    router = await memory.router(topics_check_s=0.1, log_delivery_timeout_s=1_000)
    session = memory.session()
    await memory.publish(session, 5)
    await memory.until_confirmed(session, 5)
    make_again(memory)
    await until(lambda: router.value("voided_total") == 5)
    assert await memory.confirmed(session) == 0
    await memory.publish(session, 1, first=6)
    await until(lambda: router.value("confirmed_total") >= 6)
    assert await memory.confirmed(session) == 0
    assert [one.position.seq for one in await memory.live.unconfirmed(session, 10)] == [1, 2, 3, 4, 5]


async def test_only_as_much_of_a_session_is_voided_as_leaves_room_to_publish(
    memory: MemoryWorld, monkeypatch: pytest.MonkeyPatch
) -> None:

    monkeypatch.setattr(voiding, "VOID_MESSAGES", 3)
    router = await memory.router(topics_check_s=0.1, log_delivery_timeout_s=1_000)
    session = memory.session()
    await memory.publish(session, 8)
    await memory.until_confirmed(session, 8)
    make_again(memory)
    await until(lambda: router.value("voided_total") == 3)
    assert await memory.confirmed(session) == 5


async def test_sessions_of_other_topics_stay_as_they_are(memory: MemoryWorld) -> None:
    router = await memory.router(topics_check_s=0.1, log_delivery_timeout_s=1_000)
    first = memory.session()
    await memory.publish(first, 2)
    await memory.until_confirmed(first, 2)
    old_topic, old_tenant = memory.topic, memory.tenant
    memory.tenant = f"{old_tenant}-2"
    memory.topic = memory.names.log(memory.tenant)
    await memory.set_up_tenant()
    other = memory.session()
    await memory.publish(other, 2)
    await memory.until_confirmed(other, 2)
    memory.topic = old_topic
    make_again(memory)
    await until(lambda: router.value("voided_total") == 2)
    assert (await memory.confirmed(first), await memory.confirmed(other)) == (0, 2)


async def test_a_session_gets_index_entries_of_the_new_topic(memory: MemoryWorld) -> None:
    router = await memory.router(topics_check_s=0.1)
    session = memory.session()
    await memory.publish(session, 2)
    await memory.until_confirmed(session, 2)
    make_again(memory)
    await until(lambda: router.value("topics_recreated_total") == 1)
    await memory.publish(session, 1, first=3)
    await memory.until_confirmed(session, 3)
    new_id = memory.memory_log.topics[memory.topic].topic_id

    async def indexed() -> bool:
        entry = await memory.index.last(session)
        return entry is not None and entry.topic_id == new_id

    await until(indexed)
