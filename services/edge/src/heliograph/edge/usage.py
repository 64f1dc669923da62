"""What this edge uses of its tenants' limits on connections and sessions, and what it knows of the other edges' use.

Nothing waits for the store: what is asked here is answered from counts (`heliograph.core.usage`), and one task tells
and asks once a second. While the store is away that is counted, and this edge keeps to its share.
"""

import asyncio
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from heliograph.core.pacing import jittered_after_ms
from heliograph.core.usage import SharedUse, connections_of, connections_of_subject, sessions_of
from heliograph.edge.metrics import EdgeMetrics
from heliograph.service.health import Condition
from heliograph.service.logs import RateLimitedLog, get_logger
from heliograph.stores.ports import StoreError
from heliograph.stores.usage import Told, UsageStore

if TYPE_CHECKING:
    from heliograph.edge.tenants import Target, TenantState

ROUND_S = 1.0
"""Between rounds: an edge knows the others' counts as they were at most two of these ago."""

CALL_TIMEOUT_S = 1.0
"""Past it the store counts as away for this round."""

IN_USE_S = 60.0
"""A session that was published to counts as in use for so long."""

RENEW_S = 20.0
"""So long after it was noted that a session is published to, a publish needn't note it again."""


SESSION_RETRY_MS = (1_000.0, 2_000.0)
"""Told to who wants a session above the limit, as `LIMIT_RETRY_MS` of connections: by then it is known whether another
edge has it, and so whether it needs room at all."""


def session_retry_ms() -> int:
    """When to try again."""
    return jittered_after_ms(*SESSION_RETRY_MS, random.random)


class SessionUse:
    """A session in use on this edge: subscribed to, or published to lately."""

    __slots__ = ("followed", "noted_s", "renew_s", "session", "tenant")

    def __init__(self, tenant: str, session: str) -> None:
        self.tenant = tenant
        self.session = session
        self.followed = False
        """Somebody here is subscribed to it."""
        self.noted_s = float("-inf")
        """When it was last noted that it is published to."""
        self.renew_s = float("-inf")
        """From then on a publish has to be noted; read by each publish."""


UNUSED = SessionUse("", "")
"""What a target has before its first publish."""


class Usage:
    """The counts of this edge."""

    def __init__(
        self,
        store: UsageStore,
        metrics: EdgeMetrics,
        condition: Condition,
        *,
        edge: str,
        incarnation: str,
        lease_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._condition = condition
        self._edge = edge
        self._incarnation = incarnation
        self._lease_s = lease_s
        self._clock = clock
        self._shared = SharedUse(believe_s=lease_s)
        self._lives = 1
        self._begun = False
        self._sessions: dict[str, SessionUse] = {}
        self._published: dict[SessionUse, None] = {}
        """Those that were published to, noted longest ago first."""
        self.tenant_of: Callable[[str], TenantState | None] = lambda _name: None
        self._log = RateLimitedLog(get_logger(__name__))
        condition.ok()  # nothing was asked yet; an edge serves without the store
        gauge = metrics.metrics.sampled_gauge
        gauge("sessions_in_use", "Sessions subscribed to, or published to lately.", lambda: float(len(self._sessions)))
        gauge(
            "usage_on_share",
            "1 while limits over all edges can't be asked: this edge keeps to its share.",
            lambda: float(self._shared.on_share(self._clock())),
        )

    # ---- connections ------------------------------------------------------------------------------------------------

    def full(self, tenant: "TenantState", subject: str) -> str | None:
        """Which limit one more connection would be above: `tenant` or `subject`; None where there is room."""
        now, name, limits = self._clock(), tenant.record.tenant, tenant.record.limits
        if not self._shared.room(connections_of(name), limits.connections, now):
            return "tenant"
        of_subject = connections_of_subject(name, subject)
        if not self._shared.room(of_subject, limits.connections_per_subject, now, seldom=True):
            return "subject"
        return None

    def connected(self, tenant: "TenantState", subject: str) -> None:
        """One more."""
        now, name, limits = self._clock(), tenant.record.tenant, tenant.record.limits
        self._shared.add(connections_of(name), limits.connections, now)
        self._shared.add(connections_of_subject(name, subject), limits.connections_per_subject, now, seldom=True)

    def gone(self, tenant: str, subject: str) -> None:
        """One less."""
        now = self._clock()
        self._shared.remove(connections_of(tenant), now)
        self._shared.remove(connections_of_subject(tenant, subject), now)

    # ---- sessions ---------------------------------------------------------------------------------------------------

    def may_use(self, tenant: "TenantState", session: str) -> bool:
        """Whether a session may be subscribed to, or published to."""
        if session in self._sessions:
            return True
        name, limits = tenant.record.tenant, tenant.record.limits
        return self._shared.room_for(sessions_of(name), session, limits.sessions, self._clock())

    def followed(self, session: str) -> None:
        """The first subscriber here."""
        tenant = session.partition(":")[0]
        self._begin(tenant, session).followed = True

    def unfollowed(self, session: str) -> None:
        """The last subscriber here is gone."""
        use = self._sessions[session]
        use.followed = False
        if use not in self._published:
            self._end(use)

    def publishes(self, target: "Target", now: float) -> bool:
        """Note that a session is published to; False where it may not be. Called when `target.use.renew_s` has come."""
        use = self._sessions.get(target.session)
        if use is None and not self.may_use(target.tenant, target.session):
            return False
        if use is None:
            use = self._begin(target.tenant.record.tenant, target.session)
        target.use = use
        use.noted_s, use.renew_s = now, now + RENEW_S
        self._published.pop(use, None)
        self._published[use] = None
        return True

    def _begin(self, tenant: str, session: str) -> SessionUse:
        use = self._sessions.get(session)
        if use is None:
            use = self._sessions[session] = SessionUse(tenant, session)
            state = self.tenant_of(tenant)
            limit = state.record.limits.sessions if state is not None else 1
            self._shared.put_in(sessions_of(tenant), session, limit, self._clock())
        return use

    def _end(self, use: SessionUse) -> None:
        del self._sessions[use.session]
        use.renew_s = float("-inf")  # a connection that still has it begins anew
        self._shared.take_out(sessions_of(use.tenant), use.session, self._clock())

    def _sweep(self, now: float) -> None:
        over: list[SessionUse] = []
        for use in self._published:
            if now < use.noted_s + IN_USE_S:
                break
            over.append(use)
        for use in over:
            del self._published[use]
            if not use.followed:
                self._end(use)

    # ---- with the others --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """For ever: tell and ask."""
        while True:
            await self.round()
            await asyncio.sleep(ROUND_S)

    async def round(self) -> bool:
        """One round; False where nobody answered."""
        self._sweep(self._clock())
        told, asked = self._shared.round(self._clock())
        totals = None
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                totals = await self._store.tell(Told(self.holder, not self._begun, told, asked), self._lease_s)
        except (StoreError, TimeoutError) as error:
            self._metrics.usage_store_failures.n += 1
            self._condition.degraded(error)
            self._log.warning("usage_not_told", error=str(error), edges=self._shared.edges)
            if not self._begun:
                self._lives += 1  # it may have begun: by that name nothing more is told
            return False
        finally:
            if totals is None:
                self._shared.untold(told)
        self._condition.ok()
        if totals is None:
            self._begun = False
            self._lives += 1
            self._shared.begin_anew()
            return False
        self._begun = True
        self._shared.learned(self._clock(), told, asked, totals.counts, totals.holders)
        return True

    async def leave(self) -> None:
        """What this edge has counts no longer, for the others; by itself after a lease where that can't be said."""
        try:
            await self._store.leave(self.holder)
        except StoreError as error:
            self._log.warning("usage_not_left", error=str(error))

    @property
    def holder(self) -> str:
        """The name that it tells by."""
        return f"{self._edge}/{self._incarnation}.{self._lives}"
