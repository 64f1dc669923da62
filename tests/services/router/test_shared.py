"""Topics that tenants share: everybody's records are worked on, and nobody's but theirs."""

from uuid import uuid4

from tests.services.router.helpers import PARTITIONS, World, until

from heliograph.core.partitions import partition_of
from heliograph.protocol.messages import Message, record_headers, record_value
from heliograph.protocol.tenants import Isolation, Tenant, TopicSettings, TopicsSettings, encode_tenant
from heliograph.stores.ports import TopicSpec


async def share(world: World) -> str:
    """A tenant of the shared topics."""
    name = f"small-{uuid4().hex[:8]}"
    topics = TopicsSettings(log=TopicSettings(partitions=PARTITIONS))
    await world.tenants.put(name, encode_tenant(Tenant(name, isolation=Isolation.SHARED, topics=topics)))
    return name


async def publish(world: World, session: str, number: int = 1) -> Message:
    """Appended, and written to the shared topic."""
    message = world.message(session, number)
    await world.append(message)
    await write(world, message)
    return message


async def write(world: World, message: Message) -> None:
    key = message.session.encode()
    await world.write(
        key,
        record_value(message),
        record_headers(message),
        topic=f"{world.prefix}._shared.7d.log",
        partition=partition_of(key, PARTITIONS),
    )


async def make_topic(world: World) -> None:
    await world.create_topic(TopicSpec(f"{world.prefix}._shared.7d.log", PARTITIONS, None, {}))


async def test_records_of_all_who_share_a_topic_are_confirmed(world: World) -> None:
    await make_topic(world)
    tenants = [await share(world) for _ in range(3)]
    await world.router()
    sessions = [f"{tenant}:planner:1" for tenant in tenants]
    for number in (1, 2):
        for session in sessions:
            await publish(world, session, number)
    for session in sessions:
        await world.until_confirmed(session, 2)


async def test_a_record_of_who_does_not_share_the_topic_is_set_aside_and_confirms_nothing(world: World) -> None:
    await make_topic(world)
    tenant = await share(world)
    router = await world.router(log_delivery_timeout_s=1_000)
    own, stranger = world.session(), "nobody:planner:1"
    await publish(world, own)
    await write(world, world.message(stranger, 1))
    await publish(world, f"{tenant}:planner:1")
    await world.until_confirmed(f"{tenant}:planner:1", 1)
    await until(lambda: router.value("dead_letters_total", reason="wrong_topic") == 2)
    assert await world.confirmed(own) == 0


async def test_what_an_edge_wrote_for_a_tenant_that_the_router_has_not_heard_of_is_taken(world: World) -> None:
    """The edge has seen the record first; the router looks for it before it judges."""
    await make_topic(world)
    await share(world)
    router = await world.router(log_delivery_timeout_s=1_000)
    for _ in range(5):
        session = f"{await share(world)}:planner:1"
        await publish(world, session)
        await world.until_confirmed(session, 1)
    assert router.value("dead_letters_total", reason="wrong_topic") == 0


async def test_a_message_that_the_log_never_got_is_written_to_the_shared_topic(world: World) -> None:
    await make_topic(world)
    session = f"{await share(world)}:planner:1"
    router = await world.router()
    message = world.message(session, 1)
    await world.append(message)
    await world.until_confirmed(session, 1)
    assert router.value("reconciled_total") == 1
