"""One WebSocket connection, from its handshake to its end. It knows bytes and time, not what frames mean.

Frames to send are pulled, not pushed: the writer asks for more when the socket has taken the last, so what is not yet
sent stays where it can still be counted, bounded and put in order.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus
from websockets.typing import Subprotocol

from heliograph.client.dialing import dial
from heliograph.client.settings import ClientSettings
from heliograph.core.choosing import Choice
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.frames import (
    AFFINITY_HEADER,
    SUBPROTOCOL,
    Error,
    FrameError,
    Hello,
    Ping,
    Reconnect,
    Refused,
    ServerFrame,
    Welcome,
    decode_server_frame,
    encode,
)

logger = logging.getLogger("heliograph.client")

UNAUTHORISED = (401, 403)
TRANSIENT_4XX = (408, 425, 429)
ABNORMAL = 1006


class LinkError(Exception):
    """No connection came about. `permanent`: the same try will fail again."""

    def __init__(
        self,
        message: str,
        *,
        after_ms: float | None = None,
        permanent: bool = False,
        unauthorised: bool = False,
        close_code: int | None = None,
    ) -> None:
        super().__init__(message)
        self.peer: str | None = None
        """The address behind the URL that failed, where one was reached."""
        self.after_ms = after_ms
        self.permanent = permanent
        self.unauthorised = unauthorised
        self.close_code = close_code


@dataclass(frozen=True, slots=True)
class Ended:
    """How a connection ended. Code 1006: without a close frame."""

    code: int
    reason: str


class _TimedConnection(ClientConnection):
    """Notes when bytes last arrived, which a half-received frame counts for."""

    last_byte_s: float = 0.0

    def data_received(self, data: bytes) -> None:
        self.last_byte_s = self.loop.time()
        super().data_received(data)


class _Connect(connect):
    """Follows no redirect: the token would go wherever that leads."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


@dataclass(frozen=True, slots=True)
class Route:
    """Where a link leads, and how to get there."""

    url: str
    choice: Choice
    """Of addresses, where the URL's name stands for several."""
    hint: str
    """For a balancer that may be on the way."""
    options: dict[str, Any]
    """Of `websockets.connect`."""


class Link:
    """An open connection that was welcomed."""

    def __init__(
        self, ws: _TimedConnection, url: str, peer: str | None, welcome: Welcome, settings: ClientSettings
    ) -> None:
        self._ws = ws
        self.url = url
        self.peer = peer
        """The address behind the URL, where it is known."""
        self.welcome = welcome
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._silent_s = settings.silent_heartbeats * max(welcome.heartbeat_ms, 1) / 1000
        self._dead: Ended | None = None
        self._watch_handle: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, route: Route, hello: Hello, settings: ClientSettings) -> "Link":
        """Connect and say hello. Raises LinkError."""
        peer: str | None = None
        failure: LinkError
        try:
            async with asyncio.timeout(settings.open_timeout_s):
                more, peer = await dial(route.url, route.choice, route.options)
                return await cls._welcomed(route, {**route.options, **more}, peer, hello, settings)
        except LinkError as error:
            failure = error
        except TimeoutError:
            failure = LinkError(f"{route.url}: no welcome within {settings.open_timeout_s:g} s")
        except (OSError, EOFError, InvalidHandshake, InvalidMessage) as error:
            failure = LinkError(f"{route.url}: {_describe(error)}")
            failure.__cause__ = error
        failure.peer = peer
        raise failure

    @classmethod
    async def _welcomed(
        cls, route: Route, options: dict[str, Any], peer: str | None, hello: Hello, settings: ClientSettings
    ) -> "Link":
        url = route.url
        headers = Headers(options.pop("additional_headers", None) or {})
        headers[AFFINITY_HEADER] = route.hint
        try:
            ws = await _Connect(
                url,
                subprotocols=[Subprotocol(SUBPROTOCOL)],
                compression=None,
                open_timeout=None,
                ping_interval=None,
                close_timeout=2,
                max_size=settings.max_frame_bytes,
                create_connection=_TimedConnection,
                additional_headers=headers,
                **options,
            )
        except InvalidStatus as error:
            raise _refused_handshake(url, error) from None
        assert isinstance(ws, _TimedConnection)
        try:
            if ws.subprotocol != SUBPROTOCOL:
                raise LinkError(f"{url}: the server does not speak {SUBPROTOCOL}", permanent=True)
            return cls(ws, url, peer, await _say_hello(ws, url, hello), settings)
        except BaseException:
            ws.transport.abort()
            raise

    def wake(self) -> None:
        """There may be something to send."""
        self._wake.set()

    async def run(self, pull: Callable[[], list[bytes]], on_frame: Callable[[ServerFrame], None]) -> Ended:
        """Send what `pull` gives, hand on what comes, until the connection ends."""
        writer = asyncio.create_task(self._write(pull))
        self._watch(self._loop.time())
        try:
            return await self._read(on_frame)
        finally:
            if self._watch_handle is not None:
                self._watch_handle.cancel()
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionClosed):
                await writer
            self._ws.transport.abort()
            if self._closing is not None:
                await asyncio.wait([self._closing])

    async def _read(self, on_frame: Callable[[ServerFrame], None]) -> Ended:
        try:
            while True:
                frame = decode_server_frame(await self._ws.recv(decode=False))
                if frame is not None:
                    on_frame(frame)
        except ConnectionClosed as error:
            if self._dead is not None:
                return self._dead
            return Ended(error.rcvd.code, error.rcvd.reason) if error.rcvd else Ended(ABNORMAL, "the connection broke")
        except (FrameError, ValueError) as error:
            logger.warning("heliograph: the server sent what can't be read: %s", type(error).__name__)
            return Ended(ABNORMAL, "the server sent what can't be read")

    async def _write(self, pull: Callable[[], list[bytes]]) -> None:
        try:
            while True:
                self._wake.clear()
                frames = pull()
                if not frames:
                    await self._wake.wait()
                for frame in frames:
                    await self._ws.send(frame, text=True)
        except ConnectionClosed:
            return  # the reader meets the same

    def _watch(self, armed_s: float) -> None:
        """Whether bytes still come. A look that comes late (our own loop stalled) waits for another."""
        now = self._loop.time()
        late = now - armed_s > self._silent_s / 2
        if not late and now - self._ws.last_byte_s > self._silent_s:
            self.abort(f"no byte for {now - self._ws.last_byte_s:.1f} s")
            return
        self._watch_handle = self._loop.call_later(self._silent_s / 4, self._watch, now)

    def abort(self, why: str) -> None:
        """End it without a goodbye."""
        self._dead = self._dead or Ended(ABNORMAL, why)
        self._ws.transport.abort()

    def leave(self, why: str) -> None:
        """Say goodbye; what still comes is handed on, then `run` returns."""
        if self._closing is None:
            self._dead = self._dead or Ended(CloseCode.NORMAL, why)
            self._closing = self._loop.create_task(self._ws.close())

    async def closed(self) -> None:
        """Return when the goodbye is over."""
        if self._closing is not None:
            await asyncio.wait([self._closing])


async def _say_hello(ws: _TimedConnection, url: str, hello: Hello) -> Welcome:
    """The welcome. A refusal is remembered for its words; the close code that follows says what to do."""
    after_ms: float | None = None
    said = ""
    try:
        await ws.send(encode(hello), text=True)
        while True:
            match decode_server_frame(await ws.recv(decode=False)):
                case Welcome() as welcome:
                    return welcome
                case Reconnect() as reconnect:
                    after_ms = reconnect.after_ms
                case Refused() | Error() as refusal:
                    said = f", {refusal.code}: {refusal.message}"
                    after_ms = refusal.retry_after_ms if isinstance(refusal, Refused) else after_ms
                case Ping() | None:
                    pass
                case other:
                    raise LinkError(f"{url}: {type(other).__name__} came before welcome", permanent=True)
    except FrameError as error:
        raise LinkError(f"{url}: {error}") from None
    except ConnectionClosed as error:
        code, reason = (error.rcvd.code, error.rcvd.reason) if error.rcvd else (ABNORMAL, "the connection broke")
        message = f"{url}: closed before welcome: {code} {reason}{said}"
        raise LinkError(message, after_ms=after_ms, close_code=code) from None


def _refused_handshake(url: str, error: InvalidStatus) -> LinkError:
    status = error.response.status_code
    message = f"{url}: HTTP {status}"
    if status in UNAUTHORISED:
        return LinkError(f"{message}: the server does not let this client in", permanent=True, unauthorised=True)
    if 300 <= status < 400:
        return LinkError(f"{message}: redirects are not followed, give the address it leads to", permanent=True)
    if 400 <= status < 500 and status not in TRANSIENT_4XX:
        return LinkError(f"{message}: no Heliograph edge at this address", permanent=True)
    return LinkError(message, after_ms=retry_after_ms(error.response.headers.get("Retry-After"), time.time()))


def retry_after_ms(value: str | None, wall_s: float) -> float | None:
    """A `Retry-After`, in seconds or as a date (RFC 9110, 10.2.3); None where there is none, or it says nothing.

    No edge sends a date, but a balancer before it may.
    """
    if value is None:
        return None
    try:
        after_s = float(value)
    except ValueError:
        try:
            after_s = parsedate_to_datetime(value).timestamp() - wall_s
        except (ValueError, OverflowError):
            return None
    return max(after_s, 0.0) * 1000 if math.isfinite(after_s) else None


def _describe(error: BaseException) -> str:
    return str(error) or type(error).__name__
