"""Hundreds who wait for a session's first message lose their edge: they come back, and need no history for it."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import msgspec
import pytest
from tests.system.lines import FALLEN, Line
from tests.system.rig import Rig, until

from heliograph.client import Client, Message
from heliograph.core.positions import Position
from heliograph.local.services import ServiceProcess
from heliograph.protocol.frames import LATEST, Hello, MessageFrame, Publish, Published, Subscribe, Subscribed

pytestmark = pytest.mark.xdist_group("system-services")

LINES, SESSIONS_EACH = 20, 20
SDK_CLIENTS = 20


class Waiting:
    """One line that follows some sessions, and comes back to where it was told to be in each."""

    def __init__(self, token: str, sessions: Sequence[str]) -> None:
        self.places = dict.fromkeys(sessions, LATEST)
        self.told: set[str] = set()
        self.first: dict[str, int] = {}
        """The seq of each session's first message."""
        self.amiss: list[object] = []
        """Gaps, epochs, refusals, and answers that say that not everything could be had."""
        self._token = token
        self._line: Line | None = None
        self._reading: asyncio.Task[None] | None = None

    async def come(self, edge: ServiceProcess) -> None:
        self.told = set()
        line = self._line = await Line.open(edge.url, "waiting", Hello(token=self._token))
        for session, place in self.places.items():
            await line.send(Subscribe(session, start=place))
        self._reading = asyncio.create_task(self._read(line))

    @property
    def is_there(self) -> bool:
        return len(self.told) == len(self.places)

    async def leave(self) -> None:
        assert self._line is not None
        assert self._reading is not None
        self._line.abort()
        await self._reading

    async def _read(self, line: Line) -> None:
        with suppress(*FALLEN):
            async for _, frame in line.frames():
                if isinstance(frame, Subscribed) and frame.recovered:
                    self.told.add(frame.session)
                    self.places[frame.session] = frame.position
                elif isinstance(frame, MessageFrame) and frame.position is not None:
                    self.first.setdefault(frame.session, Position.parse(frame.position).seq)
                else:
                    self.amiss.append(frame)


class SdkWaiting:
    """A client of the SDK that follows one session."""

    def __init__(self, edges: Sequence[ServiceProcess], token: str, session: str) -> None:
        self.items: list[object] = []
        self._client = Client([edge.url for edge in edges], token=token)
        self._session = session

    async def come(self) -> None:
        await self._client.connect()
        self._subscription = self._client.subscribe(self._session)
        await self._subscription.ready()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for item in self._subscription:
            self.items.append(item)

    async def leave(self) -> None:
        self._reading.cancel()
        await asyncio.wait([self._reading])
        await self._client.close()


def log_reads(rig: Rig, edge: ServiceProcess) -> float:
    return rig.metric(edge, "heliograph_edge_history_reads_total", 'source="log"')


async def test_who_waits_for_a_first_message_comes_back_without_the_log(rig: Rig) -> None:
    """Replay is away all the time: who asked it would wait, and be told that not everything could be had."""
    dying, staying = rig.stack.edges
    token = rig.token()
    for replay in rig.stack.replays:
        await rig.kill(replay)
    crowd = [Waiting(token, rig.sessions(SESSIONS_EACH)) for _ in range(LINES)]
    own = {session: SdkWaiting([dying, staying], token, session) for session in rig.sessions(SDK_CLIENTS)}
    for one in crowd:
        await one.come(dying)
    for client in own.values():
        await client.come()
    await until("all are there", lambda: all(one.is_there for one in crowd))
    sessions = [*(session for one in crowd for session in one.places), *own]
    asked = log_reads(rig, staying)

    await rig.kill(dying)
    for one in crowd:
        await one.leave()
    writer = await Line.open(staying.url, "writer", Hello(token=token))

    async def publish(to: Sequence[str]) -> None:
        for session in to:
            assert isinstance(await writer.ask(Publish(session, msgspec.Raw(b"1"), id=1)), Published)

    await publish(sessions[::2])  # their first message comes while nobody is there
    for one in crowd:
        await one.come(staying)
    await until("all are back", lambda: all(one.is_there for one in crowd))
    await publish(sessions[1::2])
    await until("each has its first message", lambda: all(len(one.first) == len(one.places) for one in crowd))
    await until("the SDK's have theirs", lambda: all(client.items for client in own.values()))

    assert log_reads(rig, staying) == asked
    for one in crowd:
        assert one.amiss == []
        assert set(one.first.values()) == {1}
        await one.leave()
    for client in own.values():
        assert all(isinstance(item, Message) for item in client.items), client.items
        await client.leave()
    await writer.close()
