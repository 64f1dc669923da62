"""How the demo reads a session back: all of it, and never a gap taken for nothing."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from uuid import uuid4

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from heliograph.core.messages import MessageClass
from heliograph.local.demo.reading_back import ReadBackError, from_kafka, through_replay
from heliograph.local.ports import LOOPBACK, free_port
from heliograph.protocol.messages import GAP_EVENT_TYPE, Message, frame, record_headers, record_value

SESSION = "demo:person:ada"
EPOCH = "1764000000000-1a2b3c4d"


def position(seq: int) -> str:
    return f"{EPOCH}-{seq:016d}"


def message(seq: int, session: str = SESSION, event_type: str | None = None) -> Message:
    return Message(
        session=session,
        message_id=f"m-{seq}",
        time_ms=1_764_000_000_000 + seq,
        producer="planner",
        class_=MessageClass.EVENT,
        payload=b'{"word": "%d"}' % seq,
        position=position(seq),
        event_type=event_type,
    )


def write(bootstrap: str, topic: str, messages: list[Message]) -> None:
    producer = Producer({"bootstrap.servers": bootstrap})
    for one in messages:
        headers: list[tuple[str, str | bytes | None]] = [*record_headers(one)]
        producer.produce(topic, record_value(one), one.session, headers=headers)
    assert producer.flush(30) == 0


@pytest.fixture
def topic(kafka_bootstrap: str) -> Iterator[str]:
    name = f"demo-reading-{uuid4().hex}"
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    admin.create_topics([NewTopic(name, 3, 1)])[name].result(30)
    yield name
    admin.delete_topics([name])[name].result(30)


def test_a_plain_consumer_gives_the_frames_that_were_delivered(kafka_bootstrap: str, topic: str) -> None:
    other = "demo:planner:sunlight"
    written = [message(1), message(2), message(2), message(1, other)]
    write(kafka_bootstrap, topic, written)
    assert from_kafka(kafka_bootstrap, topic) == {
        SESSION: [(position(1), frame(written[0])), (position(2), frame(written[1])), (position(2), frame(written[1]))],
        other: [(position(1), frame(written[3]))],
    }


def test_a_topic_without_records_has_nothing(kafka_bootstrap: str, topic: str) -> None:
    assert from_kafka(kafka_bootstrap, topic) == {}


def test_a_gap_in_the_log_is_an_error(kafka_bootstrap: str, topic: str) -> None:
    write(kafka_bootstrap, topic, [message(1), message(2, event_type=GAP_EVENT_TYPE)])
    with pytest.raises(ReadBackError, match=position(2)):
        from_kafka(kafka_bootstrap, topic)


def test_a_topic_that_is_not_there_is_an_error(kafka_bootstrap: str) -> None:
    with pytest.raises(ReadBackError, match="can't be read"):
        from_kafka(kafka_bootstrap, f"no-such-{uuid4().hex}")


END = b'{"type":"end","next":null,"complete":true,"resume":null}\n'


@contextmanager
def replay(*answers: tuple[int, bytes]) -> Iterator[tuple[str, list[str]]]:
    """A server that gives these answers in turn: its address, and what it was asked."""
    asked: list[str] = []
    left = iter(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            status, body = next(left)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with HTTPServer((LOOPBACK, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://{LOOPBACK}:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


async def test_history_is_gone_on_with_until_it_is_complete() -> None:
    first, second = frame(message(1)), frame(message(2))
    more = b'{"type":"end","next":"%b","complete":false,"resume":"r-1"}\n' % position(1).encode()
    with replay((200, first + b"\n" + more), (200, second + b"\n" + END)) as (url, asked):
        found = await through_replay(url, "token", [SESSION])
    assert found == {SESSION: [(position(1), first), (position(2), second)]}
    assert asked == [
        "/v1/history/demo/person/ada",
        f"/v1/history/demo/person/ada?after={position(1)}&resume=r-1",
    ]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ((503, b'{"code":"unavailable"}'), "answers 503"),
        ((200, frame(message(1)) + b"\n"), "was cut off"),
        ((200, b'{"type":"gap","session":"demo:person:ada","reason":"retention"}\n' + END), "has a gap"),
    ],
)
async def test_anything_but_a_whole_history_is_an_error(answer: tuple[int, bytes], why: str) -> None:
    with replay(answer) as (url, _), pytest.raises(ReadBackError, match=why):
        await through_replay(url, "token", [SESSION])


async def test_a_replay_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ReadBackError, match="does not answer"):
        await through_replay(f"http://{LOOPBACK}:{free_port()}", "token", [SESSION])
