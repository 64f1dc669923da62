"""The metadata Redis: one pool of connections for everything off the hot path, and errors told in our own words.

What must never happen here: an error of redis-py reaching a service, or a command that waits without a bound.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from hashlib import sha1
from typing import Any

from hiredis import pack_command
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from heliograph.stores.ports import CorruptError, StoreError
from heliograph.stores.redis.refusing import explained

_pack: Any = pack_command
"""Typed as taking one word only."""

COMMAND_TIMEOUT_S = 5.0
"""No metadata command takes longer on a Redis that is well; above every BLOCK that is used here."""

CONNECTIONS = 16
"""Of one process: enough for commands that overlap, few enough for hundreds of edges on one Redis."""


SETTINGS = "metadata_redis_url (or token_redis_url, for buckets; redis_url, where they are not set)"
"""Where the URL comes from, for errors."""


class MetadataClient:
    """The connections to one metadata Redis, shared by the stores that live in it."""

    def __init__(self, url: str, *, timeout_s: float = COMMAND_TIMEOUT_S, max_connections: int = CONNECTIONS) -> None:
        self._pool: BlockingConnectionPool = BlockingConnectionPool.from_url(
            url,
            max_connections=max_connections,
            timeout=timeout_s,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 1),  # an idle connection that the server closed; more is for the caller to decide
            protocol=2,
        )
        self.redis: Any = Redis(connection_pool=self._pool)
        """redis-py's types are for both of its decoding modes at once; here every reply is bytes."""

    async def start(self) -> None:
        """Raise StoreError unless Redis answers."""
        with store_errors("PING"):
            await self.redis.ping()

    async def close(self) -> None:
        await self.redis.aclose()
        await self._pool.disconnect()

    async def run_script(self, script: str, calls: Sequence[tuple[Sequence[str], Sequence[str | int]]]) -> None:
        """Run one script for many (keys, arguments), in one write, answers unread but for errors.

        A command and an answer each, packed by hiredis: a third of what redis-py's pipelines cost. The router
        adds to the index with every batch. Raises the last error, after all answers have come.
        """
        digest = sha1(script.encode(), usedforsecurity=False).hexdigest()
        packed = b"".join(
            _pack(("EVALSHA", digest, str(len(names)), *names, *map(str, arguments))) for names, arguments in calls
        )
        if await self._run_packed(packed, len(calls)):  # as after a restart of Redis
            await self.redis.script_load(script)
            if await self._run_packed(packed, len(calls)):
                raise NoScriptError("a script was lost right after it was loaded")

    async def _run_packed(self, packed: bytes, count: int) -> bool:
        """Whether a script was missing."""
        connection: Any = await self._pool.get_connection()  # type: ignore[no-untyped-call]
        missing, failed = False, None
        try:
            await connection.send_packed_command(packed)
            for _ in range(count):
                try:
                    await connection.read_response(disable_decoding=True)
                except NoScriptError:
                    missing = True
                except ResponseError as error:
                    failed = error
        except BaseException:
            await connection.disconnect()  # answers that were not read would be taken for those of the next caller
            raise
        finally:
            await self._pool.release(connection)
        if failed is not None:
            raise failed
        return missing

    @asynccontextmanager
    async def pipeline(self) -> AsyncIterator[Pipeline]:
        """Commands in one round trip, each by itself (no MULTI: keys may live on different nodes)."""
        async with self.redis.pipeline(transaction=False) as pipeline:
            yield pipeline


@contextmanager
def store_errors(key: str) -> Iterator[None]:
    """Turn redis-py's errors into StoreError(`unavailable`), and a key of another type into CorruptError."""
    try:
        yield
    except RedisError as error:
        text = str(error)
        if "WRONGTYPE" in text:
            raise CorruptError(key, "holds another type than this code writes") from None
        broken = isinstance(error, RedisConnectionError | RedisTimeoutError)
        message = explained(f"metadata store: {type(error).__name__}: {text}", SETTINGS)
        raise StoreError("unavailable", message, maybe_done=broken) from error
    except RuntimeError as error:
        if "closed" not in str(error):  # uvloop's word for a transport that broke under a command
            raise
        raise StoreError("unavailable", f"metadata store: the connection broke: {error}", maybe_done=True) from error
    except (OSError, TimeoutError) as error:
        raise StoreError("unavailable", f"metadata store: {type(error).__name__}: {error}", maybe_done=True) from error


async def store_ms(redis: Any) -> int:
    """The store's clock, Unix ms."""
    seconds, micros = await redis.time()
    return int(seconds) * 1000 + int(micros) // 1000
