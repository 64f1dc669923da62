"""Joins and leaves as services tell them: what an event is called, and the last words about an edge that is gone.

Any number of services may tell the same event, and one may tell it again after it died half-way: its id is made from
what they all know, and the live store publishes an id once. So what is told is told before what it was told from is
removed, never after.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msgspec import Struct

from heliograph.protocol.frames import LeaveReason, Presence, PresenceEvent, encode
from heliograph.stores.ports import Connection, ConnectionStore, EdgeLease, LiveStore, StoreError

PAGE = 100
"""Connections of a lost edge that are told and removed together."""

REST_MOST_S = 0.1
"""Between two pages the stores are left to others for twice as long as a page took, at most so long: thousands of
connections are lost in one moment, in the midst of all that they do to come back."""

SETTLE_S = 2.5
"""Nothing is told for so long after the live store was away: edges subscribe again within 2 s, and what is published
before is not heard there, and not told again.
"""

Announcement = tuple[str, str, bytes]
"""Session, id and frame, as `LiveStore.announce_many` takes them."""


class Subscriber(Struct, frozen=True, gc=False):
    """One subscription of one registration of a connection."""

    edge: str
    connection: str
    registration: int
    number: int
    session: str
    subject: str
    agent: str | None


def announcement(of: Subscriber, event: str, time_ms: int, reason: str | None = None) -> Announcement:
    """The frame of an event, under the id that everybody gives it."""
    id_ = f"{of.edge}/{of.connection}/{of.registration}/{of.number}/{event}"
    frame = Presence(of.session, event, of.connection, of.subject, time_ms, id_, of.agent, reason)
    return of.session, id_, encode(frame)


@dataclass
class Lost:
    """What became of a lost edge's connections, as far as this service did it: over all services each counts once."""

    connections: int = 0
    announced: int = 0
    suppressed: int = 0
    """Subscriptions whose agent was already back elsewhere."""


async def tell_lost(
    store: ConnectionStore,
    live: LiveStore,
    lease: EdgeLease,
    now_ms: int,
    lost: Lost,
    answered: Callable[[], None] = lambda: None,
) -> None:
    """Tell the sessions concerned that the connections registered under a lease are lost, and forget them.

    `answered` is called whenever the store has answered; `lost` is counted up, also where this breaks off. Ends at once
    where the edge is back. Raises StoreError: what was not told stays registered, and can be told by a later call.
    """
    time_ms = min(lease.ends_ms, now_ms)
    begun_s = time.monotonic()
    while found := await store.left_behind(lease, PAGE):
        answered()
        subscribers = [_subscribers(lease.edge, connection) for connection in found]
        sessions = sorted({of.session for ofs in subscribers for of in ofs})
        there = dict(zip(sessions, await store.agents(sessions, besides=lease.edge), strict=True))
        answered()
        batch: list[Announcement] = []
        suppressed = []
        for ofs in subscribers:
            missing = [of for of in ofs if (of.subject, of.agent) not in there[of.session]]
            batch += [announcement(of, PresenceEvent.LEAVE, time_ms, LeaveReason.LOST) for of in missing]
            suppressed.append(len(ofs) - len(missing))
        for said in await live.announce_many(batch):
            if isinstance(said, StoreError):
                raise said
            lost.announced += said
        removed = await store.remove(lease, found)
        answered()
        lost.connections += sum(removed)
        lost.suppressed += sum(back for back, gone in zip(suppressed, removed, strict=True) if gone)
        await asyncio.sleep(min(2 * (time.monotonic() - begun_s), REST_MOST_S))
        begun_s = time.monotonic()


def _subscribers(edge: str, connection: Connection) -> Sequence[Subscriber]:
    """Its subscriptions whose joins were announced."""
    return [
        Subscriber(
            edge, connection.connection, connection.registration, number, session, connection.subject, connection.agent
        )
        for session, number in zip(connection.sessions, connection.joins, strict=False)
        if number
    ]
