"""Clients of our SDK in a process of their own: as many as fit, to see that what holds for lean ones holds for them."""

import asyncio
import time
from collections.abc import Callable, Sequence

from heliograph.client import Client, ClientSettings, ClientState, Gap, Message, Subscription
from heliograph.local.bench.storms.party import LOOK_S, RETURN_POLICY, Accounts
from heliograph.local.bench.storms.streams import Read

OPEN_TIMEOUT_S = 60.0


class SdkParty:
    """One client for each session, that reads it. An actor's handler."""

    def __init__(self, addresses: tuple[str, ...], token: str, sessions: Sequence[str]) -> None:
        self._readers = [SdkReader(addresses, token, session) for session in sessions]

    async def open(self) -> None:
        for reader in self._readers:
            await reader.open()

    async def wait_up_again(self, wanted: int, timeout_s: float) -> int:
        """How many have lost their connection and have another, as soon as it is `wanted`, or when time is over."""
        deadline = time.monotonic() + timeout_s
        while (up := sum(bool(one.back_ns) for one in self._readers)) < wanted:
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(LOOK_S)
        return up

    async def resumed_ns(self) -> list[int]:
        return [one.back_ns for one in self._readers if one.back_ns]

    async def wait_read(self, wanted: dict[str, int], timeout_s: float) -> tuple[bool, int]:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if all(one.last >= wanted.get(one.session, 0) for one in self._readers):
                return True, time.monotonic_ns()
            await asyncio.sleep(LOOK_S)
        return False, time.monotonic_ns()

    async def accounts(self) -> Accounts:
        return Accounts((), tuple(reader.account() for reader in self._readers), ())

    async def close(self) -> None:
        await asyncio.gather(*(reader.close() for reader in self._readers))


class SdkReader:
    """One client and what it saw."""

    def __init__(self, addresses: tuple[str, ...], token: str, session: str) -> None:
        self.session = session
        self.back_ns = 0
        """When it was subscribed for the second time; 0 before."""
        self.last = 0
        self._connected = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._seen: set[int] = set()
        self._repeated = self._late = self._gaps = 0
        settings = ClientSettings(reconnect=RETURN_POLICY, connect_timeout_s=OPEN_TIMEOUT_S)
        self._make: Callable[[], Client] = lambda: Client(
            addresses, token=token, settings=settings, proxy=None, on_state=self._on_state
        )
        self._client: Client | None = None
        self._subscription: Subscription | None = None

    async def open(self) -> None:
        self._client = self._make()
        await self._client.connect()
        self._subscription = self._client.subscribe(self.session)
        await self._subscription.ready()
        self._keep(asyncio.create_task(self._read(self._subscription)))

    async def _read(self, subscription: Subscription) -> None:
        async for item in subscription:
            if isinstance(item, Gap):
                self._gaps += 1
            elif isinstance(item, Message):
                number = int(item.data["n"])
                if number in self._seen:
                    self._repeated += 1
                    continue
                self._late += number < self.last
                self.last = max(self.last, number)
                self._seen.add(number)

    def _on_state(self, state: ClientState, _why: str) -> None:
        if state is ClientState.CONNECTED:
            self._connected += 1
            if self._connected == 2:
                self._keep(asyncio.create_task(self._back()))

    async def _back(self) -> None:
        assert self._subscription is not None
        await self._subscription.ready()
        self.back_ns = time.monotonic_ns()

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def account(self) -> Read:
        missing = self.last - len(self._seen)
        return Read(self.session, self.last, len(self._seen), self._repeated, missing, self._late, self._gaps, 0)

    async def close(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.close(timeout=0)
