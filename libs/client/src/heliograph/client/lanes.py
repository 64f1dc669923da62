"""Publishing in order: what was handed in, what is under way, what has to be sent again. No I/O, no clock.

A *lane* is one session and class. The server takes a lane's messages only in the order of their producer seq, so a
lane is a window of at most 64 messages with consecutive seqs, sent as a pipeline, and gone back in when one is refused:

    hand in ─▶ [ 7 8 9 │ 10 11 ] ─▶ room for the next as the oldest is answered
                sent     to send

    refused    the lane sends nothing until all that is under way is answered (what came behind the refused one was
               refused too, as out of order); then it goes on from there: at once, after the server's retry time, or
               without the refused one, whose seq the next message takes
    connection lost   everything unanswered is sent again, same seqs: the server recognises what it had
    deferred   the log alone has it, and it counts as answered. When the live path is back the server may still expect
               it for a while: what is refused as out of order then is sent again, after a wait
    forgotten  (`producer_unknown`, `expected` below what was answered …) the server can't judge this counter any more.
               All lanes finish what is under way, then the publisher *rotates*: new incarnation, all counters from 1,
               same order. A message that was sent before keeps the id it had, so that it can be recognised by that.

What is certain: within one incarnation a message is never in twice and never out of order. Across a rotation the
messages whose answer was lost with a connection, and only those, are judged by their id: certain with an id chosen by
the caller while the server remembers it (10 minutes, and its memory survived); else a repeat is possible, and carries
the first one's message id.

What this must never do: send a lane's next message past one that was not admitted, give a seq that may be used to
another message, or let one lane wait for another's refusal.
"""

from collections import deque
from collections.abc import Callable
from uuid import uuid4

from heliograph.client.errors import ClosedError, PublishUncertain
from heliograph.client.lane import Lane, LaneKey, Outgoing, State
from heliograph.client.settings import ClientSettings
from heliograph.client.stats import ClientStats
from heliograph.core.backoff import Backoff
from heliograph.core.limits import PRODUCER_RING
from heliograph.core.messages import MessageClass
from heliograph.protocol.codes import CODES
from heliograph.protocol.frames import Publish, Published, Refused
from heliograph.protocol.message_ids import derived_message_id

FORGOTTEN = frozenset({"producer_unknown", "producer_seq_expired", "producer_seq_reused"})
"""Refusals that no resend under this incarnation will overcome."""
MAYBE_DONE = frozenset({"live_unavailable", "log_unavailable", "unavailable", "internal", "draining"})
"""Refusals after which the message may be in all the same: the server lost a store in the middle."""
STALLS_BEFORE_ROTATION = 8
"""Rounds of nothing but `out_of_order` until a lane counts as forgotten."""
MAX_LANES = 10_000
"""Counters kept; above it, the next connection with nothing unanswered begins a new incarnation and forgets them."""


class Lanes:
    """Every lane of one publisher."""

    def __init__(
        self,
        settings: ClientSettings,
        stats: ClientStats,
        *,
        incarnation: Callable[[], str],
        request_id: Callable[[], int],
        uniform: Callable[[], float],
        room: Callable[[LaneKey], None],
    ) -> None:
        """`incarnation` makes a new random one; `room` is called when a lane has room again."""
        self._settings = settings
        self._stats = stats
        self._new_incarnation = incarnation
        self._request_id = request_id
        self._uniform = uniform
        self._room = room
        self._lanes: dict[LaneKey, Lane] = {}
        self._ready: dict[LaneKey, None] = {}
        """Lanes that may have something to send or to settle, in the order they became so."""
        self._by_id: dict[int, tuple[Lane, Outgoing]] = {}
        self._online = False
        self._max_unanswered = PRODUCER_RING
        self._max_payload_bytes: int | None = None
        self._rotating_since_s: float | None = None
        self.incarnation = incarnation()
        self.unanswered = 0
        """Handed in, not yet done."""

    # ---- handing in --------------------------------------------------------------------------------------------------

    def has_room(self, key: LaneKey) -> bool:
        lane = self._lanes.get(key)
        return lane is None or len(lane.items) < self._max_unanswered

    def add(self, key: LaneKey, item: Outgoing) -> None:
        """Hand in; the caller has asked `has_room`."""
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(key)
        lane.items.append(item)
        self.unanswered += 1
        self._ready[key] = None

    def withdraw(self, key: LaneKey, item: Outgoing) -> bool:
        """Take back what was never sent; False where it was, and goes on without anybody waiting for it."""
        if item.sends or item.state is not State.QUEUED:
            return False
        lane = self._lanes[key]
        lane.items.remove(item)
        item.state = State.DONE
        self.unanswered -= 1
        self._room(key)
        return True

    # ---- the connection ----------------------------------------------------------------------------------------------

    def connecting(self) -> str:
        """A connection is about to be made: the incarnation its `hello` says."""
        if self.rotation_due or (len(self._lanes) > MAX_LANES and not self.unanswered):
            self._rotate()
        return self.incarnation

    def connected(self, max_unanswered: int, max_payload_bytes: int) -> None:
        self._online = True
        self._max_unanswered = max(1, min(max_unanswered, PRODUCER_RING))
        self._max_payload_bytes = max_payload_bytes
        for key, lane in self._lanes.items():
            if lane.items:
                self._ready[key] = None

    def disconnected(self) -> None:
        """All that is under way is in doubt."""
        self._online = False
        self._by_id.clear()
        for lane in self._lanes.values():
            for item in lane.items:
                if item.state is State.SENT:
                    item.doubtful = True
                if item.state is not State.DONE:
                    item.state, item.refusal = State.QUEUED, None
            lane.under_way = lane.cursor = 0
            lane.halted = False

    @property
    def under_way(self) -> int:
        """Sends whose answer is due on this connection."""
        return len(self._by_id)

    @property
    def rotating(self) -> bool:
        return self._rotating_since_s is not None

    @property
    def rotation_due(self) -> bool:
        """All answers under the old incarnation are in: connect anew, `connecting` gives the new one."""
        return self.rotating and not self._by_id and not any(self._settles_first(lane) for lane in self._lanes.values())

    def force_rotation(self, now: float) -> bool:
        """Whether rotation has waited long enough for answers; then it is due whatever is still out."""
        if self._rotating_since_s is None or now - self._rotating_since_s < self._settings.rotation_patience_s:
            return False
        for lane in self._lanes.values():
            lane.forgotten = True
        return True

    def _settles_first(self, lane: Lane) -> bool:
        """A lane whose counter is known still has messages in doubt: they are settled under the old incarnation."""
        return (
            not lane.forgotten
            and not lane.halted
            and lane.resume_s == 0.0
            and lane.cursor < len(lane.items)
            and lane.items[lane.cursor].doubtful
        )

    def _rotate(self) -> None:
        self._stats.rotations += 1
        self._rotating_since_s = None
        for key, lane in list(self._lanes.items()):
            if not lane.items:
                del self._lanes[key]
                continue
            lane.items = deque(item for item in lane.items if item.state is not State.DONE)
            for item in lane.items:
                if item.sent_as is not None and item.frame.message_id is None:
                    item.frame.message_id = derived_message_id(item.sent_as[0], lane.key[1], item.sent_as[1])
            lane.base, lane.cursor, lane.under_way, lane.stalls = 1, 0, 0, 0
            lane.forgotten = lane.halted = False
            lane.deferred = lane.behind_since_s = None
            self._ready[key] = None
        self._by_id.clear()
        self.incarnation = self._new_incarnation()

    # ---- sending -----------------------------------------------------------------------------------------------------

    def take(self, now: float, limit: int) -> list[Publish]:
        """At most `limit` frames to send now, control first."""
        frames: list[Publish] = []
        if not self._online:
            return frames
        for key in sorted(self._ready, key=_control_first):
            lane = self._lanes.get(key)
            if lane is None or self._take(lane, now, limit, frames):
                del self._ready[key]
            if len(frames) >= limit:
                break
        return frames

    def due_s(self) -> float | None:
        """When `take` should be called again although nothing happens: the earliest retry or rotation time."""
        times = [lane.resume_s for key in self._ready if (lane := self._lanes.get(key)) and lane.resume_s]
        if self._rotating_since_s is not None:
            times.append(self._rotating_since_s + self._settings.rotation_patience_s)
        return min(times, default=None)

    def _take(self, lane: Lane, now: float, limit: int, frames: list[Publish]) -> bool:
        """Send what the lane may; True where it has nothing more to do until something happens."""
        if lane.halted:
            if lane.under_way:
                return True
            self._settle(lane, now)
        if lane.forgotten:
            return True
        if lane.resume_s > now:
            return False
        lane.resume_s = 0.0
        while lane.cursor < len(lane.items):
            item = lane.items[lane.cursor]
            if self._rotating_since_s is not None and not item.doubtful:
                return True
            if len(frames) >= limit:
                return False
            if item.state is State.DONE:
                lane.cursor += 1
            elif self._max_payload_bytes is not None and item.weight_bytes > self._max_payload_bytes:
                message = f"the payload has {item.weight_bytes} bytes; the limit is {self._max_payload_bytes}"
                self._end(lane, item, Refused("payload_too_large", message, session=lane.key[0]))
                self._begin_rotation_if_forgotten(lane, now)
            else:
                frames.append(self._send(lane, item))
        return True

    def _send(self, lane: Lane, item: Outgoing) -> Publish:
        frame = item.frame
        frame.id = self._request_id()
        frame.seq = lane.base + lane.cursor
        item.sent_as = (self.incarnation, frame.seq)
        item.state = State.SENT
        self._stats.resends += item.sends > 0
        item.sends += 1
        self._by_id[frame.id] = (lane, item)
        lane.cursor += 1
        lane.under_way += 1
        return frame

    # ---- answers -----------------------------------------------------------------------------------------------------

    def published(self, answer: Published) -> Outgoing | None:
        """The message that this answers; None where it is not a lane's."""
        found = self._by_id.pop(answer.id, None) if answer.id is not None else None
        if found is None:
            return None
        lane, item = found
        lane.under_way -= 1
        lane.stalls = 0
        lane.backoff = None
        item.state = State.DONE
        self.unanswered -= 1
        lane.answered(item, deferred=answer.deferred)
        item.done(answer)
        if lane.pop_done():
            self._room(lane.key)
        if lane.items:
            self._ready[lane.key] = None
        return item

    def refused(self, answer: Refused) -> bool:
        """Whether this answers a lane's message. What follows is decided when all that is under way is answered."""
        found = self._by_id.pop(answer.id, None) if answer.id is not None else None
        if found is None:
            return False
        lane, item = found
        self._stats.refusals += 1
        lane.under_way -= 1
        lane.halted = True
        item.state, item.refusal = State.REFUSED, answer
        item.doubtful = item.doubtful or answer.code in MAYBE_DONE
        self._ready[lane.key] = None
        return True

    def _settle(self, lane: Lane, now: float) -> None:
        """Everything of the round is answered: decide how to go on."""
        lane.halted = False
        lane.cursor = 0
        head = next((item for item in lane.items if item.refusal is not None), None)
        if head is not None and head.refusal is not None and lane.is_behind_deferred(head.refusal):
            self._wait_for_deferred(lane, now)
            return
        only_out_of_order = True
        wait_s: float | None = None
        for item in list(lane.items):
            refusal, item.refusal = item.refusal, None
            if refusal is None:
                continue
            item.state = State.QUEUED
            if refusal.code == "out_of_order":
                self._settle_out_of_order(lane, item, refusal.expected or 0, is_head=item is head)
                continue
            if refusal.code in FORGOTTEN:
                # Behind a refused head it may only mean that the head is missing; if not, the head will be told too.
                if item is head:
                    lane.forgotten = True
                    if refusal.code == "producer_seq_reused" and item.frame.message_id is None:
                        item.frame.message_id = uuid4().hex  # what it would be called is another message's name
                continue
            only_out_of_order = False
            if is_retryable(refusal):
                if wait_s is None:
                    wait_s = self._backoff(lane).failed(now, refusal.retry_after_ms)
                if item.deadline_s is None or now + wait_s <= item.deadline_s:
                    continue
            self._end(lane, item, refusal)
        if only_out_of_order:
            lane.stalls += 1
            lane.forgotten |= lane.stalls >= STALLS_BEFORE_ROTATION
        self._begin_rotation_if_forgotten(lane, now)
        if wait_s is not None and lane.items:
            lane.resume_s = now + wait_s

    def _wait_for_deferred(self, lane: Lane, now: float) -> None:
        """What was deferred is not in its place yet: ask again. Past all patience the counter counts as forgotten."""
        for item in lane.items:
            if item.refusal is not None:
                item.refusal, item.state = None, State.QUEUED
        if lane.behind_since_s is None:
            lane.behind_since_s = now
        if now - lane.behind_since_s >= self._settings.deferred_patience_s:
            lane.forgotten = True
            self._begin_rotation_if_forgotten(lane, now)
            return
        lane.resume_s = now + self._backoff(lane).failed(now)

    def _settle_out_of_order(self, lane: Lane, item: Outgoing, expected: int, *, is_head: bool) -> None:
        if is_head and not lane.base <= expected <= lane.base + len(lane.items):
            lane.forgotten = True
        elif item.sent_as is not None and lane.base <= expected <= item.sent_as[1]:
            item.doubtful = False  # the server has not got this far

    def _backoff(self, lane: Lane) -> Backoff:
        if lane.backoff is None:
            lane.backoff = Backoff(self._settings.refusal, self._uniform)
        return lane.backoff

    def _begin_rotation_if_forgotten(self, lane: Lane, now: float) -> None:
        if lane.forgotten and self._rotating_since_s is None:
            self._rotating_since_s = now

    def _end(self, lane: Lane, item: Outgoing, refusal: Refused) -> None:
        """Give one up. Its seq goes to the next, unless it may be used."""
        lane.items.remove(item)
        lane.forgotten |= item.doubtful
        item.state = State.DONE
        self.unanswered -= 1
        item.done(refusal)
        lane.pop_done()
        self._room(lane.key)

    def end(self, error: ClosedError) -> None:
        """The client ends: what was never sent fails with `error`, the rest may be in or not."""
        for (session, _), lane in self._lanes.items():
            for item in lane.items:
                if item.state is not State.DONE:
                    item.state = State.DONE
                    item.done(PublishUncertain(session, item.frame.message_id) if item.sends else error)
        self._lanes.clear()
        self._by_id.clear()
        self._ready.clear()
        self.unanswered = 0


def is_retryable(refusal: Refused) -> bool:
    """Whether the same request may succeed later: as the table of codes says, else if the server named a time."""
    known = CODES.get(refusal.code)
    return refusal.retry_after_ms is not None or (known is not None and known.retry) or refusal.code == "token_expired"


def _control_first(key: LaneKey) -> bool:
    return key[1] is not MessageClass.CONTROL
