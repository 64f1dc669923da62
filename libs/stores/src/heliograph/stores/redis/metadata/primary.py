"""The primary that sentinels name: asked for at each connect, and its role checked, so that a failover is followed.

A connection that turns out to lead to a replica is dropped, and so are all when the sentinels name another primary: one
that was cut off from everybody else would go on taking writes that its successor never sees.
"""

import asyncio
import math
import time
from contextlib import suppress
from typing import Any

from redis.asyncio import BlockingConnectionPool, Connection, SSLConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisError

from heliograph.stores.redis.address import RedisLocation
from heliograph.stores.redis.metadata.pools import connection_arguments, pool_of, redis_of

SENTINEL_TIMEOUT_S = 1.0
"""They answer in a millisecond; each one that is away costs this, until another is found that answers."""
SAME_ANSWER_S = 0.1
"""Connections that break together ask once."""
LOOK_S = 2.0
"""While the store is in use: how long an old primary that nobody else hears may be taken for the primary."""


class Primary:
    """What the sentinels say, and the pool of connections to whom they name."""

    def __init__(self, location: RedisLocation, timeout_s: float, max_connections: int) -> None:
        self._master = location.master
        ask_s = min(timeout_s, SENTINEL_TIMEOUT_S)
        self._sentinels: list[Any] = [
            redis_of(pool_of(location.sentinel_at(host, port), ask_s, 1)) for host, port in location.seeds
        ]
        self._lock = asyncio.Lock()
        self._found: tuple[str, int] | None = None
        self._found_s = -math.inf
        self._looked_s = -math.inf
        self._looking: asyncio.Task[None] | None = None
        arguments = connection_arguments(location.at("", 0), timeout_s)
        self.pool = _PrimaryPool(
            self,
            max_connections=max_connections,
            timeout=timeout_s,
            connection_class=_PrimarySSLConnection if location.tls else _PrimaryConnection,
            redis_connect_func=self.set_up,
            **arguments,
        )

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            with suppress(asyncio.CancelledError):
                await self._looking
        await self.pool.disconnect()
        for sentinel in self._sentinels:
            await sentinel.connection_pool.disconnect()

    async def find(self) -> tuple[str, int]:
        """Host and port. Raises redis-py's ConnectionError where no sentinel names one."""
        async with self._lock:
            if self._found is not None and time.monotonic() - self._found_s < SAME_ANSWER_S:
                return self._found
            problems = []
            for sentinel in list(self._sentinels):
                try:
                    named = await sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._master)
                    if named is not None:
                        found = named[0].decode(), int(named[1])
                        self._sentinels.remove(sentinel)
                        self._sentinels.insert(0, sentinel)  # who answers is asked first the next time
                        return await self._name(found)
                    problems.append(f"knows no primary {self._master}")
                except (RedisError, OSError) as error:
                    problems.append(f"{type(error).__name__}: {error}")
            raise RedisConnectionError("no sentinel names a primary: " + "; ".join(dict.fromkeys(problems)))

    async def _name(self, found: tuple[str, int]) -> tuple[str, int]:
        before, self._found, self._found_s = self._found, found, time.monotonic()
        if before not in (None, found):
            await self.pool.disconnect()
        return found

    async def set_up(self, connection: Connection) -> None:
        """On each new connection: sentinels name a server before it is one."""
        await connection.on_connect()
        await connection.send_command("ROLE", check_health=False)
        role: Any = await connection.read_response(disable_decoding=True)
        if role[0] != b"master":
            self._found_s = -math.inf  # ask again; should another be named, connections to this one are left
            raise RedisConnectionError(f"{connection.host}:{connection.port} is not the primary of {self._master}")

    def look(self) -> None:
        """Whether it is still the primary, now and then and beside the commands."""
        now_s = time.monotonic()
        if now_s - self._looked_s >= LOOK_S and (self._looking is None or self._looking.done()):
            self._looked_s = now_s
            self._looking = asyncio.get_running_loop().create_task(self._look(), name="redis primary")

    async def _look(self) -> None:
        with suppress(RedisError, OSError):  # sentinels that are away change nothing while the primary is there
            await self.find()


class _PrimaryConnection(Connection):
    """To whom the sentinels name when it connects."""

    def __init__(self, *, primary: Primary, **arguments: Any) -> None:
        self._primary = primary
        super().__init__(**arguments)

    async def _connect(self) -> None:
        self.host, self.port = await self._primary.find()
        await super()._connect()  # type: ignore[no-untyped-call]

    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*arguments, **options)
        except ReadOnlyError:
            await self.disconnect()  # the next connect asks the sentinels
            raise RedisConnectionError("the primary has become a replica") from None


class _PrimarySSLConnection(_PrimaryConnection, SSLConnection):
    """The same over TLS; the certificate must hold the name or address that the sentinels give."""


class _PrimaryPool(BlockingConnectionPool):
    def __init__(self, primary: Primary, **arguments: Any) -> None:
        self._primary = primary
        super().__init__(primary=primary, **arguments)

    async def get_connection(self, *arguments: Any, **options: Any) -> Any:
        self._primary.look()
        return await super().get_connection(*arguments, **options)  # type: ignore[no-untyped-call]
