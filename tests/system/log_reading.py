"""Reads the log as anybody could: a plain consumer, no group, from the places noted at a run's start to the ends."""

from collections.abc import Collection, Mapping, Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from tests.system.history import Kind, LogEntry

from heliograph.protocol.messages import (
    GAP_EVENT_TYPE,
    OWN_EVENT_TYPES,
    RecordError,
    frame,
    message_from_record,
)

TIMEOUT_S = 10.0

Ends = dict[tuple[str, int], int]


def ends(bootstrap_servers: str, topics: Sequence[str]) -> Ends:
    """The end of each partition of topics that exist."""
    consumer = _consumer(bootstrap_servers)
    try:
        found: Ends = {}
        for topic in topics:
            partitions = consumer.list_topics(topic, timeout=TIMEOUT_S).topics[topic].partitions
            for partition in partitions:
                place = TopicPartition(topic, partition)
                found[topic, partition] = consumer.get_watermark_offsets(place, timeout=TIMEOUT_S)[1]
        return found
    finally:
        consumer.close()


def read(bootstrap_servers: str, begin: Mapping[tuple[str, int], int], topics: Sequence[str]) -> list[Message]:
    """Everything from `begin` (where a partition is not in it: from its start) to the ends as they are now."""
    until = ends(bootstrap_servers, topics)
    left = {place: end for place, end in until.items() if end > begin.get(place, 0)}
    records: list[Message] = []
    if not left:
        return records
    consumer = _consumer(bootstrap_servers)
    try:
        consumer.assign([TopicPartition(*place, begin.get(place, 0)) for place in left])
        while left:
            for record in consumer.consume(1_000, timeout=1.0):
                error = record.error()
                if error is not None:
                    if error.code() == KafkaError._PARTITION_EOF:
                        continue
                    raise KafkaException(error)
                records.append(record)
            places = consumer.position([TopicPartition(*place) for place in left])
            for one in places:
                if one.offset >= left[one.topic, one.partition]:
                    del left[one.topic, one.partition]
        return records
    finally:
        consumer.close()


def _consumer(bootstrap_servers: str) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "heliograph-system-tests",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "log_level": 0,
        }
    )


def entry(record: Message) -> LogEntry:
    """What a record says, parsed with the protocol's own code."""
    topic, partition, offset = record.topic() or "", record.partition() or 0, record.offset() or 0
    key, value, headers = record.key(), record.value(), _headers(record)
    session = key.decode(errors="replace") if isinstance(key, bytes) else ""
    try:
        message = message_from_record(key, value, headers)
    except RecordError:
        return LogEntry(topic, partition, offset, session, Kind.UNREADABLE)
    kind = Kind.MESSAGE
    if message.event_type == GAP_EVENT_TYPE:
        kind = Kind.GAP
    elif message.event_type in OWN_EVENT_TYPES:
        kind = Kind.OWN
    return LogEntry(
        topic,
        partition,
        offset,
        message.session,
        kind,
        message.position,
        message.message_id,
        message.class_,
        message.payload,
        frame(message),
        message.producer,
        message.incarnation,
        message.producer_seq,
        message.time_ms,
        record.timestamp()[1],
        marked=any(name == "ce_origin" for name, _ in headers),
    )


def _headers(record: Message) -> list[tuple[str, bytes | None]]:
    """As confluent-kafka gives them: pairs, though its type allows for a dict (producers take one)."""
    headers = record.headers() or []
    assert isinstance(headers, list)
    return [(name, value.encode() if isinstance(value, str) else value) for name, value in headers]


def entries_of(records: Sequence[Message], sessions: Collection[str]) -> list[LogEntry]:
    """The records of these sessions, partition by partition in the order of the log."""
    found = [entry(record) for record in records]
    wanted = [one for one in found if one.session in sessions]
    return sorted(wanted, key=lambda one: (one.topic, one.partition, one.offset))
