"""The one connection of a client: made, lost and made again, until it is closed or can't come back."""

import asyncio
import logging
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Protocol

from heliograph.client.addresses import Addresses
from heliograph.client.errors import AuthenticationError, ClientError, ClosedError, ConnectError, TokenExpiredError
from heliograph.client.link import Ended, Link, LinkError, Route
from heliograph.client.settings import ClientSettings
from heliograph.client.tokens import TokenSource
from heliograph.core.backoff import Backoff
from heliograph.protocol.codes import Close, CloseCode
from heliograph.protocol.frames import Hello, Reconnect, ServerFrame, Welcome

logger = logging.getLogger("heliograph.client")

ROTATION_PAUSE_S = 5.0
"""A second reconnect for a new incarnation within this time is paced like a failed connection."""


class ClientState(StrEnum):
    """What the client is doing about its connection."""

    NEW = "new"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    WAITING = "waiting"
    """Between two tries."""
    CLOSING = "closing"
    CLOSED = "closed"


class Traffic(Protocol):
    """What flows over the connection."""

    def hello(self, token: str | None) -> Hello:
        """For the connection about to be made."""

    def connected(self, welcome: Welcome) -> None: ...

    def disconnected(self) -> None: ...

    def pull(self) -> list[bytes]:
        """Frames to send now."""

    def on_frame(self, frame: ServerFrame) -> None: ...

    @property
    def wants_reconnect(self) -> bool:
        """A new incarnation is needed, and nothing is under way under the old one."""

    @property
    def under_way(self) -> int:
        """Publishes whose answer is due on this connection."""


class Runner:
    """Keeps the connection. `run` returns when the client is over; `error` says why."""

    def __init__(
        self,
        addresses: Addresses,
        token: TokenSource,
        traffic: Traffic,
        settings: ClientSettings,
        *,
        uniform: Callable[[], float],
        on_state: Callable[[ClientState, str], None] | None,
        options: dict[str, Any],
    ) -> None:
        self._addresses = addresses
        self._token = token
        self._traffic = traffic
        self._settings = settings
        self._backoff = Backoff(settings.reconnect, uniform)
        self._on_state = on_state
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._leave: asyncio.TimerHandle | None = None
        self._asked_after: tuple[float, float] | None = None
        """When the server asked to reconnect, and after how many ms."""
        self._rotated_s = float("-inf")
        self.state = ClientState.NEW
        self.link: Link | None = None
        self.connections = 0
        self.first: asyncio.Future[None] = self._loop.create_future()
        """Done with the first connection."""
        self.last_failure: BaseException | None = None
        self.error: ClientError | None = None
        self.stopping = False
        """The client is being closed: no further connection."""
        self._impossible: set[str] = set()
        """Addresses that will not do, whatever the time."""

    @property
    def leaving(self) -> bool:
        """The server asked to reconnect: nothing new is sent on this connection."""
        return self._asked_after is not None

    def set_state(self, state: ClientState, why: str) -> None:
        if state is self.state:
            return
        self.state = state
        logger.info("%s: %s", state.value, why)
        if self._on_state is not None:
            try:
                self._on_state(state, why)
            except Exception:
                logger.exception("on_state raised")

    async def run(self) -> None:
        while self.error is None:
            url = self._addresses.next(self._loop.time())
            self.set_state(ClientState.CONNECTING, url)
            try:
                delay_s = await self._connection(url)
            except LinkError as failure:
                self.last_failure = failure
                delay_s = self._failed(url, failure)
            if self.error is not None or self.stopping:
                return
            if delay_s > 0:
                self.set_state(ClientState.WAITING, f"{delay_s:.2f} s; {self.last_failure or 'asked to reconnect'}")
                await asyncio.sleep(delay_s)

    async def _connection(self, url: str) -> float:
        """One connection from beginning to end; seconds to wait before the next."""
        hello = self._traffic.hello(await self._fresh_token())
        addresses = self._addresses
        route = Route(url, addresses.choice, addresses.hint, self._options)
        link = await Link.open(route, hello, self._settings)
        addresses.succeeded(url, link.peer)
        self._backoff.succeeded(self._loop.time())
        self.connections += 1
        self.link = link
        self.set_state(ClientState.CONNECTED, f"{url}, edge {link.welcome.edge}")
        self._traffic.connected(link.welcome)
        if not self.first.done():
            self.first.set_result(None)
        try:
            ended = await link.run(self._traffic.pull, self._traffic.on_frame)
        finally:
            self.link = None
            if self._leave is not None:
                self._leave.cancel()
                self._leave = None
            self._traffic.disconnected()
        return self._ended(link, ended)

    async def _fresh_token(self) -> str | None:
        try:
            return await self._token.fresh()
        except Exception as error:
            raise LinkError(f"token() raised {type(error).__name__}: {error}") from error

    # ---- ends --------------------------------------------------------------------------------------------------------

    def _failed(self, url: str, failure: LinkError) -> float:
        """No connection came about."""
        self._addresses.failed(url, failure.peer, self._loop.time())
        if failure.close_code is not None:
            if failure.close_code == CloseCode.TOKEN_EXPIRED and not self._can_renew():
                return 0.0
            if not _come_back(failure.close_code):
                self.error = ClosedError.of(failure.close_code)
        if failure.permanent and not self.first.done():
            self._impossible.add(url)
        if failure.unauthorised or len(self._impossible) == len(self._addresses.urls):
            kind = AuthenticationError if failure.unauthorised else ConnectError
            code = "unauthenticated" if failure.unauthorised else "unreachable"
            self.error = kind(code, str(failure), self._addresses.urls, failure)
        return self._backoff.failed(self._loop.time(), failure.after_ms)

    def _ended(self, link: Link, ended: Ended) -> float:
        """A connection is over."""
        now = self._loop.time()
        self.last_failure = LinkError(f"{link.url}: {ended.code} {ended.reason}")
        asked, self._asked_after = self._asked_after, None
        if not _come_back(ended.code):
            self.error = ClosedError.of(ended.code, ended.reason)
            return 0.0
        if asked is not None:
            self._addresses.failed(link.url, link.peer, now)
            at_s, after_ms = asked
            return max(0.0, at_s + self._backoff.failed(now, after_ms) - now)
        if self._traffic.wants_reconnect:
            soon, self._rotated_s = now - self._rotated_s < ROTATION_PAUSE_S, now
            return self._backoff.failed(now) if soon else 0.0
        if ended.code == CloseCode.TOKEN_EXPIRED:
            return self._backoff.failed(now) if self._can_renew() else 0.0
        if ended.code == CloseCode.DRAINING or not self._backoff.healthy(now):
            self._addresses.failed(link.url, link.peer, now)
        return self._backoff.failed(now)

    def _can_renew(self) -> bool:
        if self._token.renewable:
            return True
        self.error = TokenExpiredError(
            "token_expired",
            "the token ran out and is fixed: give `token=` a function that returns a fresh one",
            CloseCode.TOKEN_EXPIRED,
        )
        return False

    # ---- leaving on purpose ------------------------------------------------------------------------------------------

    def asked_to_reconnect(self, frame: Reconnect) -> None:
        """Let the answers that are due come in, then leave; come back when the server said."""
        if self._asked_after is None and self.link is not None:
            now = self._loop.time()
            self._asked_after = (now, frame.after_ms)
            self._leave_when_answered(now + self._settings.drain_linger_s)

    def _leave_when_answered(self, until_s: float) -> None:
        if self._traffic.under_way and self._loop.time() < until_s:
            self._leave = self._loop.call_later(0.02, self._leave_when_answered, until_s)
        elif self.link is not None:
            self.link.leave("asked to reconnect")


def _come_back(code: int) -> bool:
    """What a close code tells to do, by its number alone. A server that just says goodbye doesn't say to stay away."""
    return code == CloseCode.NORMAL or Close(code, "", "").come_back
