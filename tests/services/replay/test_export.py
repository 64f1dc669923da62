"""`GET /v1/export/{tenant}`: everything of a tenant, bounded, resumable, for who may read all of it."""

import asyncio
import json
import time
from typing import Any

import httpx
import pytest
from tests.services.replay.rig import BEGUN_MS, E1, PARTITIONS, SESSION, World, message, until

from heliograph.core.expiry import Expiry
from heliograph.core.messages import MessageClass
from heliograph.core.positions import Position
from heliograph.protocol.exports import ExportedRecord, Verbatim, decode_record_line, record_of
from heliograph.protocol.gaps import gap_message
from heliograph.protocol.messages import Message, record_headers, record_value
from heliograph.replay.exporting import BATCH, MADE_ANEW
from heliograph.stores.ports import LogRecord, StoreError, TopicSpec

PATH = "/v1/export/acme"


class Answer:
    """What an answer of the route holds."""

    def __init__(self, body: bytes) -> None:
        assert body.endswith(b"\n")
        *lines, end = body[:-1].split(b"\n")
        self.end: dict[str, Any] = json.loads(end)
        assert self.end["type"] == "end"
        self.records: list[ExportedRecord] = []
        self.marks: list[dict[str, Any]] = []
        self.errors: list[dict[str, Any]] = []
        self.behind_mark: list[int] = []
        """How many records each mark has before it."""
        for line in lines:
            kind = json.loads(line)["type"]
            if kind == "record":
                self.records.append(decode_record_line(line))
            elif kind == "mark":
                self.marks.append(json.loads(line))
                self.behind_mark.append(len(self.records))
            else:
                self.errors.append(json.loads(line))


async def get(world: World, path: str = PATH, **params: Any) -> httpx.Response:
    headers = params.pop("headers", None)
    return await world.client.get(path, params=params, headers=headers or world.headers())


async def export(world: World, **params: Any) -> Answer:
    answer = await get(world, **params)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return Answer(answer.content)


async def partitions(world: World, **params: Any) -> list[dict[str, Any]]:
    answer = await get(world, PATH + "/partitions", **params)
    assert answer.status_code == 200, answer.text
    assert answer.json()["tenant"] == "acme"
    found: list[dict[str, Any]] = answer.json()["partitions"]
    return found


def in_log(world: World, topic: str | None = None) -> list[Verbatim]:
    return [Verbatim(one.key, one.value, one.headers) for one in world.log.records(topic or world.topic)]


def many(count: int, sessions: int = 7, **changes: Any) -> list[Message]:
    return [message(n // sessions + 1, E1, f"acme:planner:s{n % sessions}", **changes) for n in range(count)]


async def test_every_record_of_every_partition_comes_byte_for_byte(world: World) -> None:
    world.write(*many(50), message(1, payload=b'"AAH/"', content_type="image/png"))
    world.write(gap_message(SESSION, Position(E1, 2), "never_written", BEGUN_MS))
    world.write_record(None, [("x", None)], partition=1)
    world.write_record(b"{", record_headers(message(9)), partition=2)
    await world.start()
    answer = await export(world)
    assert [record_of(line) for line in answer.records] == in_log(world)
    places = [(line.topic, line.partition, line.offset, line.timestamp) for line in answer.records]
    assert places == [("acme.log", r.partition, r.offset, r.timestamp_ms) for r in world.log.records(world.topic)]
    assert answer.end == {"type": "end", "complete": True, "resume": None, "records": 54, "removed": 0, "expired": 0}


async def test_topics_of_agent_types_and_telemetry_are_exported_too(world: World) -> None:
    await world.put_tenant(
        "acme", agent_types={"tool": {"log": {}}, "unused": {"log": {}}}, topics={"telemetry": {}}
    )  # fmt: skip
    for topic in ("heliograph.acme.tool.log", "heliograph.acme.telemetry", "heliograph.other.tool.log"):
        world.log.create(TopicSpec(topic, 1, 1, {}))
    tool, telemetry = message(1, E1, "acme:tool:1"), message(2, position=None, class_=MessageClass.TELEMETRY)
    for topic, one in (("acme.tool.log", tool), ("acme.telemetry", telemetry), ("other.tool.log", tool)):
        record = LogRecord(
            f"heliograph.{topic}", 0, -1, 0, one.session.encode(), record_value(one), list(record_headers(one))
        )
        world.log.append(record)
    world.write(message(1))
    await world.start()
    lines = (await export(world)).records
    assert [(line.topic, line.session) for line in lines] == [
        ("acme.log", SESSION), ("acme.telemetry", SESSION), ("acme.tool.log", "acme:tool:1")
    ]  # fmt: skip


async def test_a_bounded_answer_says_where_to_go_on_and_nothing_comes_twice(world: World) -> None:
    world.write(*many(200))
    await world.start(stream_messages=37)
    answer = await export(world)
    seen = answer.records
    while not answer.end["complete"]:
        assert len(answer.records) == 37
        answer = await export(world, resume=answer.end["resume"])
        seen += answer.records
    assert [record_of(line) for line in seen] == in_log(world)


async def test_an_answer_is_bounded_in_bytes(world: World) -> None:
    world.write(*many(30, payload=b'"' + b"x" * 50_000 + b'"'))
    await world.start(stream_bytes=300_000)
    answer = await get(world)
    assert len(answer.content) < 320_000
    assert not Answer(answer.content).end["complete"]


async def test_a_record_above_the_bound_of_bytes_comes_alone(world: World) -> None:
    world.write(*many(3, sessions=1, payload=b'"' + b"x" * 400_000 + b'"'))
    await world.start(stream_bytes=300_000)
    answer = await export(world)
    assert len(answer.records) == 1
    assert len((await export(world, resume=answer.end["resume"])).records) == 1


async def test_an_answer_that_is_cut_off_is_gone_on_with_at_any_mark(world: World) -> None:
    world.write(*many(60, payload=b'"' + b"x" * 50_000 + b'"'))
    await world.start()
    answer = await export(world)
    assert len(answer.marks) > PARTITIONS
    everything = [record_of(line) for line in answer.records]
    for mark, count in zip(answer.marks, answer.behind_mark, strict=True):
        assert mark["records"] == count
        rest = await export(world, resume=mark["resume"])
        assert [record_of(line) for line in rest.records] == everything[count:]


async def test_a_partition_can_be_read_alone(world: World) -> None:
    world.write(*many(50))
    await world.start()
    spans = await partitions(world)
    assert [(span["topic"], span["partition"], span["start"]) for span in spans] == [
        ("acme.log", number, 0) for number in range(PARTITIONS)
    ]
    for span in spans:
        answer = await export(world, resume=span["resume"], alone="true")
        assert answer.end["complete"]
        assert [line.offset for line in answer.records] == list(range(span["end"]))
        assert {line.partition for line in answer.records} == {span["partition"]}


async def test_an_export_ends_where_the_log_ended_when_it_began(world: World) -> None:
    world.write(*many(50))
    await world.start()
    before, spans = in_log(world), await partitions(world)
    world.write(*many(50))
    read = [await export(world, resume=span["resume"], alone="true") for span in spans]
    found = [record_of(line) for answer in read for line in answer.records]
    assert sorted(found, key=repr) == sorted(before, key=repr)


async def test_times_are_those_of_the_messages(world: World) -> None:
    world.write(*(message(seq) for seq in range(1, 10)))
    world.now_ms = BEGUN_MS + 5_000
    world.write_record(None, [])
    await world.start()
    answer = await export(world, from_time="2025-11-24T16:00:03Z", until_time="2025-11-24T16:00:05Z")
    assert [line.message_id for line in answer.records] == ["m3", "m4", "m5", None]


async def test_from_a_time_on_the_log_is_not_read_from_its_beginning(world: World) -> None:
    world.log.topics[world.topic].config["message.timestamp.type"] = "LogAppendTime"
    world.now_ms = BEGUN_MS
    world.write(*(message(seq) for seq in range(1, 10)))
    world.now_ms = BEGUN_MS + 3_600_000
    late = message(10, time_ms=world.now_ms)
    world.write(late)
    await world.start()
    answer = await export(world, from_time="2025-11-24T17:00:00Z")
    assert [line.message_id for line in answer.records] == ["m10"]
    assert world.value("records_scanned_total") == 1
    spans = await partitions(world, from_time="2025-11-24T17:00:00Z")
    assert sum(span["end"] - span["start"] for span in spans) == 1


async def test_what_retention_took_under_way_is_counted(world: World) -> None:
    (record, *_) = world.write(*(message(seq) for seq in range(1, 10)))
    await world.start()
    span = (await partitions(world))[record.partition]
    world.log.truncate(world.topic, record.partition, 4)
    answer = await export(world, resume=span["resume"], alone="true")
    assert [line.offset for line in answer.records] == [4, 5, 6, 7, 8]
    assert answer.end["removed"] == 4
    world.log.truncate(world.topic, record.partition, 9)
    answer = await export(world, resume=span["resume"], alone="true")
    assert (answer.records, answer.end["removed"], answer.end["complete"]) == ([], 9, True)


async def test_what_has_expired_is_left_out_and_counted(world: World) -> None:
    expired, kept = "acme:planner:s1", "acme:planner:s2"
    world.write(*(message(seq, E1, session) for seq in range(1, 10) for session in (expired, kept)))
    world.write(message(9, E1, expired, event_type="dev.heliograph.expiry"))
    world.write_record(b"{", record_headers(message(1, E1, expired)), expired)
    await world.start()
    await world.expiries.put(expired, Expiry(BEGUN_MS + 6_000, BEGUN_MS))
    await until(lambda: world.value("expiry_refreshes_total") > 1)
    answer = await export(world)
    while not answer.end["expired"]:  # a change is seen within a second
        answer = await export(world)
    found = [(line.session, line.message_id) for line in answer.records if line.session == expired]
    assert found == [(expired, f"m{seq}") for seq in (7, 8, 9, 9)]
    assert answer.end["expired"] == 6
    assert len([line for line in answer.records if line.session == kept]) == 9


async def test_where_expiries_cannot_be_asked_for_nothing_is_shown(world: World) -> None:
    world.write(message(1, E1, "acme:planner:s1"))
    await world.expiries.put("acme:planner:s1", Expiry(BEGUN_MS + 6_000, BEGUN_MS))
    await world.start()

    async def away(sessions: object) -> None:
        raise StoreError("unavailable", "away")

    world.expiries.get = away  # type: ignore[method-assign,assignment]
    answer = await export(world)
    assert (answer.records, [error["code"] for error in answer.errors]) == ([], ["unavailable"])


async def test_a_tenant_that_shares_its_topics_gets_its_own_records_as_long_as_it_keeps_them(world: World) -> None:
    await world.put_tenant(
        "acme",
        isolation="shared",
        topics={"log": {"retention_s": 3600}},
        agent_types={"tool": {"log": {"retention_s": 7200}}},
    )
    topic = "heliograph._shared.1d.log"
    world.log.create(TopicSpec(topic, 1, 1, {}))
    written = [("acme:planner:s1", 0.5), ("acme:planner:s1", 1.5), ("acme:tool:s1", 1.5), ("other:tool:s1", 0.0)]
    for session, hours in (*written, ("acme2:tool:s1", 0.0)):
        one = message(1, E1, session)
        world.now_ms = time.time_ns() // 1_000_000 - int(hours * 3_600_000)
        world.log.append(LogRecord(topic, 0, -1, 0, session.encode(), record_value(one), list(record_headers(one))))
    world.log.append(LogRecord(topic, 0, -1, 0, None, b"who?", []))
    await world.start()
    answer = await export(world)
    assert [(line.topic, line.offset, line.session) for line in answer.records] == [
        ("_shared.1d.log", 0, "acme:planner:s1"), ("_shared.1d.log", 2, "acme:tool:s1")
    ]  # fmt: skip


async def test_a_topic_that_was_made_again_is_said(world: World) -> None:
    world.write(message(1))
    await world.start()
    resume = (await partitions(world))[0]["resume"]
    world.log.delete(world.topic)
    world.log.create(TopicSpec(world.topic, PARTITIONS, 1, {}))
    answer = await get(world, resume=resume)
    assert (answer.status_code, answer.json()["code"]) == (410, "expired")


async def test_a_topic_that_is_made_again_under_a_read_ends_it_and_is_no_complete_export(world: World) -> None:
    sent = many(3 * BATCH, sessions=1)
    (record, *_) = world.write(*sent)
    await world.start()
    span = (await partitions(world))[record.partition]
    read = world.http_log.read

    async def replaced(*arguments: Any):  # type: ignore[no-untyped-def] # as the one it stands for
        async for step in read(*arguments):
            yield step
            if step[0].offset == 0:
                world.log.delete(world.topic)
                world.log.create(TopicSpec(world.topic, PARTITIONS, 1, {}))
                world.write(*sent)

    world.http_log.read = replaced  # type: ignore[method-assign,assignment]
    answer = await export(world, resume=span["resume"], alone="true")
    (error,) = answer.errors
    assert (error["code"], error["message"]) == ("expired", MADE_ANEW)
    assert not answer.end["complete"]
    again = await get(world, resume=answer.end["resume"], alone="true")
    assert (again.status_code, again.json()["code"]) == (410, "expired")


async def test_a_tenant_without_topics_exports_nothing(world: World) -> None:
    world.log.delete(world.topic)
    await world.start()
    assert (await export(world)).end["complete"]
    assert await partitions(world) == []


# ---- who may ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [PATH, PATH + "/partitions"])
async def test_history_of_the_whole_tenant_is_needed(world: World, path: str) -> None:
    await world.start()
    assert (await get(world, path, headers={"x": "y"})).status_code == 401
    assert (await get(world, path)).status_code == 200
    for scope in ("history:planner:*", "history:*:trip-*", "admin:*:*", "subscribe:*:*"):
        answer = await get(world, path, headers=world.headers(scope=scope))
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


@pytest.mark.parametrize("suffix", ["", "/partitions"])
async def test_of_other_tenants_nobody_learns_whether_they_exist(world: World, suffix: str) -> None:
    world.write(message(1))
    await world.start()
    token = world.headers("other")
    resume = (await partitions(world))[0]["resume"]
    bodies = []
    for tenant in ("acme", "nobody"):
        for params in ({}, {"resume": resume}):
            answer = await get(world, f"/v1/export/{tenant}{suffix}", headers=token, **params)
            assert answer.status_code == 403
            bodies.append(answer.content)
    assert len(set(bodies)) == 1


async def test_a_resume_of_another_tenant_opens_nothing(world: World) -> None:
    world.write(message(1))
    await world.start()
    resume = (await partitions(world))[0]["resume"]
    answer = await get(world, "/v1/export/other", headers=world.headers("other"), resume=resume)
    assert (answer.status_code, answer.json()["code"]) == (410, "expired")


@pytest.mark.parametrize("tenant", ["Acme", "acme%2F..", "ac_me", "-", "acm\u00e9", "acme:planner"])  # fmt: skip
async def test_what_is_no_tenant_is_refused(world: World, tenant: str) -> None:
    await world.start()
    answer = await get(world, f"/v1/export/{tenant}")
    assert answer.json()["code"] in ("value_invalid", "not_found")


@pytest.mark.parametrize(
    "params",
    [
        {"resume": "x"},
        {"resume": f"{0:016x}~1.2"},
        {"limit": 0},
        {"limit": 10**9},
        {"from_time": "1764000000"},
        {"until_time": "2025-02-30T00:00:00Z"},
        {"alone": "perhaps"},
    ],
)
async def test_what_makes_no_sense_is_refused(world: World, params: dict[str, Any]) -> None:
    await world.start()
    answer = await get(world, **params)
    assert (answer.status_code, answer.json()["code"]) == (400, "value_invalid")


# ---- faults ----------------------------------------------------------------------------------------------------------


async def test_a_reader_that_goes_away_stops_the_read(world: World) -> None:
    world.write(*many(6 * BATCH, sessions=1, payload=b'"' + b"x" * 20_000 + b'"'))
    await world.start()
    host, port = world.client.base_url.host, world.client.base_url.port
    reader, writer = await asyncio.open_connection(host, port, limit=1_024)
    token = world.headers()["authorization"]
    writer.write(f"GET {PATH} HTTP/1.1\r\nhost: x\r\nauthorization: {token}\r\n\r\n".encode())
    assert b"200 OK" in await reader.readline()
    await until(lambda: world.http_log.reading == 1)
    writer.transport.abort()
    await until(lambda: world.http_log.reading == 0)
    await until(lambda: world.value("readers_gone_total") == 1)
    await until(lambda: world.value("reads_held") == 0)
    assert world.value("exports_total", end="gone") == 1
    assert world.value("records_scanned_total") < 6 * BATCH


async def test_a_log_that_is_away_is_said_with_a_code(world: World) -> None:
    await world.start()
    world.log.available = False
    for path in (PATH, PATH + "/partitions"):
        answer = await get(world, path)
        assert (answer.status_code, answer.json()["code"]) == (503, "log_unavailable")
    assert world.value("reads_held") == 0


async def test_a_log_that_fails_in_the_middle_is_said_and_the_answer_ends_where_it_can_go_on(world: World) -> None:
    world.write(*many(5 * BATCH, sessions=1))
    await world.start()
    read = world.http_log.read

    async def failing(*arguments: Any):  # type: ignore[no-untyped-def] # as the one it stands for
        count = 0
        async for step in read(*arguments):
            count += 1
            if count == 3:
                world.log.available = False
            world.log.check()
            yield step

    world.http_log.read = failing  # type: ignore[method-assign,assignment]
    answer = await export(world)
    assert [error["code"] for error in answer.errors] == ["log_unavailable"]
    assert len(answer.records) == 2 * BATCH
    world.log.available = True
    world.http_log.read = read  # type: ignore[method-assign]
    rest = await export(world, resume=answer.end["resume"])
    assert [line.offset for line in answer.records + rest.records] == list(range(5 * BATCH))


async def test_an_export_ends_where_it_can_go_on_when_the_service_stops(world: World) -> None:
    world.write(*many(3 * BATCH, sessions=1))
    await world.start()
    assert world.service is not None
    world.service.readiness.drain()
    answer = await export(world)
    assert len(answer.records) == BATCH
    assert not answer.end["complete"]
    assert answer.end["resume"]


async def test_above_their_bound_exports_are_told_to_come_back(world: World) -> None:
    await world.start(http_readers=1, http_waiting=0)
    world.write(message(1))
    read = world.http_log.read
    answers: list[httpx.Response] = []

    async def slow(*arguments: Any):  # type: ignore[no-untyped-def] # as the one it stands for
        if not answers:
            answers.append(await get(world))
        async for step in read(*arguments):
            yield step

    world.http_log.read = slow  # type: ignore[method-assign,assignment]
    assert (await export(world)).end["complete"]
    assert (answers[0].status_code, answers[0].json()["code"]) == (429, "too_many_requests")
    assert answers[0].headers["retry-after"] == "1"
