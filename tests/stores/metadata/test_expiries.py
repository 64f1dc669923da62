"""What every store of sessions' expiries promises."""

import asyncio

import pytest

from heliograph.core.expiry import Expiry
from heliograph.stores.keys import EXPIRY_VERSIONS, expiry
from heliograph.stores.ports import CorruptError, SessionExpiries
from heliograph.stores.redis.metadata import MetadataClient, RedisSessionExpiries

SESSION, OTHER, FOREIGN = "acme:planner:1", "acme:planner:2", "globex:planner:1"
T = 1_764_000_000_000


async def test_a_state_is_got_as_it_was_put_and_only_by_its_session(expiries: SessionExpiries) -> None:
    assert await expiries.get([SESSION]) == [None]
    state = Expiry(T, T - 5, 3)
    assert await expiries.put(SESSION, state) == state
    assert await expiries.get([OTHER, SESSION, FOREIGN]) == [None, state, None]
    assert await expiries.get([]) == []


async def test_a_later_state_replaces_an_earlier_and_an_earlier_changes_nothing_but_the_floor(
    expiries: SessionExpiries,
) -> None:
    await expiries.put(SESSION, Expiry(T, 10, 4))
    assert await expiries.put(SESSION, Expiry(7, 20, 0)) == Expiry(7, 20, 4)
    assert await expiries.put(SESSION, Expiry(T, 10, 9)) == Expiry(7, 20, 9)
    assert await expiries.get([SESSION]) == [Expiry(7, 20, 9)]


async def test_what_many_put_at_once_comes_to_what_merging_says(expiries: SessionExpiries) -> None:
    states = [Expiry(T + number * 7 % 5, number % 9, number % 4) for number in range(30)]
    await asyncio.gather(*(expiries.put(SESSION, state) for state in states))
    wanted = states[0]
    for state in states:
        wanted = wanted.merged(state)
    assert await expiries.get([SESSION]) == [wanted]


async def test_every_put_raises_the_version_of_its_tenant_also_where_it_changes_nothing(
    expiries: SessionExpiries,
) -> None:
    assert await expiries.versions() == {}
    await expiries.put(SESSION, Expiry(T, 1))
    await expiries.put(FOREIGN, Expiry(T, 1))
    first = await expiries.versions()
    assert first.keys() == {"acme", "globex"}
    await expiries.put(SESSION, Expiry(T, 1))
    second = await expiries.versions()
    assert second["acme"] > first["acme"]
    assert second["globex"] == first["globex"]


async def test_what_is_older_than_the_log_is_forgotten(expiries: SessionExpiries) -> None:
    await expiries.put(SESSION, Expiry(T, 1))
    await expiries.put(OTHER, Expiry(T + 10, 1))
    await expiries.put("acme:planner:3", Expiry(5, 1, T + 10))
    await expiries.put(FOREIGN, Expiry(T, 1))
    assert await expiries.forget("acme", T + 10) == 1
    assert await expiries.get([SESSION, OTHER, FOREIGN]) == [None, Expiry(T + 10, 1), Expiry(T, 1)]
    assert await expiries.forget("acme", T + 11) == 2
    assert await expiries.forget("nobody", T) == 0


async def test_what_is_no_state_is_corrupt_and_can_be_put_right(client: MetadataClient) -> None:
    expiries = RedisSessionExpiries(client)
    await client.redis.hset(expiry("acme"), SESSION, "secret")
    with pytest.raises(CorruptError, match="hg:expiry:acme") as caught:
        await expiries.get([SESSION])
    assert "secret" not in str(caught.value)
    assert await expiries.forget("acme", T) == 0
    assert await expiries.put(SESSION, Expiry(T, 1)) == Expiry(T, 1)
    await client.redis.hset(EXPIRY_VERSIONS, "acme", "x")
    with pytest.raises(CorruptError):
        await expiries.versions()


async def test_a_store_that_lost_its_data_goes_on_above_what_services_remember(client: MetadataClient) -> None:
    expiries = RedisSessionExpiries(client)
    await expiries.put(SESSION, Expiry(T, 1))
    remembered = (await expiries.versions())["acme"]
    await client.redis.flushdb()
    while True:
        await expiries.put(SESSION, Expiry(T, 1))
        if (await expiries.versions())["acme"] > remembered:
            break
