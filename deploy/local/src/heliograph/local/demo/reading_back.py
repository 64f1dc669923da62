"""The session read back, twice over: by a plain Kafka consumer, and through replay's HTTP interface."""

import time
from collections.abc import Iterator
from typing import cast
from uuid import uuid4

import httpx
import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from heliograph.core.sessions import SessionKey
from heliograph.local.demo.verdict import contents
from heliograph.protocol.record_frames import Nothing, RecordFrames, RecordHeaders

TIMEOUT_S = 30.0

Contents = dict[str, list[tuple[str, bytes]]]
"""Session → position and frame of each message."""


class ReadBackError(Exception):
    """The log could not be read, or holds what it should not; the text says what."""


def from_kafka(bootstrap_servers: str, topic: str) -> Contents:
    """Every message of a log topic, from its first record to its end as it is now. Blocks: call it in a thread.

    Raises ReadBackError.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": f"heliograph-demo-{uuid4().hex}",
            "enable.auto.commit": False,
        }
    )
    try:
        return contents(_messages(consumer, topic))
    except KafkaException as error:
        raise ReadBackError(f"{topic} can't be read: {error.args[0]}") from None
    finally:
        consumer.close()


def _messages(consumer: Consumer, topic: str) -> Iterator[tuple[str, str, bytes]]:
    """(session, position, frame) in the order of the log."""
    left = _ends(consumer, topic)
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in left])
    readers: dict[str, RecordFrames] = {}
    while left:
        record = consumer.poll(TIMEOUT_S)
        if record is None:
            raise ReadBackError(f"no record of {topic} within {TIMEOUT_S:g} s; partitions left: {sorted(left)}")
        if record.error() is not None:
            raise KafkaException(record.error())
        partition, offset = record.partition() or 0, record.offset() or 0
        session = (record.key() or b"").decode()
        headers = cast("RecordHeaders", record.headers() or [])  # as the consumer gives them: pairs with bytes
        read = readers.setdefault(session, RecordFrames(session)).read(record.value(), headers)
        if not isinstance(read, Nothing):
            position, frame = read
            if not isinstance(frame, bytes):
                raise ReadBackError(f"{topic} says that {session} lost {position}: {frame.value}")
            yield session, str(position), frame
        if offset + 1 >= left.get(partition, offset + 2):
            del left[partition]


def _ends(consumer: Consumer, topic: str) -> dict[int, int]:
    """Where each partition that has records ends now."""
    found = consumer.list_topics(topic, timeout=TIMEOUT_S).topics[topic]
    if found.error is not None:
        raise KafkaException(found.error)
    ends = {}
    for partition in sorted(found.partitions):
        low, high = _watermarks(consumer, TopicPartition(topic, partition))
        if high > low:
            ends[partition] = high
    return ends


def _watermarks(consumer: Consumer, partition: TopicPartition) -> tuple[int, int]:
    """Where a partition begins and ends; its leader may have been named a moment ago."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            found: tuple[int, int] = consumer.get_watermark_offsets(partition, timeout=TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].code() not in _LEADER_MOVES or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return found


_LEADER_MOVES = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE)


class _Line(msgspec.Struct):
    type: str
    position: str | None = None
    complete: bool = False
    next: str | None = None
    resume: str | None = None


_line = msgspec.json.Decoder(_Line)


async def through_replay(url: str, token: str, sessions: list[str]) -> Contents:
    """Each session's history, as NDJSON, gone on with where an answer ends before the session does.

    Raises ReadBackError.
    """
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/x-ndjson"}
    found: list[tuple[str, str, bytes]] = []
    try:
        async with httpx.AsyncClient(headers=headers, timeout=TIMEOUT_S, trust_env=False) as http:
            for session in sessions:
                found += [(session, *message) for message in await _history(http, url, session)]
    except httpx.HTTPError as error:
        raise ReadBackError(f"replay does not answer: {error or type(error).__name__}") from None
    return contents(found)


async def _history(http: httpx.AsyncClient, url: str, session: str) -> list[tuple[str, bytes]]:
    key = SessionKey.parse(session)
    path = f"{url}/v1/history/{key.tenant}/{key.agent_type}/{key.session_id}"
    found: list[tuple[str, bytes]] = []
    query: dict[str, str] = {}
    while True:
        answer = await http.get(path, params=query)
        if answer.status_code != httpx.codes.OK:
            raise ReadBackError(f"replay answers {answer.status_code} for {session}: {answer.text[:300]}")
        *frames, last = answer.content.splitlines()
        for frame in frames:
            line = _line.decode(frame)
            if line.type != "message" or line.position is None:
                raise ReadBackError(f"replay has a {line.type} in {session}: {frame.decode()[:300]}")
            found.append((line.position, frame))
        end = _line.decode(last)
        if end.type != "end":
            raise ReadBackError(f"replay's answer for {session} was cut off")
        if end.complete:
            return found
        query = {"after": end.next} if end.next is not None else {}
        query |= {"resume": end.resume} if end.resume is not None else {}
