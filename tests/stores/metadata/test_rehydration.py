"""What every rehydration store promises."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import pytest

from heliograph.core.limits import PAGE_BYTES
from heliograph.core.messages import MessageClass
from heliograph.core.positions import Position
from heliograph.protocol.messages import Message, frame
from heliograph.stores import keys
from heliograph.stores.ports import RehydratedPage, Rehydration, RehydrationRequest, StoreError
from heliograph.stores.redis.metadata import MetadataClient, RedisRehydration
from heliograph.stores.rehydration import NOTHING_TTL_S, PAGE_TTL_S, PASSING_PAGE_TTL_S, bounded, page_ttl_s

SESSION = "acme:planner:trip-42"
EPOCH = "1764000000000-1a2b3c4d"


def position(seq: int) -> str:
    return str(Position(EPOCH, seq))


def frame_at(seq: int, payload: bytes = b"1") -> bytes:
    return frame(
        Message(
            session=SESSION,
            message_id=f"m{seq}",
            time_ms=1,
            producer="p",
            class_=MessageClass.EVENT,
            payload=payload,
            position=position(seq),
        )
    )


REQUEST = RehydrationRequest(SESSION, position(4), position(9))
PAGE = RehydratedPage([b"five", b"six"], more=True, gap_before=[position(1), position(4), "retention"])


def requests(store: Rehydration, worker: str = "worker-1") -> AsyncIterator[RehydrationRequest]:
    return store.requests(worker)


async def first(store: Rehydration, worker: str = "worker-1") -> RehydrationRequest:
    """The next request; the worker stops asking after it, as one that is killed does."""
    iterator = requests(store, worker)
    return await asyncio.wait_for(anext(iterator), 5)


async def test_a_request_reaches_a_worker_and_its_page_comes_back(rehydration: Rehydration) -> None:
    asked = asyncio.create_task(rehydration.ask(REQUEST, 5))
    async with aclosing(requests(rehydration)) as taken:  # type: ignore[type-var]
        request = await asyncio.wait_for(anext(taken), 5)
        assert request == REQUEST
        await rehydration.answer(request, PAGE)
    assert await asked == PAGE


async def test_open_ends_are_none(rehydration: Rehydration) -> None:
    asked = asyncio.create_task(rehydration.ask(RehydrationRequest(SESSION, None, None), 5))
    request = await first(rehydration)
    assert (request.after, request.until) == (None, None)
    await rehydration.answer(request, PAGE)
    await asked


async def test_equal_requests_are_one_read(rehydration: Rehydration) -> None:
    asked = [asyncio.create_task(rehydration.ask(REQUEST, 5)) for _ in range(20)]
    other = asyncio.create_task(rehydration.ask(RehydrationRequest(SESSION, None, None), 5))
    seen: list[RehydrationRequest] = []
    async with aclosing(requests(rehydration)) as taken:  # type: ignore[type-var]
        while len(seen) < 2:
            request = await asyncio.wait_for(anext(taken), 5)
            seen.append(request)
            await rehydration.answer(request, PAGE)
    assert await asyncio.gather(*asked) == [PAGE] * 20
    await other
    assert {request.name for request in seen} == {REQUEST.name, RehydrationRequest(SESSION, None, None).name}


async def test_a_page_answers_later_requests_for_it(rehydration: Rehydration) -> None:
    await rehydration.answer(REQUEST, PAGE)
    assert await rehydration.ask(REQUEST, 5) == PAGE


async def test_that_there_is_nothing_is_not_taken_for_granted_for_long(rehydration: Rehydration) -> None:
    await rehydration.answer(REQUEST, RehydratedPage([], more=False))

    async def is_answered() -> bool:
        try:
            return not (await rehydration.ask(REQUEST, 0.2)).frames
        except StoreError:
            return False  # a worker is asked anew, and there is none

    async with asyncio.timeout(20):
        while await is_answered():
            await asyncio.sleep(0.05)
    asked = asyncio.create_task(rehydration.ask(REQUEST, 5))
    await rehydration.answer(await first(rehydration), PAGE)
    assert await asked == PAGE


async def test_past_the_deadline_history_is_unavailable(rehydration: Rehydration) -> None:
    begun = time.monotonic()
    with pytest.raises(StoreError) as caught:
        await rehydration.ask(REQUEST, 0.2)
    assert caught.value.code == "history_unavailable"
    assert time.monotonic() - begun < 2


async def test_nobody_answers_who_is_no_longer_waiting(rehydration: Rehydration) -> None:
    with pytest.raises(StoreError):
        await rehydration.ask(REQUEST, 0.5)  # long enough to reach the store over connections that are new
    await asyncio.sleep(0.05)  # its deadline runs from when it reached the store, by the store's clock
    later = RehydrationRequest(SESSION, None, None)
    asked = asyncio.create_task(rehydration.ask(later, 5))
    assert await first(rehydration) == later
    assert rehydration.stale_requests == 1  # type: ignore[attr-defined]
    await rehydration.answer(later, PAGE)
    await asked


async def test_who_asks_again_after_a_deadline_is_heard(rehydration: Rehydration) -> None:
    with pytest.raises(StoreError):
        await rehydration.ask(REQUEST, 0.5)
    asked = asyncio.create_task(rehydration.ask(REQUEST, 5))
    assert await first(rehydration) == REQUEST
    await rehydration.answer(REQUEST, PAGE)
    assert await asked == PAGE


async def test_an_error_is_an_answer(rehydration: Rehydration) -> None:
    asked = asyncio.create_task(rehydration.ask(REQUEST, 5))
    await rehydration.answer(await first(rehydration), RehydratedPage([], more=False, code="log_unavailable"))
    assert (await asked).code == "log_unavailable"


async def test_pages_of_a_tenant_are_bounded_in_bytes(rehydration: Rehydration) -> None:
    await rehydration.answer(RehydrationRequest(SESSION, None, position(1)), RehydratedPage([b"x" * 900], more=True))
    over = RehydrationRequest(SESSION, None, position(2))
    await rehydration.answer(over, RehydratedPage([b"y" * 200], more=True))
    page = await rehydration.ask(over, 5)
    assert (page.code, page.frames) == ("too_many_requests", [])
    other = RehydrationRequest("beta:planner:1", None, None)
    await rehydration.answer(other, RehydratedPage([b"z" * 200], more=True))
    assert (await rehydration.ask(other, 5)).frames == [b"z" * 200]


async def test_pages_of_all_tenants_are_bounded_in_bytes(rehydration: Rehydration) -> None:
    def page(tenant: str) -> RehydrationRequest:
        return RehydrationRequest(f"{tenant}:planner:1", None, None)

    for tenant, size in (("acme", 900), ("beta", 500), ("gamma", 200)):
        await rehydration.answer(page(tenant), RehydratedPage([b"x" * size], more=True))
    assert (await rehydration.ask(page("beta"), 5)).code is None
    assert (await rehydration.ask(page("gamma"), 5)).code == "too_many_requests"
    assert rehydration.pages_refused == 1  # type: ignore[attr-defined]


async def test_a_full_tenant_is_not_asked_for(rehydration: Rehydration) -> None:
    await rehydration.answer(REQUEST, RehydratedPage([b"x" * 1_001], more=True))
    page = await rehydration.ask(RehydrationRequest(SESSION, position(20), None), 5)
    assert page.code == "too_many_requests"
    other = RehydrationRequest("beta:planner:1", None, None)
    asked = asyncio.create_task(rehydration.ask(other, 5))
    assert await first(rehydration) == other
    await rehydration.answer(other, PAGE)
    assert await asked == PAGE


async def test_a_dead_workers_request_is_taken_by_another(rehydrations: Callable[[], Rehydration]) -> None:
    dead, alive = rehydrations(), rehydrations()
    asked = asyncio.create_task(alive.ask(REQUEST, 5))
    dying = dead.requests("worker-1")
    assert await asyncio.wait_for(anext(dying), 5) == REQUEST
    assert await first(alive, "worker-2") == REQUEST
    await alive.answer(REQUEST, PAGE)
    assert await asked == PAGE


async def test_a_worker_is_not_given_what_it_is_working_on(rehydration: Rehydration) -> None:
    asked = asyncio.create_task(rehydration.ask(REQUEST, 5))
    async with aclosing(requests(rehydration)) as taken:  # type: ignore[type-var]
        assert await asyncio.wait_for(anext(taken), 5) == REQUEST
        again = asyncio.ensure_future(anext(taken))
        done, _ = await asyncio.wait({again}, timeout=0.7)  # more than three times what makes it another's
        assert not done
        while not again.done():  # redis-py waits by `wait_for`, which in Python 3.11 may swallow a cancellation
            again.cancel()
            await asyncio.wait({again}, timeout=0.1)
    await rehydration.answer(REQUEST, PAGE)
    await asked


async def test_a_request_that_was_answered_is_nobodys(rehydrations: Callable[[], Rehydration]) -> None:
    """Also after the time that makes one that a worker took another's."""
    one, other = rehydrations(), rehydrations()
    asked = asyncio.create_task(one.ask(REQUEST, 5))
    async with aclosing(requests(one)) as taken:  # type: ignore[type-var]
        await one.answer(await asyncio.wait_for(anext(taken), 5), PAGE)
        assert await asked == PAGE
        again = asyncio.ensure_future(first(other, "worker-2"))
        done, _ = await asyncio.wait({again}, timeout=0.5)
        assert not done
        while not again.done():
            again.cancel()
            await asyncio.wait({again}, timeout=0.1)


async def test_an_answered_request_leaves_the_stream(client: MetadataClient) -> None:
    store = RedisRehydration(client, block_s=0.05)
    asked = asyncio.create_task(store.ask(REQUEST, 5))
    async with aclosing(store.requests("worker-1")) as taken:  # type: ignore[type-var]
        await store.answer(await asyncio.wait_for(anext(taken), 5), PAGE)
        await asked
        assert await client.redis.xlen(keys.REPLAY_REQUESTS) == 0
        assert (await client.redis.xpending(keys.REPLAY_REQUESTS, "replay"))["pending"] == 0
    assert await client.redis.xinfo_consumers(keys.REPLAY_REQUESTS, "replay") == []
    assert await client.redis.exists(keys.replay_asked(REQUEST.name)) == 0
    assert 50_000 < await client.redis.pttl(keys.replay_page(REQUEST.name)) <= 60_000
    await store.close()


async def test_broken_requests_are_dropped_and_counted(client: MetadataClient) -> None:
    store = RedisRehydration(client, block_s=0.05)
    await client.redis.xadd(keys.REPLAY_REQUESTS, {"session": b"\xff"})
    await client.redis.xadd(keys.REPLAY_REQUESTS, {"x": "y"})
    asked = asyncio.create_task(store.ask(REQUEST, 5))
    assert await first(store) == REQUEST
    assert store.corrupt_requests == 2
    assert await client.redis.xlen(keys.REPLAY_REQUESTS) == 1
    await store.answer(REQUEST, PAGE)
    await asked
    await store.close()


async def test_a_corrupt_page_is_asked_for_anew(client: MetadataClient) -> None:
    store = RedisRehydration(client, block_s=0.05)
    await client.redis.set(keys.replay_page(REQUEST.name), b"\xc1not msgpack")
    asked = asyncio.create_task(store.ask(REQUEST, 5))
    await store.answer(await first(store), PAGE)
    assert await asked == PAGE
    assert store.corrupt_pages == 1
    await store.close()


async def test_a_stream_that_was_lost_is_made_again(client: MetadataClient) -> None:
    store = RedisRehydration(client, block_s=0.05)
    async with aclosing(store.requests("worker-1")) as taken:  # type: ignore[type-var]
        waiting = asyncio.ensure_future(anext(taken))
        while not await client.redis.exists(keys.REPLAY_REQUESTS):
            await asyncio.sleep(0.01)
        await client.redis.flushdb()
        asked = asyncio.create_task(store.ask(REQUEST, 5))
        assert await asyncio.wait_for(waiting, 5) == REQUEST
        await store.answer(REQUEST, PAGE)
        assert await asked == PAGE
    await store.close()


async def test_a_full_tenant_costs_no_request(client: MetadataClient) -> None:
    store = RedisRehydration(client, tenant_bytes=10)
    await store.answer(REQUEST, RehydratedPage([b"x" * 11], more=True))
    await store.ask(RehydrationRequest(SESSION, position(20), None), 5)
    assert await client.redis.exists(keys.REPLAY_REQUESTS) == 0
    await store.close()


def test_a_page_is_cut_to_its_bound_and_goes_on() -> None:
    frames = [b"x" * (PAGE_BYTES // 2), b"y" * (PAGE_BYTES // 2), b"z"]
    assert bounded(RehydratedPage(frames, more=False)) == RehydratedPage(frames[:2], more=True)
    large = RehydratedPage([b"x" * (PAGE_BYTES + 1)], more=False)
    assert bounded(large) == large


def test_only_a_page_that_cannot_change_is_kept_long() -> None:
    whole = RehydratedPage([frame_at(8), frame_at(9)], more=False)
    assert page_ttl_s(REQUEST, whole) == PAGE_TTL_S
    assert page_ttl_s(REQUEST, RehydratedPage([frame_at(5)], more=True)) == PAGE_TTL_S
    assert page_ttl_s(REQUEST, RehydratedPage([frame_at(8)], more=False)) == PASSING_PAGE_TTL_S
    assert page_ttl_s(REQUEST, RehydratedPage([], more=False, code="log_unavailable")) == PASSING_PAGE_TTL_S
    gap = RehydratedPage([], more=False, gap_before=[position(5), position(9), "retention"])
    assert page_ttl_s(REQUEST, gap) == PASSING_PAGE_TTL_S
    assert page_ttl_s(REQUEST, RehydratedPage([], more=False)) == NOTHING_TTL_S
