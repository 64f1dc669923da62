"""The sessions this edge's clients are subscribed to: each live frame is checked once and sent to everybody it is for.

A hub knows the last position it handed on. The next one is sent on as it came; anything else (a hole, a new epoch, a
head further on than what arrived) starts a repair, which reads the hot window, or the log, in place of what is missing.
Subscribers that come from behind join by themselves and are attached where the hub stands.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from heliograph.core.history import Gap, Start
from heliograph.core.positions import EPOCH_LENGTH, RUN_STARTS, Position
from heliograph.edge.joiner import Cursor, History, Joiner, position_of
from heliograph.edge.metrics import EdgeMetrics
from heliograph.edge.subscription import Subscription, epoch_frame, gap_frame
from heliograph.edge.tick_writer import FLUSH_SLICE, TickWriter
from heliograph.protocol.frames import PRESENCE_START, encode
from heliograph.protocol.messages import FRAME_START, TELEMETRY_START
from heliograph.protocol.websocket import text_frame
from heliograph.stores.ports import LiveStore, StoreError

if TYPE_CHECKING:
    from heliograph.edge.connection import Connection

HEADS_BATCH = 500
"""Sessions of one question about heads."""
MOVING_INTERVAL_S = 1.0
"""Between comparisons with heads while virtual shards move."""

_AT = len(FRAME_START)
_EPOCH_END = _AT + EPOCH_LENGTH
_SEQ = slice(_EPOCH_END + 1, _EPOCH_END + 17)
_POSITION = slice(_AT, _EPOCH_END + 17)
_EPOCH = slice(_AT, _EPOCH_END)


class SessionHub:
    """One session, as long as a connection here is subscribed to it."""

    __slots__ = (
        "ahead",
        "epoch",
        "joins",
        "live",
        "name",
        "next_seq",
        "presence",
        "repair",
        "subscribed",
        "subscriptions",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.subscriptions: dict[Connection, Subscription] | None = None
        """Only where there is more than what `live` says: see `Sessions.subscribe`."""
        self.live: set[Connection] = set()
        self.ahead: dict[Connection, Position] | None = None
        """Subscribers that stand elsewhere than the hub: they have more than it handed on, or it has handed on nothing
        yet and they have messages of an epoch before."""
        self.joins: dict[Joiner, None] | None = None
        self.presence: set[Subscription] | None = None
        """Those that asked for joins and leaves, live or not."""
        self.repair: Joiner | None = None
        self.epoch: bytes = b""
        """Of the last position handed on; empty before there is one."""
        self.next_seq = 1
        self.subscribed = False

    @property
    def subscribers(self) -> int:
        """How many there are here, live or joining."""
        return len(self.live) + (len(self.subscriptions) if self.subscriptions is not None else 0)

    @property
    def last(self) -> Position | None:
        """The last position handed on; None before there is one."""
        return Position(self.epoch.decode(), self.next_seq - 1) if self.epoch else None

    def stand_at(self, position: Position) -> None:
        self.epoch, self.next_seq = position.epoch.encode(), position.seq + 1


class Repair:
    """The sink of a hub's repair: what it reads goes to every live subscriber, and the hub moves over it."""

    __slots__ = ("_hub", "_sessions")

    def __init__(self, hub: SessionHub, sessions: "Sessions") -> None:
        self._hub = hub
        self._sessions = sessions

    def has_room(self, _joiner: Joiner) -> bool:
        return self._hub.subscribed

    def begin(self, *, recovered: bool) -> None:
        """Live subscribers were answered long ago; gap and epoch frames tell them."""

    def found(self, cursor: Position | None) -> None:
        """A repair begins where its hub stands."""

    def failed(self, code: str) -> None:
        """As above."""

    def joined(self, frames: list[bytes]) -> None:
        for frame in frames:
            self._hub.stand_at(position_of(frame))
            self._sessions.send_on(self._hub, frame)

    def gap(self, gap: Gap) -> None:
        self._sessions.metrics.gaps.labels(gap.why.value).n += 1
        end = Position(gap.hole.epoch, gap.hole.to_seq)
        self._sessions.tell(self._hub, gap_frame(self._hub.name, gap), end)
        self._hub.stand_at(end)

    def unread(self) -> None:
        """As `found`."""

    def epoch(self, after: Position, epoch: str, *, certain: bool) -> None:
        begin = Position(epoch, 0)
        self._sessions.tell(self._hub, epoch_frame(self._hub.name, after, epoch, certain=certain), begin)
        self._hub.stand_at(begin)

    def live(self, at: Position | None, *, recovered: bool) -> None:  # noqa: ARG002 - gaps were told one by one
        self._hub.repair = None
        if at is not None:
            self._hub.stand_at(at)


class Sessions:
    """All hubs of an edge; the live store's listener."""

    def __init__(self, live: LiveStore, history: History, writer: TickWriter, metrics: EdgeMetrics) -> None:
        self._live = live
        self._history = history
        self._writer = writer
        self.metrics = metrics
        self._hubs: dict[str, SessionHub] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._check_soon: set[str] = set()
        self._wake = asyncio.Event()
        self.on_joined: Callable[[Subscription], None] = lambda _subscription: None
        self.on_left: Callable[[Subscription], None] = lambda _subscription: None
        self.on_followed: Callable[[str], None] = lambda _session: None
        """The first subscriber of a session here."""
        self.on_unfollowed: Callable[[str], None] = lambda _session: None
        """The last one is gone."""
        metrics.metrics.sampled_gauge("sessions", "Sessions subscribed to.", lambda: float(len(self._hubs)))
        metrics.metrics.sampled_gauge(
            "live_shards", "Servers that hold the live store together.", lambda: float(live.load.shards)
        )
        metrics.metrics.sampled_gauge(
            "live_shards_away",
            "Of these, those that this edge does not reach: their sessions have no live path.",
            lambda: float(live.load.shards_away),
        )
        metrics.metrics.sampled_gauge(
            "live_moves",
            "Times that a virtual shard, or all together, came to another server, since this edge began.",
            lambda: float(live.load.moves),
        )
        metrics.metrics.sampled_gauge(
            "live_redirects",
            "Times that something could only be asked at another server of the live store, or later, since it began.",
            lambda: float(live.load.redirects),
        )

    # ---- the live store's listener ----------------------------------------------------------------------------------

    def on_frame(self, session: str, frame: bytes) -> None:
        """A live frame: sent on if it is the next one."""
        hub = self._hubs.get(session)
        if hub is None:
            return
        if frame[:_AT] == FRAME_START:
            try:
                seq = int(frame[_SEQ])
            except ValueError:
                self.metrics.corrupt_frames.n += 1
                return
            if hub.joins is not None:
                position = self._position(frame)
                if position is None:
                    return
                for joiner in tuple(hub.joins):
                    joiner.offer(position, frame)
            if hub.repair is None and seq == hub.next_seq and frame[_EPOCH] == hub.epoch:
                hub.next_seq = seq + 1
                if hub.ahead is None:  # `send_on`, written out: this is the fan-out
                    live = hub.live
                    self.metrics.deliveries.n += len(live)
                    data = text_frame(frame)
                    writer = self._writer
                    if len(live) > FLUSH_SLICE:
                        crowd = writer.crowd
                        for connection in live:
                            out = connection.out
                            if not out:
                                connection.waits = True
                                crowd.append(connection)
                            out.append(data)
                        writer.wake()
                        return
                    for connection in live:
                        out = connection.out
                        if not out:
                            writer.schedule(connection)
                        elif connection.waits:
                            writer.hurry(connection)
                        out.append(data)
                    return
                self.send_on(hub, frame)
            elif hub.live:
                position = self._position(frame)
                if position is not None:
                    self._irregular(hub, position, frame)
        elif frame.startswith(TELEMETRY_START):
            data = text_frame(frame)
            late = len(hub.live) > FLUSH_SLICE
            for connection in hub.live:
                connection.post_telemetry(data, late=late)
            if hub.subscriptions is not None:
                self._count_shed(hub.subscriptions.values())
        elif frame.startswith(PRESENCE_START):
            data = text_frame(frame)
            watchers = hub.presence or ()
            late = len(watchers) > FLUSH_SLICE
            for subscription in watchers:
                if subscription.answered:
                    subscription.connection.post_presence(data, late=late)
        else:
            self.metrics.corrupt_frames.n += 1

    def _count_shed(self, subscriptions: Iterable[Subscription]) -> None:
        """Telemetry came, which these don't get: it is nowhere to be read from later."""
        for subscription in subscriptions:
            if subscription.was_live:
                self.metrics.telemetry_shed.n += 1
            elif subscription.answered:
                self.metrics.telemetry_joining.n += 1

    def _position(self, frame: bytes) -> Position | None:
        """The position of a frame that is not simply the next one; None, counted, where it has none."""
        try:
            position = Position.parse(frame[_POSITION].decode())
        except ValueError:
            position = None
        if position is None or position.seq == 0:
            self.metrics.corrupt_frames.n += 1
            return None
        return position

    def on_subscribed(self, session: str) -> None:
        """Frames arrive from here on; what was missed before is found by the head."""
        hub = self._hubs.get(session)
        if hub is None:
            return
        hub.subscribed = True
        for joiner in tuple(hub.joins or ()):
            joiner.pump()
        if hub.repair is not None:
            hub.repair.pump()
        elif hub.live:
            self._check_soon.add(session)
            self._wake.set()

    def on_lost(self, sessions: Sequence[str]) -> None:
        self.metrics.lost_subscriptions.n += 1
        for session in sessions:
            hub = self._hubs.get(session)
            if hub is not None:
                if hub.subscribed:
                    self.metrics.telemetry_cut.n += len(hub.live)
                hub.subscribed = False

    # ---- subscribers ------------------------------------------------------------------------------------------------

    def subscribe(self, subscription: Subscription) -> None:
        """Add a subscription; it joins from its start."""
        hub = self._hubs.get(subscription.session)
        if hub is None:
            hub = self._hubs[subscription.session] = SessionHub(subscription.session)
            self._live.subscribe(subscription.session)
            self.on_followed(subscription.session)
        subscription.hub = hub
        if subscription.presence:
            if hub.presence is None:
                hub.presence = set()
            hub.presence.add(subscription)
        self.on_joined(subscription)
        self.join(subscription, subscription.start)

    def unsubscribe(self, subscription: Subscription) -> None:
        """Take a subscription away; nothing is sent for it from here on."""
        hub, connection = subscription.hub, subscription.connection
        self.on_left(subscription)
        if subscription.presence and hub.presence is not None:
            hub.presence.discard(subscription)
            hub.presence = hub.presence or None
        self.detach(subscription)
        if hub.subscriptions is not None:
            hub.subscriptions.pop(connection, None)
            if not hub.subscriptions:
                hub.subscriptions = None
        if not hub.live and hub.subscriptions is None and self._hubs.get(hub.name) is hub:
            del self._hubs[hub.name]
            self._live.unsubscribe(hub.name)
            self.on_unfollowed(hub.name)

    def detach(self, subscription: Subscription) -> Position | None:
        """Stop sending to it; the last position that it was sent, where it was live."""
        hub, connection = subscription.hub, subscription.connection
        position = None
        if subscription.joiner is not None:
            subscription.joiner.cancel()
            self._drop_join(hub, subscription.joiner)
            subscription.joiner = None
        if connection in hub.live:
            position = hub.last
            hub.live.discard(connection)
            if hub.subscriptions is None:
                hub.subscriptions = {}
            hub.subscriptions[connection] = subscription  # it may come back: the hub stays for it
            if hub.ahead is not None:
                position = hub.ahead.pop(connection, position)
                hub.ahead = hub.ahead or None
            if not hub.live:
                hub.epoch, hub.next_seq = b"", 1
                if hub.repair is not None:
                    hub.repair.cancel()
                    hub.repair = None
        return position

    def join(self, subscription: Subscription, start: Position | Start | Cursor) -> None:
        """Let a subscription catch up from `start` and become live."""
        hub = subscription.hub
        subscription.told_loss = False
        if hub.subscriptions is None:
            hub.subscriptions = {}
        hub.subscriptions[subscription.connection] = subscription
        joiner = Joiner(hub.name, start, subscription, self._history, self._keep)
        subscription.joiner = joiner
        if hub.joins is None:
            hub.joins = {}
        hub.joins[joiner] = None
        joiner.pump()

    def attach(self, subscription: Subscription, at: Position | None) -> None:
        """It has everything up to `at`: from here on it is sent what the hub hands on."""
        hub, connection = subscription.hub, subscription.connection
        if subscription.joiner is not None:
            self._drop_join(hub, subscription.joiner)
            subscription.joiner = None
        last = hub.last
        if not hub.live:
            if at is not None:
                hub.stand_at(at)
        elif last is not None and last.seq > 0 and at is not None and at < last:
            # The hub has read on by a repair meanwhile.
            self.join(subscription, at)
            return
        elif at is not None and at != last and (last is None or last.seq > 0 or at.seq > 0):
            # Of two that stand before a session's first message, none has more than the other.
            if hub.ahead is None:
                hub.ahead = {}
            hub.ahead[connection] = at
        hub.live.add(connection)
        subscription.was_live = True
        if hub.subscriptions is not None:
            hub.subscriptions.pop(connection, None)
            hub.subscriptions = hub.subscriptions or None

    # ---- handing on -------------------------------------------------------------------------------------------------

    def send_on(self, hub: SessionHub, frame: bytes) -> None:
        """Send a frame at the hub's position to every live subscriber that hasn't got it yet."""
        data = text_frame(frame)
        ahead = hub.ahead
        late = len(hub.live) > FLUSH_SLICE
        if ahead is None:
            self.metrics.deliveries.n += len(hub.live)
            for connection in hub.live:
                connection.post(data, late=late)
            return
        position = position_of(frame)
        for connection in hub.live:
            has = ahead.get(connection)
            if has is None or position > has:
                self.metrics.deliveries.n += 1
                connection.post(data, late=late)
        hub.ahead = {one: has for one, has in ahead.items() if has > position} or None

    def tell(self, hub: SessionHub, frame: object, up_to: Position) -> None:
        """Send a frame about the session to every live subscriber that isn't at or past `up_to` already."""
        data = text_frame(encode(frame))
        ahead = hub.ahead or {}
        late = len(hub.live) > FLUSH_SLICE
        for connection in hub.live:
            has = ahead.get(connection)
            if has is None or has < up_to:
                connection.post(data, late=late)

    def _irregular(self, hub: SessionHub, position: Position, frame: bytes) -> None:
        last = hub.last
        if hub.repair is not None:
            hub.repair.offer(position, frame)
        elif position.seq == 1 and (last is None or position.begins_after(last)):
            for connection, has in (hub.ahead or {}).items():
                if has.seq > 0 and has.epoch < position.epoch:
                    same_run = has.epoch[RUN_STARTS:] == position.epoch[RUN_STARTS:]
                    connection.send(epoch_frame(hub.name, has, position.epoch, certain=same_run))
            hub.stand_at(position)
            self.send_on(hub, frame)
        elif last is not None and position <= last:
            self.metrics.stale_frames.n += 1
        else:
            self._repair(hub, position, "epoch" if last is not None and last.epoch != position.epoch else "hole")

    def _repair(self, hub: SessionHub, seen: Position, cause: str) -> None:
        """Read what is between the hub's position and `seen`."""
        self.metrics.repairs.labels(cause).n += 1
        start = hub.last or Position(seen.epoch, 0)
        hub.repair = Joiner(hub.name, start, Repair(hub, self), self._history, self._keep)
        hub.repair.pump()

    # ---- heads ------------------------------------------------------------------------------------------------------

    async def check_heads(self, interval_s: float) -> None:
        """For ever: compare live sessions with their heads, all in turn, and at once after a reconnect.

        Each second while virtual shards move: what is published where one goes reaches nobody who listens where it was.
        """
        waited_s = 0.0
        while True:
            wait_s = min(interval_s - waited_s, MOVING_INTERVAL_S)
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
                names = list(self._check_soon)
            except TimeoutError:
                waited_s += wait_s
                if waited_s < interval_s and not self._live.load.moving:
                    continue
                waited_s = 0.0
                names = [hub.name for hub in self._hubs.values() if hub.live]
            self._wake.clear()
            self._check_soon.clear()
            for start in range(0, len(names), HEADS_BATCH):
                await self._check(names[start : start + HEADS_BATCH])

    async def _check(self, names: list[str]) -> None:
        heads = await self._live.heads_many(names)
        for name, head in zip(names, heads, strict=True):
            if isinstance(head, StoreError):
                continue  # its connection tells on_lost and on_subscribed, which ask again
            hub = self._hubs.get(name)
            if hub is None or not hub.live or hub.repair is not None or not head.epoch:
                continue
            last = hub.last
            stands = Position(head.epoch, head.seq)
            if head.seq > 0 and (last is None or stands > last):
                self._repair(hub, stands, "head")

    # ---- bookkeeping ------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """End what is being read."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._history.close()

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _drop_join(self, hub: SessionHub, joiner: Joiner) -> None:
        if hub.joins is not None:
            hub.joins.pop(joiner, None)
            hub.joins = hub.joins or None
