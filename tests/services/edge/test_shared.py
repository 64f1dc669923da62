"""Tenants that share topics: their messages go there, and nothing else about them is shared."""

from tests.services.edge.rig import World, until

from heliograph.core.partitions import partition_of

POOL = "heliograph._shared.7d.log"


async def test_messages_of_shared_tenants_are_in_the_topic_of_their_class(world: World) -> None:
    own = {"auditor": {"log": {"retention_s": 90 * 86_400, "partitions": 2}}}
    for name in (POOL, "heliograph._shared.90d.log", "heliograph._shared.1d.telemetry"):
        world.make_topic(name)
    await world.put_tenant(
        "small",
        isolation="shared",
        agent_types=own,
        topics={"log": {"partitions": 3}, "telemetry": {"retention_s": 3_600}},
    )
    edge = await world.edge()
    client = await edge.client("small")
    for agent_type in ("planner", "auditor"):
        assert (await client.publish(f"small:{agent_type}:1", 1))["durable"] is True
    await client.publish("small:planner:1", 1, class_="telemetry", ack="accepted")
    (record,) = world.log.records(POOL)
    assert record.partition == partition_of(b"small:planner:1", 3)
    (record,) = world.log.records("heliograph._shared.90d.log")
    assert record.partition == partition_of(b"small:auditor:1", 2)
    (record,) = world.log.records("heliograph._shared.1d.telemetry")
    assert record.key == b"small:planner:1"
    assert world.log.records(world.topics.log("small")) == []


async def test_a_topic_made_again_under_a_running_edge_is_said(world: World) -> None:
    edge = await world.edge(topics_check_s=0.05)
    topic = world.topics.log("acme")
    await until(lambda: edge.value("topics_missing") == 0)
    client = await edge.client()
    assert (await client.publish("acme:planner:1", 1))["durable"] is True
    world.log.delete(topic)
    world.make_topic(topic)
    await until(lambda: edge.value("topics_recreated_total") == 1)
    assert edge.service.readiness.degraded() == ["topics"]
    assert edge.service.readiness.ready
    assert (await client.publish("acme:planner:1", 2))["durable"] is True


async def test_a_log_that_is_away_is_said_and_said_no_longer_when_it_is_back(world: World) -> None:
    """Also where nobody publishes. Readiness does not hang on it: live delivery goes on."""
    edge = await world.edge(topics_check_s=0.05)
    await until(lambda: edge.value("topics_missing") == 0)
    world.log.available = False
    await until(lambda: edge.service.readiness.degraded() == ["log"])
    assert edge.service.readiness.ready
    world.log.available = True
    await until(lambda: edge.service.readiness.degraded() == [])
