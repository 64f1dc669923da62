"""A Kafka that is away is waited for once, whoever asks."""

import asyncio
from collections.abc import Sequence

import pytest

from heliograph.operator.tenants.stores import AWAY_FOR_S, LogError, NamedLogAdmin
from heliograph.stores.memory.log import MemoryLog, MemoryLogAdmin
from heliograph.stores.ports import StoreError, TopicInfo


class Slow(MemoryLogAdmin):
    """Answers, or gives up, when it is let."""

    def __init__(self, log: MemoryLog) -> None:
        super().__init__(log)
        self.asked = 0
        self.let = asyncio.Event()
        self.let.set()
        self.refuses = False

    async def describe(self, topics: Sequence[str]) -> dict[str, TopicInfo]:
        self.asked += 1
        await self.let.wait()
        if self.refuses:
            raise StoreError("log_failed", "no right to")
        return await super().describe(topics)


class Bench:
    def __init__(self) -> None:
        self.log = MemoryLog()
        self.slow = Slow(self.log)
        self.now = 0.0
        self.admin = NamedLogAdmin(self.slow, lambda: self.now)

    async def is_away(self) -> bool:
        try:
            await self.admin.describe(["a"])
        except LogError as error:
            return error.code == "log_unavailable"
        return False


async def test_for_a_while_nobody_asks_a_kafka_that_did_not_answer() -> None:
    bench = Bench()
    bench.log.available = False
    assert [await bench.is_away() for _ in range(9)] == [True] * 9
    assert bench.slow.asked == 1
    bench.log.available = True
    bench.now = AWAY_FOR_S - 1
    assert await bench.is_away()
    bench.now = AWAY_FOR_S
    assert not await bench.is_away()
    assert not await bench.is_away()
    assert bench.slow.asked == 3


async def test_while_one_waits_for_it_the_others_do_not() -> None:
    bench = Bench()
    bench.log.available = False
    assert await bench.is_away()
    bench.now = AWAY_FOR_S
    bench.slow.let.clear()
    waiting = asyncio.create_task(bench.is_away())
    await asyncio.sleep(0)
    assert await bench.is_away()
    bench.log.available = True
    bench.slow.let.set()
    assert not await waiting
    assert not await bench.is_away()


async def test_a_kafka_that_says_no_is_there() -> None:
    bench = Bench()
    bench.slow.refuses = True
    for _ in range(2):
        with pytest.raises(LogError, match="no right to"):
            await bench.admin.describe(["a"])
    assert bench.slow.asked == 2


async def test_one_who_is_cut_off_while_he_waits_leaves_the_question_to_the_next() -> None:
    bench = Bench()
    bench.slow.let.clear()
    waiting = asyncio.create_task(bench.is_away())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    bench.slow.let.set()
    assert not await bench.is_away()
