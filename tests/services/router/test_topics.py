"""Which topics there are, and which one of its name each is."""

from tests.services.router.helpers import MemoryWorld

from heliograph.protocol.tenants import (
    DAY_S,
    AgentTypeSettings,
    Isolation,
    Tenant,
    TopicSettings,
    TopicsSettings,
    encode_tenant,
)
from heliograph.router.topics import LogTopic, TopicTable
from heliograph.service.health import Readiness
from heliograph.service.metrics import Metrics
from heliograph.service.tenants import TenantDirectory
from heliograph.service.topic_watch import AGAIN_AT_ONCE, TopicWatch
from heliograph.stores.memory.log import MemoryLogAdmin
from heliograph.stores.ports import TopicSpec


async def table_of(world: MemoryWorld) -> tuple[TopicTable, TenantDirectory]:
    metrics, readiness = Metrics("router", process=False), Readiness()
    directory = TenantDirectory(world.memory_tenants, readiness.condition("tenants"), metrics)
    await directory.start()
    watch = TopicWatch(readiness.condition("topics"), metrics, MemoryLogAdmin(world.memory_log))
    return TopicTable(directory, world.names, watch), directory


async def test_an_agent_type_with_a_log_of_its_own_has_a_topic_and_a_retention_of_its_own(memory: MemoryWorld) -> None:
    tenant = Tenant("big", agent_types={"planner": AgentTypeSettings(TopicSettings(retention_s=3_600))})
    await memory.memory_tenants.put("big", encode_tenant(tenant))
    table, _ = await table_of(memory)
    own = memory.names.agent_type_log("big", "planner")
    deferred = {memory.names.deferred(name) for name in (memory.tenant, "big")}
    assert set(table.refresh()) == {memory.topic, memory.names.log("big"), own} | deferred
    assert table.of(own) == LogTopic(frozenset(("big",)), shared=False, retention_s=3_600.0)
    assert table.retention_s(own) == 3_600.0
    assert table.of("another") is None


async def test_shared_tenants_are_in_one_topic_of_their_class_as_long_as_kafka_keeps_it(memory: MemoryWorld) -> None:
    own = {"planner": AgentTypeSettings(TopicSettings(retention_s=40 * DAY_S))}
    for name, agent_types in (("one", {}), ("two", own)):
        topics = TopicsSettings(log=TopicSettings(retention_s=2 * DAY_S))
        record = Tenant(name, isolation=Isolation.SHARED, topics=topics, agent_types=agent_types)
        await memory.memory_tenants.put(name, encode_tenant(record))
    table, directory = await table_of(memory)
    week, quarter = (f"{memory.prefix}._shared.{name}.log" for name in ("7d", "90d"))
    deferred = {memory.names.deferred(memory.tenant), f"{memory.prefix}._shared.30d.deferred"}
    assert set(table.refresh()) == {memory.topic, week, quarter} | deferred
    assert {topic for topic in table.refresh() if (found := table.of(topic)) and found.deferred} == deferred
    assert table.of(week) == LogTopic(frozenset(("one", "two")), shared=True, retention_s=7 * DAY_S)
    assert table.of(quarter) == LogTopic(frozenset(("two",)), shared=True, retention_s=90 * DAY_S)
    await memory.memory_tenants.delete("one")
    await directory.refresh()
    table.refresh()
    assert table.of(week) == LogTopic(frozenset(("two",)), shared=True, retention_s=7 * DAY_S)


async def test_missing_topics_are_told_until_they_are_there(memory: MemoryWorld) -> None:
    await memory.memory_tenants.put("late", encode_tenant(Tenant("late")))
    table, _ = await table_of(memory)
    table.refresh()
    await table.identify()
    topic = memory.names.log("late")
    assert table.missing == {topic, memory.names.deferred("late")}
    assert table.topic_id(topic) is None
    for name in table.missing:
        memory.memory_log.create(TopicSpec(name, 1, None, {}))
    await table.identify()
    assert table.missing == frozenset()
    assert table.topic_id(topic) == memory.memory_log.topics[topic].topic_id


async def test_a_topic_made_again_is_known_by_its_new_id_and_a_deleted_one_not_at_all(memory: MemoryWorld) -> None:
    table, _ = await table_of(memory)
    table.refresh()
    await table.identify()
    before = table.topic_id(memory.topic)
    memory.memory_log.delete(memory.topic)
    memory.memory_log.create(TopicSpec(memory.topic, 1, None, {}))
    await table.identify()
    assert table.topic_id(memory.topic) not in (before, None)
    memory.memory_log.delete(memory.topic)
    await table.identify()
    assert table.topic_id(memory.topic) is None
    assert table.missing == {memory.topic}


async def test_of_many_topics_some_are_looked_at_again_each_time_and_all_in_turn(memory: MemoryWorld) -> None:
    names = [f"t{number:03d}" for number in range(2 * AGAIN_AT_ONCE)]
    for name in names:
        await memory.memory_tenants.put(name, encode_tenant(Tenant(name)))
        memory.memory_log.create(TopicSpec(memory.names.log(name), 1, None, {}))
    table, _ = await table_of(memory)
    table.refresh()
    await table.identify()
    for name in names:
        memory.memory_log.delete(memory.names.log(name))
        memory.memory_log.create(TopicSpec(memory.names.log(name), 1, None, {}))
    for _ in range(3):
        await table.identify()
    assert all(
        table.topic_id(memory.names.log(name)) == memory.memory_log.topics[memory.names.log(name)].topic_id
        for name in names
    )
