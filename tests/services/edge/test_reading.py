"""reading: pages for a crowd, a few at a time."""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import pytest
from tests.services.edge.sessions_bench import settle

from heliograph.edge.reading import SHARERS, Shared, Turns
from heliograph.service.metrics import TickCounter


class Source:
    """Reads that are answered when the test says so."""

    def __init__(self) -> None:
        self.under_way: dict[str, asyncio.Future[str]] = {}
        self.sent: list[str] = []

    async def read(self, what: str) -> str:
        self.sent.append(what)
        number = self.sent.count(what)
        future = self.under_way[f"{what}.{number}"] = asyncio.get_running_loop().create_future()
        try:
            page: str = await future
            return page
        finally:
            del self.under_way[f"{what}.{number}"]

    async def answer(self, name: str = "", error: Exception | None = None) -> None:
        future = self.under_way[name or next(iter(self.under_way))]
        if error is None:
            future.set_result(f"page {name}")
        else:
            future.set_exception(error)
        await settle()

    async def answer_all(self) -> None:
        while self.under_way:
            await self.answer(next(iter(self.under_way)))


class Crowd:
    """Asks of `Turns`, each a task."""

    def __init__(self, slots: int) -> None:
        self.source, self.shared = Source(), TickCounter()
        self.turns = Turns[str](slots, self.shared)
        self.begun: Counter[str] = Counter()
        self.unwanted: set[str] = set()

    def ask(self, what: str, tenant: str = "acme") -> asyncio.Task[str | None]:
        def begin() -> bool:
            self.begun[what] += 1
            return what not in self.unwanted

        return asyncio.create_task(self.turns.read(tenant, what, begin, lambda: self.source.read(what)))


async def test_no_more_are_under_way_than_there_are_slots() -> None:
    crowd = Crowd(2)
    asks = [crowd.ask(f"p{number}") for number in range(10)]
    await settle()
    most = 0
    while crowd.source.under_way:
        most = max(most, len(crowd.source.under_way))
        assert crowd.turns.waiting == 10 - len(crowd.source.sent)
        await crowd.source.answer()
    assert most == 2
    assert crowd.source.sent == [f"p{number}" for number in range(10)], "in the order asked"
    assert [await ask for ask in asks] != []


async def test_a_tenants_crowd_does_not_go_before_anothers_few() -> None:
    crowd = Crowd(1)
    for number in range(50):
        crowd.ask(f"crowd {number}", "crowd")
    await settle()
    few = [crowd.ask(f"few {number}", "few") for number in range(2)]
    await settle()
    for _ in range(5):
        await crowd.source.answer()
    assert crowd.source.sent[:5] == ["crowd 0", "crowd 1", "few 0", "crowd 2", "few 1"]
    assert all(ask.done() for ask in few)
    await crowd.source.answer_all()


async def test_those_who_wait_for_the_same_page_share_its_read() -> None:
    crowd = Crowd(1)
    first = crowd.ask("busy")
    await settle()
    asks = [crowd.ask("page") for _ in range(SHARERS)]
    await settle()
    await crowd.source.answer_all()
    assert await first == "page busy.1"
    assert [await ask for ask in asks] == ["page page.1"] * SHARERS
    assert crowd.source.sent == ["busy", "page"]
    assert crowd.shared.n == SHARERS - 1


async def test_a_read_that_was_sent_is_not_shared_any_more() -> None:
    """It may have been answered before the reader attached to live frames: what came between would be missing."""
    crowd = Crowd(2)
    crowd.ask("page")
    await settle()
    crowd.ask("page")
    await settle()
    assert crowd.source.sent == ["page", "page"]
    await crowd.source.answer_all()


async def test_a_reader_begins_when_its_read_is_sent_and_not_before() -> None:
    crowd = Crowd(1)
    crowd.ask("busy")
    await settle()
    for _ in range(3):
        crowd.ask("page")
    await settle()
    assert crowd.begun == {"busy": 1}
    await crowd.source.answer()
    assert crowd.begun == {"busy": 1, "page": 3}
    await crowd.source.answer_all()


async def test_more_than_a_turn_of_the_loop_can_bear_do_not_share_one_read() -> None:
    crowd = Crowd(1)
    crowd.ask("busy")
    await settle()
    asks = [crowd.ask("page") for _ in range(2 * SHARERS + 1)]
    await settle()
    await crowd.source.answer_all()
    assert crowd.source.sent == ["busy", "page", "page", "page"]
    assert all(ask.done() for ask in asks)


async def test_what_nobody_wants_any_more_is_not_read() -> None:
    crowd = Crowd(1)
    crowd.ask("busy")
    await settle()
    gone, other = crowd.ask("gone"), crowd.ask("other")
    await settle()
    crowd.unwanted.add("gone")
    await crowd.source.answer_all()
    assert crowd.source.sent == ["busy", "other"]
    assert await gone is None
    assert await other == "page other.1"


async def test_a_read_that_fails_fails_for_all_who_share_it_and_the_next_goes_on() -> None:
    crowd = Crowd(1)
    crowd.ask("busy")
    await settle()
    asks, other = [crowd.ask("page") for _ in range(3)], crowd.ask("other")
    await settle()
    await crowd.source.answer()
    await crowd.source.answer("page.1", ConnectionError("away"))
    for ask in asks:
        with pytest.raises(ConnectionError):
            await ask
    await crowd.source.answer_all()
    assert await other == "page other.1"


async def test_who_stops_waiting_takes_the_page_from_nobody_else() -> None:
    crowd = Crowd(1)
    crowd.ask("busy")
    await settle()
    leaves, stays = crowd.ask("page"), crowd.ask("page")
    await settle()
    leaves.cancel()
    await settle()
    await crowd.source.answer_all()
    assert await stays == "page page.1"


async def test_the_end_leaves_nobody_waiting_for_a_read_under_way() -> None:
    crowd = Crowd(1)
    ask = crowd.ask("page")
    await settle()
    await crowd.turns.close()
    with pytest.raises(asyncio.CancelledError):
        await ask


async def test_equal_reads_of_the_log_are_one_while_it_is_under_way() -> None:
    source, counter = Source(), TickCounter()
    shared = Shared[str](counter)

    def ask(what: str) -> asyncio.Task[str]:
        work: Coroutine[Any, Any, str] = shared.read(what, lambda: source.read(what))
        return asyncio.create_task(work)

    asks = [ask("page") for _ in range(SHARERS + 1)]
    await settle()
    asks.append(ask("page"))
    other = ask("other")
    await settle()
    assert source.sent == ["page", "page", "other"], "no more than a turn of the loop can bear share one"
    await source.answer_all()
    assert {await one for one in asks} == {"page page.1", "page page.2"}
    assert await other == "page other.1"
    again = ask("page")
    await settle()
    assert source.sent.count("page") == 3
    assert counter.n == SHARERS
    await source.answer(error=ConnectionError("away"))
    with pytest.raises(ConnectionError):
        await again
    last = ask("page")
    await settle()
    await source.answer_all()
    assert (await last).startswith("page")
