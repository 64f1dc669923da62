"""redis-py's commands on a Redis Cluster: each goes to the primary that has the slot of its key.

redis-py has a client for clusters as well. It is not used: where a slot is served by nobody, and at every fifth that
has moved, it closes all of its connections under the commands of everybody else; it may send ASKING over another
connection than the command that it is for; and it tries three times, each of which may have been carried out. Here a
command is sent elsewhere only when a server said that it did not carry it out, and one whose connection broke is told
so, as with one server. What keeps connections, talks to a server and reads its answers is redis-py's.

Commands have one slot; those of a pipeline may have many, and then go out side by side, in order for each slot only.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from hashlib import sha1
from typing import Any, TypeVar

from redis.asyncio import BlockingConnectionPool
from redis.asyncio.client import Pipeline
from redis.commands import AsyncCoreCommands
from redis.commands.core import AsyncScript
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    NoScriptError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from heliograph.stores.redis.address import RedisLocation
from heliograph.stores.redis.metadata.layout import Layout, Node

AGAIN_S = 0.02
"""Keys of one command are on two nodes while their slot moves: it waits, at most for the client's timeout."""
REDIRECTS = 8
"""A slot moves once; more is a cluster whose nodes don't agree."""

NOT_DONE = (AskError, TryAgainError, NoScriptError)
"""What a server says (MOVED is an AskError to redis-py) that did nothing, and that is put right by asking elsewhere."""
BROKEN = (RedisConnectionError, RedisTimeoutError, ClusterDownError)

_KEY_AT = {"EVALSHA": 3, "EVAL": 3, "BLMPOP": 3}
"""Where the key is, but for after the command."""
_EVERYWHERE = frozenset({"PING", "FLUSHDB", "SCRIPT LOAD", "SCRIPT FLUSH"})
_ANYWHERE = frozenset({"PUBLISH", "TIME"})
"""PUBLISH reaches the subscribers of all nodes; TIME is some node's."""

T = TypeVar("T")
Command = tuple[tuple[Any, ...], dict[str, Any]]


class ClusterRedis(AsyncCoreCommands):
    """What `redis.asyncio.Redis` is for one server."""

    _event_dispatcher: Any = None
    """Nobody listens to redis-py's events."""

    def __init__(self, location: RedisLocation, timeout_s: float, max_connections: int) -> None:
        self.layout = Layout(location, timeout_s, max_connections)
        self._timeout_s = timeout_s
        self._encoder: Any = BlockingConnectionPool().get_encoder()  # type: ignore[no-untyped-call]
        self._scripts: dict[str, str] = {}

    async def aclose(self) -> None:
        await self.layout.close()

    def get_encoder(self) -> Any:
        return self._encoder

    def register_script(self, script: Any) -> Any:
        self.know(script)
        return AsyncScript(self, script)  # type: ignore[arg-type]  # it needs `evalsha`, and an encoder

    def know(self, script: str) -> str:
        """Its digest; a node that lacks it is given it when it says so."""
        digest = sha1(script.encode(), usedforsecurity=False).hexdigest()
        self._scripts[digest] = script
        return digest

    def pipeline(self, transaction: bool = True) -> "ClusterPipeline":
        if transaction:
            raise ValueError("a transaction can't follow a slot that moves: use a script")
        return ClusterPipeline(self)

    # ---- one command -------------------------------------------------------------------------------------------------

    async def execute_command(self, *command: Any, **options: Any) -> Any:
        name = command[0].upper()
        if name in _EVERYWHERE:
            return await self._each(command, options)
        if name in _ANYWHERE:
            node = await self.any_node()
            try:
                return await node.redis.execute_command(*command, **options)
            except BROKEN:
                self.layout.lost()
                raise
        return await self._run(command, options)

    async def again(self, command: Sequence[Any], error: ResponseError) -> Any:
        """A command that a server did not carry out, and said why: one of NOT_DONE."""
        return await self._run(command, {}, error)

    async def time_of(self, key: str) -> tuple[int, int]:
        """TIME of the node that has `key`."""
        node = await self.layout.of(key_slot(key.encode()))
        try:
            found: tuple[int, int] = await node.redis.time()
        except BROKEN:
            self.layout.lost()
            raise
        return found

    async def any_node(self) -> Node:
        return random.choice(await self._some())  # noqa: S311 - which of them is no secret

    async def _each(self, command: Sequence[Any], options: dict[str, Any]) -> Any:
        """On every primary; answers what the first does."""
        nodes = await self._some()
        answers = await asyncio.gather(
            *(node.redis.execute_command(*command, **options) for node in nodes), return_exceptions=True
        )
        for answer in answers:
            if isinstance(answer, BaseException):
                self.layout.lost()
                raise answer
        return answers[0]

    async def _some(self) -> list[Node]:
        nodes = await self.layout.primaries()
        if not nodes:
            self.layout.lost()
            raise ClusterDownError("no node has slots")
        return nodes

    async def _run(self, command: Sequence[Any], options: dict[str, Any], error: ResponseError | None = None) -> Any:
        """`error`: what a server that was asked already said."""
        slot, ends_s = slot_of(command), time.monotonic() + self._timeout_s
        node, asking, redirects, loaded = None, False, 0, False
        while True:
            if error is not None:
                if redirects > REDIRECTS or time.monotonic() > ends_s:
                    self.layout.lost()
                    raise ClusterDownError(f"slot {slot} has no place for long: {error}")
                node = node or await self.layout.of(slot)
                if isinstance(error, AskError):  # a MOVED as well
                    node, redirects = self.layout.at(error.host or node.host, error.port), redirects + 1
                    asking = not isinstance(error, MovedError)
                    if not asking:
                        self.layout.moved(slot, node)
                elif isinstance(error, TryAgainError):  # some of its keys are there and some here: soon all are there
                    await asyncio.sleep(AGAIN_S)
                    node = None
                else:
                    script = self._scripts.get(str(command[1]))
                    if script is None or loaded:
                        raise error
                    loaded = True
                    await node.redis.script_load(script)
            if node is None:
                node, asking = await self.layout.of(slot), False
            try:
                if asking:
                    return await _asking(node, command, options)
                return await node.redis.execute_command(*command, **options)
            except NOT_DONE as said:
                error = said
            except BROKEN:
                self.layout.lost()
                raise

    # ---- many at once ------------------------------------------------------------------------------------------------

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """Answers or errors, in the order of the commands."""
        keyed = [command for command, _ in commands if command[0].upper() not in _ANYWHERE]
        first = slot_of(keyed[0]) if keyed else 0
        slots = [first if command[0].upper() in _ANYWHERE else slot_of(command) for command, _ in commands]

        async def run(node: Node, indexes: Sequence[int]) -> list[tuple[int, Any]]:
            part = await _pipelined(node, [commands[index] for index in indexes])
            return list(zip(indexes, part, strict=True))

        answers: list[Any] = [None] * len(commands)
        for part in await self._on_nodes(slots, run):
            for index, answer in part:
                answers[index] = answer
        for index, answer in enumerate(answers):
            if isinstance(answer, NOT_DONE):
                command, options = commands[index]
                try:
                    answers[index] = await self._run(command, options, answer)
                except ResponseError as error:
                    answers[index] = error
            elif isinstance(answer, ClusterDownError):
                self.layout.lost()
        return answers

    async def on_nodes(self, keys: Sequence[str], run: Callable[[Node, Sequence[int]], Awaitable[T]]) -> list[T]:
        """`run` for each node that has some of the keys, side by side, with their places."""
        return await self._on_nodes([key_slot(key.encode()) for key in keys], run)

    async def _on_nodes(self, slots: Sequence[int], run: Callable[[Node, Sequence[int]], Awaitable[T]]) -> list[T]:
        at: dict[int, tuple[Node, list[int]]] = {}
        for index, slot in enumerate(slots):
            node = await self.layout.of(slot)
            at.setdefault(id(node), (node, []))[1].append(index)
        parts = await asyncio.gather(
            *(run(node, indexes) for node, indexes in at.values()),
            return_exceptions=True,  # all are done before one that broke is told
        )
        found = []
        for part in parts:
            if isinstance(part, BaseException):
                if isinstance(part, BROKEN):
                    self.layout.lost()
                raise part
            found.append(part)
        return found


class ClusterPipeline(Pipeline):
    """Commands that are kept until `execute`."""

    def __init__(self, cluster: ClusterRedis) -> None:
        super().__init__(None, {}, False, None)  # type: ignore[arg-type]  # it sends nothing by itself
        self._cluster = cluster

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        commands: list[Any] = list(self.command_stack)
        await self.reset()  # type: ignore[no-untyped-call]
        if not commands:
            return []
        answers = await self._cluster.run(commands)
        if raise_on_error:
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
        return answers


def slot_of(command: Sequence[Any]) -> int:
    """Of the key of a command."""
    name = command[0].upper()
    at = command.index(b"STREAMS" if b"STREAMS" in command else "STREAMS") + 1 if name == "XREADGROUP" else 1
    key = command[_KEY_AT.get(name, at)]
    return key_slot(key if isinstance(key, bytes) else str(key).encode())


async def _asking(node: Node, command: Sequence[Any], options: dict[str, Any]) -> Any:
    """ASKING is for the command behind it on the same connection."""
    answers = await _pipelined(node, [(("ASKING",), {}), (tuple(command), options)])
    if isinstance(answers[1], Exception):
        raise answers[1]
    return answers[1]


async def _pipelined(node: Node, commands: Sequence[Command]) -> list[Any]:
    async with node.redis.pipeline(transaction=False) as pipeline:
        for command, options in commands:
            pipeline.execute_command(*command, **options)
        answers: list[Any] = await pipeline.execute(raise_on_error=False)
        return answers
