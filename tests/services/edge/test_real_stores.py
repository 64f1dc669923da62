"""The edge on real Redis and Kafka, where a memory store can't show the fault: broken links, restarts, the log."""

import asyncio
import random
import secrets
from collections.abc import Callable

import httpx
import pytest
import redis
from pydantic import SecretStr
from tests.services.edge.client import Client, contiguous
from tests.services.edge.rig import Edge, World, until, until_told

from heliograph.edge.bootstrap import real_stores
from heliograph.edge.settings import EdgeSettings
from heliograph.local.redis import RedisServer
from heliograph.protocol.messages import frame, message_from_record
from heliograph.protocol.tenants import encode_tenant, parse_tenant
from heliograph.stores.kafka import KafkaLogAdmin, KafkaLogReader
from heliograph.stores.keys import Topics
from heliograph.stores.ports import TopicSpec
from heliograph.stores.redis.live import RedisLiveStore
from heliograph.stores.redis.metadata import MetadataClient, RedisConnectionStore, RedisTenantStore


def new_session() -> str:
    return f"acme:planner:{secrets.token_hex(6)}"


async def edge_on(world: World, url: str) -> Edge:
    """An edge whose live store is this Redis; the rest is in memory."""
    return await world.edge(stores=world.stores(live=RedisLiveStore(url, uniform=random.random)), heads_interval_s=1.0)


async def publish_all(client: Client, session: str, *payloads: int) -> list[str]:
    """Publish each until it is taken, as an SDK does; the positions."""
    positions = []
    for payload in payloads:
        answer = await client.publish(session, payload, ack="accepted")
        while answer["type"] == "refused":
            assert answer["code"] in ("live_unavailable", "recovering"), answer
            await asyncio.sleep(0.02)
            answer = await client.publish(session, payload, ack="accepted")
        positions.append(answer["position"])
    return positions


def subscriptions_of(url: str) -> list[bytes]:
    """Channels that somebody is subscribed to."""
    with redis.Redis.from_url(url) as control:
        found: list[bytes] = control.pubsub_shardchannels()
        return found


async def test_what_is_durable_is_in_kafka_and_its_frame_can_be_made_from_it_byte_for_byte(
    world: World, redis_url: str, kafka_bootstrap: str
) -> None:
    tenant, prefix = f"t{secrets.token_hex(5)}", f"p{secrets.token_hex(5)}"
    session = f"{tenant}:planner:1"
    topic = Topics(prefix).log(tenant)
    settings = EdgeSettings(
        port=0,
        edge_name=f"edge-{tenant}",
        redis_url=SecretStr(redis_url),
        kafka_bootstrap_servers=kafka_bootstrap,
        topic_prefix=prefix,
        durable_wait_s=20.0,
        drain_timeout_s=0.2,
    )
    metadata = MetadataClient(redis_url)
    await metadata.start()
    record = parse_tenant({"tenant": tenant, "auth": {"jwks": world.signer(tenant).jwks()}})
    await RedisTenantStore(metadata).put(tenant, encode_tenant(record))
    kafka = {"bootstrap.servers": kafka_bootstrap}
    admin, reader = KafkaLogAdmin(kafka), KafkaLogReader(kafka)
    await admin.create(TopicSpec(topic, 6, 1, {}))
    edge = await world.edge_of(settings, real_stores(settings))
    subscriber, publisher = await edge.client(tenant), await edge.client(tenant)
    await subscriber.subscribe(session)
    answers = [await publisher.publish(session, {"é": number}, correlation_id="c") for number in range(3)]
    async with httpx.AsyncClient(base_url=edge.url, headers={"Authorization": f"Bearer {world.token(tenant)}"}) as http:
        posted = await http.post(f"/v1/sessions/{tenant}/planner/1/messages", json={"payload": 3})
    assert all(answer["durable"] for answer in [*answers, posted.json()])
    await subscriber.messages(session, 4)
    assert contiguous(subscriber.positions(session))

    await reader.start()
    records = []
    for partition in range(6):
        first, end = await reader.bounds(topic, partition)
        async for batch in reader.read(topic, partition, first, end):
            records += batch
    window = (await edge.service_live.page(session, None)).frames
    logged = [message_from_record(one.key, one.value, one.headers) for one in records]
    assert sorted(map(frame, logged)) == window
    assert len({one.partition for one in records}) == 1, "a session stays in its partition"

    connections = RedisConnectionStore(metadata)

    async def registered() -> bool:
        return len(await connections.connections(tenant, 10)) == 2

    await until_told(registered)
    await edge.stop()
    assert await connections.connections(tenant, 10) == []
    await reader.close()
    await admin.close()
    await metadata.close()


async def test_broken_subscription_links_lose_nothing(world: World, redis_server: Callable[..., RedisServer]) -> None:
    server = redis_server()
    server.start()
    session = new_session()
    edge = await edge_on(world, server.url)
    readers, writer = [await edge.client() for _ in range(2)], await edge.client()
    for reader in readers:
        await reader.subscribe(session)
    with redis.Redis.from_url(server.url) as control:
        for round_ in range(4):
            await publish_all(writer, session, *range(20))
            assert control.client_kill_filter(_type="pubsub") == 1
            await publish_all(writer, session, *range(20))
            await until(lambda round_=round_: edge.value("live_connection_lost_total") > round_, "lost")  # type: ignore[misc]
            await until(lambda: subscriptions_of(server.url), "subscribed again")
    for reader in readers:
        await reader.messages(session, 160)
        assert contiguous(reader.positions(session))
        assert reader.of("gap") == reader.of("epoch") == []


@pytest.mark.parametrize("keep", [True, False], ids=["its data kept", "its data lost"])
async def test_a_redis_that_was_killed_begins_an_epoch_and_everybody_goes_on(
    world: World, redis_server: Callable[..., RedisServer], keep: bool
) -> None:
    world.answer_history()
    server = redis_server(appendonly=keep)
    server.start()
    session = new_session()
    edge = await edge_on(world, server.url)
    reader, writer = await edge.client(), await edge.client()
    await reader.subscribe(session)
    old = await publish_all(writer, session, *range(5))
    await reader.messages(session, 5)
    server.kill()
    refused = await writer.publish(session, 5, ack="accepted")
    assert (refused["code"], refused["retry_after_ms"]) == ("live_unavailable", 1_000)
    server.restart()
    new = await publish_all(writer, session, *range(5, 10))
    assert new[0][:22] > old[0][:22]
    messages = await reader.messages(session, 5)
    assert [message["payload"] for message in messages] == list(range(5, 10))
    assert contiguous([message["position"] for message in messages])
    (epoch,) = reader.of("epoch")
    assert (epoch["from"], epoch["last"], epoch["certain"]) == (new[0][:22], old[-1], False)
    assert reader.of("gap") == []
    late = await edge.client()
    await late.subscribe(session, old[2])
    assert [message["payload"] for message in await late.messages(session, 7)] == list(range(3, 10))
    assert [frame["last"] for frame in late.of("epoch")] == [old[-1]]


async def test_a_cursor_that_is_corrupt_is_refused_by_its_code_and_harms_nobody_else(
    world: World, redis_server: Callable[..., RedisServer]
) -> None:
    server = redis_server()
    session, other = new_session(), new_session()
    edge = await edge_on(world, server.url)
    client, healthy = await edge.client(consumer="screen"), await edge.client(consumer="other")
    (position,) = await publish_all(client, session, 0)
    await publish_all(client, other, 0)
    assert (await client.ask("ack", session=session, position=position))["type"] == "acked"
    with redis.Redis.from_url(server.url) as control:
        (key,) = control.scan_iter(f"*}}:c:{session}", count=10_000)
        (field,) = control.hkeys(key)
        control.hset(key, field, b"c0rrupt-value")
        for answer in (
            await client.ask("ack", session=session, position=position),
            await client.subscribe(session, "cursor"),
        ):
            assert (answer["type"], answer["code"]) == ("refused", "internal")
            assert "c0rrupt" not in str(answer)
        assert (await healthy.ask("ack", session=session, position=position))["type"] == "acked"
        assert (await healthy.subscribe(session, "cursor"))["position"] == position
        assert (await client.subscribe(other, "latest"))["type"] == "subscribed"
        control.hdel(key, field)
    assert (await client.ask("ack", session=session, position=position))["type"] == "acked"
