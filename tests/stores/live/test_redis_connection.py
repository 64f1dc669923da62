"""The connection, against a server that misbehaves on purpose, and against a real one with TLS and passwords."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import hiredis
import pytest
import redis as redis_client
from tests.certificates import certificate
from tests.stores.live.helpers import Listener, message, new_session, put, redis_store, until

from heliograph.local import RedisServer
from heliograph.local.ports import free_port
from heliograph.stores.events import StoreEvent
from heliograph.stores.keys import session_of_channel
from heliograph.stores.ports import CorruptError, StoreError
from heliograph.stores.redis.address import RedisAddress
from heliograph.stores.redis.connection import ConnectionSettings, RedisConnection, pack, translate
from heliograph.stores.redis.subscriptions import Subscriptions

QUICK = ConnectionSettings(deadline_s=0.3, ping_idle_s=0.15, max_in_flight=50, max_queued_bytes=3_000_000)
Answer = Callable[[list[bytes], asyncio.StreamWriter], Awaitable[None]]


def half() -> float:
    return 0.5


class FakeRedis:
    """Speaks enough RESP3 to be connected to; `answer` does the rest."""

    def __init__(self, answer: Answer | None = None) -> None:
        self._answer = answer
        self._server: asyncio.Server | None = None
        self.commands: list[list[bytes]] = []
        self.reads: list[int] = []
        """Commands by read."""
        self.writers: list[asyncio.StreamWriter] = []
        self.reading = asyncio.Event()
        self.reading.set()

    async def __aenter__(self) -> "FakeRedis":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self.writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        await self._server.wait_closed()

    @property
    def address(self) -> RedisAddress:
        assert self._server is not None
        return RedisAddress("127.0.0.1", self._server.sockets[0].getsockname()[1])

    def connection(self, **more: Any) -> RedisConnection:
        return RedisConnection(self.address, name="test", uniform=half, settings=QUICK, **more)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        parser = hiredis.Reader()
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                await self.reading.wait()
                parser.feed(data)
                before = len(self.commands)
                while (command := parser.gets()) is not False:
                    self.commands.append(command)
                    await self._reply(command, writer)
                self.reads.append(len(self.commands) - before)

    async def _reply(self, command: list[bytes], writer: asyncio.StreamWriter) -> None:
        if command[0] in (b"HELLO", b"CLIENT", b"SELECT"):
            writer.write(b"+OK\r\n")
        elif self._answer is not None:
            await self._answer(command, writer)
        else:
            writer.write(b"+PONG\r\n")


@pytest.fixture
async def connected() -> AsyncIterator[Callable[[RedisConnection], Awaitable[RedisConnection]]]:
    """Starts connections and closes them at the end."""
    started: list[RedisConnection] = []

    async def start(connection: RedisConnection) -> RedisConnection:
        await connection.start()
        started.append(connection)
        return connection

    yield start
    for connection in started:
        await connection.close()


Connected = Callable[[RedisConnection], Awaitable[RedisConnection]]


async def test_commands_of_one_tick_leave_in_one_write(connected: Connected) -> None:
    async with FakeRedis() as fake:
        connection = await connected(fake.connection())
        replies: list[Any] = []
        for number in range(20):
            connection.send(pack((b"GET", b"key-%d" % number)), replies.append)
        assert replies == []
        await until(lambda: len(replies) == 20)
        assert 20 in fake.reads


async def test_a_callback_that_raises_costs_the_others_nothing(connected: Connected) -> None:
    async with FakeRedis() as fake:
        connection = await connected(fake.connection())
        reported: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))
        replies: list[Any] = []

        def broken(_reply: Any) -> None:
            raise RuntimeError("a bug")

        connection.send(pack((b"GET", b"a")), broken)
        connection.send(pack((b"GET", b"b")), replies.append)
        await until(lambda: replies)
        assert len(reported) == 1
        assert connection.available


async def test_more_commands_than_may_be_in_flight_are_refused_and_counted(connected: Connected) -> None:
    async with FakeRedis() as fake:
        connection = await connected(fake.connection())
        replies: list[Any] = []
        for _ in range(60):
            connection.send(pack((b"GET", b"a")), replies.append)
        assert replies == []
        await until(lambda: len(replies) == 60)
        refused = [reply for reply in replies if isinstance(reply, StoreError)]
        assert len(refused) == 10
        assert connection.stats[StoreEvent.NOT_SENT] == 10
        assert not any(error.maybe_done for error in refused)


async def test_a_server_that_does_not_read_fills_a_bounded_queue_only(connected: Connected) -> None:
    async with FakeRedis() as fake:
        connection = await connected(fake.connection())
        fake.reading.clear()
        replies: list[Any] = []
        for _ in range(40):
            connection.send(pack((b"SET", b"a", b"x" * 1_000_000)), replies.append)
            await asyncio.sleep(0)
        refused = [reply for reply in replies if isinstance(reply, StoreError) and not reply.maybe_done]
        assert len(refused) >= 20
        await until(lambda: len(replies) == 40)
        assert connection.stats[StoreEvent.ANSWER_LATE] == 1
        fake.reading.set()


async def test_what_is_not_the_redis_protocol_drops_the_connection_and_it_comes_back(connected: Connected) -> None:
    async def garbage(command: list[bytes], writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n" if command[1:] == [b"bad"] else b"+OK\r\n")

    async with FakeRedis(garbage) as fake:
        connection = await connected(fake.connection())
        with pytest.raises(StoreError) as caught:
            await connection.call("GET", "bad")
        assert caught.value.maybe_done
        await until(lambda: connection.available)
        assert await connection.call("GET", "good") == "OK" or b"OK"
        assert connection.connects == 2


async def test_an_answer_that_nobody_asked_for_drops_the_connection(connected: Connected) -> None:
    async with FakeRedis() as fake:
        connection = await connected(fake.connection())
        fake.writers[0].write(b"+SURPRISE\r\n")
        await until(lambda: connection.stats[StoreEvent.CONNECTION_LOST] == 1)
        await until(lambda: connection.available)


async def test_a_pause_of_this_process_is_not_taken_for_the_servers(connected: Connected) -> None:
    """The answer waits in the socket: dropping the connection would turn a pause into an outage."""
    async with FakeRedis() as fake:
        connection = await connected(fake.connection())
        replies: list[Any] = []
        connection.send(pack((b"GET", b"a")), replies.append)
        await asyncio.sleep(0)
        time.sleep(QUICK.deadline_s * 1.5)  # noqa: ASYNC251 - that is the pause
        await until(lambda: replies)
        assert not isinstance(replies[0], Exception)
        assert connection.stats[StoreEvent.CONNECTION_LOST] == 0


async def test_attempts_to_a_server_that_is_away_are_spread_by_the_given_randomness() -> None:
    draws: list[float] = []

    def uniform() -> float:
        draws.append(0.0)
        return 0.0

    async with FakeRedis() as fake:
        connection = RedisConnection(fake.address, name="test", uniform=uniform, settings=QUICK)
        await connection.start()
        address = fake.address
    await until(lambda: len(draws) >= 4)
    assert not connection.available
    with pytest.raises(StoreError) as caught:
        await connection.call("PING")
    assert str(address) in caught.value.message
    await connection.close()


async def test_start_says_that_nobody_is_there_and_may_be_called_again() -> None:
    connection = RedisConnection(RedisAddress("127.0.0.1", free_port()), name="test", uniform=half, settings=QUICK)
    for _ in range(2):
        with pytest.raises(StoreError) as caught:
            await connection.start()
        assert caught.value.code == "live_unavailable"
    await connection.close()


# ---- subscriptions --------------------------------------------------------------------------------------------------


def push(kind: bytes, channel: bytes) -> bytes:
    return b">3\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n:1\r\n" % (len(kind), kind, len(channel), channel)


async def test_a_subscription_that_the_server_ends_is_asked_for_again() -> None:
    """A slot moved: the server says sunsubscribe by itself."""
    channel = b"hg:{v1}:w:acme:planner:1"
    asked = 0

    async def answer(command: list[bytes], writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        if command[0].lower() != b"ssubscribe":
            writer.write(b"+PONG\r\n")
            return
        asked += 1
        writer.write(push(b"ssubscribe", channel))
        if asked == 1:
            writer.write(push(b"sunsubscribe", channel))

    async with FakeRedis(answer) as fake:
        listener = Listener()
        subscriptions = Subscriptions(fake.address, listener, half, QUICK)
        await subscriptions.start()
        subscriptions.subscribe(channel, session_of_channel(channel))
        await until(lambda: len(listener.subscribed) == 2)
        assert subscriptions.resubscribed == 1
        assert listener.lost == 0
        await subscriptions.close()


async def test_a_refused_subscription_is_tried_again_on_a_new_connection() -> None:
    channel = b"hg:{v1}:w:acme:planner:1"
    refusals = [b"-NOPERM no\r\n"]

    async def answer(command: list[bytes], writer: asyncio.StreamWriter) -> None:
        if command[0].lower() != b"ssubscribe":
            writer.write(b"+PONG\r\n")
        else:
            writer.write(refusals.pop() if refusals else push(b"ssubscribe", channel))

    async with FakeRedis(answer) as fake:
        listener = Listener()
        subscriptions = Subscriptions(fake.address, listener, half, QUICK)
        await subscriptions.start()
        subscriptions.subscribe(channel, session_of_channel(channel))
        await until(lambda: listener.subscribed)
        assert (listener.lost, subscriptions.connection.connects) == (1, 2)
        await subscriptions.close()


# ---- a real server --------------------------------------------------------------------------------------------------


async def test_user_password_and_database_of_the_url_are_used(redis_server: Callable[..., RedisServer]) -> None:
    server = redis_server()
    with redis_client.Redis.from_url(server.url) as client:
        client.acl_setuser("edge", enabled=True, passwords=["+s3cret"], keys=["*"], channels=["*"], commands=["+@all"])
        client.config_set("requirepass", "p@ss/word")
    for login in (":p%40ss%2Fword", "edge:s3cret"):
        store = await redis_store(f"redis://{login}@127.0.0.1:{server.port}/3")
        session = new_session()
        await put(store, message(session))
        await store.close()
    for wrong in ("", ":wrong@"):
        with pytest.raises(StoreError) as caught:
            await redis_store(f"redis://{wrong}127.0.0.1:{server.port}/3")
        assert "wrong" not in str(caught.value)


async def test_tls_is_spoken_and_its_certificate_checked(
    redis_server: Callable[..., RedisServer], tmp_path: Path
) -> None:
    certificate(tmp_path)
    tls_port = free_port()
    redis_server(
        settings={
            "tls-port": str(tls_port),
            "tls-cert-file": str(tmp_path / "cert.pem"),
            "tls-key-file": str(tmp_path / "key.pem"),
            "tls-ca-cert-file": str(tmp_path / "cert.pem"),
            "tls-auth-clients": "no",
        }
    )
    for query in (f"ssl_ca_certs={tmp_path / 'cert.pem'}", "ssl_cert_reqs=none"):
        store = await redis_store(f"rediss://127.0.0.1:{tls_port}/0?{query}")
        await put(store, message(new_session()))
        await store.close()
    with pytest.raises(StoreError) as caught:
        await redis_store(f"rediss://127.0.0.1:{tls_port}/0")
    assert "certificate" in caught.value.message.lower()


# ---- errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "code", "maybe_done"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", "overloaded", False),
        ("LOADING Redis is loading the dataset in memory", "live_unavailable", False),
        ("READONLY You can't write against a read only replica.", "live_unavailable", False),
        ("ERR user_function:1: broke script: hg1_append", "unavailable", True),
    ],
)
def test_what_redis_says_becomes_an_error_with_a_code(said: str, code: str, maybe_done: bool) -> None:
    error = translate(hiredis.ReplyError(said))
    assert isinstance(error, StoreError)
    assert (error.code, error.maybe_done) == (code, maybe_done)


def test_errors_show_no_arguments_and_no_values() -> None:
    shown = str(translate(hiredis.ReplyError("ERR unknown command 'X', with args beginning with: 's3cret' ")))
    assert "s3cret" not in shown
    corrupt = translate(hiredis.ReplyError("HGCORRUPT hg:{v1}:m:a:b:c not a session state"))
    assert isinstance(corrupt, CorruptError)
    assert (corrupt.key, corrupt.code) == ("hg:{v1}:m:a:b:c", "internal")
    assert translate(StoreError("live_unavailable", "x")).code == "live_unavailable"
