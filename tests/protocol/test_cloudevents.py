"""The log can be read and written without our code: held to the public `cloudevents` package, Kafka binary mode."""

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_kafka_event, to_binary_event
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from tests.protocol.strategies import few, messages

from heliograph.core.messages import MessageClass
from heliograph.protocol.messages import (
    DEFAULT_EVENT_TYPE,
    Message,
    frame,
    is_json,
    message_from_record,
    record_headers,
    record_value,
    rfc3339,
)


def as_kafka(message: Message) -> KafkaMessage:
    headers = record_headers(message)
    assert len(dict(headers)) == len(headers), "a header twice"
    return KafkaMessage(dict(headers), message.session.encode(), record_value(message))


@few
@given(messages())
def test_the_public_package_reads_our_records(message: Message) -> None:
    event = from_kafka_event(as_kafka(message))
    assert event.get_specversion() == "1.0"
    assert event.get_id() == message.message_id
    assert event.get_source() == "/" + message.session.replace(":", "/")
    assert event.get_type() == (message.event_type or DEFAULT_EVENT_TYPE)
    time = event.get_time()
    assert time is not None
    assert int(time.timestamp()) == message.time_ms // 1000
    assert event.get_datacontenttype() == (message.content_type or "application/json")
    attributes = event.get_attributes()
    assert attributes["partitionkey"] == message.session
    assert attributes.get("sequence") == message.position
    assert attributes["class"] == message.class_
    assert attributes["producer"] == message.producer
    assert attributes.get("correlationid") == message.correlation_id
    assert attributes.get("causationid") == message.causation_id
    assert attributes.get("replyto") == message.reply_to


@few
@given(messages())
def test_our_extension_attributes_have_names_that_the_specification_allows(message: Message) -> None:
    for name, _ in record_headers(message):
        if name not in ("content-type", "traceparent"):
            assert re.fullmatch(r"ce_[a-z0-9]{1,20}", name)


@pytest.mark.parametrize(
    ("content_type", "payload", "data"),
    [
        (None, b'{"a":[1,2.5,null],"b":"\xc3\xa9"}', {"a": [1, 2.5, None], "b": "é"}),
        ("application/json; charset=utf-8", b'{"a":1}', {"a": 1}),
        ("application/octet-stream", b'"AP8="', b"\x00\xff"),
        ("text/plain", b'"aMOp"', "hé"),
    ],
)
def test_the_public_package_reads_the_data_as_its_content_type_says(
    content_type: str | None, payload: bytes, data: object
) -> None:
    event = from_kafka_event(as_kafka(a_message(content_type, payload)))
    assert event.get_data() == data


@few
@given(messages())
def test_a_record_that_the_public_package_writes_again_is_still_our_message(message: Message) -> None:
    event = from_kafka_event(as_kafka(message))
    # the package parses data and drops what is no CloudEvents attribute: give it our bytes, and the trace context back
    again = to_binary_event(CloudEvent(event.get_attributes(), record_value(message)))
    headers = {**again.headers, **{name: value for name, value in record_headers(message) if name == "traceparent"}}
    assert again.key == message.session
    ours = message_from_record(message.session.encode(), again.value, list(headers.items()))
    assert ours == message
    assert frame(ours) == frame(message)


def test_a_record_made_by_the_public_package_is_read_by_ours() -> None:
    attributes: dict[str, Any] = {
        "id": "m1",
        "source": "/acme/planner/trip-42",
        "type": "com.example.order",
        "time": datetime(2025, 11, 24, 16, 0, 0, 123_000, tzinfo=UTC),
        "datacontenttype": "application/json",
        "partitionkey": "acme:planner:trip-42",
        "class": "event",
        "producer": "shop/1",
        "correlationid": "c1",
        "sequence": "1764000000000-1a2b3c4d-0000000000000042",
    }
    record = to_binary_event(CloudEvent(attributes, {"n": [1, {"a": "é"}]}))
    assert isinstance(record.key, str)
    message = message_from_record(record.key.encode(), record.value, list(record.headers.items()))
    assert message == Message(
        session="acme:planner:trip-42",
        message_id="m1",
        time_ms=1_764_000_000_123,
        producer="shop/1",
        class_=MessageClass.EVENT,
        payload=record.value,
        position="1764000000000-1a2b3c4d-0000000000000042",
        event_type="com.example.order",
        correlation_id="c1",
    )
    assert rfc3339(message.time_ms) == "2025-11-24T16:00:00.123Z"


def test_bytes_made_by_the_public_package_are_read_as_base64() -> None:
    attributes: dict[str, Any] = {
        "id": "m1",
        "source": "/acme/planner/trip-42",
        "type": "com.example.picture",
        "time": datetime(2025, 11, 24, 16, 0, 0, tzinfo=UTC),
        "datacontenttype": "image/png",
        "partitionkey": "acme:planner:trip-42",
        "class": "event",
        "producer": "shop/1",
    }
    record = to_binary_event(CloudEvent(attributes, b"\x89PNG"))
    message = message_from_record(b"acme:planner:trip-42", record.value, list(record.headers.items()))
    assert not is_json(message.content_type)
    assert message.payload == b'"iVBORw=="'


def a_message(content_type: str | None, payload: bytes) -> Message:
    return Message(
        session="acme:planner:trip-42",
        message_id="m1",
        time_ms=1_764_000_000_123,
        producer="planner/main",
        class_=MessageClass.EVENT,
        payload=payload,
        content_type=content_type,
    )
