"""What a publisher holds in its hands, and how it learns that a message became durable."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from heliograph.client.errors import ClosedError, DurabilityUnknown
from heliograph.protocol.frames import Status, StatusAnswer


class Durability:
    """Whether one position is in the log, as far as is known."""

    __slots__ = ("__weakref__", "changed", "durable", "error", "position", "session")

    def __init__(self, session: str, position: str) -> None:
        self.session = session
        self.position = position
        self.durable = False
        self.error: ClosedError | None = None
        self.changed = asyncio.Event()


class Durabilities:
    """Those that somebody still holds a receipt of; asks for those that somebody waits for."""

    def __init__(self, send: Callable[[Status], None], request_id: Callable[[], int], interval_s: float) -> None:
        self._send = send
        self._request_id = request_id
        self._interval_s = interval_s
        self._known: WeakValueDictionary[tuple[str, str], Durability] = WeakValueDictionary()
        self._waited_for: dict[Durability, int] = {}

    def expect(self, session: str, position: str) -> Durability:
        """The one of this position; `confirmed` and `status` settle it."""
        found = self._known.get((session, position))
        if found is None:
            found = self._known[session, position] = Durability(session, position)
        return found

    def confirmed(self, session: str, position: str) -> None:
        found = self._known.get((session, position))
        if found is not None:
            found.durable = True
            found.changed.set()

    def answered(self, answer: StatusAnswer) -> None:
        """`durable` None can't be told for now: asked again later."""
        if answer.durable:
            self.confirmed(answer.session, answer.position)

    def connected(self) -> None:
        """A `confirmed` may have been missed: ask for all that are waited for."""
        for durability in self._waited_for:
            self._ask(durability)

    def end(self, error: ClosedError) -> None:
        for durability in list(self._known.values()):
            durability.error = error
            durability.changed.set()

    async def wait(self, durability: Durability, timeout_s: float | None) -> None:
        self._waited_for[durability] = self._waited_for.get(durability, 0) + 1
        try:
            async with asyncio.timeout(timeout_s):
                while not durability.durable:
                    if durability.error is not None:
                        raise durability.error
                    try:
                        async with asyncio.timeout(self._interval_s):
                            await durability.changed.wait()
                    except TimeoutError:
                        self._ask(durability)
        except TimeoutError:
            raise DurabilityUnknown(
                durability.session,
                durability.position,
                f"no word within {timeout_s:g} s that {durability.position} of {durability.session} is in the log",
            ) from None
        finally:
            left = self._waited_for[durability] - 1
            if left:
                self._waited_for[durability] = left
            else:
                del self._waited_for[durability]

    def _ask(self, durability: Durability) -> None:
        self._send(Status(durability.session, durability.position, id=self._request_id()))


@dataclass(frozen=True)
class Receipt:
    """The answer to a publish."""

    session: str
    message_id: str | None
    position: str | None
    """None for telemetry, for `ack="none"`, and for what is deferred: in the log, not yet in its place."""
    duplicate: bool = False
    """The server had it already, and `position` is the first one's: published before with the same `id=`, or by this
    call itself when the answer to its first try was lost with a connection."""
    deferred: bool = False
    """The live path is away: the message is safe in the log and gets its place when it is back."""
    _durability: Durability | None = field(default=None, repr=False, compare=False)
    _durabilities: Durabilities | None = field(default=None, repr=False, compare=False)
    _durable: bool = field(default=False, repr=False, compare=False)

    @property
    def is_durable(self) -> bool:
        """Whether the log has it, as far as is known now."""
        return self._durable or (self._durability is not None and self._durability.durable)

    async def durable(self, timeout: float | None = 60.0) -> None:  # noqa: ASYNC109 - as asyncio's own waits read
        """Return when the log has the message, acknowledged by all in-sync replicas.

        Survives reconnects. Raises DurabilityUnknown when that could not be learnt within `timeout` seconds (None:
        wait as long as it takes), ClosedError when the client is closed meanwhile.
        """
        if self.is_durable:
            return
        if self._durability is None or self._durabilities is None:
            raise DurabilityUnknown(
                self.session, self.position, "published without a position to ask for (telemetry, or ack='none')"
            )
        await self._durabilities.wait(self._durability, timeout)
