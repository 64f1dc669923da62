"""The client's token: got for each connection, and anew on a live one before it runs out.

What this must never do: log a token, or end a connection because a new one could not be had. The old one goes on until
it runs out, and then the server says so.
"""

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable

from heliograph.client.sender import Sender
from heliograph.client.settings import ClientSettings
from heliograph.client.stats import ClientStats
from heliograph.core.backoff import Backoff
from heliograph.protocol.frames import Error, Refresh, Refreshed, Refused

logger = logging.getLogger("heliograph.client")

Token = str | Callable[[], str | Awaitable[str]]

REFRESH_SOONEST_S = 1.0
"""Between two refreshes: a token function that keeps its token until the end is asked in ever shorter steps."""
REFRESH_BLIND_S = 30.0
"""Between two refreshes where tokens seem to have run out when they come: this clock is ahead of the server's."""
REFRESH_SPREAD = 0.1
"""The part of the time before a refresh that is left to chance: clients that began together don't ask together."""


class TokenSource:
    """What the application gave as `token=`."""

    def __init__(self, token: Token | None, timeout_s: float) -> None:
        self._token = token
        self._timeout_s = timeout_s

    @property
    def renewable(self) -> bool:
        """Whether another one can be had."""
        return callable(self._token)

    async def fresh(self) -> str | None:
        """The token for now. Raises what the application's function raises, and TimeoutError."""
        if self._token is None or isinstance(self._token, str):
            return self._token
        token = self._token()
        if not inspect.isawaitable(token):
            return token
        async with asyncio.timeout(self._timeout_s):
            return await token


class TokenRefresh:
    """Puts a fresh token in the place of the one that the connection was made with, again and again."""

    def __init__(
        self,
        source: TokenSource,
        sender: Sender,
        settings: ClientSettings,
        stats: ClientStats,
        uniform: Callable[[], float],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._source = source
        self._sender = sender
        self._settings = settings
        self._stats = stats
        self._uniform = uniform
        self._wall = wall
        self._backoff = Backoff(settings.reconnect, uniform)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._asked_id: int | None = None

    def connected(self, expires_at_ms: int | None) -> None:
        """A connection was made with a token that runs out then."""
        self.disconnected()
        if self._source.renewable and expires_at_ms is not None:
            self._ask_in(self.delay_s(expires_at_ms))

    def disconnected(self) -> None:
        """The next connection brings a token of its own."""
        self._asked_id = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def refreshed(self, frame: Refreshed) -> None:
        """The server took the new one."""
        if frame.id == self._asked_id:
            self._asked_id = None
            self._stats.refreshes += 1
            self._backoff.succeeded(self._loop.time())
            self._ask_in(self.delay_s(frame.expires_at_ms))

    def refused(self, answer: Refused | Error) -> bool:
        """Whether it answers a refresh of ours."""
        if answer.id is None or answer.id != self._asked_id:
            return False
        self._asked_id = None
        logger.warning("a new token was refused: %s", answer.code)
        if answer.code != "unknown_type":  # a server from before refresh: the token is renewed by the next connection
            self._failed(answer.retry_after_ms if isinstance(answer, Refused) else None)
        return True

    def delay_s(self, expires_at_ms: int) -> float:
        """How long to wait with the next one."""
        left_s = expires_at_ms / 1000 - self._wall()
        if left_s <= 0:
            return REFRESH_BLIND_S
        share = self._settings.refresh_after * (1 - REFRESH_SPREAD * self._uniform())
        return max(left_s * share, min(left_s, REFRESH_SOONEST_S))

    def _ask_in(self, delay_s: float) -> None:
        self._timer = self._loop.call_later(delay_s, self._ask)

    def _ask(self) -> None:
        self._timer = None
        self._task = self._loop.create_task(self._refresh())

    async def _refresh(self) -> None:
        try:
            token = await self._source.fresh()
        except Exception as error:  # noqa: BLE001 - whatever the application's function raises
            logger.warning("token() raised %s: the connection goes on with the old one", type(error).__name__)
            self._failed(None)
            return
        if token is not None:
            self._asked_id = self._sender.next_id()
            self._sender.send(Refresh(token, self._asked_id))

    def _failed(self, after_ms: float | None) -> None:
        self._ask_in(max(self._backoff.failed(self._loop.time(), after_ms), REFRESH_SOONEST_S))
