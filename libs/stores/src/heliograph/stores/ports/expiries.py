"""When sessions' messages are forgotten."""

from collections.abc import Sequence
from typing import Protocol

from heliograph.core.expiry import Expiry


class SessionExpiries(Protocol):
    """When sessions' messages are forgotten."""

    async def put(self, session: str, state: Expiry) -> Expiry:
        """What it comes to with the state that is there (`Expiry.merged`), in one step. Also where nothing changes,
        those who follow `versions` look again."""

    async def get(self, sessions: Sequence[str]) -> list[Expiry | None]:
        """In the order asked."""

    async def versions(self) -> dict[str, int]:
        """Tenants that ever had an expiry, with a number that rises with every `put` for one."""

    async def forget(self, tenant: str, before_ms: int) -> int:
        """Remove the states of sessions whose moment came before this: the log has no message so old. How many."""
