"""Who does what, for a time."""

from typing import Protocol


class Leases(Protocol):
    """Who does what: one holder a name, for a time."""

    async def acquire(self, name: str, holder: str, ttl_s: float) -> bool:
        """Take or renew; False where somebody else holds it."""

    async def release(self, name: str, holder: str) -> None: ...
