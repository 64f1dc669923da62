"""Agents that are there, and keep what they are told of each other: each a raw line that hears everything."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Self, TypeVar

from tests.system.lines import FALLEN, Line
from tests.system.rig import Rig

from heliograph.protocol.frames import Hello, Presence, ServerFrame, Subscribed, Subscription, Unsubscribe

DEADLINE_S = 60.0
PATIENT_S = 300.0
"""Unlike the SDK it does not leave an edge that falls silent: what an edge owes those who stay is asked here."""

T = TypeVar("T")


class Attender:
    """One agent, subscribed to sessions."""

    def __init__(self, line: Line, subject: str) -> None:
        self.line = line
        self.subject = subject
        self.frames: list[ServerFrame] = []
        self._changed = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def come(
        cls, rig: Rig, url: str, subject: str, *sessions: str, agent: str | None = None, presence: bool = False
    ) -> Self:
        """Connected, and each subscription answered."""
        hello = Hello(
            token=rig.token(subject=subject),
            agent=agent,
            subscriptions=[Subscription(session, presence=presence) for session in sessions],
        )
        line = await Line.open(url, subject, hello)
        line._silent_s = PATIENT_S
        found = cls(line, subject)
        await found.until(lambda: len(found.of(Subscribed)) == len(sessions), "its subscriptions")
        return found

    @property
    def connection(self) -> str:
        return self.line.welcome.connection

    @property
    def gone(self) -> bool:
        """Its connection ended."""
        return self._reader.done()

    async def _read(self) -> None:
        try:
            with suppress(*FALLEN):
                async for _, frame in self.line.frames():
                    self.frames.append(frame)
                    self._changed.set()
        finally:
            self._changed.set()

    def of(self, kind: type[T]) -> list[T]:
        return [frame for frame in self.frames if isinstance(frame, kind)]

    def told(self, event: str, reason: str | None = None) -> list[Presence]:
        """Joins or leaves that it was told of."""
        return [one for one in self.of(Presence) if one.event == event and one.reason == reason]

    async def until(self, state: Callable[[], bool], what: str) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not state():
                assert not self.gone, f"{self.subject}'s connection ended before {what}"
                self._changed.clear()
                await self._changed.wait()

    async def hears(self, count: int, event: str, reason: str | None = None) -> list[Presence]:
        """So many joins or leaves, once it was told of them."""
        await self.until(lambda: len(self.told(event, reason)) >= count, f"{count} × {event} {reason or ''}")
        return self.told(event, reason)

    async def leave(self, session: str) -> None:
        await self.line.send(Unsubscribe(session))

    async def close(self) -> None:
        await self.line.close()
        await asyncio.gather(self._reader, return_exceptions=True)
