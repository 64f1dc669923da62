"""Appends of a virtual shard between two primaries, on servers whose answers the test chooses."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from hiredis import ReplyError
from tests.stores.live.helpers import ROOMY, message

from heliograph.stores.ports import AppendStatus
from heliograph.stores.redis.appends import Appends
from heliograph.stores.redis.connection import ASKING, PING
from heliograph.stores.redis.redirects import Again, Step
from heliograph.stores.redis.routes import Routes
from heliograph.stores.redis.shards import Shards
from heliograph.stores.redis.stats import LiveStats

SESSION = "acme:planner:held"
ASK = ReplyError("ASK 7 127.0.0.1:7002")


class Server:
    """A connection: what was sent and is not answered, in order."""

    def __init__(self, port: int) -> None:
        self.node = ("127.0.0.1", port)
        self.open: list[tuple[bytes, Callable[[Any], None]]] = []

    def send(self, packed: bytes, done: Callable[[Any], None]) -> None:
        self.open.append((packed, done))

    async def call_many(self, packed: list[bytes]) -> list[Any]:
        future = asyncio.get_running_loop().create_future()
        for one in packed:
            self.send(one, future.set_result)
        return [await future]

    def answer(self, reply: Any) -> None:
        _, done = self.open.pop(0)
        done(reply)

    @property
    def appends(self) -> list[int]:
        """Of those that are open: which they are."""
        return [number for number in range(1, 10) for packed, _ in self.open if b"body-%d" % number in packed]


class TwoServers:
    """Shards of a cluster in which a slot goes from `source` to `target`."""

    def __init__(self, source: Server, target: Server) -> None:
        self.commands = [source] * 256
        self.target = target

    async def prepare(self, _number: int, again: Again, _tries: int, _timeout_s: float) -> Server | None:
        return self.target if again.step is Step.ASK else None


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_what_comes_behind_one_that_is_asked_for_elsewhere_goes_there_too_and_does_not_overtake_it() -> None:
    source, target = Server(7001), Server(7002)
    shards = cast("Shards", TwoServers(source, target))
    appends = Appends(shards, Routes(256), LiveStats(), deadline_s=5.0, held_most=100)
    told: list[tuple[int, Any]] = []
    for number in (1, 2, 3):
        append = message(SESSION, b"body-%d" % number, seq=number)
        appends.append(append, ROOMY, partial(lambda number, answer: told.append((number, answer)), number))
        if number == 1:
            source.answer(ASK)  # so that the others come while it is held
            await turns()
    assert [packed for packed, _ in source.open] == [PING]
    source.answer(b"PONG")
    await turns()
    assert source.appends == []
    assert target.appends == [1, 2, 3]
    assert [packed for packed, _ in target.open][::2] == [ASKING] * 3
    for seq in (1, 2, 3):
        target.answer(b"OK")
        target.answer([b"ok", b"0000000000001-00000000", b"%d" % seq, b"0", b"0"])
    await turns()
    assert [(number, one.status) for number, one in told] == [(number, AppendStatus.OK) for number in (1, 2, 3)]
    await appends.close()
