"""What every quota store promises, and that Redis and the core's rule come to the same."""

import math
from uuid import uuid4

import pytest

from heliograph.core.buckets import UNLIMITED, Rate, SenderLimits
from heliograph.core.quotas import lease
from heliograph.stores.memory.metadata import MemoryQuotaStore
from heliograph.stores.ports import QuotaGrant, QuotaRequest, QuotaStore, StoreError
from heliograph.stores.redis.metadata import MetadataClient, RedisQuotaStore

SLOW = Rate(per_s=0.001, burst=10)
"""So slow that nothing comes back while a test runs."""


@pytest.fixture
def quotas(client_if_redis: MetadataClient | None) -> QuotaStore:
    return MemoryQuotaStore() if client_if_redis is None else RedisQuotaStore(client_if_redis)


def asked(messages: int, bytes_: int = 0, *, bucket: str = "acme:event", rate: Rate = SLOW) -> QuotaRequest:
    return QuotaRequest(bucket, SenderLimits(rate, Rate(0.01, 1_000)), messages, bytes_)


async def one(quotas: QuotaStore, request: QuotaRequest) -> QuotaGrant:
    (grant,) = await quotas.lease([request])
    return grant


async def test_tokens_are_given_until_the_burst_is_spent(quotas: QuotaStore) -> None:
    assert await one(quotas, asked(6)) == QuotaGrant(6, 0)
    grant = await one(quotas, asked(6))
    assert (grant.messages, grant.bytes) == (4, 0)
    assert grant.wait_s == pytest.approx(2_000, abs=5)
    assert (await one(quotas, asked(1))).messages == 0


async def test_all_edges_share_a_bucket_and_buckets_are_apart(quotas: QuotaStore) -> None:
    grants = await quotas.lease([asked(10), asked(1), asked(10, bucket="acme:control"), asked(3, bucket="beta:event")])
    assert [grant.messages for grant in grants] == [10, 0, 10, 3]


async def test_messages_and_bytes_are_given_each_by_itself(quotas: QuotaStore) -> None:
    grant = await one(quotas, asked(5, 2_000))
    assert (grant.messages, grant.bytes) == (5, 1_000)
    assert grant.wait_s == pytest.approx(100_000, rel=0.01)


async def test_no_limit_gives_what_is_asked(quotas: QuotaStore) -> None:
    request = QuotaRequest("acme:event", SenderLimits(UNLIMITED, UNLIMITED), 10**9, 10**12)
    assert await one(quotas, request) == QuotaGrant(10**9, 10**12)


async def test_tokens_come_back_with_time(quotas: QuotaStore) -> None:
    fast = Rate(per_s=10_000, burst=100)
    assert (await one(quotas, asked(100, rate=fast))).messages == 100
    got = 0
    while got < 100:
        got += (await one(quotas, asked(100 - got, rate=fast))).messages


async def test_redis_and_the_core_decide_alike(client: MetadataClient) -> None:
    quotas, bucket = RedisQuotaStore(client), uuid4().hex
    full_at_s = -math.inf
    rate = Rate(per_s=0.01, burst=50)
    for wanted in (7, 30, 20, 5, 1):
        grant = await one(quotas, asked(wanted, bucket=bucket, rate=rate))
        granted, full_at_s, wait_s = lease(full_at_s, 0.0, rate, wanted)
        assert grant.messages == granted
        assert grant.wait_s == pytest.approx(wait_s, abs=2)


async def test_a_corrupt_bucket_is_a_full_one(client: MetadataClient) -> None:
    quotas = RedisQuotaStore(client)
    await client.redis.hset("hg:quota:acme:event", mapping={"m": b"x", "b": b"9e99"})
    assert (await one(quotas, asked(10))).messages == 10


async def test_an_unreachable_store_is_unavailable() -> None:
    client = MetadataClient("redis://127.0.0.1:1/0", timeout_s=0.5)
    with pytest.raises(StoreError) as caught:
        await RedisQuotaStore(client).lease([asked(1)])
    assert caught.value.code == "unavailable"
    await client.close()
