"""Subscribing as a program sees it: handles on top of the feeds."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from heliograph.client.acks import Acks
from heliograph.client.errors import ClosedError, SubscribeRefused
from heliograph.client.feeds import Feed, Inbox, InboxState, Wire
from heliograph.client.lanes import is_retryable
from heliograph.client.messages import Message, Presence
from heliograph.client.sender import Sender
from heliograph.client.settings import ClientSettings
from heliograph.client.stats import ClientStats
from heliograph.client.subscription import Bell, PresenceSubscription, Subscription
from heliograph.core.positions import Position
from heliograph.protocol.frames import Epoch, Error, Gap, MessageFrame, Refused, Subscribe, Subscribed, Unsubscribe
from heliograph.protocol.frames import Presence as PresenceFrame

S = TypeVar("S", Subscription, PresenceSubscription)


class Reader:
    """All subscriptions of one client."""

    def __init__(
        self, settings: ClientSettings, sender: Sender, acks: Acks, stats: ClientStats, uniform: Callable[[], float]
    ) -> None:
        self._settings = settings
        self._sender = sender
        self._acks = acks
        self._stats = stats
        self._uniform = uniform
        self._feeds: dict[str, Feed] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._followed: dict[str, Callable[[], Position | None]] = {}
        """Sessions that come to be worked on, and how far they have come: nobody has to ask for them."""
        self._error: ClosedError | None = None
        self._loop = asyncio.get_running_loop()

    def subscribe(self, session: str, start: str, *, auto_ack: bool = False) -> Subscription:
        return self._begin(Subscription, session, start, auto_ack=auto_ack)

    def subscribe_presence(self, session: str, start: str, *, auto_ack: bool = False) -> PresenceSubscription:
        return self._begin(PresenceSubscription, session, start, auto_ack=auto_ack)

    def _begin(self, kind: type[S], session: str, start: str, *, auto_ack: bool) -> S:
        bell = Bell()
        inbox = Inbox(session, start, self._settings, bell.ring, wants_presence=kind is PresenceSubscription)
        subscription = kind(inbox, bell, self._detach_soon, self._has_room, self._acks, auto_ack=auto_ack)
        if self._error is not None:
            inbox.fail(self._error)
            return subscription
        feed = self._feeds.get(session)
        if feed is None:
            feed = self._feeds[session] = Feed(session, self._settings, self._uniform)
        feed.inboxes.append(inbox)
        self._reconcile(feed)
        return subscription

    def _detach_soon(self, inbox: Inbox) -> None:
        """From any thread: a handle may be collected anywhere."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._detach, inbox)

    def _detach(self, inbox: Inbox) -> None:
        feed = self._feeds.get(inbox.session)
        if feed is None or inbox not in feed.inboxes:
            return
        feed.inboxes.remove(inbox)
        self._reconcile(feed)
        if not feed.inboxes and feed.wire is not Wire.ASKED:
            self._forget(feed)

    def _forget(self, feed: Feed) -> None:
        self._feeds.pop(feed.session, None)
        timer = self._timers.pop(feed.session, None)
        if timer is not None:
            timer.cancel()

    def _has_room(self, inbox: Inbox) -> None:
        feed = self._feeds.get(inbox.session)
        if feed is not None:
            self._reconcile(feed)

    def _reconcile(self, feed: Feed) -> None:
        if not self._sender.online:
            return
        if feed.session in self._followed:
            feed.follow(self._followed[feed.session]())
            return
        wait_s = feed.resume_s - self._loop.time()
        if wait_s > 0 and feed.wanting():
            if feed.session not in self._timers:
                self._timers[feed.session] = self._loop.call_later(wait_s, self._resume, feed)
            return
        feed.reconcile(self._send, self._sender.next_id)

    def follow(self, session: str, last: Callable[[], Position | None]) -> None:
        """The server sends this session to be worked on, in the place of a subscription that there may have been."""
        self._followed[session] = last
        feed = self._feeds.get(session)
        if feed is not None:
            feed.off()
            self._reconcile(feed)

    def unfollow(self, session: str) -> None:
        """It does no more: who subscribed to it asks again."""
        self._followed.pop(session, None)
        feed = self._feeds.get(session)
        if feed is not None:
            feed.off()
            self._reconcile(feed)

    def _resume(self, feed: Feed) -> None:
        self._timers.pop(feed.session, None)
        feed.resume_s = 0.0
        self._reconcile(feed)

    def _send(self, frame: Subscribe | Unsubscribe) -> None:
        self._sender.send(frame)

    # ---- the connection ----------------------------------------------------------------------------------------------

    def connected(self) -> None:
        for feed in list(self._feeds.values()):
            self._reconcile(feed)

    def disconnected(self) -> None:
        for feed in list(self._feeds.values()):
            feed.off()
            if not feed.inboxes:
                self._forget(feed)

    def subscribed(self, answer: Subscribed) -> None:
        feed = self._feeds.get(answer.session)
        if feed is None or feed.wire is not Wire.ASKED or answer.id not in (None, feed.asked_id):
            return
        feed.subscribed(answer)
        feed.backoff.succeeded(self._loop.time())
        self._reconcile(feed)
        if not feed.inboxes:
            self._forget(feed)

    def refused(self, answer: Refused | Error) -> bool:
        """Whether it answers a subscribe of ours."""
        if answer.id is not None:
            feed = next((feed for feed in self._feeds.values() if feed.asked_id == answer.id), None)
        else:
            feed = self._feeds.get(answer.session or "") if isinstance(answer, Refused) else None
        if feed is None:
            return False
        asked_from = feed.asked_from
        if feed.session in self._followed:
            return True  # asked before it was known that it comes anyway
        feed.off()
        refusal = answer if isinstance(answer, Refused) else Refused(answer.code, answer.message)
        now = self._loop.time()
        if is_retryable(refusal):
            feed.resume_s = now + feed.backoff.failed(now, refusal.retry_after_ms)
        else:
            after_s = refusal.retry_after_ms / 1000 if refusal.retry_after_ms is not None else None
            error = SubscribeRefused(refusal.code, refusal.message, feed.session, after_s)
            for inbox in list(feed.inboxes):
                if refusal.code == "position_invalid":
                    concerned = inbox.needs == asked_from
                else:  # where presence is what is forbidden, the others ask without it
                    concerned = inbox.wants_presence or not (feed.asked_presence and refusal.code == "forbidden")
                if concerned:
                    feed.inboxes.remove(inbox)
                    inbox.fail(error)
        if feed.inboxes:
            self._reconcile(feed)
        else:
            self._forget(feed)
        return True

    def message(self, frame: MessageFrame) -> None:
        live = self._live(frame.session)
        if not live:
            self._stats.dropped += frame.session not in self._followed
            return
        message = Message(frame, self._acks)
        self._deliver(frame.session, live, lambda inbox: inbox.message(message))

    def presence(self, frame: PresenceFrame) -> None:
        event = Presence(
            frame.session,
            frame.event,
            frame.subject,
            frame.agent,
            frame.connection,
            frame.reason,
            frame.time,
            frame.id,
        )
        for inbox in self._live(frame.session):
            inbox.presence(event)

    def gap(self, frame: Gap) -> None:
        self._deliver(frame.session, self._live(frame.session), lambda inbox: inbox.gap(frame))

    def epoch(self, frame: Epoch) -> None:
        self._deliver(frame.session, self._live(frame.session), lambda inbox: inbox.epoch(frame))

    def _live(self, session: str) -> list[Inbox]:
        feed = self._feeds.get(session)
        return feed.live() if feed is not None and feed.wire is Wire.ON else []

    def _deliver(self, session: str, live: list[Inbox], give: Callable[[Inbox], bool]) -> None:
        behind = False
        for inbox in live:
            before, holes = len(inbox.items), inbox.holes
            if give(inbox):
                self._stats.holes += inbox.holes - holes
                behind = True
                if inbox.repeated_holes > 1:
                    feed = self._feeds[session]
                    now = self._loop.time()
                    feed.resume_s = now + feed.backoff.failed(now)
            elif inbox.state is InboxState.PARKED:
                self._stats.parked += 1
                self._acks.flush()
                behind = True
            added = len(inbox.items) - before
            self._stats.received += added
            self._stats.dropped += not added
        if behind:
            self._reconcile(self._feeds[session])

    def end(self, error: ClosedError) -> None:
        self._error = error
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for feed in self._feeds.values():
            for inbox in feed.inboxes:
                inbox.fail(error)
        self._feeds.clear()
