"""The plot: who connects when, what goes wrong in the middle, and what is noted of it.

Agents are never told: they use the SDK and know nothing of edges.
"""

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from itertools import cycle

from heliograph.client import ClientState, DurabilityUnknown, Message
from heliograph.local.demo import agents
from heliograph.local.demo.reading_back import from_kafka, through_replay
from heliograph.local.demo.recording import RecordedClient
from heliograph.local.demo.stage import Stage
from heliograph.local.demo.telling import Teller
from heliograph.local.demo.verdict import Evidence

PHONE_LEAVES, KILL, PHONE_RETURNS = 0.25, 0.4, 0.65
"""When, as shares of the run."""
WAIT_S = 45.0
"""For what must come: far longer than the router waits before it writes for a dead edge."""
POLL_S = 0.02

AUDITOR, ADA, PHONE, PLANNER, SEARCH, CALCULATOR = "auditor", "ada", "ada's phone", "planner", "search", "calculator"

_RECONCILED = re.compile(r"^heliograph_(?:router_)?reconciled_total(?:\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE)


class DemoError(Exception):
    """The demo could not be played to its end; the text says why."""


class Play:
    """One performance on a stage."""

    def __init__(self, stage: Stage, seconds: float, tell: Teller) -> None:
        self._stage = stage
        self._seconds = seconds
        self._tell = tell
        self._inbox = {
            ADA: stage.session("person", "ada"),
            PLANNER: stage.session("planner", "sunlight"),
            SEARCH: stage.session("search", "sunlight"),
            CALCULATOR: stage.session("calculator", "sunlight"),
        }
        self._clients: list[RecordedClient] = []
        self._evidence = Evidence(auditor=AUDITOR)
        self._places: dict[str, str] = {}
        self._stranded: list[str] = []
        self._word_in_the_air = asyncio.Event()
        self._over = False

    async def perform(self) -> Evidence:
        """From beginning to end, then read back what the log has. Raises DemoError, and groups of what agents raise."""
        self._began_s = time.monotonic()
        async with AsyncExitStack() as house:
            auditor = await self._connect(house, AUDITOR)
            cast = {name: await self._connect(house, name) for name in self._inbox}
            self._tell.connected({client.name: self._edge_name(client) for client in self._clients})
            async with asyncio.TaskGroup() as group:
                acting = [group.create_task(_listen(auditor, session)) for session in self._inbox.values()]
                acting.append(group.create_task(agents.search(cast[SEARCH])))
                acting.append(group.create_task(agents.calculator(cast[CALCULATOR])))
                acting.append(group.create_task(agents.planner(cast[PLANNER])))
                asking = agents.person(cast[ADA], self._inbox[ADA], self._inbox[PLANNER], self._questions())
                asked = group.create_task(asking)
                acting.append(await self._plot(house, group))
                self._over = True
                await self._wait("Ada's last question is answered", asked.done)
                self._tell.settling(self._now_s())
                await self._settle()
                for task in acting:
                    task.cancel()
            self._note()
        await self._read_back()
        return self._evidence

    # ---- who is there ------------------------------------------------------------------------------------------------

    async def _connect(self, house: AsyncExitStack, name: str) -> RecordedClient:
        """A client that was given both edges."""
        token = self._stage.tenant.token(name.replace(" ", "-"))
        client = RecordedClient(
            name, self._stage.urls, token, on_message=self._on_message, on_change=self._on_change
        )  # fmt: skip
        self._clients.append(client)
        await house.enter_async_context(client)
        return client

    def _client(self, name: str) -> RecordedClient:
        """The newest of that name."""
        return next(client for client in reversed(self._clients) if client.name == name)

    def _edge_name(self, client: RecordedClient) -> str:
        edge = self._stage.edge_of(client.url)
        return edge.name if edge is not None else "no edge"

    def _questions(self) -> Iterator[str]:
        """What Ada asks, until it is over."""
        for number, place in enumerate(cycle(agents.DISTANCES_KM), start=1):
            if self._over:
                return
            self._places[agents.question_id(self._inbox[ADA], number)] = place
            yield place

    def _on_message(self, reader: str, message: Message) -> None:
        if reader == AUDITOR:
            if message.session == self._inbox[ADA] and "word" in message.data:
                self._word_in_the_air.set()
            self._tell.message(message, self._now_s())

    def _on_change(self, name: str, state: ClientState) -> None:
        if state is ClientState.CONNECTED and name in self._stranded:
            self._stranded.remove(name)
            self._evidence.moved = [*self._evidence.moved, name]
            self._tell.moved(name, self._edge_name(self._client(name)), self._now_s())

    def _now_s(self) -> float:
        return time.monotonic() - self._began_s

    # ---- what happens ------------------------------------------------------------------------------------------------

    async def _plot(self, house: AsyncExitStack, group: asyncio.TaskGroup) -> "asyncio.Task[None]":
        """Returns, at the end of the run, the task that listens on the phone."""
        phone = await self._connect(house, PHONE)
        listening = group.create_task(_listen(phone, self._inbox[ADA], "latest"))
        await self._at(PHONE_LEAVES)
        await self._wait("a message reaches the phone", lambda: bool(phone.readings[0].placed))
        listening.cancel()
        await phone.close()
        position, known, left_s = phone.readings[0].placed[-1][0], self._heard_for_ada(), self._now_s()
        self._tell.phone_left(position, left_s)
        await self._at(KILL)
        await self._kill()
        await self._at(PHONE_RETURNS)
        self._evidence.missed = self._heard_for_ada() - known
        self._evidence.away_s = self._now_s() - left_s
        self._evidence.resumed_from = position
        phone = await self._connect(house, PHONE)
        self._tell.phone_returned(self._evidence.missed, self._edge_name(phone), self._now_s())
        listening = group.create_task(_listen(phone, self._inbox[ADA], position))
        await self._at(1.0)
        return listening

    async def _at(self, share: float) -> None:
        await asyncio.sleep(max(0.0, share * self._seconds - self._now_s()))

    async def _kill(self) -> None:
        """The planner's edge, while the planner is in the middle of a sentence."""
        self._word_in_the_air.clear()
        await self._wait("the planner says something", self._word_in_the_air.is_set)
        edge = self._stage.edge_of(self._client(PLANNER).url) or self._stage.edges[0]
        self._stranded = [client.name for client in self._clients if self._stage.edge_of(client.url) is edge]
        self._evidence.killed = edge.name
        self._tell.killed(edge.name, list(self._stranded), self._now_s())
        await asyncio.to_thread(edge.kill)

    def _heard_for_ada(self) -> int:
        """How many messages of Ada's session the auditor has."""
        readings = self._client(AUDITOR).readings
        return sum(len(reading.placed) for reading in readings if reading.session == self._inbox[ADA])

    # ---- when it is over ---------------------------------------------------------------------------------------------

    async def _wait(self, what: str, holds: Callable[[], bool]) -> None:
        """Return when it holds. Raises DemoError where it does not come to be."""
        deadline_s = time.monotonic() + WAIT_S
        while not holds():
            if time.monotonic() >= deadline_s:
                raise DemoError(f"waited {WAIT_S:g} s in vain until {what}")
            await asyncio.sleep(POLL_S)

    async def _settle(self) -> None:
        """Return when all that was published is durable and has reached those who listen."""
        calls = [call for client in self._clients for call in client.calls]
        await self._wait("every publish is answered", lambda: all(call.is_over for call in calls))
        heads: dict[str, str] = {}
        for call in calls:
            if call.receipt is None or call.receipt.position is None:
                continue
            heads[call.session] = max(heads.get(call.session, ""), call.receipt.position)
            try:
                await call.receipt.durable(timeout=WAIT_S)
            except DurabilityUnknown as unknown:
                raise DemoError(unknown.message) from None
        readings = [*self._client(AUDITOR).readings, *self._client(PHONE).readings]
        for reading in readings:
            reading.complete = True
        await self._wait(
            "everything has reached the auditor and the phone",
            lambda: all(reading.placed and reading.placed[-1][0] >= heads[reading.session] for reading in readings),
        )

    def _note(self) -> None:
        evidence = self._evidence
        evidence.took_s = self._now_s()
        seen = {
            (reading.session, message.message_id): message.position
            for reading in self._client(AUDITOR).readings
            for message in reading.messages
        }
        calls = [call for client in self._clients for call in client.calls]
        found = [call.published(seen) for call in calls]
        evidence.published = [one for one in found if one is not None]
        evidence.readings = [reading for client in self._clients for reading in client.readings]
        for reading in evidence.readings:
            reading.live = reading.after is None
        evidence.clients = {f"{number} {c.name}": c.counters() for number, c in enumerate(self._clients, start=1)}
        evidence.expected = {question: agents.answer_about(place) for question, place in self._places.items()}
        evidence.questions = evidence.repeats = len(self._places)
        evidence.answers = self._client(ADA).answers
        rewritten = _RECONCILED.search(self._stage.stack.routers[0].metrics())
        evidence.rewritten = int(float(rewritten[1])) if rewritten else 0

    async def _read_back(self) -> None:
        stage = self._stage
        self._tell.reading_back()
        self._evidence.kafka = await asyncio.to_thread(from_kafka, stage.bootstrap_servers, stage.log_topic)
        sessions = list(self._inbox.values())
        token = stage.tenant.token(AUDITOR)
        self._evidence.replay = await through_replay(stage.replay_url, token, sessions)


async def _listen(client: RecordedClient, session: str, start: str = "earliest") -> None:
    """Take what comes; noting it is the client's."""
    async for _ in client.subscribe(session, start):
        pass
