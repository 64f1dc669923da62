"""The bare loops do the work that they are measured for, on real servers."""

import asyncio
import random
from uuid import uuid4

import pytest

from heliograph.core.partitions import partition_of
from heliograph.local.bench.fill import fill_log, fill_sessions, one_among_many
from heliograph.local.bench.rig import PARTITIONS
from heliograph.local.bench.routing import run_bare
from heliograph.local.errors import LocalError
from heliograph.stores.kafka import KafkaLogAdmin
from heliograph.stores.ports import Head, TopicSpec
from heliograph.stores.redis.live import RedisLiveStore

RECORDS = 300
SESSIONS = 20


@pytest.fixture
async def topic(kafka_bootstrap: str) -> str:
    name = f"bench-{uuid4().hex}"
    admin = KafkaLogAdmin({"bootstrap.servers": kafka_bootstrap})
    await admin.create(TopicSpec(name, PARTITIONS, None, {}))
    await admin.close()
    return name


async def heads(redis_url: str, tenant: str) -> list[Head]:
    store = RedisLiveStore(redis_url, uniform=random.random)
    await store.start()
    try:
        return await store.heads([f"{tenant}:planner:{number:06d}" for number in range(SESSIONS)])
    finally:
        await store.close()


async def test_the_bare_router_confirms_all_that_was_accepted(kafka_bootstrap: str, redis_url: str, topic: str) -> None:
    tenant = f"b{uuid4().hex[:12]}"
    await asyncio.to_thread(
        fill_sessions, kafka_bootstrap, redis_url, topic, tenant, records=RECORDS, sessions=SESSIONS
    )
    before = await heads(redis_url, tenant)
    assert sum(head.seq for head in before) == RECORDS
    assert sum(head.confirmed for head in before) == 0
    options = {"redis": redis_url, "topic": topic, "group": topic, "records": RECORDS}
    found = await asyncio.to_thread(run_bare, "router", kafka_bootstrap, options)
    assert found["records"] == RECORDS
    assert found["cpu_s"] > 0
    assert [head.confirmed for head in await heads(redis_url, tenant)] == [head.seq for head in before]


async def test_the_bare_scan_finds_one_session_in_its_partition(kafka_bootstrap: str, topic: str) -> None:
    session = "bench-history:planner:wanted"
    messages = one_among_many(session, "bench-history", wanted=40, others=200, sessions=SESSIONS)
    await asyncio.to_thread(fill_log, kafka_bootstrap, topic, messages, lambda _line: None)
    options = {"topic": topic, "group": topic, "key": session, "records": 40}
    options["partition"] = partition_of(session.encode(), PARTITIONS)
    found = await asyncio.to_thread(run_bare, "scan", kafka_bootstrap, options)
    assert 40 <= found["records"] < 240
    with pytest.raises(LocalError, match="40 records of the session were found, 41 should be there"):
        await asyncio.to_thread(run_bare, "scan", kafka_bootstrap, {**options, "records": 41})
