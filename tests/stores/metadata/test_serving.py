"""What every serve store promises: one worker a session, fences that rise, nothing due forgotten."""

import asyncio
import time

import pytest

from heliograph.core.errors import InvalidValueError
from heliograph.stores.keys import ServeKeys
from heliograph.stores.ports import Order, Served, ServeStore, StoreError, Worker
from heliograph.stores.redis.metadata import MetadataClient, RedisServeStore

KIND = "acme:planner"
SESSION = "acme:planner:trip-1"


def position(seq: int) -> str:
    return f"1764000000000-1a2b3c4d-{seq:016d}"


def worker(name: str, capacity: int = 10) -> Worker:
    return Worker(name, "edge-1", "incarnation-1", f"connection-of-{name}", "planner-agent", capacity)


async def held(serving: ServeStore, kind: str = KIND) -> dict[str, Served]:
    found, cursor = dict[str, Served](), 0
    while True:
        cursor, some = await serving.sessions(kind, cursor)
        found.update({one.session: one for one in some})
        if cursor == 0:
            return found


async def due(serving: ServeStore) -> list[str]:
    return [one.session for one in (await serving.view(KIND, 100)).due]


async def given(serving: ServeStore, session: str = SESSION, to: str = "w1", seq: int = 1) -> int:
    """Mark a session and give it to a worker."""
    await serving.mark(KIND, {session: position(seq)})
    (fence,) = await serving.assign(KIND, [(session, to)])
    assert fence > 0
    return fence


async def test_what_is_marked_waits_in_the_order_of_marking(serving: ServeStore) -> None:
    for number in range(3):
        await serving.mark(KIND, {f"acme:planner:{number}": position(1)})
        await asyncio.sleep(0.002)
    await serving.mark(KIND, {"acme:planner:0": position(2)})
    view = await serving.view(KIND, 2)
    assert [one.session for one in view.due] == ["acme:planner:0", "acme:planner:1"]
    assert (view.due[0].last, view.due[0].cursor) == (position(2), "")
    assert view.due[0].since_ms <= view.due[1].since_ms <= view.now_ms


async def test_a_kind_is_served_from_its_first_offer_until_it_is_forgotten(serving: ServeStore) -> None:
    assert await serving.kinds() == {}
    await serving.offer(KIND, [worker("w1")])
    (since_ms,) = (await serving.kinds()).values()
    await asyncio.sleep(0.005)
    await serving.keep(KIND)
    assert (await serving.kinds())[KIND] > since_ms
    await serving.mark(KIND, {SESSION: position(1)})
    await serving.forget(KIND)
    assert await serving.kinds() == {}
    view = await serving.view(KIND, 10)
    assert (view.workers, view.due) == ([], [])


async def test_workers_are_seen_with_what_they_offer_and_hold(serving: ServeStore) -> None:
    await serving.offer(KIND, [worker("w1", 2), worker("w2", 0)])
    await given(serving)
    view = await serving.view(KIND, 10)
    assert {found.name: (found.capacity, count) for found, count in view.workers} == {"w1": (2, 1), "w2": (0, 0)}
    found = {found.name: found for found, _ in view.workers}["w1"]
    assert found.connection == "connection-of-w1"
    assert 0 < found.offered_ms <= view.now_ms
    await serving.offer(KIND, [worker("w1", 5)])
    await serving.leave(KIND, ["w2"])
    assert await serving.known(KIND, ["w2", "w1", "w3"]) == [False, True, False]
    assert [(found.capacity, count) for found, count in (await serving.view(KIND, 10)).workers] == [(5, 1)]


async def test_a_session_is_given_once(serving: ServeStore) -> None:
    await serving.offer(KIND, [worker("w1"), worker("w2")])
    await serving.mark(KIND, {SESSION: position(1)})
    answers = await asyncio.gather(*(serving.assign(KIND, [(SESSION, f"w{1 + n % 2}")]) for n in range(10)))
    assert sum(fence > 0 for (fence,) in answers) == 1
    assert await due(serving) == []
    assert (await serving.assign(KIND, [(SESSION, "w2")])) == [0]


async def test_nobody_gets_more_than_was_offered_whoever_gives_it(serving: ServeStore) -> None:
    await serving.offer(KIND, [worker("w1", 3)])
    sessions = [f"acme:planner:{number}" for number in range(20)]
    await serving.mark(KIND, dict.fromkeys(sessions, position(1)))
    answers = await asyncio.gather(*(serving.assign(KIND, [(session, "w1")]) for session in sessions))
    assert sum(fence > 0 for (fence,) in answers) == 3
    assert len(await due(serving)) == 17


async def test_what_is_not_due_and_who_is_not_there_are_not_given(serving: ServeStore) -> None:
    await serving.offer(KIND, [worker("w1")])
    await serving.mark(KIND, {SESSION: position(1)})
    assert await serving.assign(KIND, [("acme:planner:never-marked", "w1"), (SESSION, "w2")]) == [0, 0]
    assert await due(serving) == [SESSION]


async def test_fences_rise_and_are_never_below_the_clock(serving: ServeStore) -> None:
    await serving.offer(KIND, [worker("w1")])
    before_ms = (await serving.view(KIND, 1)).now_ms
    fence = await given(serving)
    assert fence >= before_ms
    for _ in range(3):
        assert await serving.release(KIND, [(SESSION, fence, "")]) == [True]
        (higher,) = await serving.assign(KIND, [(SESSION, "w1")])
        assert higher > fence
        fence = higher
    await serving.release(KIND, [(SESSION, fence, "")])
    (higher,) = await serving.assign(KIND, [(SESSION, "w1")], above=fence + 1_000_000)
    assert higher > fence + 1_000_000


async def test_a_lease_is_taken_and_given_back_by_its_fence_only(serving: ServeStore) -> None:
    await serving.offer(KIND, [worker("w1")])
    fence = await given(serving)
    assert await serving.take(KIND, [(SESSION, fence - 1), (SESSION, fence)]) == [False, True]
    assert (await held(serving))[SESSION].taken
    assert await serving.release(KIND, [(SESSION, fence - 1, ""), (SESSION, fence, "")]) == [False, True]
    assert await serving.release(KIND, [(SESSION, fence, "")]) == [False]
    assert await serving.take(KIND, [(SESSION, fence), ("acme:planner:other", fence)]) == [False, False]


async def test_given_back_it_is_due_again_if_something_is_behind_the_cursor(serving: ServeStore) -> None:
    await serving.offer(KIND, [worker("w1")])
    fence = await given(serving, seq=5)
    assert await serving.release(KIND, [(SESSION, fence, position(4))]) == [True]
    assert [(one.session, one.previous) for one in (await serving.view(KIND, 9)).due] == [(SESSION, "w1")]
    (fence,) = await serving.assign(KIND, [(SESSION, "w1")])
    assert await serving.release(KIND, [(SESSION, fence, position(5))]) == [True]
    assert await due(serving) == []
    assert [count for _, count in (await serving.view(KIND, 9)).workers] == [0]


async def test_a_message_that_came_while_it_was_held_makes_it_due_when_given_back(serving: ServeStore) -> None:
    await serving.offer(KIND, [worker("w1")])
    fence = await given(serving, seq=1)
    await serving.mark(KIND, {SESSION: position(2)})
    assert await due(serving) == []
    await serving.release(KIND, [(SESSION, fence, position(1))])
    assert await due(serving) == [SESSION]


async def test_the_first_that_waits_is_known_until_nothing_waits(serving: ServeStore) -> None:
    await serving.offer(KIND, [worker("w1")])
    await serving.mark(KIND, {SESSION: position(3)})
    fence = await given(serving, seq=5)
    await serving.mark(KIND, {SESSION: position(7)})
    await serving.release(KIND, [(SESSION, fence, position(5))])
    (found,) = (await serving.view(KIND, 9)).due
    assert (found.first, found.last) == (position(3), position(7))
    (fence,) = await serving.assign(KIND, [(SESSION, "w1")])
    await serving.release(KIND, [(SESSION, fence, position(7))])
    await serving.mark(KIND, {SESSION: position(9)})
    (found,) = (await serving.view(KIND, 9)).due
    assert (found.first, found.last) == (position(9), position(9))


async def test_a_late_mark_of_what_was_done_with_makes_nothing_due(serving: ServeStore) -> None:
    await serving.offer(KIND, [worker("w1")])
    fence = await given(serving, seq=2)
    await serving.release(KIND, [(SESSION, fence, position(2))])
    await serving.mark(KIND, {SESSION: position(1)})
    await serving.mark(KIND, {SESSION: position(2)})
    assert await due(serving) == []
    await serving.mark(KIND, {SESSION: position(3)})
    assert await due(serving) == [SESSION]


async def test_what_a_lost_worker_held_is_released_without_harm_to_others(serving: ServeStore) -> None:
    await serving.offer(KIND, [worker("w1"), worker("w2")])
    fence = await given(serving)
    await serving.leave(KIND, ["w1"])
    assert (await held(serving))[SESSION].worker == "w1"
    assert await serving.release(KIND, [(SESSION, fence, "")]) == [True]
    view = await serving.view(KIND, 9)
    assert [(found.name, count) for found, count in view.workers] == [("w2", 0)]
    assert [one.session for one in view.due] == [SESSION]


async def test_only_what_nobody_wants_is_pruned(serving: ServeStore) -> None:
    await serving.offer(KIND, [worker("w1")])
    done, waits, has = "acme:planner:done", "acme:planner:waits", "acme:planner:has"
    fence = await given(serving, done)
    await serving.release(KIND, [(done, fence, position(1))])
    await given(serving, has)
    await serving.mark(KIND, {waits: position(1)})
    later_ms = (await serving.view(KIND, 1)).now_ms + 1_000
    assert await serving.prune(KIND, [done, waits, has], 1) == 0
    assert await serving.prune(KIND, [done, waits, has, "acme:planner:unknown"], later_ms) == 1
    assert set(await held(serving)) == {waits, has}


async def test_many_sessions_are_listed_all(serving: ServeStore) -> None:
    sessions = {f"acme:planner:{number}": position(1) for number in range(1_500)}
    await serving.mark(KIND, sessions)
    assert set(await held(serving)) == set(sessions)
    assert len((await serving.view(KIND, 700)).due) == 700


async def test_kinds_are_apart(serving: ServeStore) -> None:
    await serving.offer(KIND, [worker("w1")])
    await serving.mark("acme:critic", {"acme:critic:1": position(1)})
    assert await due(serving) == []
    assert await serving.assign(KIND, [("acme:critic:1", "w1")]) == [0]


async def test_orders_go_to_their_edge_once_in_order(serving: ServeStore) -> None:
    orders = [Order(KIND, f"acme:planner:{n}", "w1", n, None if n % 2 else position(n)) for n in range(5)]
    waiting = asyncio.create_task(serving.orders("edge-1", 5))
    await serving.order("edge-2", orders[:1])
    await serving.order("edge-1", orders)
    got = await waiting
    while len(got) < 5:
        got += await serving.orders("edge-1", 5)
    assert got == orders
    assert await serving.orders("edge-1", 0.01) == []
    assert await serving.orders("edge-2", 5) == orders[:1]


async def test_who_waits_for_changes_hears_of_what_becomes_due(serving: ServeStore) -> None:
    await serving.changed(0.01)
    deadline, marked = time.monotonic() + 10, 0
    while True:  # a hint may be missed until the connection listens
        marked += 1
        await serving.mark(KIND, {f"acme:planner:{marked}": position(1)})
        if KIND in await serving.changed(0.1):
            break
        assert time.monotonic() < deadline
    started = time.monotonic()
    waiting = asyncio.create_task(serving.changed(10))
    await serving.offer(KIND, [worker("w1")])
    assert await waiting == {KIND}
    assert time.monotonic() - started < 5


async def test_an_edge_name_that_is_no_name_is_refused(serving: ServeStore) -> None:
    with pytest.raises(InvalidValueError):
        await serving.order("edge/1", [])
    with pytest.raises(InvalidValueError):
        await serving.offer(KIND, [Worker("w", "a b", "i", "c", "s", 1)])


async def test_a_broken_record_hides_no_other(client: MetadataClient) -> None:
    store = RedisServeStore(client)
    await store.offer(KIND, [worker("w1"), worker("w2")])
    await store.mark(KIND, {SESSION: position(1), "acme:planner:2": position(1)})
    await client.redis.hset(ServeKeys.of(KIND).workers, "w1", b"{")
    await client.redis.hset(ServeKeys.of(KIND).sessions, SESSION, b'{"fence":"x"}')
    view = await store.view(KIND, 9)
    assert [found.name for found, _ in view.workers] == ["w2"]
    assert len(view.due) == 2
    assert set(await held(store)) == {"acme:planner:2"}
    assert store.corrupt_records == 3
    await client.redis.hset(ServeKeys.of(KIND).sessions, SESSION, b"nonsense")
    assert [fence > 0 for fence in await store.assign(KIND, [(SESSION, "w1"), (SESSION, "w2")])] == [False, True]


async def test_an_unreachable_store_says_so() -> None:
    client = MetadataClient("redis://127.0.0.1:1/0", timeout_s=0.5)
    store = RedisServeStore(client)
    for call in (store.kinds(), store.mark(KIND, {SESSION: position(1)}), store.orders("edge-1", 0.1)):
        with pytest.raises(StoreError) as caught:
            await call
        assert caught.value.code == "unavailable"
    await client.close()
