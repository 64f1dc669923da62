"""The session read back, twice over: by a plain Kafka consumer, and through replay's HTTP interface."""

from typing import cast
from uuid import uuid4

import httpx
import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition

from heliograph.core.positions import Position
from heliograph.core.sessions import SessionKey
from heliograph.local.demo.verdict import contents
from heliograph.protocol.record_frames import Nothing, RecordFrames, RecordHeaders

TIMEOUT_S = 30.0

Contents = dict[str, list[tuple[str, bytes]]]
"""Session → position and frame of each message."""


class ReadBackError(Exception):
    """The log could not be read, or holds what it should not; the text says what."""


def from_kafka(bootstrap_servers: str, topic: str) -> Contents:
    """Every message of a log topic, from its first record to its end as it is now. Blocks: call it in a thread."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": f"heliograph-demo-{uuid4().hex}",
            "enable.auto.commit": False,
            "enable.partition.eof": False,
        }
    )
    try:
        partitions = sorted(consumer.list_topics(topic, timeout=TIMEOUT_S).topics[topic].partitions)
        left = {}
        for partition in partitions:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=TIMEOUT_S)
            if high > low:
                left[partition] = high
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in left])
        found: list[tuple[str, str, bytes]] = []
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
                found.append((session, str(position), frame))
            if offset + 1 >= left.get(partition, offset + 2):
                del left[partition]
        return contents(found)
    finally:
        consumer.close()


class _Line(msgspec.Struct):
    type: str
    position: str | None = None
    complete: bool = False
    next: str | None = None
    resume: str | None = None


_line = msgspec.json.Decoder(_Line)


async def through_replay(url: str, token: str, sessions: list[str]) -> Contents:
    """Each session's history, as NDJSON, gone on with where an answer ends before the session does."""
    found: list[tuple[str, str, bytes]] = []
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/x-ndjson"}
    async with httpx.AsyncClient(headers=headers, timeout=TIMEOUT_S, trust_env=False) as http:
        for session in sessions:
            key = SessionKey.parse(session)
            path = f"{url}/v1/history/{key.tenant}/{key.agent_type}/{key.session_id}"
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
                    found.append((session, str(Position.parse(line.position)), frame))
                end = _line.decode(last)
                if end.type != "end":
                    raise ReadBackError(f"replay's answer for {session} was cut off")
                if end.complete:
                    break
                query = {"after": end.next} if end.next is not None else {}
                query |= {"resume": end.resume} if end.resume is not None else {}
    return contents(found)
