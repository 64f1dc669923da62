"""What tests of the live store speak in: a publisher that builds appends, a listener that remembers, and waiting."""

import asyncio
import random
import secrets
import time
from collections.abc import Callable, Sequence

import pytest
import redis

from heliograph.core.messages import MessageClass
from heliograph.core.positions import Position
from heliograph.local import RedisServer
from heliograph.local.redis_cluster import RedisCluster
from heliograph.local.redis_sentinel import RedisSentinel
from heliograph.protocol.messages import Message, content_hash, extras, frame_content, frame_rest
from heliograph.stores.keys import virtual_shard
from heliograph.stores.memory.live import MemoryLiveStore
from heliograph.stores.memory.live_server import MemoryLiveServer
from heliograph.stores.ports import Append, Appended, AppendStatus, Bounds, LiveListener, LiveStore, StoreError
from heliograph.stores.redis.cluster import ClusterSettings
from heliograph.stores.redis.connection import ConnectionSettings
from heliograph.stores.redis.live import RedisLiveStore

SHARDS = 256
DEADLINE_S = 20.0
ROOMY = Bounds(
    unconfirmed_messages=100_000,
    unconfirmed_bytes=1 << 30,
    tenant_shard_bytes=1 << 30,
    window_messages=1_000,
    window_bytes=8 << 20,
)
OK, DUPLICATE = AppendStatus.OK, AppendStatus.DUPLICATE


def new_session(tenant: str | None = None) -> str:
    return f"{tenant or 't' + secrets.token_hex(6)}:planner:{secrets.token_hex(8)}"


def shard_of(session: str) -> int:
    return virtual_shard(session, SHARDS)


def in_shard_of(session: str, tenant: str) -> str:
    """Another session of `tenant` in the same virtual shard."""
    while True:
        other = new_session(tenant)
        if shard_of(other) == shard_of(session):
            return other


def message(
    session: str,
    body: bytes = b"1",
    *,
    producer: str = "agent",
    incarnation: str = "inc-00000001",
    seq: int = 0,
    message_id: str = "",
    class_: MessageClass = MessageClass.EVENT,
    partition: int = 3,
    size_bytes: int = 0,
) -> Append:
    """An append as an edge builds it. `seq` 0: without a counter."""
    built = Message(
        session=session,
        message_id=message_id or "m-1",
        time_ms=1_764_000_000_000,
        producer=producer,
        class_=class_,
        payload=body,
        incarnation=incarnation if seq else None,
        producer_seq=seq or None,
    )
    content = frame_content(built)
    return Append(
        session=session,
        rest=frame_rest(built, content),
        extras=extras(built),
        size_bytes=size_bytes or len(body) + 512,
        partition=partition,
        content_hash=content_hash(content),
        producer=f"{class_}|{producer}|{incarnation}".encode() if seq else b"",
        producer_seq=seq,
        message_id=message_id,
    )


async def ask(store: LiveStore, one: Append, bounds: Bounds = ROOMY) -> Appended | StoreError:
    """The answer to one append."""
    return (await ask_all(store, [one], bounds))[0]


async def ask_all(store: LiveStore, many: Sequence[Append], bounds: Bounds = ROOMY) -> list[Appended | StoreError]:
    """The answers to appends of one loop tick."""
    answers: list[Appended | StoreError] = []
    done = asyncio.get_running_loop().create_future()

    def answered(answer: Appended | StoreError) -> None:
        answers.append(answer)
        if len(answers) == len(many):
            done.set_result(None)

    for one in many:
        store.append(one, bounds, answered)
    assert not answers, "callbacks never run inside the call"
    async with asyncio.timeout(DEADLINE_S):
        await done
    return answers


async def put(store: LiveStore, one: Append, bounds: Bounds = ROOMY) -> Position:
    """The position of an append that must be admitted."""
    answer = await ask(store, one, bounds)
    assert isinstance(answer, Appended), answer
    assert answer.status is OK, answer
    return Position(answer.epoch, answer.seq)


async def put_many(store: LiveStore, session: str, bodies: Sequence[bytes], bounds: Bounds = ROOMY) -> list[Position]:
    """Positions of appends without counters."""
    answers = await ask_all(store, [message(session, body) for body in bodies], bounds)
    return [Position(answer.epoch, answer.seq) for answer in answers if isinstance(answer, Appended)]


def status(answer: Appended | StoreError) -> AppendStatus:
    assert isinstance(answer, Appended), answer
    return answer.status


async def until(state: Callable[[], object], what: str = "state") -> None:
    """Wait for a state, with a deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while not state():
            await asyncio.sleep(0.005)


class Listener:
    """Remembers what the store told, in order."""

    def __init__(self) -> None:
        self.frames: list[tuple[str, bytes]] = []
        self.subscribed: list[str] = []
        self.lost = 0
        self.lost_sessions: list[str] = []
        self.events: list[tuple[str, str]] = []

    def on_frame(self, session: str, frame: bytes) -> None:
        self.frames.append((session, frame))
        self.events.append(("frame", session))

    def on_subscribed(self, session: str) -> None:
        self.subscribed.append(session)
        self.events.append(("subscribed", session))

    def on_lost(self, sessions: Sequence[str]) -> None:
        self.lost += 1
        self.lost_sessions += sessions
        self.events.append(("lost", ""))

    def of(self, session: str) -> list[bytes]:
        return [frame for name, frame in self.frames if name == session]


async def subscribed(store: LiveStore, listener: Listener, session: str) -> None:
    store.subscribe(session)
    await until(lambda: session in listener.subscribed)


class Live:
    """A live store's server, and stores on it."""

    def __init__(
        self,
        server: MemoryLiveServer | str,
        stop: Callable[[], None] | None = None,
        restart: Callable[[bool], None] | None = None,
        *,
        servers: Sequence[str] = (),
    ) -> None:
        """`servers`: URLs of all that a cluster consists of."""
        self._server = server
        self._stop = stop
        self._restart = restart
        self._servers = servers
        self._stores: list[LiveStore] = []

    async def store(self, listener: LiveListener | None = None) -> LiveStore:
        store: LiveStore
        if isinstance(self._server, MemoryLiveServer):
            store = MemoryLiveStore(self._server)
        else:
            store = RedisLiveStore(self._server, uniform=random.Random(1).random)
        await store.start(listener)
        self._stores.append(store)
        return store

    async def stop(self) -> None:
        """The server dies, and stores have noticed."""
        assert self._stop is not None
        self._stop()
        for store in self._stores:
            await until(lambda store=store: not any(_connections(store)))  # type: ignore[misc]

    async def restart(self, *, keep: bool) -> None:
        """The server dies and another process takes its place; stores find it by themselves."""
        await self.stop()
        assert self._restart is not None
        self._restart(keep)
        for store in self._stores:
            await until(lambda store=store: all(_connections(store)))  # type: ignore[misc]

    def limit_memory(self, *, full: bool) -> None:
        """Its server is above what it may use, or has no limit (again)."""
        if isinstance(self._server, MemoryLiveServer):
            self._server.max_bytes = 1 if full else 0
        else:
            for url in self._servers or [self._server]:
                with redis.Redis.from_url(url) as control:
                    control.config_set("maxmemory", "1mb" if full else "0")

    async def close(self) -> None:
        for store in self._stores:
            await store.close()


def _connections(store: LiveStore) -> list[bool]:
    if isinstance(store, RedisLiveStore):
        return [connection.available for connection in store.connections.values()]
    return [store.available]


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


def live_on(kind: str, request: pytest.FixtureRequest) -> Live:
    """On a server that others use as well."""
    if kind == "memory":
        return Live(MemoryLiveServer(wall_ms))
    return Live(request.getfixturevalue("redis_url" if kind == "redis" else "redis_cluster_url"))


async def redis_store(
    server: RedisServer | RedisCluster | RedisSentinel | str,
    listener: LiveListener | None = None,
    settings: ConnectionSettings | None = None,
    cluster: ClusterSettings | None = None,
) -> RedisLiveStore:
    """A started store on a Redis; the test closes it."""
    url = server if isinstance(server, str) else server.url
    store = RedisLiveStore(url, uniform=random.Random(1).random, settings=settings, cluster=cluster)
    await store.start(listener)
    return store
