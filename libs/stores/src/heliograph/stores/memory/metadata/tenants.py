"""Tenant records in memory."""

import msgspec

from heliograph.core.sessions import check_label
from heliograph.protocol.tenants import decode_tenant
from heliograph.stores.memory.metadata.clock import Clock, now_ms
from heliograph.stores.ports import CorruptError, Owner


class MemoryTenantStore:
    """`heliograph.stores.ports.TenantStore`."""

    def __init__(self, clock: Clock = now_ms) -> None:
        self._clock = clock
        self._version = 0
        self._records: dict[str, bytes] = {}
        self._changes: dict[str, int] = {}
        self._taken: dict[str, tuple[int, int]] = {}
        """Service → version, and until when (ms) it counts as running."""
        self._owners: dict[str, Owner] = {}

    async def put(self, tenant: str, record: bytes) -> int:
        self._change(tenant)
        self._records[tenant] = record
        return self._version

    async def replace(self, tenant: str, before: bytes | None, record: bytes) -> bool:
        if self._records.get(tenant) != before:
            return False
        await self.put(tenant, record)
        return True

    async def get(self, tenant: str) -> bytes | None:
        record = self._records.get(tenant)
        if record is not None:
            try:
                name = decode_tenant(record).tenant
            except (msgspec.MsgspecError, ValueError, RecursionError):
                raise CorruptError(tenant, "is no tenant record") from None
            if name != tenant:
                raise CorruptError(tenant, "is the record of another tenant")
        return record

    async def delete(self, tenant: str) -> None:
        self._change(tenant)
        self._records.pop(tenant, None)

    async def version(self) -> int:
        return self._version

    async def changes(self, since: int) -> tuple[int, dict[str, bytes | None]]:
        known = since if since <= self._version else 0
        changed = [tenant for tenant, version in self._changes.items() if version > known]
        return self._version, {tenant: self._records.get(tenant) for tenant in changed}

    async def taken_up(self, service: str, version: int, ttl_s: float) -> None:
        self._taken[service] = (version, self._clock() + max(1, int(ttl_s * 1000)))

    async def behind(self, version: int) -> list[str]:
        now = self._clock()
        self._taken = {service: taken for service, taken in self._taken.items() if taken[1] > now}
        return sorted(service for service, (has, _) in self._taken.items() if has < version)

    async def owner(self, tenant: str) -> Owner | None:
        return self._owners.get(tenant)

    async def own(self, tenant: str, before: Owner | None, after: Owner | None) -> bool:
        check_label("tenant", tenant)
        if self._owners.get(tenant) != before:
            return False
        if after is None:
            self._owners.pop(tenant, None)
        else:
            self._owners[tenant] = after
        return True

    def _change(self, tenant: str) -> None:
        check_label("tenant", tenant)
        self._version = max(self._version + 1, self._clock())
        self._changes[tenant] = self._version
