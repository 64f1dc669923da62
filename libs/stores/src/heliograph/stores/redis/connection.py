"""A connection to Redis that comes back: one `Wire` after the other, with backoff, a deadline and bounds.

While it is down commands fail at once (through `call_soon`, never inside the call), so that callers decide what to do
with a message now instead of queueing it behind an outage of unknown length. A server that takes commands and answers
none for `deadline_s` (stopped, half-open TCP) is treated as gone; an idle connection is pinged to find that out.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import hiredis

from heliograph.core.backoff import Backoff, BackoffPolicy
from heliograph.stores.events import LIVE, StoreEvent, Tally
from heliograph.stores.ports import CorruptError, StoreError
from heliograph.stores.redis.address import RedisAddress
from heliograph.stores.redis.refusing import explained
from heliograph.stores.redis.wire import Done, OnPush, SubscriptionBatch, Wire

pack: Callable[[tuple[Any, ...]], bytes] = cast("Any", hiredis.pack_command)
"""A command as bytes; its stub allows one argument only."""
PING, ASKING = pack(("PING",)), pack(("ASKING",))

Locate = Callable[[], Awaitable[RedisAddress]]
"""Where the server is now; asked before each attempt to connect. Raises StoreError."""

SETTING = "redis_url"
"""Where its address comes from, for errors."""


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """Bounds of one connection."""

    deadline_s: float = 2.0
    """Redis answers in a millisecond; a failover takes longer than anybody would wait for an answer."""
    ping_idle_s: float = 1.0
    """A connection that is silent this long is asked whether it lives."""
    max_in_flight: int = 20_000
    """Commands without an answer: half a second of a Redis' work."""
    max_queued_bytes: int = 32 * 1024 * 1024
    """Bytes that the socket did not take: a Redis that reads slowly must not fill the process."""
    backoff: BackoffPolicy = field(default=BackoffPolicy(base_s=0.05, cap_s=2.0, healthy_s=5.0))
    """A Redis that restarts is back in 100 ms; many edges come back at once."""


class RedisConnection:
    """`on_up` runs on each new wire before it is available; raising drops it. `on_down` runs when it is lost."""

    def __init__(
        self,
        address: RedisAddress | Locate,
        *,
        name: str,
        uniform: Callable[[], float],
        settings: ConnectionSettings | None = None,
        on_up: Callable[["RedisConnection"], Awaitable[None]] | None = None,
        on_down: Callable[[str], None] | None = None,
        on_push: OnPush | None = None,
        named: bool = True,
    ) -> None:
        """`named`: the server is told the name, for its CLIENT LIST."""
        self._locate = None if isinstance(address, RedisAddress) else address
        self._address = address if isinstance(address, RedisAddress) else None
        self._name = name
        self._named = named
        self._settings = settings or ConnectionSettings()
        self._uniform = uniform
        self._on_up = on_up
        self._on_down = on_down
        self._on_push = on_push
        self.on_available: Callable[[], None] | None = None
        """Runs each time it becomes available."""
        self._wire: Wire | None = None
        self._up: Wire | None = None
        """The wire once `on_up` is done."""
        self._gone: asyncio.Event = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._watcher: asyncio.TimerHandle | None = None
        self._watched_s = 0.0
        self._why_down = "not started"
        self._waiters: list[asyncio.Future[None]] = []
        self.stats = Tally(LIVE)
        self.connects = 0
        """Times that it became available."""

    @property
    def available(self) -> bool:
        return self._up is not None

    @property
    def node(self) -> tuple[str, int]:
        """Host and port of the server that it is connected to, or was last; ("", 0) before it was located."""
        return (self._address.host, self._address.port) if self._address is not None else ("", 0)

    @property
    def in_flight(self) -> int:
        """Commands without an answer."""
        return len(self._up.waiting) if self._up is not None else 0

    # ---- life -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect once; from then on it reconnects by itself. Raises StoreError, and may be called again."""
        if self._task is not None:
            return
        await self._connect()
        self._task = asyncio.get_running_loop().create_task(self._keep(), name=f"redis {self._name}")

    def open(self) -> None:
        """Connect in the background, and again until it works."""
        if self._task is None:
            self._gone.set()
            self._task = asyncio.get_running_loop().create_task(self._keep(at_once=True), name=f"redis {self._name}")

    async def until_available(self, timeout_s: float) -> bool:
        """Whether it is, at last."""
        if self._up is None:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await asyncio.wait([waiter], timeout=timeout_s)
            if not waiter.done():
                self._waiters.remove(waiter)
        return self._up is not None

    async def close(self) -> None:
        """Drop the connection; what waits is told."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None
        if self._wire is not None:
            self._wire.abort("closed")
            await self._gone.wait()
        self._why_down = "closed"

    async def _keep(self, *, at_once: bool = False) -> None:
        loop = asyncio.get_running_loop()
        backoff = Backoff(self._settings.backoff, self._uniform)
        if not at_once:
            backoff.succeeded(loop.time())
        while True:
            await self._gone.wait()
            if not at_once:
                await asyncio.sleep(backoff.failed(loop.time()))
            at_once = False
            try:
                await self._connect()
            except StoreError as error:
                self._why_down = error.message
            else:
                backoff.succeeded(loop.time())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        self._gone.clear()
        wire = Wire(self._on_push, self._lost)
        try:
            address = await self._located()
        except BaseException:
            self._gone.set()
            raise
        try:
            async with asyncio.timeout(self._settings.deadline_s):
                await loop.create_connection(lambda: wire, address.host, address.port, ssl=address.tls_context())
        except (OSError, TimeoutError) as error:
            wire.abort("no connection")
            self._gone.set()
            why = "no connection in time" if isinstance(error, TimeoutError) else explained(str(error), SETTING)
            raise StoreError("live_unavailable", f"Redis at {address}: {why}") from None
        self._wire = wire
        self._watched_s = loop.time()
        self._watch()
        try:
            await self._raw(wire, *address.hello())
            if self._named:
                await self._raw(wire, "CLIENT", "SETNAME", f"heliograph-{self._name}")
            if address.database:
                await self._raw(wire, "SELECT", address.database)
            if self._on_up is not None:
                await self._on_up(self)
            if wire.closing is not None:
                raise StoreError("live_unavailable", wire.closing)
        except Exception as error:
            wire.abort("could not be set up")
            if isinstance(error, StoreError) and not isinstance(error, CorruptError):
                raise
            raise StoreError("live_unavailable", f"Redis at {address}: could not be set up: {error}"[:300]) from error
        except BaseException:
            wire.abort("closed")
            raise
        self._up = wire
        self.connects += 1
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        if self.on_available is not None:
            self.on_available()

    async def _located(self) -> RedisAddress:
        if self._locate is not None:
            self._address = await self._locate()
        assert self._address is not None
        return self._address

    def _lost(self, wire: Wire, reason: str) -> None:
        if self._wire is not wire:  # never got as far as being used
            return
        was_up = self._up is wire
        self._up = self._wire = None
        self._why_down = f"Redis at {self._address}: {reason}"
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None
        self._gone.set()
        if was_up:
            self.stats.count(StoreEvent.CONNECTION_LOST)
            if self._on_down is not None:
                self._on_down(reason)

    def drop(self, reason: str) -> None:
        """Give up this wire and connect anew."""
        if self._wire is not None:
            self._wire.abort(reason)

    def _watch(self) -> None:
        """Look whether Redis still answers. A watch that comes late itself says that this process was away."""
        wire = self._wire
        if wire is None:
            return
        loop = asyncio.get_running_loop()
        now, settings = loop.time(), self._settings
        interval_s = settings.deadline_s / 4
        if now - self._watched_s > settings.deadline_s:
            wire.progress_s = now
        self._watched_s = now
        silent_s = now - wire.progress_s
        if wire.waiting:
            if silent_s > settings.deadline_s:
                self.stats.count(StoreEvent.ANSWER_LATE)
                wire.abort(f"no answer for {settings.deadline_s:g} s")
                return
        elif silent_s > settings.ping_idle_s:
            wire.send(PING, ignore)
        self._watcher = loop.call_later(min(interval_s, settings.ping_idle_s), self._watch)

    # ---- commands ---------------------------------------------------------------------------------------------------

    def send(self, packed: bytes, done: Done) -> None:
        """One packed command. `done` gets the reply, a ReplyError or a StoreError, later on the loop."""
        wire = self._up
        settings = self._settings
        if (
            wire is None
            or wire.closing is not None
            or len(wire.waiting) >= settings.max_in_flight
            or wire.queued_bytes >= settings.max_queued_bytes
        ):
            self.stats.count(StoreEvent.NOT_SENT)
            asyncio.get_running_loop().call_soon(done, self._refusal())
            return
        wire.send(packed, done)

    def _refusal(self) -> StoreError:
        if self._up is not None and self._up.closing is not None:
            return StoreError("live_unavailable", f"Redis at {self._address}: {self._up.closing}")
        if self._up is None:
            return StoreError("live_unavailable", self._why_down)
        return StoreError("live_unavailable", f"Redis at {self._address}: too many commands under way")

    def send_subscription(
        self, kind: bytes, channels: Sequence[bytes], done: Callable[[Exception | None], None]
    ) -> None:
        """SSUBSCRIBE (`kind` b"ssubscribe") or SUNSUBSCRIBE; `done` runs when each channel was confirmed."""
        self.send(pack((kind, *channels)), SubscriptionBatch(kind, channels, done))

    async def call(self, *command: Any) -> Any:
        """One command, awaited. Raises StoreError or CorruptError."""
        return await self.call_packed(pack(command))

    async def call_packed(self, packed: bytes) -> Any:
        reply = (await self.call_many([packed]))[0]
        if isinstance(reply, Exception):
            raise translate(reply)
        return reply

    async def call_many(self, packed: Sequence[bytes]) -> list[Any]:
        """Many commands in one write; replies in order, errors among them."""
        return await _gather(self.send, packed)

    async def call_setup(self, *command: Any) -> Any:
        """For `on_up`: a command on a wire that is not available yet. ReplyError is returned, not raised."""
        wire = self._wire
        if wire is None or wire.closing is not None:
            raise StoreError("live_unavailable", self._why_down)
        reply = (await _gather(wire.send, [pack(command)]))[0]
        if isinstance(reply, StoreError):
            raise reply
        return reply

    async def _raw(self, wire: Wire, *command: Any) -> None:
        reply = (await _gather(wire.send, [pack(command)]))[0]
        if isinstance(reply, hiredis.ReplyError):
            why = explained(_shown(reply), SETTING)
            raise StoreError("live_unavailable", f"Redis at {self._address} refused {command[0]}: {why}")
        if isinstance(reply, StoreError):
            raise reply


async def _gather(send: Callable[[bytes, Done], None], packed: Sequence[bytes]) -> list[Any]:
    if not packed:
        return []
    replies: list[Any] = []
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def done(reply: Any) -> None:
        replies.append(reply)
        if len(replies) == len(packed) and not future.done():
            future.set_result(None)

    for command in packed:
        send(command, done)
    await future
    return replies


async def send_asking(connection: RedisConnection, packed: bytes) -> Any:
    """The reply to one command behind ASKING, which alone lets it in at a node that its slot is going to."""
    return (await connection.call_many([ASKING, packed]))[1]


def ignore(_reply: Any) -> None:
    """A ping says what it has to say by being answered."""


def _shown(error: Exception) -> str:
    """An error of Redis without the arguments it may quote."""
    return str(error).split(", with args beginning with", 1)[0].split("'", 1)[0][:200]


_FULL = "OOM"
"""Above maxmemory, and it may not evict: what would write is refused before it runs."""
_AWAY = ("MISCONF", "READONLY", "LOADING", "NOREPLICAS", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN")
"""Error prefixes that say: not now. https://redis.io/docs/latest/develop/reference/protocol-spec/#simple-errors"""


def translate(error: Exception) -> StoreError | CorruptError:
    """What Redis said, as an error with a code. Nothing of a stored value or argument is shown.

    An error that says nothing about itself may come from a function that broke half-way: `maybe_done`.
    """
    if isinstance(error, StoreError | CorruptError):
        return error
    words = str(error).split(" ", 2)
    if words[0] == "HGCORRUPT" and len(words) == 3:
        return CorruptError(words[1], words[2])
    if words[0] == "WRONGTYPE":
        return CorruptError("a key of the live store", "holds the wrong kind of value")
    if words[0] == _FULL:
        return StoreError("overloaded", _shown(error))
    if words[0] in _AWAY:
        return StoreError("live_unavailable", _shown(error))
    return StoreError("unavailable", _shown(error), maybe_done=True)
