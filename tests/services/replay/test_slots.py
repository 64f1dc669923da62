"""Who may read now."""

import asyncio

import pytest

from heliograph.replay.slots import BusyError, ReadSlots


def slots(total: int = 2, per_tenant: int = 1, waiting: int = 2, wait_s: float = 5.0) -> ReadSlots:
    return ReadSlots(total=total, per_tenant=per_tenant, waiting=waiting, wait_s=wait_s)


async def hold(of: ReadSlots, tenant: str, release: asyncio.Event) -> None:
    async with of.read(tenant):
        await release.wait()


async def ready(of: ReadSlots, *, held: int, waiting: int) -> None:
    async with asyncio.timeout(5):
        while (of.held, of.waiting) != (held, waiting):
            await asyncio.sleep(0)


async def test_one_tenant_leaves_room_for_others() -> None:
    of, release = slots(), asyncio.Event()
    tasks = [asyncio.create_task(hold(of, tenant, release)) for tenant in ("a", "a", "b")]
    await ready(of, held=2, waiting=1)
    release.set()
    await asyncio.gather(*tasks)
    assert (of.held, of.waiting) == (0, 0)


async def test_who_waits_gets_the_place_that_comes_free() -> None:
    of, first, second = slots(total=1), asyncio.Event(), asyncio.Event()
    tasks = [asyncio.create_task(hold(of, "a", first)), asyncio.create_task(hold(of, "b", second))]
    await ready(of, held=1, waiting=1)
    first.set()
    await tasks[0]
    await ready(of, held=1, waiting=0)
    second.set()
    await tasks[1]


async def test_too_many_waiting_are_refused_at_once() -> None:
    of, release = slots(total=1, waiting=1), asyncio.Event()
    tasks = [asyncio.create_task(hold(of, tenant, release)) for tenant in ("a", "b")]
    await ready(of, held=1, waiting=1)
    with pytest.raises(BusyError) as caught:
        async with of.read("c"):
            pass
    assert caught.value.code == "too_many_requests"
    release.set()
    await asyncio.gather(*tasks)


async def test_waiting_has_an_end() -> None:
    of, release = slots(total=1, wait_s=0.05), asyncio.Event()
    task = asyncio.create_task(hold(of, "a", release))
    await ready(of, held=1, waiting=0)
    with pytest.raises(BusyError):
        async with of.read("b"):
            pass
    assert of.waiting == 0
    release.set()
    await task


async def test_who_is_cancelled_while_waiting_takes_no_place() -> None:
    of, release = slots(total=1), asyncio.Event()
    holder = asyncio.create_task(hold(of, "a", release))
    waiter = asyncio.create_task(hold(of, "b", release))
    await ready(of, held=1, waiting=1)
    release.set()
    await asyncio.sleep(0)  # the holder leaves, the waiter is given the place and has not run yet
    waiter.cancel()
    await asyncio.gather(holder, waiter, return_exceptions=True)
    assert (of.held, of.waiting) == (0, 0)
