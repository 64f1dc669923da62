"""Tenants come, change, and never meet; a record that nobody can read stops nobody."""

import asyncio
import time

import pytest
from confluent_kafka import Message, Producer
from msgspec import Raw
from tests.system import log_reading, replaying
from tests.system.lines import FALLEN, Line
from tests.system.load import load
from tests.system.rig import OTHER_TENANT, TENANT, Rig

from heliograph.core.positions import Position
from heliograph.protocol.codes import CloseCode
from heliograph.protocol.frames import Hello, Publish, Published, Refused, Status, Subscribe, Subscribed, Subscription

pytestmark = pytest.mark.xdist_group("system-services")

FIRST_RECORD_S = 5.0
NOTICED_S = 1.0


async def test_a_new_tenants_first_record_is_confirmed_within_five_seconds_of_its_topic(rig: Rig) -> None:
    tenant = f"new-{rig.session()[-6:]}"
    await asyncio.to_thread(rig.apply, tenant)
    begin = time.monotonic()
    session = rig.session(tenant)
    line = await open_when_known(rig.edges[0], rig.token(tenant))
    answer = await line.ask(Publish(session, Raw(b"1"), 1))
    assert isinstance(answer, Published)
    await rig.confirmed([session], FIRST_RECORD_S - (time.monotonic() - begin))
    await line.close()


async def open_when_known(url: str, token: str) -> Line:
    """As soon as the edge takes this token."""
    deadline = time.monotonic() + NOTICED_S
    while True:
        try:
            return await Line.open(url, "line", Hello(token=token, producer="p", incarnation="12345678"))
        except (*FALLEN, AssertionError):
            assert time.monotonic() < deadline, f"the tenant is not known after {NOTICED_S:g} s"
            await asyncio.sleep(0.02)


async def test_a_change_of_a_tenant_is_noticed_within_a_second(rig: Rig) -> None:
    """Suspended: its connections end with the code that says so, and it is let in again once it is not."""
    tenant = f"moody-{rig.session()[-6:]}"
    await asyncio.to_thread(rig.apply, tenant)
    token = rig.token(tenant)
    lines = [await open_when_known(url, token) for url in rig.edges]
    ends = asyncio.gather(*(line.ended() for line in lines))
    await asyncio.to_thread(rig.apply, tenant, suspended=True)
    async with asyncio.timeout(NOTICED_S):
        codes = await ends
    assert codes == [CloseCode.TENANT_SUSPENDED] * 2
    await asyncio.to_thread(rig.apply, tenant)
    for url in rig.edges:
        line = await open_when_known(url, token)
        await line.close()


async def test_records_that_nobody_can_read_go_to_the_dead_letters_and_others_go_on(rig: Rig) -> None:
    """Three kinds of nonsense in every partition of the log, in the middle of the load."""
    topic = rig.topics.log(TENANT)
    before = await asyncio.to_thread(log_reading.ends, rig.kafka.bootstrap_servers, [rig.topics.dead])
    async with load(rig) as run:
        await run.more()
        partitions = [partition for _, partition in run.begin]
        session = run.sessions[0].encode()
        nonsense: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]] = [
            (b"\xff\xfe", b"\x00\x01", [("h", b"\xff")]),
            (session, b"{}", []),
            (None, None, [("ce_id", b"x")]),
        ]
        await asyncio.to_thread(produce, rig, topic, partitions, nonsense)
        run.history.note(f"{len(nonsense) * len(partitions)} records of nonsense")
        await run.more(40)

        def dead() -> list[Message]:
            return log_reading.read(rig.kafka.bootstrap_servers, before, [rig.topics.dead])

        wanted = len(nonsense) * len(partitions)
        found: list[Message] = []
        for _ in range(100):
            found = await asyncio.to_thread(dead)
            if len(found) >= wanted:
                break
    assert len(found) == wanted
    by_reason: dict[bytes, set[bytes]] = {}
    for record in found:
        headers = dict(record.headers() or [])
        assert headers["heliograph_dead_topic"] == topic.encode()
        reason, partition = headers["heliograph_dead_reason"], headers["heliograph_dead_partition"]
        assert isinstance(reason, bytes)
        assert isinstance(partition, bytes)
        by_reason.setdefault(reason, set()).add(partition)
    everywhere = {b"%d" % partition for partition in partitions}
    assert by_reason == {b"header_not_utf8": everywhere, b"header_missing": everywhere, b"value_missing": everywhere}


def produce(
    rig: Rig,
    topic: str,
    partitions: list[int],
    records: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]],
) -> None:
    """As any program with access to Kafka could."""
    producer = Producer({"bootstrap.servers": rig.kafka.bootstrap_servers})
    for partition in partitions:
        for key, value, headers in records:
            producer.produce(topic, value, key, partition=partition, headers=list(headers))
    assert producer.flush(10.0) == 0


async def test_one_tenants_token_is_no_use_for_another_and_tells_nothing(rig: Rig) -> None:
    """Whatever it asks, it is answered as for a session that does not exist."""
    there, nowhere = rig.session(TENANT), rig.session(TENANT)
    owner = await Line.open(rig.edges[0], "owner", Hello(token=rig.token(TENANT)))
    published = await owner.ask(Publish(there, Raw(b'"secret"'), 1))
    assert isinstance(published, Published)
    assert published.position is not None
    await rig.confirmed([there])
    position = published.position
    stranger = rig.token(OTHER_TENANT)
    for url in rig.edges:
        line = await Line.open(url, "stranger", Hello(token=stranger))
        for ask in (
            lambda session: Subscribe(session, 1, "earliest"),
            lambda session: Subscribe(session, 1, position),
            lambda session: Publish(session, Raw(b"1"), 1),
            lambda session: Status(session, position, 1),
        ):
            answers = [await line.ask(ask(session)) for session in (there, nowhere)]
            assert all(isinstance(answer, Refused) and answer.code == "forbidden" for answer in answers), answers
            assert without_session(answers[0]) == without_session(answers[1])
        await line.close()
        line = await Line.open(url, "hello", Hello(token=stranger, subscriptions=[Subscription(there, "earliest")]))
        refused = await line.next()
        assert isinstance(refused, Refused)
        assert refused.code == "forbidden"
        await line.close()
    headers = {"Authorization": f"Bearer {stranger}"}
    async with replaying.client() as http:
        for url in rig.replays:
            read = [await http.get(url + replaying.path(session), headers=headers) for session in (there, nowhere)]
            assert [answer.status_code for answer in read] == [403, 403]
            assert read[0].json()["code"] == read[1].json()["code"] == "forbidden"
        for registry in rig.stack.registries:
            paths = [f"{registry.url}/v1/presence/{session.replace(':', '/')}" for session in (there, nowhere)]
            asked = [await http.get(path, headers=headers) for path in paths]
            assert [answer.status_code for answer in asked] == [403, 403]
        for url in rig.edges:
            paths = [f"{url}/v1/sessions/{session.replace(':', '/')}/messages" for session in (there, nowhere)]
            posted = [await http.post(path, json={"payload": 1}, headers=headers) for path in paths]
            assert [answer.status_code for answer in posted] == [403, 403]
    await owner.close()


def without_session(answer: object) -> tuple[object, ...]:
    assert isinstance(answer, Refused)
    return (answer.code, answer.message, answer.id, answer.retry_after_ms, answer.expected)


async def test_sessions_of_two_tenants_with_one_name_never_meet(rig: Rig) -> None:
    name = rig.session()[-10:]
    sessions = [f"{tenant}:planner:{name}" for tenant in (TENANT, OTHER_TENANT)]
    lines = []
    for tenant, session in zip((TENANT, OTHER_TENANT), sessions, strict=True):
        token = rig.token(tenant)
        line = await Line.open(rig.edges[1], tenant, Hello(token=token, subscriptions=[Subscription(session)]))
        assert isinstance(await line.next(), Subscribed)
        lines.append((line, token, session))
    for number, (_, token, session) in enumerate(lines):
        out = await Line.open(rig.edges[0], "out", Hello(token=token))
        answer = await out.ask(Publish(session, Raw(b"%d" % number), 1))
        assert isinstance(answer, Published)
        assert Position.parse(answer.position or "").seq == 1
        await out.close()
    for number, (line, _, session) in enumerate(lines):
        data, _ = await anext(line.frames())
        assert b'"session":"%b"' % session.encode() in data
        assert data.endswith(b'"payload":%d}' % number)
        await line.close()
    await rig.confirmed(sessions)
