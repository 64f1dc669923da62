"""Pages for who is behind: a few at a time, tenants in turn, and equal ones once.

After an outage thousands come back to their sessions at once, and a hundred slow readers of one session ask for the
same pages. Each page is up to 256 KiB, in Redis' reply buffers and here, so what is under way is bounded, and who asks
for the same page meanwhile gets it from the same read.

What this must never do: let one tenant's crowd go before another's few, or answer a read of the window by one that was
sent before it was asked for (the reader attaches to live frames first, and what came between would be missing).
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from heliograph.service.metrics import TickCounter

Answer = TypeVar("Answer")

Begin = Callable[[], bool]
"""Called just before a read is sent; False: it is not wanted any more."""

SHARERS = 16
"""Of one read: what comes is queued for all of them in one turn of the loop, a page each."""


class _Read(Generic[Answer]):
    """One read, and who waits for it."""

    __slots__ = ("begins", "fetch", "future", "what")

    def __init__(self, what: object, fetch: Callable[[], Coroutine[Any, Any, Answer]]) -> None:
        self.what = what
        self.fetch = fetch
        self.future: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self.begins: list[Begin] = []


class Turns(Generic[Answer]):
    """Reads of which a few are under way at a time."""

    def __init__(self, slots: int, shared: TickCounter) -> None:
        """`shared` counts asks that another's read answers."""
        self._free = slots
        self._shared = shared
        self._waiting: OrderedDict[str, deque[_Read[Answer]]] = OrderedDict()
        """By tenant, the one whose turn it is first."""
        self._open: dict[object, _Read[Answer]] = {}
        """By what is read: the one that waits and has room for another sharer."""
        self._under_way: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        """Reads that wait for their turn."""
        return sum(map(len, self._waiting.values()))

    async def read(
        self, tenant: str, what: object, begin: Begin, fetch: Callable[[], Coroutine[Any, Any, Answer]]
    ) -> Answer | None:
        """What `fetch` answers or raises, once it is the turn of `what`; None where nobody wanted it by then."""
        read = self._open.get(what)
        if read is None:
            read = self._open[what] = _Read(what, fetch)
            self._waiting.setdefault(tenant, deque()).append(read)
        else:
            self._shared.n += 1
        read.begins.append(begin)
        if len(read.begins) == SHARERS:
            del self._open[what]
        self._go_on()
        return await asyncio.shield(read.future)

    def _go_on(self) -> None:
        """Send what there is room for."""
        while self._free and self._waiting:
            tenant, reads = self._waiting.popitem(last=False)
            read = reads.popleft()
            if reads:
                self._waiting[tenant] = reads  # behind the others
            if self._open.get(read.what) is read:
                del self._open[read.what]
            wanted = [begin() for begin in read.begins]
            if not any(wanted):
                read.future.set_result(None)
                continue
            self._free -= 1
            task = asyncio.create_task(self._send(read))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _send(self, read: _Read[Answer]) -> None:
        try:
            read.future.set_result(await read.fetch())
        except Exception as error:  # noqa: BLE001 - who asked gets it
            read.future.set_exception(error)
            read.future.exception()  # perhaps nobody asks any more
        finally:
            read.future.cancel()  # where the task itself was
            self._free += 1
            self._go_on()

    async def close(self) -> None:
        """End what is under way; what waits is not sent any more."""
        self._waiting.clear()
        self._open.clear()
        for task in tuple(self._under_way):
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)


class Shared(Generic[Answer]):
    """Reads of which equal ones under way are one: of a source that is not read up to its end."""

    def __init__(self, shared: TickCounter) -> None:
        """`shared` counts asks that another's read answers."""
        self._shared = shared
        self._under_way: dict[object, tuple[asyncio.Task[Answer], int]] = {}
        """By what is read: the newest read of it, and how many wait for it."""

    async def read(self, what: object, fetch: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
        """What `fetch` answers or raises."""
        task, sharers = self._under_way.get(what) or (asyncio.create_task(fetch()), 0)
        if sharers == SHARERS:
            task, sharers = asyncio.create_task(fetch()), 0
        self._shared.n += sharers > 0
        self._under_way[what] = task, sharers + 1
        try:
            return await asyncio.shield(task)
        finally:
            if task.done() and self._under_way.get(what, (None,))[0] is task:
                del self._under_way[what]
