"""Tenant records, and whose a tenant is."""

from typing import Protocol

from msgspec import Struct


class Owner(Struct, frozen=True):
    """Whose a tenant's data is: the resource that made it, or last had it."""

    namespace: str
    name: str
    uid: str
    retained: bool = False
    """The resource is gone, the data is not: another resource may have it, where the rules of adoption allow."""


class TenantStore(Protocol):
    """Tenant records (JSON bytes; `heliograph.protocol.tenants` gives their shape)."""

    async def put(self, tenant: str, record: bytes) -> int:
        """The version that this change has."""

    async def replace(self, tenant: str, before: bytes | None, record: bytes) -> bool:
        """Put `record` unless another one than `before` (None: none) is there by now. Whether it was put."""

    async def get(self, tenant: str) -> bytes | None: ...

    async def delete(self, tenant: str) -> None: ...

    async def version(self) -> int: ...

    async def changes(self, since: int) -> tuple[int, dict[str, bytes | None]]:
        """The version now, and the records changed after `since` (None: deleted). `since=0`: all."""

    async def taken_up(self, service: str, version: int, ttl_s: float) -> None:
        """A service obeys all changes up to `version`; it counts as running for `ttl_s` from now."""

    async def behind(self, version: int) -> list[str]:
        """Running services that do not obey `version` yet, sorted."""

    async def owner(self, tenant: str) -> Owner | None:
        """Whose it is; None: nobody's that is known, as of one that was applied by hand. Raises CorruptError."""

    async def own(self, tenant: str, before: Owner | None, after: Owner | None) -> bool:
        """Make it another's (None: nobody's), unless it is not `before`'s by now. Whether that was done."""
