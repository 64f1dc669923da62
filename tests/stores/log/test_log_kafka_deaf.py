"""The admin client: one that hears nothing for long is replaced, since it may stay deaf when its broker is back."""

import asyncio
import concurrent.futures
import gc
import socket
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from heliograph.stores.kafka import calls
from heliograph.stores.kafka.calls import RENEW_S, AdminCalls
from heliograph.stores.ports import StoreError
from heliograph.stores.replacements import REPLACEMENTS

PLACES = [("topic", 0)]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Client:
    """Answers each question with its class' present answer; None: not yet."""

    answer: KafkaError | None = None
    asked: list["concurrent.futures.Future[Any]"]
    made: list["weakref.ref[Client]"]

    def __init__(self, _config: object) -> None:
        self.made.append(weakref.ref(self))

    def list_offsets(self, wanted: dict[Any, Any], request_timeout: float) -> dict[Any, Any]:
        assert request_timeout > 0
        futures = {}
        for place in wanted:
            future = futures[place] = concurrent.futures.Future[Any]()
            if self.answer is not None:
                future.set_exception(KafkaException(self.answer))
            self.asked.append(future)
        return futures

    def poll(self, _timeout: float) -> None:
        pass


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> type[Client]:
    """The class in librdkafka's place, with nothing of another test."""

    class Ours(Client):
        answer = None
        asked: list[concurrent.futures.Future[Any]] = []  # noqa: RUF012 - each test has a class of its own
        made: list[weakref.ref[Client]] = []  # noqa: RUF012

    monkeypatch.setattr(calls._library, "AdminClient", Ours)
    return Ours


async def failing(asked: AdminCalls) -> None:
    with pytest.raises(StoreError):
        await asked.ends(PLACES)


async def test_one_that_hears_nothing_for_long_is_replaced_and_let_go(client: type[Client]) -> None:
    clock, replaced = Clock(), REPLACEMENTS.log_clients
    asked = AdminCalls({"bootstrap.servers": "nowhere:1"}, clock=clock)
    client.answer = KafkaError(KafkaError._TIMED_OUT)
    for _ in range(3):
        await failing(asked)
        clock.now += RENEW_S / 3 - 0.01
    await failing(asked)
    assert len(client.made) == 1, "not before its time"
    clock.now += 0.1
    await failing(asked)
    assert len(client.made) == 2
    await failing(asked)
    assert len(client.made) == 2, "the new one has its time too"
    clock.now += RENEW_S
    await failing(asked)
    assert len(client.made) == 3
    assert REPLACEMENTS.log_clients == replaced + 2
    await asyncio.gather(*asked._replaced)
    gc.collect()
    assert [ref() is None for ref in client.made] == [True, True, False]
    await asked.close()


async def test_any_answer_of_the_cluster_counts_as_heard(client: type[Client]) -> None:
    clock = Clock()
    asked = AdminCalls({"bootstrap.servers": "nowhere:1"}, clock=clock)
    for code in (KafkaError._TIMED_OUT, KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError._TIMED_OUT):
        client.answer = KafkaError(code)
        await failing(asked)
        clock.now += RENEW_S - 1
    client.answer = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)
    asked._refreshed_at = time.monotonic()  # a look at all topics is not this test's
    assert await asked.ends(PLACES) == {}
    assert len(client.made) == 1
    await asked.close()


async def test_one_with_questions_open_is_kept_until_they_are_answered(client: type[Client]) -> None:
    clock = Clock()
    asked = AdminCalls({"bootstrap.servers": "nowhere:1"}, clock=clock)
    waiting = asyncio.create_task(failing(asked))
    while not client.asked:
        await asyncio.sleep(0)
    client.answer = KafkaError(KafkaError._TRANSPORT)
    await failing(asked)
    clock.now += RENEW_S
    await failing(asked)
    gc.collect()
    assert len(client.made) == 2
    assert client.made[0]() is not None, "it would be torn down under its callbacks"
    client.asked[0].set_exception(KafkaException(client.answer))
    await waiting
    await asyncio.gather(*asked._replaced)
    gc.collect()
    assert client.made[0]() is None
    await asked.close()


@pytest.fixture
def deaf_broker() -> Iterator[str]:
    """Takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


async def test_librdkafkas_own_is_replaced_again_and_again_and_leaves_no_threads(
    deaf_broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "RENEW_S", 0.5)
    before, replaced = threads(), REPLACEMENTS.log_clients
    asked = AdminCalls({"bootstrap.servers": deaf_broker}, timeout_s=0.2)
    of_one = threads() - before
    async with asyncio.timeout(20):
        while REPLACEMENTS.log_clients < replaced + 4:
            await failing(asked)
    async with asyncio.timeout(20):
        while threads() - before > 2 * of_one + 1:
            await asyncio.sleep(0.05)
    await asked.close()
    async with asyncio.timeout(20):
        while threads() > before:
            await asyncio.sleep(0.05)


def threads() -> int:
    """Those of librdkafka in this process."""
    return sum(path.read_text().startswith("rdk:") for path in Path("/proc/self/task").glob("*/comm"))
