"""`heliograph tail --consumer … --from cursor` as a process that is killed: its printed lines are what it handled."""

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.system.history import LIFE, AckSent, CursorRead, Delivered, GapTold, History, Subscribed
from tests.system.views import BEFORE_ALL

from heliograph.core.positions import Position
from heliograph.protocol.frames import CURSOR, Gap, MessageFrame, decode_server_frame
from heliograph.stores.keys import client_consumer
from heliograph.stores.ports import LiveStore


class Tail:
    """One consumer of one session, over any number of processes, one at a time."""

    def __init__(self, record: History, name: str, edges: Sequence[str], token: str, session: str) -> None:
        """`name` is the token's subject as well."""
        self.name = name
        self.session = session
        self.lives = 0
        self._record = record
        self._command = [sys.executable, "-m", "heliograph.cli", "tail", session, "--url", ",".join(edges), "--json"]
        self._command += ["--consumer", name, "--from", "cursor", "--connect-timeout", "60"]
        self._environment = {"PATH": os.environ["PATH"], "HOME": str(Path.home()), "HELIOGRAPH_TOKEN": token}
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._last = ""

    @property
    def last(self) -> str:
        """The last position that its present process printed; empty before there is one."""
        return self._last

    async def start(self) -> None:
        self.lives += 1
        self._last = ""
        view = self._record.view(f"{self.name}{LIFE}{self.lives}", self.session)
        view.silent_epochs = True
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, env=self._environment
        )
        self._reading = asyncio.create_task(self._read(self._process))

    async def kill(self, live: LiveStore | None = None) -> None:
        """SIGKILL; all that it had printed is read, and then (with `live`) its cursor."""
        if self._process is None or self._reading is None:
            return
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._reading
        self._process = self._reading = None
        self._record.view(f"{self.name}{LIFE}{self.lives}", self.session).to_the_end = False
        if live is not None:
            (found,) = await live.cursors(self.session, [client_consumer(self.name, self.name)])
            read = CursorRead(self._record.now(), self.name, self.session, str(found) if found else None)
            self._record.cursors.append(read)

    async def end(self) -> None:
        """The end, at rest: what its last process printed is all there is."""
        await self.kill()
        self._record.view(f"{self.name}{LIFE}{self.lives}", self.session).to_the_end = True

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        connection = f"{self.name}#{self.lives}"
        self._record.ended.add(connection)  # its acks are its own affair: nobody here sees the answers
        sights = self._record.view(f"{self.name}{LIFE}{self.lives}", self.session).sights
        async for line in process.stdout:
            if not line.endswith(b"\n"):
                return  # it died in the middle of saying it
            now = self._record.now()
            frame = decode_server_frame(line)
            if isinstance(frame, MessageFrame) and frame.position is not None:
                if not sights:
                    self._begun(now, connection, Position.parse(frame.position))
                sights.append(Delivered(now, frame.position, frame.message_id, bytes(frame.payload)))
                self._done(now, connection, frame.position)
            elif isinstance(frame, Gap):
                sights.append(GapTold(now, frame.first, frame.last, frame.reason))
                if frame.last is not None:
                    self._done(now, connection, frame.last)

    def _begun(self, now: float, connection: str, first: Position) -> None:
        """Where it was put shows by what came first."""
        at = str(Position(first.epoch, first.seq - 1)) if first.seq > 1 else f"{BEFORE_ALL}-00000000-{0:016d}"
        view = self._record.view(f"{self.name}{LIFE}{self.lives}", self.session)
        view.sights.append(Subscribed(now, connection, CURSOR, at, recovered=True))

    def _done(self, now: float, connection: str, position: str) -> None:
        self._last = position
        self._record.cursors.append(AckSent(now, self.name, self.session, position, connection, len(self._last)))
