"""`publish` over a connection: exactly one answer each, and which."""

import base64
import secrets
from typing import Any

import pytest
from tests.services.edge.rig import Edge, World

SESSION = "acme:planner:1"
INCARNATION = "inc-00000001"


@pytest.mark.parametrize("class_", ["control", "event"])
async def test_a_publish_is_answered_once_the_log_has_it(world: World, edge: Edge, class_: str) -> None:
    client = await edge.client()
    answer = await client.publish(SESSION, {"a": 1}, class_=class_)
    assert (answer["type"], answer["durable"], answer.get("pending", False)) == ("published", True, False)
    assert world.positions_in_log(SESSION) == [answer["position"]]


@pytest.mark.parametrize(
    ("class_", "ack", "durable"),
    [
        ("control", "durable", True),
        ("event", "durable", True),
        ("control", "accepted", False),
        ("event", "accepted", False),
        ("telemetry", "accepted", False),
    ],
)
async def test_each_class_and_ack_has_its_answer(edge: Edge, class_: str, ack: str, durable: bool) -> None:
    client = await edge.client()
    answer = await client.publish(SESSION, 1, class_=class_, ack=ack)
    assert (answer["type"], answer["durable"]) == ("published", durable)
    assert ("position" in answer) == (class_ != "telemetry")
    assert answer["message_id"]


@pytest.mark.parametrize("class_", ["control", "event", "telemetry"])
async def test_ack_none_is_answered_by_nothing_and_delivered(world: World, edge: Edge, class_: str) -> None:
    client = await edge.client()
    await client.subscribe(SESSION)
    await client.send(
        {"type": "publish", "id": 900, "session": SESSION, "class": class_, "ack": "none", "payload": class_}
    )
    (message,) = await client.messages(SESSION, 1)
    assert message["payload"] == class_
    await client.publish(SESSION)
    assert [frame for frame in client.frames if frame.get("id") == 900] == []
    assert len(world.positions_in_log(SESSION)) == (1 if class_ == "telemetry" else 2)


async def test_telemetry_is_not_acknowledged_unless_asked(edge: Edge) -> None:
    client = await edge.client()
    await client.send({"type": "publish", "id": 1, "session": SESSION, "class": "telemetry", "payload": 1})
    await client.barrier()
    assert client.of("published") == []


async def test_telemetry_goes_to_its_topic_where_the_tenant_wants_it(world: World) -> None:
    await world.put_tenant("acme", topics={"telemetry": {}})
    edge = await world.edge()
    client = await edge.client()
    await client.publish(SESSION, 1, class_="telemetry", ack="accepted")
    await client.publish("other:planner:1", 1, class_="telemetry", ack="accepted")
    (record,) = world.log.records(world.topics.telemetry("acme"))
    assert record.key == SESSION.encode()
    assert world.positions_in_log(SESSION) == []


async def test_durable_telemetry_is_impossible(edge: Edge) -> None:
    client = await edge.client()
    answer = await client.publish(SESSION, 1, class_="telemetry", ack="durable")
    assert (answer["type"], answer["code"]) == ("refused", "ack_impossible")


async def test_each_publish_has_exactly_one_answer(edge: Edge) -> None:
    client = await edge.client(producer="p", incarnation=INCARNATION)
    kinds: list[dict[str, Any]] = [
        {"payload": 1},
        {"payload": 1, "ack": "accepted"},
        {"payload": 1, "class": "control"},
        {"payload": "x" * 70_000},
        {"payload": 1, "seq": 5},
        {"payload": 1, "class": "telemetry", "ack": "durable"},
        {"payload": 1, "session": "other:planner:1"},
        {"payload": 1, "session": "nonsense"},
        {"payload": 1, "event_type": "dev.heliograph.seal"},
        {"payload": 1, "content_type": "image/png"},
        {"payload": 1, "class": "loud"},
        {},
    ]
    for id_ in range(60):
        await client.send({"type": "publish", "session": SESSION, **kinds[id_ % len(kinds)], "id": 1_000 + id_})
    await client.until(lambda: len(client.frames) >= 61, "every answer")
    await client.barrier()
    answered = [frame["id"] for frame in client.frames if frame.get("id", 0) >= 1_000]
    assert sorted(answered) == list(range(1_000, 1_060))


async def test_a_publish_reaches_the_log_as_it_was(world: World, edge: Edge) -> None:
    client = await edge.client()
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    fields = {
        "message_id": "order-7",
        "event_type": "com.example.order",
        "correlation_id": "c-1",
        "causation_id": "m-0",
        "reply_to": "acme:tool:9",
        "traceparent": trace,
    }
    reader = await edge.client()
    await reader.subscribe(SESSION)
    await client.publish(SESSION, {"é": [1.50, "\u2028"]}, **fields)
    (message,) = await reader.messages(SESSION, 1)
    assert {name: message[name] for name in fields} == fields
    assert message["payload"] == {"é": [1.50, "\u2028"]}
    (record,) = world.log.records(world.topics.log("acme"))
    headers = dict(record.headers)
    assert headers["ce_id"] == b"order-7"
    assert headers["ce_sequence"] == message["position"].encode()
    assert headers["traceparent"] == trace.encode()


async def test_a_binary_payload_travels_as_base64(world: World, edge: Edge) -> None:
    client = await edge.client()
    await client.subscribe(SESSION)
    text = base64.b64encode(b"\x00\xff\x10").decode()
    await client.publish(SESSION, text, content_type="application/octet-stream")
    (message,) = await client.messages(SESSION, 1)
    assert (message["payload"], message["content_type"]) == (text, "application/octet-stream")
    (record,) = world.log.records(world.topics.log("acme"))
    assert record.value == b"\x00\xff\x10"


# ---- producers ------------------------------------------------------------------------------------------------------


async def test_a_repeated_publish_gets_the_first_position_back(world: World, edge: Edge) -> None:
    client = await edge.client(producer="p", incarnation=INCARNATION)
    first = await client.publish(SESSION, "a", seq=1)
    world.confirm_log()
    again = await client.publish(SESSION, "a", seq=1)
    assert (again["type"], again["duplicate"], again["durable"]) == ("published", True, True)
    assert again["position"] == first["position"]
    assert world.positions_in_log(SESSION) == [first["position"]]


async def test_a_repeat_on_another_edge_and_connection_is_known(world: World, edge: Edge) -> None:
    other = await world.edge()
    first = await (await edge.client(producer="p", incarnation=INCARNATION)).publish(SESSION, "a", seq=1)
    second = await other.client(producer="p", incarnation=INCARNATION)
    again = await second.publish(SESSION, "a", seq=1, ack="accepted")
    assert (again["position"], again["duplicate"]) == (first["position"], True)


async def test_a_skipped_producer_seq_is_told_the_expected_one(edge: Edge) -> None:
    client = await edge.client(producer="p", incarnation=INCARNATION)
    await client.publish(SESSION, "a", seq=1)
    refused = await client.publish(SESSION, "c", seq=3)
    assert (refused["code"], refused["expected"]) == ("out_of_order", 2)
    assert (await client.publish(SESSION, "b", seq=2))["type"] == "published"
    assert (await client.publish(SESSION, "c", seq=3))["type"] == "published"


async def test_the_same_seq_with_another_body_is_refused(edge: Edge) -> None:
    client = await edge.client(producer="p", incarnation=INCARNATION)
    await client.publish(SESSION, "a", seq=1)
    assert (await client.publish(SESSION, "b", seq=1))["code"] == "producer_seq_reused"


async def test_an_unknown_producer_must_begin_at_one(edge: Edge) -> None:
    client = await edge.client(producer="p", incarnation=INCARNATION)
    assert (await client.publish(SESSION, "a", seq=2))["code"] == "producer_unknown"


async def test_a_seq_older_than_the_ring_is_refused(edge: Edge) -> None:
    client = await edge.client(producer="p", incarnation=INCARNATION)
    for seq in range(1, 67):
        await client.publish(SESSION, seq, seq=seq, ack="accepted")
    assert (await client.publish(SESSION, 1, seq=1))["code"] == "producer_seq_expired"


async def test_a_seq_needs_an_incarnation_in_hello(edge: Edge) -> None:
    client = await edge.client(producer="p")
    assert (await client.publish(SESSION, 1, seq=1))["code"] == "producer_missing"


async def test_counters_are_per_session_and_class(edge: Edge) -> None:
    client = await edge.client(producer="p", incarnation=INCARNATION)
    for session, class_ in ((SESSION, "event"), (SESSION, "control"), ("acme:planner:2", "event")):
        assert (await client.publish(session, 1, class_=class_, seq=1))["type"] == "published"


async def test_a_message_id_that_the_caller_chose_is_judged(world: World, edge: Edge) -> None:
    client = await edge.client()
    first = await client.publish(SESSION, "a", message_id="m-1")
    again = await (await edge.client()).publish(SESSION, "a", message_id="m-1", ack="accepted")
    other = await client.publish(SESSION, "b", message_id="m-1")
    assert (again["position"], again["duplicate"]) == (first["position"], True)
    assert other["code"] == "message_id_reused"


async def test_ids_that_nobody_chose_differ(edge: Edge) -> None:
    client, other = await edge.client(), await edge.client()
    answers = [await one.publish(SESSION, "same") for one in (client, client, other)]
    assert len({answer["message_id"] for answer in answers}) == 3
    assert len({answer["position"] for answer in answers}) == 3


# ---- limits and scopes ----------------------------------------------------------------------------------------------


async def test_too_fast_is_refused_with_a_time_to_come_back(world: World) -> None:
    await world.put_tenant("acme", limits={"connection_messages_per_s": 50, "connection_burst_messages": 2})
    edge = await world.edge()
    client = await edge.client()
    answers = [await client.publish(SESSION, 1) for _ in range(3)]
    assert [answer["type"] for answer in answers] == ["published", "published", "refused"]
    assert answers[2]["code"] == "rate_limited"
    assert 1 <= answers[2]["retry_after_ms"] <= 20


async def test_one_connections_bucket_is_not_anothers(world: World) -> None:
    await world.put_tenant("acme", limits={"connection_messages_per_s": 1, "connection_burst_messages": 1})
    edge = await world.edge()
    first, second = await edge.client(), await edge.client()
    assert (await first.publish(SESSION))["type"] == "published"
    assert (await first.publish(SESSION))["code"] == "rate_limited"
    assert (await second.publish(SESSION))["type"] == "published"


async def test_bytes_count_as_well_as_messages(world: World) -> None:
    await world.put_tenant("acme", limits={"connection_bytes_per_s": 1_000, "connection_burst_bytes": 1_000})
    edge = await world.edge()
    client = await edge.client()
    assert (await client.publish(SESSION, "x" * 900))["type"] == "published"
    refused = await client.publish(SESSION, "x" * 900)
    assert (refused["code"], refused["retry_after_ms"] > 500) == ("rate_limited", True)


@pytest.mark.parametrize("limit", [100, 64 * 1024])
async def test_a_payload_above_the_tenants_limit_is_refused(world: World, limit: int) -> None:
    await world.put_tenant("acme", limits={"max_payload_bytes": limit})
    edge = await world.edge()
    client = await edge.client()
    assert (await client.publish(SESSION, "x" * (limit - 2)))["type"] == "published"
    refused = await client.publish(SESSION, "x" * (limit - 1))
    assert (refused["type"], refused["code"]) == ("refused", "payload_too_large")


async def test_a_session_that_is_too_far_ahead_of_the_log_is_refused(world: World) -> None:
    await world.put_tenant("acme", limits={"connection_burst_messages": 5_000, "connection_burst_bytes": 100_000_000})
    edge = await world.edge()
    client = await edge.client()
    for id_ in range(1_001):
        frame = {"type": "publish", "id": 10_000 + id_, "session": SESSION, "payload": 1, "ack": "accepted"}
        await client.send(frame)
    refused = await client.next("refused")
    assert (refused["id"], refused["code"], refused["retry_after_ms"]) == (11_000, "backlog", 1_000)
    world.confirm_log()
    assert (await client.publish(SESSION))["type"] == "published"


SCOPES: list[Any] = [
    (["publish:planner:1"], True),
    (["publish:planner:*"], True),
    (["publish:*:*"], True),
    (["publish:planner:2"], False),
    (["publish:tool:*"], False),
    (["subscribe:*:*"], False),
    ([], False),
]


async def test_publishing_takes_a_scope(world: World, edge: Edge) -> None:
    for scopes, allowed in SCOPES:
        client = await edge.client(token=world.token(scopes=scopes))
        answer = await client.publish(SESSION)
        assert answer.get("code") == (None if allowed else "forbidden"), scopes
    assert len(world.positions_in_log(SESSION)) == sum(allowed for _, allowed in SCOPES)


async def test_another_tenants_session_is_forbidden_whatever_the_scopes(world: World, edge: Edge) -> None:
    client = await edge.client()
    assert (await client.publish("other:planner:1"))["code"] == "forbidden"


BAD_VALUES: list[Any] = [
    ({"session": "acme:planner"}, "session_invalid"),
    ({"session": "ACME:planner:1"}, "session_invalid"),
    ({"session": "acme:planner:../1"}, "session_invalid"),
    ({"event_type": "dev.heliograph.epoch"}, "value_invalid"),
    ({"event_type": "a\x00b"}, "value_invalid"),
    ({"correlation_id": " "}, "value_invalid"),
    ({"causation_id": "\x85"}, "value_invalid"),
    ({"message_id": "\ufffe"}, "value_invalid"),
    ({"content_type": "\x7f"}, "value_invalid"),
    ({"reply_to": "nowhere"}, "session_invalid"),
    ({"payload": "not base64!", "content_type": "image/png"}, "payload_not_base64"),
    ({"payload": 1, "content_type": "image/png"}, "payload_not_base64"),
]


async def test_a_value_that_may_not_be_is_refused(edge: Edge) -> None:
    client = await edge.client()
    for fields, code in BAD_VALUES:
        answer = await client.ask("publish", **{"session": SESSION, "payload": 1, **fields})
        assert (answer["type"], answer.get("code")) == ("refused", code), fields


BAD_SHAPES: list[Any] = [
    {"seq": 0},
    {"seq": 2**53},
    {"seq": "1"},
    {"seq": 1.5},
    {"class": "loud"},
    {"ack": "maybe"},
    {"message_id": ""},
    {"message_id": "x" * 129},
    {"traceparent": "00-zz"},
    {"session": 7},
]


async def test_a_frame_of_the_wrong_shape_is_an_error_with_its_id(edge: Edge) -> None:
    client = await edge.client()
    for fields in BAD_SHAPES:
        answer = await client.ask("publish", **{"session": SESSION, "payload": 1, **fields})
        assert (answer["type"], answer.get("code")) == ("error", "malformed"), fields
    assert (await client.publish(SESSION))["type"] == "published"


async def test_unknown_fields_are_ignored(edge: Edge) -> None:
    client = await edge.client()
    assert (await client.publish(SESSION, 1, colour="blue", position="mine"))["type"] == "published"


async def test_payloads_are_delivered_verbatim(edge: Edge) -> None:
    client = await edge.client()
    await client.subscribe(SESSION)
    secret = secrets.token_hex(4)
    payload = f'{{"n":1.000000000000000000001,"big":{2**70},"s":"{secret}\\u0000\\ud83d\\ude00","dup":1,"dup":2}}'
    await client.send(f'{{"type":"publish","session":"{SESSION}","ack":"none","payload":{payload}}}')
    (message,) = await client.messages(SESSION, 1)
    assert message["payload"] == {"n": 1.0, "big": 2**70, "s": f"{secret}\0😀", "dup": 2}
