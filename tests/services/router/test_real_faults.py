"""Redis killed and restarted under a router on real stores, while records flow."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from uuid import uuid4

import pytest
from tests.services.router.helpers import SHARDS, RealWorld, now_ms, until

from heliograph.local.providers import Redis
from heliograph.stores.ports import StoreError


@pytest.fixture
def own_redis(redis_server: Callable[..., Redis]) -> Redis:
    return redis_server(appendonly=True)


@pytest.fixture
async def world(kafka_bootstrap: str, own_redis: Redis) -> AsyncIterator[RealWorld]:
    async with AsyncExitStack() as stack:
        world = RealWorld(stack, kafka_bootstrap, own_redis.url)
        await world.set_up()
        yield world


async def test_redis_killed_and_restarted_while_records_flow_loses_no_confirmation(
    world: RealWorld, own_redis: Redis
) -> None:
    router = await world.router(reconcile_margin_s=1)
    sessions = [world.session() for _ in range(20)]
    accepted: dict[str, int] = dict.fromkeys(sessions, 0)
    flowing = True

    async def flow(session: str) -> None:
        """Publishes of one session, one after the other. One that fails ends its producer; another one begins at 1."""
        incarnation, number = uuid4().hex, 0
        while flowing:
            number += 1
            message = world.message(session, number, incarnation)
            try:
                await world.append(message)
            except (StoreError, AssertionError):  # away, or the former epoch is not reconciled yet
                incarnation, number = uuid4().hex, 0
                await asyncio.sleep(0.1)
                continue
            accepted[session] += 1
            await world.log(message)
            await asyncio.sleep(0.01)

    flows = [asyncio.create_task(flow(session)) for session in sessions]
    await until(lambda: router.value("confirmed_total") > 200)
    await asyncio.to_thread(own_redis.kill)
    await until(lambda: "live" in router.service.readiness.waiting_for(), "not ready")
    await asyncio.to_thread(own_redis.start)
    await until(lambda: router.service.readiness.ready, "ready again")
    before = router.value("confirmed_total")
    await until(lambda: router.value("confirmed_total") > before + 200)
    flowing = False
    await asyncio.gather(*flows)

    async def nothing_unconfirmed() -> bool:
        dirty = [await world.live.dirty(shard, now_ms() + 60_000, 100) for shard in range(SHARDS)]
        return not any(dirty)

    await until(nothing_unconfirmed, "every accepted message is confirmed")
    await until(lambda: sum(router.lag().values()) == 0, "nothing is uncommitted")
    records = await world.records()
    assert len({(record.key, dict(record.headers)["ce_sequence"]) for record in records}) >= sum(accepted.values())
    assert len(records) == sum(accepted.values()) + router.value("reconciled_total")
    assert router.value("dead_letters_total", reason="router_error") == 0
