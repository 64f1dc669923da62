"""Workers on a rig: real processes that serve, publishers that keep them busy, and the judgement.

async with serving(rig, sessions=…, workers=…) as run:
    await run.publish(3)          # so many messages more for every session
    run.kill_one()                # hurt it
    await run.all_handled()
# here everything was handled, and was judged
"""

import asyncio
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.system import working
from tests.system.lease_rules import Event, repeats, violations
from tests.system.rig import Rig
from tests.system.sdk import SETTINGS

from heliograph.client import Client

PUBLISHERS = 2
AT_ONCE = 100
"""Publishes under way."""


class Serving:
    """One run."""

    def __init__(self, rig: Rig, sessions: int, capacity: int, work_s: float, idle_s: float) -> None:
        self.rig = rig
        self.agent_type = f"w{secrets.token_hex(4)}"
        self.sessions = [rig.session(agent_type=self.agent_type) for _ in range(sessions)]
        self.published: defaultdict[str, list[str]] = defaultdict(list)
        self.workers: dict[str, int] = {}
        """Those that live: name → pid."""
        self.out_of_touch: set[str] = set()
        self._capacity = capacity
        self._work_s = work_s
        self._idle_s = idle_s
        self._directory = rig.directory / self.agent_type
        self._directory.mkdir()
        self._nursery = subprocess.Popen(
            [sys.executable, working.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._clients: list[Client] = []
        self._room = asyncio.Semaphore(AT_ONCE)
        self._started = 0

    # ---- workers ----------------------------------------------------------------------------------------------------

    def start_worker(self, edge: int | None = None, *, silent_heartbeats: float = 2.5) -> str:
        """Its name. `edge`: the only one that it knows; None: both, in turn."""
        self._started += 1
        name = f"w{self._started}"
        edges = self.rig.edges
        chosen = [edges[edge]] if edge is not None else edges[self._started % 2 :] + edges[: self._started % 2]
        options = {
            "edges": chosen,
            "token": self.rig.token(subject=name),
            "agent_type": self.agent_type,
            "capacity": self._capacity,
            "work_s": self._work_s,
            "idle_s": self._idle_s,
            "silent_heartbeats": silent_heartbeats,
            "out": str(self._directory / f"{name}.events"),
        }
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        self._nursery.stdin.write(json.dumps(options) + "\n")
        self._nursery.stdin.flush()
        self.workers[name] = int(self._nursery.stdout.readline())
        return name

    def kill_one(self) -> str:
        """kill -9 of a worker."""
        name = random.choice(list(self.workers))
        os.kill(self.workers.pop(name), signal.SIGKILL)
        return name

    def events(self) -> list[Event]:
        """What workers have told."""
        found = []
        for path in self._directory.glob("*.events"):
            for line in path.read_text().splitlines():
                at_s, what, session, lease, position, reason = json.loads(line)
                found.append(Event(at_s, path.stem, what, session, lease, position, reason))
        return found

    def told(self, worker: str, what: str) -> list[Event]:
        """Events of one kind of one worker."""
        return [event for event in self.events() if (event.worker, event.what) == (worker, what)]

    # ---- publishing -------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        for number in range(PUBLISHERS):
            client = Client(self.rig.edges, token=self.rig.token(subject=f"p{number}"), settings=SETTINGS, proxy=None)
            await client.connect()
            self._clients.append(client)

    async def publish(self, messages: int = 1) -> None:
        """So many messages for every session, each session's in order."""
        sessions = random.sample(self.sessions, len(self.sessions))
        await asyncio.gather(*(self._publish(number, one, messages) for number, one in enumerate(sessions)))

    async def _publish(self, number: int, session: str, messages: int) -> None:
        for _ in range(messages):
            async with self._room:
                receipt = await self._clients[number % PUBLISHERS].publish(session, {"n": len(self.published[session])})
            assert receipt.position is not None
            self.published[session].append(receipt.position)

    # ---- the end ----------------------------------------------------------------------------------------------------

    async def all_handled(self, timeout_s: float = 120.0) -> None:
        """Return when every published message was handled."""
        deadline = time.monotonic() + timeout_s
        while True:
            handled = {(event.session, event.position) for event in self.events() if event.what == "handled"}
            wanted = {(session, one) for session, positions in self.published.items() for one in positions}
            missing = wanted - handled
            if not missing:
                return
            shown = sorted(missing)[:3]
            assert time.monotonic() < deadline, f"{len(missing)} of {len(wanted)} not handled, among them {shown}"
            await asyncio.sleep(0.2)

    def judge(self) -> None:
        events = self.events()
        found = violations(self.published, events, out_of_touch=self.out_of_touch)
        leases = len({(event.session, event.lease) for event in events})
        summary = f"{sum(map(len, self.published.values()))} messages, {leases} leases, {repeats(events)} repeats"
        print(f"\n{summary}")
        assert not found, f"{len(found)} violations; {summary}\n" + "\n".join(found[:20])

    async def end(self) -> None:
        for pid in self.workers.values():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert self._nursery.stdin is not None
        self._nursery.stdin.close()
        await asyncio.to_thread(self._nursery.wait)
        assert self._nursery.stdout is not None
        self._nursery.stdout.close()
        await asyncio.gather(*(client.close(timeout=1.0) for client in self._clients))


@asynccontextmanager
async def serving(
    rig: Rig,
    *,
    sessions: int,
    workers: int,
    capacity: int | None = None,
    work_s: float = 0.002,
    idle_s: float = 5.0,
) -> AsyncIterator[Serving]:
    """A run with so many sessions and workers, whose capacity is a fifth more than needed unless given."""
    run = Serving(rig, sessions, capacity or -(-sessions * 6 // (workers * 5)), work_s, idle_s)
    try:
        await run.start()
        for _ in range(workers):
            run.start_worker()
        yield run
        await run.all_handled()
        run.judge()
    finally:
        await run.end()


def logs_of(directory: Path) -> str:
    """What workers wrote to their error output, for whoever debugs."""
    return "\n".join(path.read_text() for path in sorted(directory.glob("*.log")))
