"""A publisher of telemetry: it asks to be told that each was taken, and sends nothing twice."""

import asyncio
import random
from collections.abc import Sequence

from msgspec import Raw
from tests.system.history import Answer, Attempt, History, Outcome
from tests.system.lines import Edges, Line

from heliograph.core.messages import AckMode, MessageClass
from heliograph.protocol.codes import CODES
from heliograph.protocol.frames import Hello, Publish, Published, Refused

WINDOW = 256
"""Unanswered at most: telemetry is not throttled by its answers, but a hung line must not gather it."""


class TelemetryPublisher:
    """Publishes telemetry to its sessions at a pace, over one line at a time."""

    def __init__(
        self,
        record: History,
        name: str,
        edges: Sequence[str],
        token: str,
        sessions: Sequence[str],
        *,
        per_s: float = 25.0,
        payload_bytes: int = 0,
        first_edge: int = 0,
        seed: int = 0,
    ) -> None:
        self.name = name
        self.sessions = list(sessions)
        self.answered = 0
        self.settled = 0
        """The same: nothing more is due to telemetry than an answer."""
        self.refusals: dict[str, int] = {}
        self.per_s = per_s
        self._record = record
        self._edges = Edges(edges, first_edge, seed)
        self._token = token
        self._filling = "x" * payload_bytes
        self._random = random.Random(seed)
        self._under_way: dict[int, Attempt] = {}
        self._attempts: dict[int, Attempt] = {}
        self._lines = 0
        self._resting = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    def rest(self) -> None:
        self._resting = True

    @property
    def at_rest(self) -> bool:
        return self._resting and not self._under_way

    @property
    def state(self) -> str:
        return f"{self._lines} lines, {len(self._under_way)} under way"

    def check_alive(self) -> None:
        if self._task is not None and self._task.done() and not self._task.cancelled():
            self._task.result()

    def forget(self, lost: set[str]) -> None:
        """It waits for nothing that a live store could lose."""

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self.check_alive()

    async def _run(self) -> None:
        await self._edges.keep(self._name, self._hello, self._read, write=self._write, parted=self._parted)

    def _parted(self, line: Line) -> None:
        if self._under_way:
            self._record.ended.add(line.name)
        self._under_way.clear()

    def _hello(self) -> Hello:
        return Hello(token=self._token, producer=self.name)

    def _name(self) -> str:
        self._lines += 1
        return f"{self.name}#{self._lines}"

    async def _write(self, line: Line) -> None:
        while not self._resting:
            if line.leave_after_ms is None and len(self._under_way) < WINDOW:
                await self._send(line)
            await asyncio.sleep(self._random.uniform(0.5, 1.5) / self.per_s)

    async def _send(self, line: Line) -> None:
        number = len(self._attempts) + 1
        session = self._random.choice(self.sessions)
        key = f"{self.name}/{session}/{number}"
        content = f'{{"key":"{key}"' + (f',"filling":"{self._filling}"' if self._filling else "") + "}"
        attempt = Attempt(
            self._record.now(),
            line.name,
            session,
            MessageClass.TELEMETRY,
            content.encode(),
            key,
            AckMode.ACCEPTED,
            self.name,
        )
        self._record.attempts.append(attempt)
        self._under_way[number] = self._attempts[number] = attempt
        await line.send(
            Publish(session, Raw(attempt.content), id=number, class_=MessageClass.TELEMETRY, ack=AckMode.ACCEPTED)
        )

    async def _read(self, line: Line) -> None:
        """Until the server asks to go elsewhere, and what is under way is answered."""
        self._record.edges[line.name] = line.url
        async for _, frame in line.frames():
            if isinstance(frame, Published):
                self._answer(frame.id, Answer(self._record.now(), Outcome.ACCEPTED, None, frame.message_id))
            elif isinstance(frame, Refused):
                assert CODES[frame.code].retry, f"{self.name}: {frame}"
                self.refusals[frame.code] = self.refusals.get(frame.code, 0) + 1
                self._answer(frame.id, Answer(self._record.now(), Outcome.REFUSED, code=frame.code))
            if line.leave_after_ms is not None and not self._under_way:
                return

    def _answer(self, request_id: int | None, answer: Answer) -> None:
        assert request_id is not None, answer
        self._attempts[request_id].answers.append(answer)
        if self._under_way.pop(request_id, None) is not None:
            self.answered += 1
            self.settled += 1
