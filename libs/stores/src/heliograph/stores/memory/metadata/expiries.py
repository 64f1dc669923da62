"""When sessions' messages are forgotten, in memory."""

from collections.abc import Sequence

from heliograph.core.expiry import Expiry
from heliograph.core.sessions import SessionKey
from heliograph.stores.memory.metadata.clock import Clock, now_ms


class MemorySessionExpiries:
    """`heliograph.stores.ports.SessionExpiries`."""

    def __init__(self, clock: Clock = now_ms) -> None:
        self._clock = clock
        self._states: dict[str, dict[str, Expiry]] = {}
        self._versions: dict[str, int] = {}

    async def put(self, session: str, state: Expiry) -> Expiry:
        tenant = SessionKey.parse(session).tenant
        states = self._states.setdefault(tenant, {})
        known = states.get(session)
        states[session] = state if known is None else known.merged(state)
        self._versions[tenant] = max(self._versions.get(tenant, 0) + 1, self._clock())
        return states[session]

    async def get(self, sessions: Sequence[str]) -> list[Expiry | None]:
        return [self._states.get(session.partition(":")[0], {}).get(session) for session in sessions]

    async def versions(self) -> dict[str, int]:
        return dict(self._versions)

    async def forget(self, tenant: str, before_ms: int) -> int:
        states = self._states.get(tenant, {})
        old = [name for name, state in states.items() if max(state.expires_at_ms, state.floor_ms) < before_ms]
        for name in old:
            del states[name]
        return len(old)
