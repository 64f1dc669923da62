"""Replay's answers to an export: which partitions there are, and their records, over as many answers as it takes.

What came behind the last mark of an answer that was cut off comes again with the next: it is held back until the mark,
so that nobody sees a record twice.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import httpx
import msgspec
from msgspec import Struct

from heliograph.cli.history import NDJSON, PAUSE_S, refused_answer
from heliograph.client import AuthenticationError, ConnectError, HeliographError, RefusedError
from heliograph.protocol.exports import LINE_START

MAX_LINE_BYTES = 64 * 1024 * 1024
"""Of a line without an end: whatever sends it is no replay service. Kafka's own records are below 1 MB mostly."""

PATIENCE_S = 60.0
"""Without getting any further, until the command gives up: a service that restarts, a proxy that moves."""
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 5.0


class Span(Struct):
    """A partition that holds records of the tenant."""

    topic: str
    partition: int
    start: int
    end: int
    resume: str


class _Partitions(Struct):
    tenant: str
    partitions: list[Span]


class _Mark(Struct, tag="mark", tag_field="type"):
    offset: int
    resume: str
    removed: int = 0
    expired: int = 0


class _End(Struct, tag="end", tag_field="type"):
    complete: bool
    offset: int | None = None
    resume: str | None = None
    removed: int = 0
    expired: int = 0


class _Error(Struct, tag="error", tag_field="type"):
    code: str
    message: str = ""


_partitions = msgspec.json.Decoder(_Partitions)
_between = msgspec.json.Decoder(_Mark | _End | _Error)


@dataclass(slots=True)
class Step:
    """Lines of records, and what asks for those behind them."""

    lines: list[bytes]
    next: int | None
    """The first offset behind them, where it was told."""
    resume: str | None
    """None: nothing is left."""
    removed: int
    """Offsets that retention took in this step."""
    expired: int
    """Messages left out in this step because their session has expired."""


async def partitions(http: httpx.AsyncClient, url: str, query: dict[str, str]) -> list[Span]:
    """What there is. Raises ConnectError, AuthenticationError, RefusedError."""
    path = url + "/partitions"
    patience = _Patience()
    while True:
        try:
            answer = await http.get(path, params=query)
            if answer.status_code != httpx.codes.OK:
                raise refused_answer(path, answer, answer.content)
            return _partitions.decode(answer.content).partitions
        except httpx.TransportError as error:
            raise _unreachable(path, error) from None
        except msgspec.MsgspecError as error:
            raise ConnectError("malformed", f"replay sent what can't be read: {error}") from None
        except RefusedError as error:
            await patience.failed(error)


async def steps(http: httpx.AsyncClient, url: str, query: dict[str, str], resume: str) -> AsyncGenerator[Step, None]:
    """Everything of one partition behind `resume`. Raises ConnectError, AuthenticationError, RefusedError."""
    patience = _Patience()
    while True:
        failure: HeliographError = ConnectError("history_unavailable", "the answers end without getting any further")
        try:
            async with aclosing(_answer(http, url, query | {"resume": resume, "alone": "true"})) as answer:
                async for step in answer:
                    yield step
                    if step.resume is None:
                        return
                    if step.resume != resume:
                        resume, patience = step.resume, _Patience()
        except (ConnectError, RefusedError) as error:
            failure = error
        await patience.failed(failure)


class _Patience:
    """Pauses, longer and longer, until it has an end."""

    def __init__(self) -> None:
        self._ends_at: float | None = None
        self._pause_s = 0.0

    async def failed(self, failure: HeliographError) -> None:
        """Wait before the next try, or raise `failure` for good. The first try that got on is followed at once."""
        if isinstance(failure, AuthenticationError) or (isinstance(failure, RefusedError) and not failure.retry):
            raise failure
        now = time.monotonic()
        self._ends_at = self._ends_at or now + PATIENCE_S
        if now >= self._ends_at:
            raise failure
        told_s = failure.retry_after_s if isinstance(failure, RefusedError) else None
        await asyncio.sleep(min(told_s or self._pause_s, LONGEST_PAUSE_S))
        self._pause_s = min(max(FIRST_PAUSE_S, 2 * self._pause_s), LONGEST_PAUSE_S)


async def _answer(http: httpx.AsyncClient, url: str, query: dict[str, str]) -> AsyncGenerator[Step, None]:
    lines: list[bytes] = []
    removed = expired = 0
    async with aclosing(_lines(http, url, query)) as answer:
        async for line in answer:
            if line.startswith(LINE_START):
                lines.append(line)
                continue
            try:
                told = _between.decode(line)
            except msgspec.MsgspecError as error:
                raise ConnectError("malformed", f"replay sent what can't be read: {error}") from None
            if isinstance(told, _Error):
                raise RefusedError(told.code, told.message, url, PAUSE_S)
            complete = isinstance(told, _End) and told.complete
            if told.resume is not None or complete:
                resume = None if complete else told.resume
                yield Step(lines, told.offset, resume, told.removed - removed, told.expired - expired)
                lines, removed, expired = [], told.removed, told.expired
            if isinstance(told, _End):
                return


async def _lines(http: httpx.AsyncClient, url: str, query: dict[str, str]) -> AsyncGenerator[bytes, None]:
    """Whole lines, as the bytes they came as."""
    rest: list[bytes] = []
    size = 0
    try:
        async with http.stream("GET", url, params=query) as response:
            if response.status_code != httpx.codes.OK:
                raise refused_answer(url, response, await response.aread())
            async for chunk in response.aiter_bytes():
                first, *more = chunk.split(b"\n")
                rest.append(first)
                size += len(first)
                if size > MAX_LINE_BYTES:
                    raise ConnectError("malformed", f"{url}: a line above {MAX_LINE_BYTES} bytes")
                if more:
                    yield b"".join(rest)
                    for line in more[:-1]:
                        yield line
                    rest, size = [more[-1]], len(more[-1])
    except httpx.TransportError as error:
        raise _unreachable(url, error) from None


def accept() -> dict[str, str]:
    return {"Accept": NDJSON}


def _unreachable(url: str, error: httpx.TransportError) -> ConnectError:
    return ConnectError("unreachable", f"{url}: {str(error) or type(error).__name__}", (url,), error)
