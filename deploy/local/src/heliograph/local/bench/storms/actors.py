"""Load in a process of its own: a party behind a pipe, so that whoever measures shares neither core nor loop with it.

One question at a time, answered in order. A party that is asked nothing goes on with what it does.
"""

import asyncio
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection as Pipe
from typing import Any, Protocol

import uvloop

from heliograph.local.bench.machine import Cores, raise_file_limit
from heliograph.local.errors import LocalError

END_TIMEOUT_S = 5.0
FIRST = -10
"""Niceness of who measures latencies, where the system allows it (root): it shares a core with the load, Kafka and
Redis, as no user of an installation does, and must not count how long it waited for that core.
"""
ANSWER_TIMEOUT_S = 120.0


class StormError(LocalError):
    """A storm that could not be measured."""


class Handler(Protocol):
    """Its coroutine methods are what an actor can be asked for, by name."""

    async def close(self) -> None: ...


class Actor:
    """A handler in another process. `make` and its arguments go over by pickle; leave the context to end it."""

    def __init__(
        self, name: str, cores: Cores, make: Callable[..., Handler], *arguments: Any, measures: bool = False
    ) -> None:
        """`measures`: it goes before others who want its core."""
        context = multiprocessing.get_context("spawn")
        self.name = name
        self._pipe, theirs = context.Pipe()
        held = [int(core) for core in cores.load.split(",")] if cores.load is not None else []
        self._process = context.Process(
            target=_begin, args=(theirs, held, measures, make, arguments), name=name, daemon=True
        )
        self._process.start()
        theirs.close()

    def __enter__(self) -> "Actor":
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError, StormError):
            self.ask("close", timeout_s=END_TIMEOUT_S)
        self._process.join(END_TIMEOUT_S)
        self._process.kill()
        self._process.join()
        self._pipe.close()

    @property
    def pid(self) -> int:
        found = self._process.pid
        assert found is not None
        return found

    def ask(self, what: str, *arguments: Any, timeout_s: float = ANSWER_TIMEOUT_S) -> Any:
        """Its answer. Raises StormError where it fails, ends, or does not answer in time."""
        self.begin(what, *arguments)
        return self.answer(timeout_s)

    def begin(self, what: str, *arguments: Any) -> None:
        """Ask without waiting; `answer` waits."""
        self._pipe.send((what, arguments))

    def answer(self, timeout_s: float = ANSWER_TIMEOUT_S) -> Any:
        deadline = time.monotonic() + timeout_s
        while not self._pipe.poll(0.05):
            if not self._process.is_alive():
                raise StormError(f"{self.name} ended with status {self._process.exitcode}")
            if time.monotonic() > deadline:
                raise StormError(f"{self.name} did not answer within {timeout_s:g} s")
        try:
            fine, answer = self._pipe.recv()
        except EOFError:
            raise StormError(f"{self.name} ended with its answer due") from None
        if not fine:
            raise StormError(f"{self.name}: {answer}")
        return answer


def _begin(
    pipe: Pipe, held: list[int], measures: bool, make: Callable[..., Handler], arguments: tuple[Any, ...]
) -> None:
    """Where the process begins."""
    raise_file_limit()
    if measures:
        with suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, FIRST)
    if held:
        os.sched_setaffinity(0, held)
    uvloop.run(_serve(pipe, make(*arguments)))


async def _serve(pipe: Pipe, handler: Handler) -> None:
    asked = asyncio.Event()
    asyncio.get_running_loop().add_reader(pipe.fileno(), asked.set)
    os.set_blocking(pipe.fileno(), True)  # uvloop made it the other kind, which can't take an answer of some size
    what = ""
    while what != "close":
        await asked.wait()
        asked.clear()
        while what != "close" and pipe.poll():
            try:
                what, arguments = pipe.recv()
            except EOFError:
                return
            try:
                answer: tuple[bool, Any] = (True, await getattr(handler, what)(*arguments))
            except Exception:  # noqa: BLE001 - it is told to who asked
                answer = (False, traceback.format_exc(limit=-4))
            pipe.send(answer)
