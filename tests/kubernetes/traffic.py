"""Agents outside the cluster: pairs of a publisher and a subscriber through the SDK, and what each is owed.

Every pair has a session of its own and two connections. What an agent can notice of an operation on the cluster is what
these notice: an error that the SDK did not heal, a message that was acknowledged and did not come, came twice or out of
its place, a gap; and afterwards, a history that is not what was delivered.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
from tests.kubernetes.installation import Installation

from heliograph.cli.history import NDJSON, read_history
from heliograph.client import Client, ClientSettings, Gap, Message
from heliograph.core.backoff import BackoffPolicy

SETTINGS = ClientSettings(
    connect_timeout_s=60.0,
    open_timeout_s=10.0,
    retry_for_s=120.0,
    reconnect=BackoffPolicy(base_s=0.1, cap_s=1.0, healthy_s=1.0),
)
SETTLE_S = 90.0
"""Until everything published is durable and delivered, after the cluster is whole again."""


@dataclass
class Pair:
    """One session, who publishes to it and who listens."""

    session: str
    published: dict[int, str] = field(default_factory=dict)
    """Number → position that it was acknowledged with."""
    delivered: list[tuple[int, str]] = field(default_factory=list)
    """Number and position, in the order they came."""
    gaps: list[Gap] = field(default_factory=list)


class Traffic:
    """`pairs` sessions, each published to `per_s` times a second, until it is stopped."""

    def __init__(self, url: str, tenant: str, token: str, *, pairs: int, per_s: float) -> None:
        self.pairs = [Pair(f"{tenant}:planner:{secrets.token_hex(5)}") for _ in range(pairs)]
        self.errors: list[BaseException] = []
        self.reconnects = 0
        self._url = url
        self._token = token
        self._interval_s = 1 / per_s
        self._tasks: list[asyncio.Task[None]] = []
        self._clients: list[Client] = []
        self._resting = asyncio.Event()

    async def start(self) -> None:
        """All connected and subscribed, publishing."""
        self._clients = [
            Client(self._url, token=self._token, settings=SETTINGS, proxy=None) for _ in range(2 * len(self.pairs))
        ]
        for begin in range(0, len(self._clients), 20):
            await asyncio.gather(*(client.connect() for client in self._clients[begin : begin + 20]))
        for pair, publisher, subscriber in zip(self.pairs, self._clients[::2], self._clients[1::2], strict=True):
            self._tasks.append(asyncio.create_task(self._listen(pair, subscriber)))
            self._tasks.append(asyncio.create_task(self._publish(pair, publisher)))

    async def stop(self) -> None:
        """Publish no more, wait until all that was acknowledged has come, and close."""
        self._resting.set()
        publishers = self._tasks[1::2]
        await asyncio.gather(*publishers)
        deadline = time.monotonic() + SETTLE_S
        while any(len(pair.delivered) < len(pair.published) for pair in self.pairs) and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        self.reconnects = sum(client.stats.connections - 1 for client in self._clients)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(client.close() for client in self._clients))

    async def grow(self, timeout_s: float = 60.0) -> None:
        """Return once every pair has published another one, or about so many; or one has got an error."""
        wanted = self.published + len(self.pairs)
        async with asyncio.timeout(timeout_s):
            while self.published <= wanted and not self.errors:
                await asyncio.sleep(0.05)

    async def heard(self, timeout_s: float = 90.0) -> None:
        """Return once everybody listens. Who begins from the first message while replay has no time for it is told of a
        gap: on a busy machine, and before anything was done here.
        """
        async with asyncio.timeout(timeout_s):
            while not all(pair.delivered for pair in self.pairs) and not self.errors:
                await asyncio.sleep(0.05)
        for pair in self.pairs:
            pair.gaps.clear()

    @property
    def published(self) -> int:
        return sum(len(pair.published) for pair in self.pairs)

    def faults(self) -> list[str]:
        """What an agent would have noticed; empty when nothing."""
        found = [f"error: {type(error).__name__}: {error}" for error in self.errors]
        for pair in self.pairs:
            came, positions = [number for number, _ in pair.delivered], [position for _, position in pair.delivered]
            lost = sorted(pair.published.keys() - set(came))
            wrong = [number for number, position in pair.delivered if pair.published.get(number, position) != position]
            found += [f"{pair.session}: lost {lost[:5]} of {len(pair.published)}"] if lost else []
            found += [f"{pair.session}: delivered twice"] if len(set(came)) < len(came) else []
            found += [f"{pair.session}: out of order"] if positions != sorted(positions) else []
            found += [f"{pair.session}: {wrong[:5]} came at another position than acknowledged"] if wrong else []
            found += [f"{pair.session}: gap {gap}" for gap in pair.gaps]
        return found

    async def history_faults(self, replay_url: str, sessions: int | None = None) -> list[str]:
        """Where the log, read through replay, differs from what was delivered."""
        found = []
        headers = {"Authorization": f"Bearer {self._token}", "Accept": NDJSON}
        async with httpx.AsyncClient(base_url=replay_url, headers=headers, trust_env=False, timeout=30.0) as http:
            for pair in self.pairs[:sessions]:
                path = f"/v1/history/{pair.session.replace(':', '/')}"
                read = [item async for item in read_history(http, path, {}, None)]
                messages = [(item.data["n"], item.position) for item in read if isinstance(item, Message)]
                if messages != pair.delivered:
                    found.append(f"{pair.session}: {len(messages)} in the log, {len(pair.delivered)} delivered")
        return found

    async def _publish(self, pair: Pair, client: Client) -> None:
        number = 0
        try:
            while not self._resting.is_set():
                number += 1
                receipt = await client.publish(pair.session, {"n": number})
                await receipt.durable(timeout=SETTLE_S)
                assert receipt.position is not None, receipt
                pair.published[number] = receipt.position
                await _pause(self._resting, self._interval_s)
        except Exception as error:  # noqa: BLE001 - whatever an agent would have got is what the test is about
            self.errors.append(error)

    async def _listen(self, pair: Pair, client: Client) -> None:
        try:
            async for item in client.subscribe(pair.session, "earliest"):
                if isinstance(item, Message):
                    assert item.position is not None
                    pair.delivered.append((item.data["n"], item.position))
                else:
                    pair.gaps.append(item)
        except Exception as error:  # noqa: BLE001 - as above
            self.errors.append(error)


@asynccontextmanager
async def nothing_lost(traffic: Traffic, installation: Installation, sessions: int = 10) -> AsyncIterator[None]:
    """Whatever happens inside, no agent notices; and the log has, of so many sessions, what was delivered."""
    await traffic.start()
    await traffic.grow()
    await traffic.heard()
    yield
    await asyncio.to_thread(installation.wait_ready)
    await traffic.grow()
    await traffic.stop()
    assert not traffic.faults(), shown(traffic.faults())
    differences = await traffic.history_faults(installation.url("replay"), sessions)
    assert not differences, shown(differences)


async def _pause(event: asyncio.Event, seconds: float) -> None:
    """`seconds`, or until the event."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def shown(faults: Sequence[str]) -> str:
    return "\n".join(faults[:20])
