"""Replay on real Kafka and Redis: what memory can't show."""

import asyncio
import contextlib
import json
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import pytest
from tests.services.replay.rig import E1, PARTITIONS, World, frames_of, message

from heliograph.core.partitions import partition_of
from heliograph.core.positions import Position
from heliograph.protocol.exports import LINE_START, Verbatim, decode_record_line, record_of
from heliograph.protocol.messages import Message, record_headers, record_value
from heliograph.protocol.tenants import AuthSettings, Tenant, encode_tenant
from heliograph.replay.bootstrap import real_stores
from heliograph.replay.settings import ReplaySettings
from heliograph.stores.kafka import KafkaLogAdmin, KafkaLogReader, KafkaLogWriter
from heliograph.stores.keys import Topics
from heliograph.stores.ports import IndexEntry, RehydrationRequest, StoreError, TopicSpec
from heliograph.stores.redis.metadata import (
    MetadataClient,
    RedisPositionIndex,
    RedisRehydration,
    RedisTenantStore,
)

DEADLINE_S = 60.0


class RealWorld:
    """Replay on real stores, with a tenant and a topic that no other test has."""

    def __init__(self, world: World, bootstrap: str, metadata: MetadataClient, tenant: str) -> None:
        self.world = world
        self.tenant = tenant
        self.session = f"{tenant}:planner:trip-42"
        self.metadata = metadata
        self.topics = Topics("heliograph-test")
        self.topic = self.topics.log(tenant)
        self.writer = KafkaLogWriter({"bootstrap.servers": bootstrap})
        self.reader = KafkaLogReader({"bootstrap.servers": bootstrap})
        self.admin = KafkaLogAdmin({"bootstrap.servers": bootstrap})

    def message(self, seq: int) -> Message:
        return message(seq, E1, self.session)

    async def write(self, *messages: Message) -> None:
        """Into the log; returns when all in-sync replicas have them."""
        loop = asyncio.get_running_loop()
        answers: list[asyncio.Future[StoreError | None]] = []
        for one in messages:
            answers.append(loop.create_future())
            key = one.session.encode()
            self.writer.write(
                self.topic,
                partition_of(key, PARTITIONS),
                key,
                record_value(one),
                record_headers(one),
                answers[-1].set_result,
            )
        async with asyncio.timeout(DEADLINE_S):
            assert set(await asyncio.gather(*answers)) == {None}

    @property
    def headers(self) -> dict[str, str]:
        return self.world.headers(self.tenant)


@pytest.fixture
async def real(world: World, kafka_bootstrap: str, redis_url: str, tmp_path: Path) -> AsyncIterator[RealWorld]:
    tenant = f"t-{uuid4().hex[:12]}"
    # A database of this worker's own, also where all share one Redis: replays of others would take its edges' requests.
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    redis_url = urlunsplit(urlsplit(redis_url)._replace(path=f"/{1 + worker % 15}"))
    async with contextlib.AsyncExitStack() as stack:
        metadata = MetadataClient(redis_url)
        await metadata.start()
        stack.push_async_callback(metadata.close)
        made = RealWorld(world, kafka_bootstrap, metadata, tenant)
        record = Tenant(tenant, auth=AuthSettings(jwks=world.signer(tenant).jwks()))
        await RedisTenantStore(metadata).put(tenant, encode_tenant(record))
        stack.push_async_callback(RedisTenantStore(metadata).delete, tenant)
        await made.admin.create(TopicSpec(made.topic, PARTITIONS, None, {}))
        stack.push_async_callback(made.admin.close)
        stack.push_async_callback(made.admin.delete, made.topic)
        await made.writer.start()
        stack.push_async_callback(made.writer.close, 5.0)
        await made.reader.start()
        stack.push_async_callback(made.reader.close)
        settings = ReplaySettings.model_validate(
            {
                "port": 0,
                "kafka_bootstrap_servers": kafka_bootstrap,
                "redis_url": redis_url,
                "topic_prefix": "heliograph-test",
            }
        )
        await world.start(real_stores(settings), topic_prefix="heliograph-test")
        yield made


async def test_a_session_is_read_back_byte_for_byte(real: RealWorld) -> None:
    mine = [real.message(seq) for seq in range(1, 2_001)]
    noise = [message(seq, E1, f"{real.tenant}:tool:{seq % 50}") for seq in range(1, 2_001)]
    shuffled = [*mine, *noise, *mine[100:200]]
    random.Random(7).shuffle(shuffled)
    # nearly in order: no message W past one that is not there
    shuffled.sort(key=lambda one: (one.producer_seq or 0) + random.Random(one.message_id).uniform(0, 500))
    await real.write(*shuffled)
    page = await real.world.page(real.session, token=real.headers, limit=1_000)
    seen = page.frames
    while not page.complete:
        page = await real.world.page(
            real.session, token=real.headers, limit=1_000, after=page.next or "", resume=page.resume or ""
        )
        seen += page.frames
    assert seen == frames_of(*mine)
    *lines, end = await real.world.lines(real.session, token=real.headers)
    assert lines == frames_of(*mine)
    assert json.loads(end)["complete"]


async def test_the_index_in_redis_says_where_to_begin(real: RealWorld) -> None:
    await real.write(*(real.message(seq) for seq in range(1, 3_001)))
    place = partition_of(real.session.encode(), PARTITIONS)
    info = await real.reader.partitions(real.topic)
    assert info is not None
    entry = IndexEntry(str(Position(E1, 1_501)), info.topic_id, place, 1_500)
    await RedisPositionIndex(real.metadata).add([(real.session, entry)], 60)
    page = await real.world.page(real.session, token=real.headers, after=str(Position(E1, 2_950)), limit=10)
    assert page.frames == frames_of(*(real.message(seq) for seq in range(2_951, 2_961)))
    assert real.world.value("starts_total", how="index") == 1
    assert real.world.value("records_scanned_total") <= 1_500 + 250


async def test_an_edge_gets_its_page_through_redis(real: RealWorld) -> None:
    sent = [real.message(seq) for seq in range(1, 51)]
    await real.write(*sent)
    edge = RedisRehydration(real.metadata)
    try:
        request = RehydrationRequest(real.session, str(Position(E1, 10)), None)
        pages = await asyncio.gather(*(edge.ask(request, DEADLINE_S) for _ in range(10)))
    finally:
        await edge.close()
    assert all(page.frames == frames_of(*sent[10:]) for page in pages)
    assert real.world.value("rehydrations_total", end="page") == 1


async def test_a_reader_that_goes_away_frees_its_kafka_client(real: RealWorld) -> None:
    big = [message(seq, E1, real.session, payload=b'"' + b"x" * 50_000 + b'"') for seq in range(1, 1_001)]
    await real.write(*big)
    path = "/v1/history/" + real.session.replace(":", "/")
    for _ in range(6):  # more than there are readers
        async with real.world.client.stream("GET", path, params={"format": "ndjson"}, headers=real.headers) as answer:
            assert answer.status_code == 200
            async for _ in answer.aiter_bytes():
                break
    page = await real.world.page(real.session, token=real.headers, limit=3)
    assert page.frames == frames_of(*big[:3])


async def test_a_tenant_is_exported_byte_for_byte_and_from_any_mark_on(real: RealWorld) -> None:
    sent = [
        message(seq, E1, f"{real.tenant}:tool:{seq % 50}", correlation_id="gr\u00fc\u00dfe") for seq in range(1, 3_001)
    ]
    await real.write(*sent)
    path = f"/v1/export/{real.tenant}"
    answer = await real.world.client.get(path, headers=real.headers)
    lines = answer.content.splitlines()
    assert json.loads(lines[-1])["complete"]
    records = [line for line in lines if line.startswith(LINE_START)]
    expected = [Verbatim(one.session.encode(), record_value(one), list(record_headers(one))) for one in sent]
    assert sorted(map(repr, map(record_of, map(decode_record_line, records)))) == sorted(map(repr, expected))
    marks = [(number, json.loads(line)["resume"]) for number, line in enumerate(lines) if b'{"type":"mark"' in line]
    for number, resume in (marks[0], marks[-1]):
        rest = await real.world.client.get(path, params={"resume": resume}, headers=real.headers)
        behind = [line for line in lines[number:] if line.startswith(LINE_START)]
        assert [line for line in rest.content.splitlines() if line.startswith(LINE_START)] == behind
