"""All connections of an edge, and what is done to them in passes: time-outs, tenants' changes."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator

from heliograph.core.positions import Position
from heliograph.core.scopes import Operation
from heliograph.core.sessions import SessionKey
from heliograph.edge.access import close_of_invalid
from heliograph.edge.admission import Admission, Place
from heliograph.edge.connection import Connection
from heliograph.edge.cursors import Cursors
from heliograph.edge.metrics import EdgeMetrics
from heliograph.edge.origins import Origins
from heliograph.edge.quotas import QuotaLeases
from heliograph.edge.read_turns import ReadTurns
from heliograph.edge.serving import Serving
from heliograph.edge.subscription import Subscription
from heliograph.edge.tenants import Target, TenantState
from heliograph.edge.usage import Usage
from heliograph.service.refusals import Refusals
from heliograph.service.serving import ServeMarks
from heliograph.service.tenants import TenantDirectory, TenantEntry
from heliograph.service.tokens import Identity, TokenVerifier
from heliograph.service.turnstile import Turnstile
from heliograph.stores.keys import Topics
from heliograph.stores.ports import LiveStore, StoreError

PASS_S = 1.0
"""Between looks at every connection: time-outs are at least ten times that."""

PASS_SLICES = 20
"""Parts of a pass, spread over its time: of 10,000 connections some 50 are pinged in each, half a millisecond."""

SLICE_LEAST = 50
"""Connections that are worth a part of their own."""

GIVEN_UP_RETRY_MS = 1_000
"""When a subscription that the live path did not take in time may be asked for again."""

HELLOS_AT_ONCE = 4
"""Answered in one turn of the event loop: a crowd that comes back says it in one moment, and each is some 0.15 ms."""

STATUS_MOST = 10_000
"""Status questions under way; more are answered as unknown."""


class Connections:
    """The connections, and the tenants as they see them."""

    def __init__(
        self,
        directory: TenantDirectory,
        verifier: TokenVerifier,
        live: LiveStore,
        cursors: Cursors,
        serving: Serving,
        marks: ServeMarks,
        topics: Topics,
        metrics: EdgeMetrics,
        quotas: QuotaLeases,
        admission: Admission,
        usage: Usage,
        *,
        virtual_shards: int,
        subscribe_timeout_s: float,
        refusals: Refusals | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._verifier = verifier
        self._live = live
        self.cursors = cursors
        self.serving = serving
        self._marks = marks
        self._topics = topics
        self._metrics = metrics
        self._quotas = quotas
        self.admission = admission
        self.usage = usage
        self._virtual_shards = virtual_shards
        self._subscribe_timeout_s = subscribe_timeout_s
        self._clock = clock
        self.refusals = refusals or Refusals()
        self._tenants: dict[str, TenantState] = {}
        self._origins: Origins | None = None
        self._open: dict[str, Connection] = {}
        usage.tenant_of = self.tenant
        self._awaiting: deque[tuple[float, Subscription]] = deque()
        self._status: set[asyncio.Task[None]] = set()
        self.on_changed: Callable[[Connection], None] = lambda _connection: None
        self.on_gone: Callable[[Connection], None] = lambda _connection: None
        self.hellos = Turnstile(HELLOS_AT_ONCE)
        self.read_turns = ReadTurns()
        self.draining = False
        self.notice: bytes | None = None
        """What connections are to be told about pressure, as a WebSocket frame; None: that all is normal."""
        self.outbound_bytes = 0
        """Waiting for all readers, as of the last pass."""
        directory.listen(self._tenant_changed)
        metrics.metrics.sampled_gauge("connections", "Open connections.", lambda: float(len(self._open)))

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Connection]:
        return iter(tuple(self._open.values()))

    def __contains__(self, id_: str) -> bool:
        return id_ in self._open

    # ---- asked by connections and requests --------------------------------------------------------------------------

    def add(self, connection: Connection, place: Place) -> None:
        self._open[connection.id] = connection
        self._metrics.opened.n += 1
        connection.place = place
        self.admission.enter(place)
        identity = connection.identity
        tenant = self.tenant(identity.tenant) if identity is not None else None
        if identity is not None and tenant is not None:
            self.admission.identify(place, tenant, identity.subject)

    def verify(self, token: str) -> Identity:
        """Who a token speaks for. Raises TokenError."""
        return self._verifier.verify(token)

    def tenant(self, name: str) -> TenantState | None:
        """The tenant as it is now."""
        state = self._tenants.get(name)
        if state is None:
            entry = self._directory.find(name)
            if entry is None:
                return None
            state = self._tenants[name] = TenantState(entry.record, self._topics, self._virtual_shards, self._quotas)
        return state

    def target(self, key: SessionKey, tenant: TenantState, *, by_worker: bool = False) -> Target:
        """Where publishes to a session go."""
        session = str(key)
        kind = self._marks.kind(f"{key.tenant}:{key.agent_type}")
        return Target(session, tenant, tenant.log_topic(key), tenant.partition(key), session.encode(), kind, by_worker)

    @property
    def origins(self) -> Origins:
        """Of all tenants' own pages."""
        if self._origins is None:
            records = [entry.record for entry in self._directory.all().values()]
            self._origins = Origins(pattern for record in records for pattern in record.allowed_origins)
        return self._origins

    def say(self, event: str, code: str, connection: Connection, operation: Operation | None = None) -> None:
        """What was refused to a connection, in the log. Whoever refuses it counts it."""
        identity = connection.identity
        tenant, subject = (identity.tenant, identity.subject) if identity is not None else (None, None)
        named = operation.value if operation is not None else None
        self.refusals.say(event, code, tenant, subject=subject, operation=named, connection=connection.id)

    def awaiting(self, subscription: Subscription) -> None:
        """Refuse it unless it is answered in time."""
        self._awaiting.append((self._clock() + self._subscribe_timeout_s, subscription))

    def ask_status(self, session: str, position: Position, answer: Callable[[bool | None], None]) -> None:
        """Tell `answer` whether the log is known to have a position; None where that can't be told."""
        if len(self._status) >= STATUS_MOST:
            self._metrics.status_unknown.labels("too_many").n += 1
            answer(None)
            return

        async def ask() -> None:
            try:
                known = (await self._live.confirmed(session, [position]))[0]
            except StoreError as error:
                self._metrics.status_unknown.labels(error.code).n += 1
                known = None
            answer(known)

        task = asyncio.create_task(ask())
        self._status.add(task)
        task.add_done_callback(self._status.discard)

    def begin_drain(self) -> None:
        """Take nobody new, and no more work for those who are there; moving them is `heliograph.edge.moving`'s."""
        self.draining = True
        self.serving.drain()

    def end_drain(self) -> None:
        """Clients may come again, and those who stayed get work again."""
        self.draining = False
        self.serving.resume()

    def changed(self, connection: Connection) -> None:
        """What the registry knows of it is to be renewed."""
        self.on_changed(connection)

    def closed(self, connection: Connection) -> None:
        """It is gone."""
        if self._open.pop(connection.id, None) is not None:
            self.admission.leave(connection.place)
            self.on_gone(connection)

    # ---- passes -----------------------------------------------------------------------------------------------------

    async def look_after(self) -> None:
        """For ever: a pass over all connections in each second, spread over it, so that their pings are no burst."""
        while True:
            connections = tuple(self._open.values())
            slices = min(PASS_SLICES, 1 + len(connections) // SLICE_LEAST)
            outbound_bytes = 0
            for number in range(slices):
                await asyncio.sleep(PASS_S / slices)
                now, wall = self._clock(), time.time()
                # No loop of this coroutine's own: its variable would hold the last one until there is another.
                outbound_bytes += sum(connection.look(now, wall) for connection in connections[number::slices])
                self._give_up(now)
            self.outbound_bytes = outbound_bytes

    def _give_up(self, now: float) -> None:
        """Refuse the subscriptions that nobody answered in time."""
        while self._awaiting and (self._awaiting[0][1].answered or self._awaiting[0][0] <= now):
            subscription = self._awaiting.popleft()[1]
            if not subscription.answered:
                subscription.connection.end_subscription(subscription, "live_unavailable", GIVEN_UP_RETRY_MS)

    def _tenant_changed(self, name: str, entry: TenantEntry | None) -> None:
        self._origins = None
        state = self._tenants.get(name)
        if entry is None:
            self._tenants.pop(name, None)
            state = None
        elif state is not None:
            state.renew(entry.record)
        else:
            state = self._tenants[name] = TenantState(entry.record, self._topics, self._virtual_shards, self._quotas)
        for connection in tuple(self._open.values()):
            identity = connection.identity
            if identity is None or identity.tenant != name:
                continue
            reason = self._verifier.refusal(identity)
            if reason is not None:
                connection.close(close_of_invalid(reason))
            elif state is not None and connection.tenant is not None:
                connection.renew_tenant(state)
