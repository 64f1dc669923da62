"""Who gets which frame."""

import asyncio
from copy import copy

from heliograph.client.acks import Acks
from heliograph.client.pressure import PressureWatch
from heliograph.client.publisher import Publisher
from heliograph.client.reader import Reader
from heliograph.client.receipts import Durabilities
from heliograph.client.runner import Runner
from heliograph.client.sender import Sender
from heliograph.client.stats import ClientStats
from heliograph.client.tokens import TokenRefresh
from heliograph.client.workers import Workers
from heliograph.protocol.frames import (
    Acked,
    Assigned,
    Confirmed,
    Epoch,
    Error,
    Gap,
    Hello,
    MessageFrame,
    Notice,
    Ping,
    Pong,
    Presence,
    Published,
    Reconnect,
    Refreshed,
    Refused,
    Revoked,
    ServerFrame,
    Serving,
    StatusAnswer,
    Subscribed,
    Welcome,
)


class ClientTraffic:
    """What flows over a client's connection: the parts, and the table of frames."""

    runner: Runner

    def __init__(
        self,
        hello: Hello,
        sender: Sender,
        publisher: Publisher,
        reader: Reader,
        acks: Acks,
        workers: Workers,
        durabilities: Durabilities,
        refresh: TokenRefresh,
        pressure: PressureWatch,
        stats: ClientStats,
    ) -> None:
        self._hello = hello
        self._sender = sender
        self._publisher = publisher
        self._reader = reader
        self._acks = acks
        self._workers = workers
        self._durabilities = durabilities
        self._refresh = refresh
        self._pressure = pressure
        self._stats = stats
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._edge: str | None = None

    def hello(self, token: str | None) -> Hello:
        hello = copy(self._hello)
        hello.token = token
        hello.incarnation = self._publisher.lanes.connecting()
        return hello

    def connected(self, welcome: Welcome) -> None:
        self._stats.connections += 1
        self._pressure.connected()
        self._stats.moves += self._edge not in (None, welcome.edge)
        self._edge = welcome.edge
        self._sender.connected()
        self._reader.connected()
        self._acks.connected()
        self._workers.connected(self._publisher.lanes.incarnation, welcome.connection)
        self._durabilities.connected()
        self._publisher.connected(welcome)
        self._refresh.connected(welcome.expires_at_ms)

    def disconnected(self) -> None:
        self._wake_at(None)
        self._sender.disconnected()
        self._reader.disconnected()
        self._acks.disconnected()
        self._workers.disconnected()
        self._publisher.disconnected()
        self._refresh.disconnected()

    def pull(self) -> list[bytes]:
        frames = self._sender.take()
        if not self.runner.leaving:
            frames += self._publisher.pull()
        lanes, link, now = self._publisher.lanes, self.runner.link, self._loop.time()
        if lanes.rotating and link is not None and (lanes.rotation_due or lanes.force_rotation(now)):
            link.leave("new incarnation")
        self._wake_at(lanes.due_s())
        return frames

    def _wake_at(self, due_s: float | None) -> None:
        """Pull again then, although nothing happens until then."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due_s is not None:
            self._timer = self._loop.call_at(due_s, self._sender.wake)

    @property
    def wants_reconnect(self) -> bool:
        return self._publisher.lanes.rotation_due

    @property
    def under_way(self) -> int:
        return self._publisher.lanes.under_way

    def on_frame(self, frame: ServerFrame) -> None:
        match frame:
            case MessageFrame():
                self._reader.message(frame)
                self._workers.message(frame)
            case Published():
                self._publisher.published(frame)
            case Confirmed():
                self._durabilities.confirmed(frame.session, frame.position)
            case Refused() | Error():
                parts = (self._publisher, self._refresh, self._acks, self._workers, self._reader)
                any(part.refused(frame) for part in parts)
            case Subscribed():
                self._reader.subscribed(frame)
            case Acked():
                if not self._workers.acked(frame):
                    self._acks.acked(frame)
            case Serving():
                self._workers.serving(frame)
            case Assigned():
                self._workers.assigned(frame)
            case Revoked():
                self._workers.revoked(frame)
            case Presence():
                self._reader.presence(frame)
            case Gap():
                self._reader.gap(frame)
                self._workers.gap(frame)
            case Epoch():
                self._reader.epoch(frame)
                self._workers.epoch(frame)
            case StatusAnswer():
                self._durabilities.answered(frame)
            case Refreshed():
                self._refresh.refreshed(frame)
            case Ping():
                self._sender.send(Pong())
            case Notice():
                self._pressure.notice(frame)
            case Reconnect():
                self._acks.flush()
                self._workers.flush()
                self.runner.asked_to_reconnect(frame)
            case _:
                pass  # `unsubscribed` needs nothing; a second `welcome` changes nothing
