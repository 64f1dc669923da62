"""Where the slots of a Redis Cluster are, and the connections to its nodes.

Asked of any node that answers, when it is first needed and whenever an answer, or none, shows that it may have changed;
never while nothing does, so that an idle process costs the cluster nothing.
"""

import asyncio
import random
import time
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from redis.asyncio import BlockingConnectionPool
from redis.exceptions import ClusterDownError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError

from heliograph.stores.redis.address import RedisLocation
from heliograph.stores.redis.metadata.pools import pool_of, redis_of

SLOTS = 16_384
LAYOUT_TIMEOUT_S = 1.0
"""A node answers in a millisecond where the slots are."""
ASKED_AT_ONCE = 3
"""Of which one is well, in most clusters, whoever of the others is away."""
LAYOUT_AGAIN_S = 0.2
"""Not asked for more often, also while a primary is down and every command to it fails."""

T = TypeVar("T")


class Node:
    """A server of the cluster, and the connections to it."""

    def __init__(self, host: str, port: int, pool: BlockingConnectionPool) -> None:
        self.host = host
        self.port = port
        self.pool = pool
        self.redis = redis_of(pool)


class Layout:
    """Which node has which slot: asked when it is first needed and when an answer shows that it has changed."""

    def __init__(self, location: RedisLocation, timeout_s: float, max_connections: int) -> None:
        self._location = location
        self._timeout_s = timeout_s
        self._max_connections = max_connections
        self._nodes: dict[tuple[str, int], Node] = {}
        self._replicas: set[tuple[str, int]] = set()
        self._slots: list[Node | None] = [None] * SLOTS
        self._stale = True
        self._asked_s = -LAYOUT_AGAIN_S
        self._lock = asyncio.Lock()
        self._beside: set[asyncio.Task[Any]] = set()

    async def close(self) -> None:
        if self._beside:
            await asyncio.wait(set(self._beside))  # each has a deadline
        for node in self._nodes.values():
            await node.pool.disconnect()
        self._nodes.clear()
        self._stale = True

    def lost(self) -> None:
        """It may have changed."""
        self._stale = True

    def moved(self, slot: int, node: Node) -> None:
        """One slot is known to be there; where one has moved, others may have."""
        self._slots[slot] = node
        self._stale = True

    def at(self, host: str, port: int) -> Node:
        node = self._nodes.get((host, port))
        if node is None:
            pool = pool_of(self._location.at(host, port), self._timeout_s, self._max_connections)
            node = self._nodes[host, port] = Node(host, port, pool)
        return node

    async def of(self, slot: int) -> Node:
        """The primary of a slot. Raises redis-py's ClusterDownError where nobody is known to have it."""
        if self._stale:
            await self._refresh()
        node = self._slots[slot]
        if node is None:
            self._stale = True
            raise ClusterDownError(f"no node has slot {slot}")
        return node

    async def primaries(self) -> list[Node]:
        if self._stale:
            await self._refresh()
        return list({id(node): node for node in self._slots if node is not None}.values())

    async def _refresh(self) -> None:
        async with self._lock:
            if not self._stale or time.monotonic() - self._asked_s < LAYOUT_AGAIN_S:
                return
            seeds = list(self._location.seeds)
            others = [address for address in {*self._nodes, *self._replicas} if address not in seeds]
            random.shuffle(others)
            random.shuffle(seeds)
            candidates, problems = [*others, *seeds], dict[str, None]()
            for start in range(0, len(candidates), ASKED_AT_ONCE):
                asked = {self._background(self._ask(*address)) for address in candidates[start : start + ASKED_AT_ONCE]}
                while asked:  # whoever answers first: one that is stuck must not stand before those that are well
                    done, asked = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
                    for one in done:
                        host, answer = one.result()
                        if not isinstance(answer, str):
                            self._asked_s = time.monotonic()
                            self._take(host, answer)
                            return
                        problems[answer] = None
            self._asked_s = time.monotonic()
            raise RedisConnectionError("no node says where the slots are: " + "; ".join(problems))

    async def _ask(self, host: str, port: int) -> tuple[str, Any]:
        """Its host, and what it says, or as text why it says nothing."""
        try:
            async with asyncio.timeout(min(self._timeout_s, LAYOUT_TIMEOUT_S)):
                listed = await self.at(host, port).redis.execute_command("CLUSTER", "SLOTS")
        except (RedisError, OSError, RuntimeError) as error:  # the last is uvloop's word for a broken transport
            return host, f"{type(error).__name__}: {error}"
        return host, listed or "a node has no slots"

    def _background(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        task = asyncio.get_running_loop().create_task(work)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)
        return task

    def _take(self, asked: str, listed: Sequence[Any]) -> None:
        """`asked`: the host that stands for itself as an empty one."""
        slots: list[Node | None] = [None] * SLOTS
        replicas = set[tuple[str, int]]()
        for first, last, primary, *others in listed:
            slots[first : last + 1] = [self.at(*_address(asked, primary))] * (last + 1 - first)
            replicas.update(_address(asked, other) for other in others)
        self._slots, self._replicas, self._stale = slots, replicas, False
        kept = {*map(id, slots)}
        for address, node in list(self._nodes.items()):
            if id(node) not in kept and address not in self._location.seeds:
                del self._nodes[address]
                self._background(_closed(node))


def _address(asked: str, entry: Sequence[Any]) -> tuple[str, int]:
    host = entry[0].decode() if entry[0] else ""
    return (host if host not in ("", "?") else asked), int(entry[1])


async def _closed(node: Node) -> None:
    with suppress(RedisError, OSError):
        await node.pool.disconnect()
