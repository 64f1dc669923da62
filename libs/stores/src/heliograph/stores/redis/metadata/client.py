"""The metadata Redis: one pool of connections for everything off the hot path, and errors told in our own words.

What must never happen here: an error of redis-py reaching a service, or a command that waits without a bound.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from hashlib import sha1
from typing import Any

from hiredis import pack_command
from redis.asyncio import BlockingConnectionPool
from redis.asyncio.client import Pipeline, PubSub
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError, NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from heliograph.stores.events import METADATA, Tally
from heliograph.stores.ports import CorruptError, StoreError
from heliograph.stores.redis.address import RedisKind, RedisLocation
from heliograph.stores.redis.metadata.cluster import NOT_DONE, ClusterRedis
from heliograph.stores.redis.metadata.layout import Node
from heliograph.stores.redis.metadata.pools import pool_of, redis_of
from heliograph.stores.redis.metadata.primary import Primary
from heliograph.stores.redis.refusing import explained

_pack: Any = pack_command
"""Typed as taking one word only."""

COMMAND_TIMEOUT_S = 5.0
"""No metadata command takes longer on a Redis that is well; above every BLOCK that is used here."""

CONNECTIONS = 16
"""Of one process: enough for commands that overlap, few enough for hundreds of edges on one Redis."""


SETTINGS = "metadata_redis_url (or token_redis_url, for buckets; redis_url, where they are not set)"
"""Where the URL comes from, for errors."""

ERRORS = Tally(METADATA)
"""Of all clients of this process, by redis-py's class."""


class MetadataClient:
    """The connections to one metadata Redis, shared by the stores that live in it.

    One server, a primary that sentinels name, or a Redis Cluster, as the URL says: to stores they look alike. On a
    Cluster the keys of one command, script or transaction must have one slot; those of a pipeline need not, but then
    there is no order among them.
    """

    def __init__(self, url: str, *, timeout_s: float = COMMAND_TIMEOUT_S, max_connections: int = CONNECTIONS) -> None:
        location = RedisLocation.parse(url)
        self._cluster: ClusterRedis | None = None
        self._primary: Primary | None = None
        self.redis: Any
        """redis-py's types are for both of its decoding modes at once; here every reply is bytes."""
        if location.kind is RedisKind.CLUSTER:
            self.redis = self._cluster = ClusterRedis(location, timeout_s, max_connections)
            return
        if location.kind is RedisKind.SENTINEL:
            self._primary = Primary(location, timeout_s, max_connections)
            self._pool: BlockingConnectionPool = self._primary.pool
        else:
            self._pool = pool_of(location.at(*location.seeds[0]), timeout_s, max_connections)
        self.redis = redis_of(self._pool)

    async def start(self) -> None:
        """Raise StoreError unless Redis answers: all primaries of a Cluster."""
        with store_errors("PING"):
            await self.redis.ping()

    async def close(self) -> None:
        await self.redis.aclose()
        if self._primary is not None:
            await self._primary.close()
        elif self._cluster is None:
            await self._pool.disconnect()

    async def servers(self) -> list[Any]:
        """Each server that holds keys, for tools that go through all of them."""
        if self._cluster is None:
            return [self.redis]
        return [node.redis for node in await self._cluster.layout.primaries()]

    async def now_ms(self, key: str) -> int:
        """The store's clock, Unix ms. On a Cluster that of the node which has `key`: a lease is compared with the clock
        of who keeps it."""
        if self._cluster is not None:
            seconds, micros = await self._cluster.time_of(key)
        else:
            seconds, micros = await self.redis.time()
        return int(seconds) * 1000 + int(micros) // 1000

    async def run_script(self, script: str, calls: Sequence[tuple[Sequence[str], Sequence[str | int]]]) -> None:
        """Run one script for many (keys, arguments), in one write to each server, answers unread but for errors.

        A command and an answer each, packed by hiredis: a third of what redis-py's pipelines cost. The router
        adds to the index with every batch. Raises the last error, after all answers have come.
        """
        digest = sha1(script.encode(), usedforsecurity=False).hexdigest()
        if self._cluster is not None:
            self._cluster.know(script)
            failed = await self._run_on_nodes(self._cluster, digest, calls)
        else:
            failed = await run_packed(self._pool, digest, calls)
            if any(isinstance(error, NoScriptError) for error in failed.values()):  # as after a restart of Redis
                await self.redis.script_load(script)
                again = [index for index, error in failed.items() if isinstance(error, NoScriptError)]
                lost = await run_packed(self._pool, digest, [calls[index] for index in again])
                failed = {index: error for index, error in failed.items() if index not in again}
                failed |= {again[index]: error for index, error in lost.items()}
        if failed:
            raise failed[max(failed)]

    async def _run_on_nodes(
        self, cluster: ClusterRedis, digest: str, calls: Sequence[tuple[Sequence[str], Sequence[str | int]]]
    ) -> dict[int, ResponseError]:
        async def run(node: Node, indexes: Sequence[int]) -> dict[int, ResponseError]:
            found = await run_packed(node.pool, digest, [calls[index] for index in indexes])
            return {indexes[number]: error for number, error in found.items()}

        failed: dict[int, ResponseError] = {}
        for part in await cluster.on_nodes([keys[0] for keys, _ in calls], run):
            failed |= part
        for index in sorted(index for index, error in failed.items() if isinstance(error, NOT_DONE)):
            names, arguments = calls[index]
            try:
                await cluster.again(("EVALSHA", digest, len(names), *names, *arguments), failed.pop(index))
            except ResponseError as error:
                failed[index] = error
        return failed

    @asynccontextmanager
    async def pipeline(self) -> AsyncIterator[Pipeline]:
        """Commands in one round trip, each by itself (no MULTI: keys may live on different nodes)."""
        async with self.redis.pipeline(transaction=False) as pipeline:
            yield pipeline

    @asynccontextmanager
    async def subscribed(self, channel: str) -> AsyncIterator[PubSub]:
        """A subscription to a channel; what is published on any node of a Cluster comes to all."""
        redis = self.redis if self._cluster is None else (await self._cluster.any_node()).redis
        async with redis.pubsub(ignore_subscribe_messages=True) as pubsub:
            await pubsub.subscribe(channel)
            yield pubsub


async def run_packed(
    pool: BlockingConnectionPool, digest: str, calls: Sequence[tuple[Sequence[str], Sequence[str | int]]]
) -> dict[int, ResponseError]:
    """Those calls that failed, by their place."""
    packed = b"".join(
        _pack(("EVALSHA", digest, str(len(names)), *names, *map(str, arguments))) for names, arguments in calls
    )
    connection: Any = await pool.get_connection()  # type: ignore[no-untyped-call]
    failed: dict[int, ResponseError] = {}
    try:
        await connection.send_packed_command(packed)
        for index in range(len(calls)):
            try:
                await connection.read_response(disable_decoding=True)
            except ResponseError as error:
                failed[index] = error
    except BaseException:
        await connection.disconnect()  # answers that were not read would be taken for those of the next caller
        raise
    finally:
        await pool.release(connection)
    return failed


@contextmanager
def store_errors(key: str) -> Iterator[None]:
    """Turn redis-py's errors into StoreError(`unavailable`), and a key of another type into CorruptError."""
    try:
        yield
    except RedisError as error:
        ERRORS.error(type(error).__name__)
        text = str(error)
        if "WRONGTYPE" in text:
            raise CorruptError(key, "holds another type than this code writes") from None
        if isinstance(error, MovedError):
            text = "it is a node of a Redis Cluster: its URL must begin with redis+cluster://"
        broken = isinstance(error, RedisConnectionError | RedisTimeoutError)
        message = explained(f"metadata store: {type(error).__name__}: {text}", SETTINGS)
        raise StoreError("unavailable", message, maybe_done=broken) from error
    except RuntimeError as error:
        if "closed" not in str(error):  # uvloop's word for a transport that broke under a command
            raise
        ERRORS.error("connection_broke")
        raise StoreError("unavailable", f"metadata store: the connection broke: {error}", maybe_done=True) from error
    except (OSError, TimeoutError) as error:
        ERRORS.error(type(error).__name__)
        raise StoreError("unavailable", f"metadata store: {type(error).__name__}: {error}", maybe_done=True) from error
