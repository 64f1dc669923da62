"""All tenant records, in memory, at most a second old.

Every frame and request asks for its tenant, so the answer must not cost a round trip. A small store is polled: a poll
is one number, and unlike a notification it can't be missed. While the store is away the last known records stay in
force and readiness says that they are stale; only a service that never had any waits. The same where the store comes
back without them: only a deletion that somebody asked for ends a tenant.
"""

import asyncio
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from heliograph.core.errors import HeliographError
from heliograph.protocol.tenants import Tenant, decode_tenant
from heliograph.service.health import Condition, describe_error
from heliograph.service.logs import RateLimitedLog, get_logger
from heliograph.service.metrics import Metrics
from heliograph.stores.ports import TenantStore

POLL_S = 0.4
"""Twice within the second in which a change must be noticed, the time of the answers included."""

RELOAD_S = 60.0
"""Between reads of everything: finds what a restored or emptied store changed without a higher version."""

CALL_TIMEOUT_S = 2.0
"""Of one question to the store."""

TELL_S = 1.0
"""Between words to the store about which version is obeyed here, where that does not change."""
TOLD_TTL_S = 3.0
"""A service that was not heard of for so long does not run: nobody waits for it."""


@dataclass(frozen=True, slots=True)
class TenantEntry:
    """A record as the directory holds it. `generation` is new with every change, also of one that was deleted."""

    record: Tenant
    generation: int
    raw: bytes


Listener = Callable[[str, TenantEntry | None], None]
"""Told the tenant's name and its entry now (None: deleted), on the event loop. Must not block."""


def instance_name(service: str) -> str:
    """A name that no other process has: kind, host, and a random part for those that share a host."""
    return f"{service}/{socket.gethostname()}/{secrets.token_hex(4)}"


class TenantDirectory:
    """The tenants by name. `start` loads them (or raises), `run` keeps them fresh, `find` answers from memory."""

    def __init__(
        self,
        store: TenantStore,
        condition: Condition,
        metrics: Metrics,
        *,
        service: str = "",
        poll_s: float = POLL_S,
        reload_s: float = RELOAD_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`service`: this process' name among all; the store is told which version it obeys. Empty: not told."""
        self._store = store
        self._service = service
        self._told = (-1, 0.0)
        """The version that the store was told, and when."""
        self._condition = condition
        self._poll_s = poll_s
        self._reload_s = reload_s
        self._clock = clock
        self._entries: dict[str, TenantEntry] = {}
        self._listeners: list[Listener] = []
        self._version = 0
        self._kept: set[str] = set()
        """Tenants whose record the store lost; they stay in force until it is written again."""
        self._generation = 0
        self._fresh_at: float | None = None
        self._reloaded_at = 0.0
        self._log = get_logger(__name__)
        self._limited = RateLimitedLog(self._log)
        self._failures = metrics.ticks("tenant_refresh_failures_total", "Polls of tenant records that failed.")
        self._invalid = metrics.ticks("tenant_records_invalid_total", "Tenant records that could not be read.")
        self._changes = metrics.ticks("tenant_changes_total", "Changes of tenant records that were taken up.")
        self._listener_errors = metrics.ticks("tenant_listener_errors_total", "Errors of those told about changes.")
        metrics.sampled_gauge("tenants_kept", "Tenants in force whose record the store lost.", lambda: len(self._kept))
        metrics.sampled_gauge("tenants", "Tenants known.", lambda: len(self._entries))
        metrics.sampled_gauge("tenants_age_seconds", "Since the records were last known to be current.", self._age_s)

    def find(self, tenant: str) -> TenantEntry | None:
        """The tenant's record as last known; None where there is no such tenant."""
        return self._entries.get(tenant)

    def all(self) -> dict[str, TenantEntry]:
        """Every tenant, as a copy."""
        return dict(self._entries)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Have `listener` told every change from now on; the returned function ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def start(self) -> None:
        """Load all records. Raises what the store raises; a service starts this again until it works."""
        await self._tell()  # before reading: whoever writes a record after that waits for us
        await self.refresh()
        await self._tell()

    async def run(self) -> None:
        """Keep the records fresh, for as long as the task lives."""
        while True:
            await asyncio.sleep(self._poll_s)
            try:
                await self.refresh()
                await self._tell()
            except (HeliographError, OSError, TimeoutError) as error:
                self._limited.warning("tenants_stale", error=describe_error(error), age_s=round(self._age_s(), 1))

    async def refresh(self) -> None:
        """Take up what changed. On an error the records stay as they are; it is counted, told readiness, and raised."""
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                await self._refresh()
        except Exception as error:
            self._failures.n += 1
            if self._fresh_at is None:
                self._condition.waiting(error)
            else:
                self._condition.degraded(f"stale for {self._age_s():.0f} s: {describe_error(error)}")
            raise
        self._fresh_at = self._clock()
        if self._kept:
            self._condition.degraded(
                f"the store lost {len(self._kept)} tenant records; the last known ones are in force"
            )
        else:
            self._condition.ok()

    async def _refresh(self) -> None:
        now = self._clock()
        full = self._fresh_at is None or now - self._reloaded_at >= self._reload_s
        if not full:
            version = await self._store.version()
            if version == self._version:
                return
            full = version < self._version
        version, changed = await self._store.changes(0 if full else self._version)
        if full:
            # Deletions are listed. A record that is missing was not deleted by anybody: the store lost it, and a Redis
            # that came back empty must not log everybody out.
            self._reloaded_at = now
            kept = self._entries.keys() - changed.keys()
            if kept - self._kept:
                self._log.error("tenant_records_lost", kept=len(kept))
            self._kept = kept
        else:
            self._kept = self._kept - changed.keys()
        for tenant, raw in changed.items():
            self._take(tenant, raw)
        self._version = version

    async def _tell(self) -> None:
        """Let whoever changed a tenant know that it is in force here: listeners have been told by now."""
        version, now = self._version, self._clock()
        if self._service and (version != self._told[0] or now - self._told[1] >= TELL_S):
            async with asyncio.timeout(CALL_TIMEOUT_S):
                await self._store.taken_up(self._service, version, TOLD_TTL_S)
            self._told = (version, now)

    def _take(self, tenant: str, raw: bytes | None) -> None:
        before = self._entries.get(tenant)
        if (before is None and raw is None) or (before is not None and before.raw == raw):
            return
        entry = None
        if raw is not None:
            try:
                record = decode_tenant(raw)
            except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                self._refuse(tenant, describe_error(error))
                return
            if record.tenant != tenant:
                self._refuse(tenant, "it names another tenant")
                return
            self._generation += 1
            entry = TenantEntry(record, self._generation, raw)
        if entry is None:
            del self._entries[tenant]
        else:
            self._entries[tenant] = entry
        self._changes.n += 1
        what = "deleted" if entry is None else "new" if before is None else "changed"
        self._log.info("tenant_changed", tenant=tenant, change=what)
        for listener in list(self._listeners):
            try:
                listener(tenant, entry)
            except Exception:  # noqa: BLE001 - one listener's fault must not keep the change from the others
                self._listener_errors.n += 1
                self._log.exception("tenant_listener_failed", tenant=tenant)

    def _refuse(self, tenant: str, problem: str) -> None:
        """Keep the last good record: a broken one must neither open nor cut off a tenant."""
        self._invalid.n += 1
        self._limited.warning("tenant_record_invalid", key=tenant, tenant=tenant, problem=problem)

    def _age_s(self) -> float:
        return self._clock() - self._fresh_at if self._fresh_at is not None else 0.0
