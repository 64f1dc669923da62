"""The way out to one client: frames are collected during a tick and written with one call at its end, and bounded in
bytes by an outbox once the reader lets them wait (`heliograph.core.outbox`).

What is done about a reader that is too slow is the connection's: `_fall_behind` and `_read_on`.
"""

from typing import TYPE_CHECKING

from heliograph.core.messages import MessageClass
from heliograph.core.outbox import Action, Fate, Flow, Outbox, OutboxMarks
from heliograph.edge.metrics import EdgeMetrics
from heliograph.edge.tick_writer import TickWriter
from heliograph.edge.websocket import ClientSocket
from heliograph.protocol.frames import encode
from heliograph.protocol.websocket import text_frame

if TYPE_CHECKING:
    from heliograph.edge.joiner import Joiner


class Outlet:
    """What a connection sends by."""

    __slots__ = ("_marks", "_metrics", "_outbox", "_socket", "_writer", "_written_bytes", "out", "parked", "waits")

    def __init__(self, socket: ClientSocket, writer: TickWriter, metrics: EdgeMetrics, marks: OutboxMarks) -> None:
        self.out: list[bytes] = []
        """WebSocket frames of this tick."""
        self.parked: list[Joiner] = []
        """Joins that wait for room."""
        self.waits = False
        """In the writer's line of crowds."""
        self._socket = socket
        self._writer = writer
        self._metrics = metrics
        self._marks = marks
        self._outbox: Outbox | None = None
        """Made when something first waits for the reader: most readers never let it."""
        self._written_bytes = 0

    def post(self, data: bytes, *, late: bool = False) -> None:
        """Queue a WebSocket frame for this tick's end; `late`, since it goes to a crowd, behind what is for few."""
        out = self.out
        if not out:
            if late:
                self._writer.schedule_late(self)
            else:
                self._writer.schedule(self)
        elif self.waits and not late:
            self._writer.hurry(self)
        out.append(data)

    def post_telemetry(self, data: bytes, *, late: bool = False) -> None:
        """Queue a frame that may be shed; `late` where it goes to a crowd."""
        if self._outbox is not None and self._outbox.fate(MessageClass.TELEMETRY) is not Fate.SEND:
            self._metrics.telemetry_shed.n += 1
            return
        self._metrics.deliveries.n += 1
        self.post(data, late=late)

    def post_presence(self, data: bytes, *, late: bool = False) -> None:
        """Queue a join or leave: shed like telemetry, and who was shed asks the registry."""
        if self._outbox is not None and self._outbox.fate(MessageClass.TELEMETRY) is not Fate.SEND:
            self._metrics.presence_shed.n += 1
            return
        self._metrics.presence_sent.n += 1
        self.post(data, late=late)

    def send(self, frame: object) -> None:
        """Queue a frame of the protocol."""
        self.post(text_frame(encode(frame)))

    def flush(self) -> None:
        """Write what the tick collected, with one call."""
        out = self.out
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        socket = self._socket
        if socket.disconnected or socket.close_sent:
            return
        transport = socket.transport
        waiting = transport.get_write_buffer_size()
        transport.write(data)
        self._written_bytes += len(data)
        if waiting or self._outbox is not None:
            self._observe(waiting + len(data))

    def _observe(self, waiting_bytes: int) -> None:
        outbox = self._outbox
        if outbox is None:
            outbox = self._outbox = Outbox(self._marks)
        action = outbox.observe(waiting_bytes)
        if action is Action.CATCH_UP:
            self._fall_behind()
        elif action is Action.READ_ON:
            self._read_on()
        elif outbox.flow is Flow.FLOWING and waiting_bytes == 0:
            self._outbox = None

    def on_writable(self) -> None:
        """The socket took most of what waited."""
        if self._outbox is not None:
            self._observe(self._socket.transport.get_write_buffer_size())
        self._unpark()

    def has_room(self) -> bool:
        """Whether a page of history may be queued."""
        if self._outbox is not None and self._outbox.flow is Flow.CATCHING_UP:
            return False
        waiting: int = self._socket.transport.get_write_buffer_size()
        return waiting + sum(map(len, self.out)) <= self._marks.soft_bytes

    @property
    def outbound_bytes(self) -> int:
        """Written for the client and not taken by it yet."""
        waiting: int = self._socket.transport.get_write_buffer_size()
        return waiting

    def _unpark(self) -> None:
        if self.parked and self.has_room():
            parked, self.parked = self.parked, []
            for joiner in parked:
                joiner.pump()

    def _fall_behind(self) -> None:
        """Queue nothing more, and go on later from where each session stands now."""
        raise NotImplementedError

    def _read_on(self) -> None:
        """The reader has caught up with what was queued."""
        raise NotImplementedError
