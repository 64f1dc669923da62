"""The section on serving: how long a session waits for its worker, the first and the next."""

import asyncio
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass

from heliograph.client import Client, ClientSettings, Message, Work, WorkSession
from heliograph.local.bench.report import HELIOGRAPH, Report
from heliograph.local.bench.rig import TENANT, Rig

SESSIONS = 200
"""Of one run."""
NEW_PER_S = 100.0
TIMEOUT_S = 60.0
SETTLE_S = 3.0
"""From a router's start, or an agent type's first worker, until it gives out sessions at once."""


@dataclass(frozen=True, slots=True)
class ServingBench:
    """Workers and publishers are clients of the SDK, in this process."""

    rig: Rig
    report: Report
    repeat: int
    sessions: int = SESSIONS

    def serving(self) -> None:
        self.rig.edge()
        self.rig.service("router")
        new: list[dict[str, float]] = []
        lost: list[dict[str, float]] = []
        for number in range(1, self.repeat + 1):
            found, again = asyncio.run(self._measure())
            new.append(_figures(found, self.sessions))
            lost.append(_figures(again, self.sessions))
            self.rig.progress(f"serving {number}/{self.repeat}: {_described(new[-1])} new, {_described(lost[-1])} lost")
        section = "How long a session waits for its next worker"
        self.report.row(section, f"a new session's first message, {NEW_PER_S:.0f} sessions/s", HELIOGRAPH, new)
        work = f"its worker's connection ends, {self.sessions} sessions at once"
        self.report.row(section, work, HELIOGRAPH, lost)
        for what, runs in (("new", new), ("lost", lost)):
            if any(run["lost"] for run in runs):
                self.report.faults.append(f"serving: {what} sessions found no worker within {TIMEOUT_S:g} s")

    async def _measure(self) -> tuple[list[float], list[float]]:
        """Seconds that each session waited: for its first worker, and for the next one."""
        agent_type = f"bench-{secrets.token_hex(4)}"  # what another run left undone must not come
        async with self._client() as user, self._client() as first, self._client() as second:
            # Nothing is acknowledged: it all comes again to the next worker.
            work = first.serve(agent_type, capacity=self.sessions, ack="manual")
            await work.ready()
            await asyncio.sleep(SETTLE_S)
            meeting = asyncio.create_task(_meet(work, self.sessions))
            began = await self._publish(user, agent_type)
            met = await meeting
            offered = second.serve(agent_type, capacity=self.sessions, ack="manual")
            await offered.ready()
            meeting = asyncio.create_task(_meet(offered, self.sessions))
            cut = time.monotonic()
            await first.close(timeout=0)  # nothing is given back: its connection ends
            met_again = await meeting
            await offered.close()
        return [at - began[session] for session, at in met.items()], [at - cut for at in met_again.values()]

    def _client(self) -> Client:
        settings = ClientSettings(connect_timeout_s=TIMEOUT_S)
        return Client(self.rig.edge().url, token=self.rig.token(), settings=settings, proxy=None)

    async def _publish(self, user: Client, agent_type: str) -> dict[str, float]:
        """A message for each of some new sessions, at a pace; when each was published."""
        began: dict[str, float] = {}
        async with asyncio.TaskGroup() as calls:
            for number in range(self.sessions):
                session = f"{TENANT}:{agent_type}:{number}"
                began[session] = time.monotonic()
                calls.create_task(user.publish(session, {"n": number}, ack="accepted"))
                await asyncio.sleep(1 / NEW_PER_S)
        return began


async def _meet(work: Work, sessions: int) -> dict[str, float]:
    """When the first message of each session was in the worker's hands."""
    met: dict[str, float] = {}

    async def first_message(session: WorkSession) -> None:
        async for item in session:
            if isinstance(item, Message):
                met[session.session] = time.monotonic()
                return

    with suppress(TimeoutError):
        async with asyncio.timeout(TIMEOUT_S), asyncio.TaskGroup() as readers:
            for _ in range(sessions):
                readers.create_task(first_message(await anext(work)))
    return met


def _figures(waited_s: list[float], sessions: int) -> dict[str, float]:
    ordered = sorted(waited_s)
    if not ordered:
        return {"lost": float(sessions)}
    return {
        "waited_p50_ms": ordered[len(ordered) // 2] * 1000,
        "waited_p99_ms": ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))] * 1000,
        "lost": float(sessions - len(ordered)),
    }


def _described(values: dict[str, float]) -> str:
    return f"p50 {values.get('waited_p50_ms', 0.0):.1f} p99 {values.get('waited_p99_ms', 0.0):.1f} ms"
