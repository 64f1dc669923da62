"""Load on a rig: publishers and subscribers on both edges, run to rest and judged.

async with load(rig) as run:
    await run.more()              # everybody gets on
    await rig.kill(…)             # hurt it
    await run.more()              # everybody still, or again, gets on
# here it came to rest and was judged
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from tests.system.checker import check, summary
from tests.system.consuming import RawConsumer
from tests.system.history import LIFE, CursorRead, History, Outcome
from tests.system.log_reading import Ends
from tests.system.publishing import RawPublisher
from tests.system.replaying import replay
from tests.system.rig import DELIVERY_TIMEOUT_S, TENANT, Rig, until
from tests.system.sdk import SdkPublisher, SdkSubscriber
from tests.system.subscribing import RawSubscriber
from tests.system.tallies import Tallies
from tests.system.telemetry import TelemetryPublisher

from heliograph.core.messages import AckMode, MessageClass
from heliograph.stores.keys import client_consumer
from heliograph.stores.ports import StoreError

VIOLATIONS_SHOWN = 20
BOTH = (MessageClass.EVENT, MessageClass.CONTROL)

Publisher = RawPublisher | SdkPublisher | TelemetryPublisher
Subscriber = RawSubscriber | SdkSubscriber | RawConsumer


class Run:
    """One load, its history and its end."""

    def __init__(self, rig: Rig, sessions: Sequence[str], seed: int, edges: Sequence[str] | None = None) -> None:
        """`edges`: whom its clients know, by URL, instead of all."""
        self.rig = rig
        self.edges = list(edges or rig.edges)
        self.seed = seed
        self.sessions = list(sessions)
        self.random = random.Random(seed)
        self.history = History(patience_s=DELIVERY_TIMEOUT_S)
        self.publishers: list[Publisher] = []
        self.subscribers: list[Subscriber] = []
        self.begin: Ends = {}
        self.tallies = Tallies(rig, self.history)

    def publisher(
        self, name: str, sessions: Sequence[str], *, per_s: float = 25.0, ack: AckMode = AckMode.DURABLE, **options: int
    ) -> RawPublisher:
        """A raw one, of events and control messages."""
        lanes = [(session, class_) for session in sessions for class_ in BOTH]
        made = RawPublisher(
            self.history,
            name,
            self.edges,
            self.token(name),
            lanes,
            per_s=per_s,
            ack=ack,
            first_edge=len(self.publishers),
            seed=self.random.randrange(2**32),
            **options,
        )
        self.publishers.append(made)
        return made

    def telemetry(self, name: str, sessions: Sequence[str], *, per_s: float = 25.0, **options: int) -> None:
        """Best effort beside the others. Only raw subscribers may read these sessions: the others record none of it."""
        made = TelemetryPublisher(
            self.history,
            name,
            self.edges,
            self.token(name),
            sessions,
            per_s=per_s,
            first_edge=len(self.publishers),
            seed=self.random.randrange(2**32),
            **options,
        )
        self.publishers.append(made)

    def subscriber(
        self,
        name: str,
        sessions: Sequence[str] | None = None,
        start: str = "earliest",
        edges: Sequence[str] | None = None,
    ) -> RawSubscriber:
        made = RawSubscriber(
            self.history,
            name,
            edges or self.edges,
            self.token(name),
            self.sessions if sessions is None else sessions,
            start=start,
            first_edge=len(self.subscribers),
            seed=self.random.randrange(2**32),
        )
        self.subscribers.append(made)
        return made

    def consumer(self, name: str, sessions: Sequence[str] | None = None, *, lies: bool = True) -> RawConsumer:
        """One that goes on from its cursor, whatever ended its connection."""
        made = RawConsumer(
            self.history,
            name,
            self.edges,
            self.token(name),
            self.sessions if sessions is None else sessions,
            first_edge=len(self.subscribers),
            seed=self.random.randrange(2**32),
            lies=lies,
        )
        self.subscribers.append(made)
        return made

    def sdk(self, publishes: Sequence[str], reads: Sequence[str], *, per_s: float) -> None:
        """An agent and a reader through the SDK."""
        token, edges = self.token("agent"), self.edges
        self.publishers.append(SdkPublisher(self.history, "agent", edges, token, publishes, per_s=per_s))
        self.subscribers.append(SdkSubscriber(self.history, "reader", edges, token, reads))

    @asynccontextmanager
    async def watched_cursors(self, names: Sequence[str]) -> AsyncIterator[None]:
        """Cursors of these consumers are read from the live store all the while."""

        async def watch() -> None:
            async with self.rig.live() as live:
                while True:
                    for session in self.sessions:
                        with suppress(StoreError):
                            found = await live.cursors(session, [client_consumer(name, name) for name in names])
                            self.history.cursors += [
                                CursorRead(self.history.now(), name, session, str(position) if position else None)
                                for name, position in zip(names, found, strict=True)
                            ]
                    await asyncio.sleep(0.05)

        task = asyncio.create_task(watch())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    def token(self, subject: str = "you") -> str:
        """For the sessions of this run, which are of one tenant."""
        return self.rig.token(self.sessions[0].partition(":")[0], subject=subject)

    async def start(self) -> None:
        self.begin = await self.rig.log_ends(self.sessions)
        await self.tallies.begin()
        for subscriber in self.subscribers:
            subscriber.start()
        for publisher in self.publishers:
            publisher.start()

    def kafka_hurt(self, what: str) -> None:
        """Note it. A producer whose broker died between writing and answering writes a batch again at once."""
        self.history.note(what)
        self.history.patience_s = 0.0

    # ---- waiting ----------------------------------------------------------------------------------------------------

    async def more(self, count: int = 15, timeout_s: float = 45.0, *, settled: bool = True) -> None:
        """Return when every publisher had `count` more messages answered; `settled`: and durable where it asks so."""

        def done() -> dict[str, int]:
            self._look_after_publishers()
            return {one.name: one.settled if settled else one.answered for one in self.publishers}

        wanted = {name: already + count for name, already in done().items()}
        await until(
            f"{count} more messages {'settled' if settled else 'answered'} for everybody",
            lambda: all(now >= wanted[name] for name, now in done().items()),
            timeout_s,
            lambda: ", ".join(f"{name} lacks {wanted[name] - now}" for name, now in done().items()),
        )

    async def busy(self, count: int = 8, timeout_s: float = 20.0) -> None:
        """Return at a moment when so many publishes are under way: the worst one for somebody to die."""
        raw = [one for one in self.publishers if isinstance(one, RawPublisher)]
        deadline = time.monotonic() + timeout_s
        while sum(one.under_way for one in raw) < count:
            assert time.monotonic() < deadline, "the load is too light to be hurt"
            await asyncio.sleep(0)

    async def seen_more(self, count: int = 10, timeout_s: float = 30.0) -> None:
        """Return when every subscriber got `count` more messages: the live path goes on."""

        def deliveries(name: str) -> int:
            views = self.history.views.values()
            return sum(len(view.delivered) for view in views if view.subscriber.partition(LIFE)[0] == name)

        names = [subscriber.name for subscriber in self.subscribers]
        wanted = {name: deliveries(name) + count for name in names}
        await until("subscribers get more", lambda: all(deliveries(name) >= wanted[name] for name in names), timeout_s)

    async def subscribed(self, timeout_s: float = 30.0) -> None:
        """Return when every raw subscriber's subscriptions are answered."""
        raw = [one for one in self.subscribers if isinstance(one, RawSubscriber)]
        await until("everybody is subscribed", lambda: all(one.live >= set(one.sessions) for one in raw), timeout_s)

    @property
    def _telemetry(self) -> list[TelemetryPublisher]:
        return [one for one in self.publishers if isinstance(one, TelemetryPublisher)]

    @property
    def _telemetry_readers(self) -> list[tuple[RawSubscriber, str]]:
        """Raw subscribers with each session of telemetry that they read."""
        sessions = {session for one in self._telemetry for session in one.sessions}
        raw = [one for one in self.subscribers if isinstance(one, RawSubscriber)]
        return [(one, session) for one in raw for session in one.sessions if session in sessions]

    def through_s(self) -> float:
        """Whatever was published before this moment has come to every subscriber of telemetry: an event that was
        published then has, and live frames keep their order.
        """
        sent: dict[bytes, float] = {}
        for attempt in self.history.attempts:
            sent.setdefault(attempt.content, attempt.at_s)
        moments = [self.history.now()]
        for one, session in self._telemetry_readers:
            events = (sight for sight in reversed(self.history.view(one.name, session).delivered) if sight.position)
            moments.append(next((sent.get(sight.content, 0.0) for sight in events), 0.0))
        return min(moments)

    async def telemetry_seen(self, timeout_s: float = 45.0) -> None:
        """Return when each raw subscriber got telemetry of each session that was sent after this was called."""
        from_s = self.history.now()
        sent: dict[bytes, float] = {}
        lacking = self._telemetry_readers
        looked = len(self.history.attempts)

        def done() -> bool:
            nonlocal lacking, looked
            self._look_after_publishers()
            new = self.history.attempts[looked:]
            looked += len(new)
            sent.update((one.content, one.at_s) for one in new if one.class_ is MessageClass.TELEMETRY)
            lacking = [
                (one, session)
                for one, session in lacking
                if not any(
                    sight.position is None and sent.get(sight.content, 0.0) > from_s
                    for sight in self.history.view(one.name, session).delivered[-50:]
                )
            ]
            return not lacking

        await until(
            "telemetry reaches everybody",
            done,
            timeout_s,
            lambda: ", ".join(f"{one.name} of {session}" for one, session in lacking),
        )

    async def quiet(self, timeout_s: float = 45.0) -> None:
        """End telemetry, and return when an event that was published later has come to everybody who got it."""
        if not self._telemetry:
            return
        for publisher in self._telemetry:
            publisher.rest()
        await until("telemetry is answered", lambda: all(one.at_rest for one in self._telemetry), timeout_s)
        from_s = self.history.now()
        lacking = self._telemetry_readers

        def done() -> bool:
            nonlocal lacking
            self._look_after_publishers()
            later = {one.content for one in self.history.attempts if one.at_s > from_s}
            earlier = {one.content for one in self.history.attempts if one.at_s <= from_s} if later else set()
            lacking = [
                (one, session)
                for one, session in lacking
                if not any(
                    sight.content in later and sight.content not in earlier
                    for sight in self.history.view(one.name, session).delivered[-50:]
                )
            ]
            return not lacking

        with suppress(AssertionError):  # the checker says what is missing
            await until("an event comes behind the last telemetry", done, timeout_s)
        self.history.note("telemetry has ended")

    async def rest(self, timeout_s: float = 60.0) -> None:
        """Bring it to rest: all answered, all confirmed, all read, everybody caught up."""
        history = self.history
        await self.quiet()
        for publisher in self.publishers:
            publisher.rest()

        def at_rest() -> bool:
            self._look_after_publishers()
            return all(publisher.at_rest for publisher in self.publishers)

        await until("every publish is answered and confirmed", at_rest, timeout_s, self._restless)
        history.note("every publish is answered and confirmed")
        with suppress(AssertionError):  # the checker says which one
            await until("what was deferred is delivered", lambda: not self.deferred(), 30.0)
        await self.rig.confirmed(self.sessions, timeout_s)
        history.note("the router is through")
        await self.rig.read_log(history, self.begin)
        ends: dict[str, str] = {}
        for entry in history.log:
            if entry.position is not None:
                ends[entry.session] = max(ends.get(entry.session, ""), entry.position)

        def caught_up() -> bool:
            return all(
                subscriber.last(session) >= end
                for subscriber in self.subscribers
                for session, end in ends.items()
                if session in subscriber.sessions
            )

        with suppress(AssertionError):  # the checker says who misses what
            await until("subscribers have caught up", caught_up, 20.0)
        history.note("subscribers have caught up")
        token = self.token()
        reads = [
            replay(history, f"replay-{number}", url, token, session)
            for number, url in enumerate(self.rig.replays, start=1)
            for session in self.sessions
        ]
        await asyncio.gather(*reads)
        history.note("replayed")
        await self.tallies.read()

    def outcomes(self, outcome: Outcome) -> int:
        """Publishes answered so."""
        return sum(answer.outcome is outcome for attempt in self.history.attempts for answer in attempt.answers)

    def last_answered(self, session: str) -> str:
        """The highest position of a session that a publisher was told; empty where there is none."""
        mine = (attempt for attempt in self.history.attempts if attempt.session == session)
        return max((answer.position or "" for attempt in mine for answer in attempt.answers), default="")

    def deferred(self) -> set[tuple[str, bytes]]:
        """Session and content of what was deferred and nobody has got yet."""
        attempts = self.history.attempts
        waiting = {
            (one.session, one.content) for one in attempts if any(a.outcome is Outcome.DEFERRED for a in one.answers)
        }
        for view in self.history.views.values():
            waiting -= {(view.session, delivered.content) for delivered in view.delivered}
        return waiting

    def _look_after_publishers(self) -> None:
        for publisher in self.publishers:
            publisher.check_alive()
            publisher.forget(self.history.lost_runs)

    def _restless(self) -> str:
        return "; ".join(f"{one.name}: {one.state}" for one in self.publishers if not one.at_rest)

    async def stop(self) -> None:
        for one in [*self.publishers, *self.subscribers]:
            await one.stop()

    def judge(self) -> None:
        """Print what it amounted to; raise with what is wrong."""
        print(f"\nseed {self.seed}", *(f"{name} {count}" for name, count in summary(self.history).items()), sep=", ")
        for at_s, what in self.history.notes:
            print(f"  {at_s:7.3f} s  {what}")
        violations = check(self.history)
        if violations:
            shown = "\n".join(f"  {violation}" for violation in violations[:VIOLATIONS_SHOWN])
            raise AssertionError(f"{len(violations)} violations:\n{shown}")


@asynccontextmanager
async def load(
    rig: Rig, *, seed: int | None = None, sessions: int = 4, sdk: bool = True, per_s: float = 25.0, tenant: str = TENANT
) -> AsyncIterator[Run]:
    """Three publishers (durable, accepted, SDK) that share sessions, and three subscribers, on both edges."""
    seed = random.randrange(2**32) if seed is None else seed
    run = Run(rig, rig.sessions(sessions, tenant), seed)
    run.publisher("durable", run.sessions, per_s=per_s)
    run.publisher("accepted", run.sessions[: sessions // 2 + 1], per_s=per_s, ack=AckMode.ACCEPTED)
    run.subscriber("near")
    run.subscriber("far")
    if sdk:
        run.sdk(run.sessions[-2:], run.sessions, per_s=per_s)
    async with running(run):
        yield run


@asynccontextmanager
async def running(run: Run) -> AsyncIterator[Run]:
    """Start a run; afterwards heal the rig, bring it to rest and judge it. The seed is told first, whatever fails."""
    print(f"\nseed {run.seed}", flush=True)
    await run.start()
    try:
        yield run
        await run.rig.heal()
        await run.rest()
    finally:
        await asyncio.shield(run.stop())
    run.judge()
