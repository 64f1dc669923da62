"""What every store of orders to edges promises."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from heliograph.core.errors import InvalidValueError
from heliograph.stores import keys
from heliograph.stores.ports import CorruptError, DrainOrder, EdgeOrders, ShedOrder, StandingOrders, StoreError
from heliograph.stores.redis.metadata import MetadataClient, RedisEdgeOrders

EDGE = "edge-7f9c-abcde"
DRAIN = DrainOrder("fleet/pod-1", 60.0)
SHED = ShedOrder("shed/1", "inc-1", 120, 60.0)


async def becomes(state: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + 10
    while not await state():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_an_edge_without_orders_is_told_nothing(edge_orders: EdgeOrders) -> None:
    assert await edge_orders.standing([EDGE, "another"]) == [StandingOrders(), StandingOrders()]
    assert await edge_orders.standing([]) == []


async def test_orders_stand_until_they_are_withdrawn_whoever_reads_them(edge_orders: EdgeOrders) -> None:
    await edge_orders.drain(EDGE, DRAIN, 30)
    for _ in range(2):
        none, (found) = await edge_orders.standing(["another", EDGE])
        assert none == StandingOrders()
        assert found.drain is not None
        assert (found.drain.id, found.drain.over_s, found.shed) == (DRAIN.id, 60.0, None)
    assert await edge_orders.withdraw(EDGE, DRAIN.id) is True
    assert await edge_orders.standing([EDGE]) == [StandingOrders()]
    assert await edge_orders.withdraw(EDGE, DRAIN.id) is False


async def test_the_same_order_again_is_the_same_order(edge_orders: EdgeOrders) -> None:
    first = await edge_orders.drain(EDGE, DRAIN, 30)
    assert first.age_s < 5

    async def older() -> bool:
        again = await edge_orders.drain(EDGE, DRAIN, 30)
        assert again.id == DRAIN.id
        return again.age_s >= 0.05

    await becomes(older)


async def test_of_two_who_order_a_drain_the_first_one_counts(edge_orders: EdgeOrders) -> None:
    """An edge drains once: what it has told its clients can't be told at another pace."""
    await edge_orders.drain(EDGE, DRAIN, 30)
    stands = await edge_orders.drain(EDGE, DrainOrder("another", 5.0), 30)
    assert (stands.id, stands.over_s) == (DRAIN.id, 60.0)
    assert await edge_orders.withdraw(EDGE, "another") is False
    (found,) = await edge_orders.standing([EDGE])
    assert found.drain is not None
    assert found.drain.id == DRAIN.id


async def test_a_drain_that_nobody_prolongs_runs_out(edge_orders: EdgeOrders) -> None:
    await edge_orders.drain(EDGE, DRAIN, 0.05)

    async def ran_out() -> bool:
        return await edge_orders.standing([EDGE]) == [StandingOrders()]

    await becomes(ran_out)
    assert await edge_orders.withdraw(EDGE, DRAIN.id) is False


async def test_ordering_it_again_prolongs_a_drain(edge_orders: EdgeOrders) -> None:
    await edge_orders.drain(EDGE, DRAIN, 0.2)
    await edge_orders.drain(EDGE, DRAIN, 60)
    until = time.monotonic() + 0.4
    while time.monotonic() < until:
        (found,) = await edge_orders.standing([EDGE])
        assert found.drain is not None
        await asyncio.sleep(0.02)


async def test_one_shedding_at_a_time(edge_orders: EdgeOrders) -> None:
    assert await edge_orders.shed(EDGE, SHED, 30) == SHED
    assert await edge_orders.shed(EDGE, ShedOrder("shed/2", "inc-1", 9, 1.0), 30) == SHED
    assert await edge_orders.standing([EDGE]) == [StandingOrders(None, SHED)]


async def test_a_shedding_runs_out_and_another_may_follow(edge_orders: EdgeOrders) -> None:
    await edge_orders.shed(EDGE, SHED, 0.05)
    after = ShedOrder("shed/2", "inc-1", 9, 1.0)

    async def follows() -> bool:
        return await edge_orders.shed(EDGE, after, 30) == after

    await becomes(follows)


async def test_both_kinds_stand_side_by_side(edge_orders: EdgeOrders) -> None:
    await edge_orders.shed(EDGE, SHED, 30)
    await edge_orders.drain(EDGE, DRAIN, 30)
    await edge_orders.withdraw(EDGE, DRAIN.id)
    assert await edge_orders.standing([EDGE]) == [StandingOrders(None, SHED)]


async def test_names_that_can_be_no_part_of_a_key_are_refused(edge_orders: EdgeOrders) -> None:
    for call in (
        edge_orders.drain("a:b", DRAIN, 1),
        edge_orders.shed("a:b", SHED, 1),
        edge_orders.withdraw("a:b", "x"),
        edge_orders.standing(["a:b"]),
    ):
        with pytest.raises(InvalidValueError):
            await call


async def test_an_order_that_cannot_be_read_is_none(client: MetadataClient) -> None:
    store = RedisEdgeOrders(client)
    await client.redis.hset(keys.edge_drain(EDGE), mapping={"order": b"{", "id": DRAIN.id, "since_ms": b"x"})
    await client.redis.set(keys.edge_shed(EDGE), b"[]")
    assert await store.standing([EDGE]) == [StandingOrders()]
    assert store.corrupt_records == 2
    await store.drain(EDGE, DRAIN, 30)
    (found,) = await store.standing([EDGE])
    assert found.drain is not None, "what has no time since when is written anew"
    await client.redis.hset(keys.edge_drain(EDGE), "order", b"{")
    assert (await store.drain(EDGE, DRAIN, 30)).id == DRAIN.id
    (found,) = await store.standing([EDGE])
    assert found.drain is not None, "and so is what no edge can read"


async def test_a_key_of_another_type_is_told(client: MetadataClient) -> None:
    await client.redis.set(keys.edge_drain(EDGE), b"x")
    with pytest.raises(StoreError):
        await RedisEdgeOrders(client).standing([EDGE])
    with pytest.raises(CorruptError):
        await RedisEdgeOrders(client).withdraw(EDGE, DRAIN.id)


async def test_a_store_that_is_away_is_told_as_such() -> None:
    client = MetadataClient("redis://127.0.0.1:1/0", timeout_s=0.5)
    with pytest.raises(StoreError) as caught:
        await RedisEdgeOrders(client).standing([EDGE])
    assert caught.value.code == "unavailable"
    await client.close()
