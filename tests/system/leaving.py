"""What leaving an installation takes: messages of every kind, the commands as processes that can be killed, and another
installation on the same Kafka to go to."""

import asyncio
import json
import os
import secrets
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from tests.system.replaying import path as history_path
from tests.system.rig import SETTINGS, Rig
from tests.system.sdk import SETTINGS as CLIENT_SETTINGS

from heliograph.cli.exporting.directory import ExportDirectory
from heliograph.cli.exporting.files import reader_of
from heliograph.client import Client
from heliograph.core.messages import MessageClass
from heliograph.local.providers import throwaway_redis
from heliograph.local.services import service_environment
from heliograph.local.stack import Stack
from heliograph.local.tenant import DevelopmentTenant
from heliograph.local.up import apply_tenant
from heliograph.protocol.exports import Verbatim, record_of
from heliograph.protocol.messages import FRAME_START
from heliograph.stores.keys import Topics
from heliograph.stores.ports import LogRecord

COMMAND_TIMEOUT_S = 120.0
POLL_S = 0.002


HELIOGRAPH = "from heliograph.cli.__main__ import main; main()"

KILLED_AT_RECORD = """
import os, signal, time
from heliograph.stores.kafka.writer import KafkaLogWriter

write, left = KafkaLogWriter.write, [{number}]

def killed(self, *arguments):
    write(self, *arguments)
    left[0] -= 1
    if left[0] == 0:
        time.sleep(1.0)  # the producer's threads send what they have
        os.kill(os.getpid(), signal.SIGKILL)

KafkaLogWriter.write = killed
"""
"""A process that writes to Kafka is killed in the middle of it: seen from outside it is too fast to be sure."""


class Command:
    """`heliograph …` as a process."""

    def __init__(self, variables: dict[str, str], *arguments: str, before: str = "") -> None:
        self._arguments = arguments
        self._variables = variables
        self._code = before + HELIOGRAPH
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> "Command":
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            self._code,
            *self._arguments,
            env=service_environment(self._variables) | {"NO_PROXY": "127.0.0.1"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        return self

    async def done(self) -> None:
        """Return when it ended well."""
        code, said = await self._ended()
        assert code == 0, said

    async def killed_once(self, state: Callable[[], bool]) -> None:
        """Kill it (-9) as soon as a state is reached; it must not have ended before."""
        assert self._process is not None
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            while not state() and self._process.returncode is None:
                await asyncio.sleep(POLL_S)
        assert self._process.returncode is None, (await self._ended())[1]
        self._process.kill()
        await self.was_killed()

    async def was_killed(self) -> None:
        code, said = await self._ended()
        assert code == -signal.SIGKILL, said

    async def _ended(self) -> tuple[int | None, str]:
        assert self._process is not None
        out, err = await asyncio.wait_for(self._process.communicate(), COMMAND_TIMEOUT_S)
        return self._process.returncode, out.decode() + err.decode()


async def publish_everything(client: Client, sessions: list[str], big: int) -> None:
    """Messages of every kind to each session: classes, payloads that are no JSON, texts of the whole of Unicode, and
    `big` of random bytes, so that there is something to be in the middle of."""
    texts = ["grüße", "日本語", "🌞\u200d🌊", '\u0000 \\ " \n', "x" * 200]

    async def one(session: str) -> None:
        await client.publish(session, {"n": 1, "text": texts}, correlation_id="ключ-1", event_type="com.example.né")
        await client.publish(session, "stop", cls=MessageClass.CONTROL, causation_id="m-0", reply_to=session)
        await client.publish(session, b"\x00\xff" * 50, content_type="application/octet-stream", id=f"own {session} é")
        for number in range(big):
            await client.publish(session, os.urandom(15_000), content_type="image/png", correlation_id=f"c{number}")
            await client.publish(session, [1.0, -0.0, 2**53, None, texts[number % len(texts)]])

    await asyncio.gather(*(one(session) for session in sessions))


async def history(url: str, token: str, session: str) -> list[bytes]:
    """The messages of a session as replay has them, byte for byte; nothing of it is missing."""
    frames: list[bytes] = []
    query, headers = {"format": "ndjson"}, {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(trust_env=False, timeout=20.0) as http, asyncio.timeout(COMMAND_TIMEOUT_S):
        while True:
            answer = await http.get(url + history_path(session), params=query, headers=headers)
            assert answer.status_code == 200, answer.text[:300]
            *lines, last = answer.content.splitlines()
            frames += [line for line in lines if line.startswith(FRAME_START)]
            assert b'{"type":"gap"' not in answer.content
            end = json.loads(last)
            if end["complete"]:
                return frames
            query |= {name: end[field] for name, field in (("after", "next"), ("resume", "resume")) if end[field]}
            await asyncio.sleep(0.1)  # an epoch settles


@asynccontextmanager
async def stalled(url: str, token: str) -> AsyncIterator[None]:
    """A reader that asks for an export, reads a line and then nothing more, and goes away at the end."""
    address = httpx.URL(url)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)  # else the kernel reads some megabytes
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, (address.host, address.port))
        reader, writer = await asyncio.open_connection(sock=connection, limit=1_024)
        writer.write(f"GET {address.path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n".encode())
        assert b"200 OK" in await reader.readline()
        yield
        writer.transport.abort()


def exported(directory: Path) -> list[tuple[str, int, int, Verbatim]]:
    """Topic, partition, offset and record of everything in an export, in its order."""
    export = ExportDirectory(directory)
    manifest = export.read()
    assert manifest is not None
    assert manifest.complete
    read = reader_of(manifest.format)
    lines = [line for file in manifest.files for batch in read(export.check(file)) for line in batch]
    return [(line.topic, line.partition, line.offset, record_of(line)) for line in lines]


def as_set(records: list[Verbatim]) -> Counter[str]:
    return Counter(map(repr, records))


def verbatim(records: list[LogRecord]) -> list[Verbatim]:
    return [Verbatim(one.key, one.value, one.headers) for one in records]


class Elsewhere:
    """Another installation."""

    def __init__(self, stack: Stack, tenant: DevelopmentTenant, prefix: str) -> None:
        self.stack = stack
        self.tenant = tenant
        self.topics = Topics(prefix)

    @property
    def variables(self) -> dict[str, str]:
        return {f"HELIOGRAPH_{name.upper()}": value for name, value in self.stack.settings.items()}

    @property
    def replay(self) -> str:
        return self.stack.replays[0].url

    def client(self) -> Client:
        return Client([edge.url for edge in self.stack.edges], token=self.tenant.token(), settings=CLIENT_SETTINGS)


@asynccontextmanager
async def elsewhere(rig: Rig, directory: Path, tenant: str) -> AsyncIterator[Elsewhere]:
    """Topics of its own on the rig's Kafka, a Redis of its own, one of each service, and the tenant with its own keys
    and another number of partitions."""
    with throwaway_redis(directory / "redis", appendonly=True) as redis:
        prefix = f"t{secrets.token_hex(4)}"
        stack = Stack(directory / "logs", rig.kafka, redis, settings={**SETTINGS, "topic_prefix": prefix})
        there = Elsewhere(
            stack, DevelopmentTenant(directory / "tenant", tenant, {"topics": {"log": {"partitions": 4}}}), prefix
        )
        try:
            await asyncio.to_thread(apply_tenant, there.tenant.write(), there.variables)
            for _ in stack.launch_services():
                pass
            await asyncio.to_thread(stack.wait_ready)
            yield there
        finally:
            stack.kill()
