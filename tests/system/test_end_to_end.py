"""One message on its whole way, and a steady load on two of everything."""

import httpx
import msgspec
import pytest
from msgspec import Raw
from tests.system import log_reading, replaying
from tests.system.history import History, Kind
from tests.system.lines import Line
from tests.system.load import load
from tests.system.replaying import replay
from tests.system.rig import Rig

from heliograph.core.messages import AckMode, MessageClass
from heliograph.protocol.frames import Hello, MessageFrame, Publish, Published, Subscribed, Subscription

pytestmark = pytest.mark.xdist_group("system-services")


@pytest.mark.parametrize("from_edge", [0, 1])
async def test_a_message_of_each_class_is_live_on_the_other_edge_then_in_the_log_then_in_the_history(
    rig: Rig, from_edge: int
) -> None:
    session, token = rig.session(), rig.token()
    begin = await rig.log_ends([session])
    publisher = await Line.open(rig.edges[from_edge], "out", Hello(token=token, producer="p", incarnation="12345678"))
    reader = await Line.open(
        rig.edges[1 - from_edge], "in", Hello(token=token, subscriptions=[Subscription(session, "earliest")])
    )
    subscribed = await reader.next()
    assert isinstance(subscribed, Subscribed)
    assert subscribed.recovered

    live: dict[MessageClass, bytes] = {}
    frames = reader.frames()
    for number, class_ in enumerate(MessageClass):
        payload = Raw(b'{"n":%d}' % number)
        sequenced = class_ is not MessageClass.TELEMETRY
        ack = AckMode.DURABLE if sequenced else AckMode.ACCEPTED
        seq = 1 if sequenced else None
        answer = await publisher.ask(Publish(session, payload, number, class_, ack, seq, correlation_id="é ✓"))
        assert isinstance(answer, Published)
        assert (answer.id, answer.durable, answer.position is not None) == (number, sequenced, sequenced)
        data, seen = await anext(frames)
        assert isinstance(seen, MessageFrame)
        assert (seen.class_, bytes(seen.payload), seen.correlation_id) == (class_, bytes(payload), "é ✓")
        assert (seen.position, seen.message_id) == (answer.position, answer.message_id)
        live[class_] = data
    await publisher.close()
    await reader.close()

    history = History()
    history.view("in", session)
    await rig.confirmed([session])
    await rig.read_log(history, begin)
    logged = {entry.class_: entry.frame for entry in history.log}
    assert logged == {class_: live[class_] for class_ in (MessageClass.CONTROL, MessageClass.EVENT)}

    telemetry = rig.topics.telemetry("acme")
    records = log_reading.read(rig.kafka.bootstrap_servers, {}, [telemetry])
    assert [one.frame for one in log_reading.entries_of(records, {session})] == [live[MessageClass.TELEMETRY]]

    for number, url in enumerate(rig.replays):
        await replay(history, f"replay-{number}", url, token, session)
        read = history.view(f"replay-{number}", session).delivered
        assert [sight.frame for sight in read] == [live[MessageClass.CONTROL], live[MessageClass.EVENT]]


async def test_a_message_posted_over_http_takes_the_same_way(rig: Rig) -> None:
    session, token = rig.session(), rig.token()
    begin = await rig.log_ends([session])
    reader = await Line.open(rig.edges[1], "in", Hello(token=token, subscriptions=[Subscription(session, "latest")]))
    assert isinstance(await reader.next(), Subscribed)
    frames = reader.frames()
    headers = {"Authorization": f"Bearer {token}"}
    path = f"{rig.edges[0]}/v1/sessions/{session.replace(':', '/')}/messages"
    async with httpx.AsyncClient(trust_env=False) as http:
        first = await http.post(path, json={"payload": "one", "message_id": "m-1"}, headers=headers)
        again = await http.post(path, json={"payload": "one", "message_id": "m-1"}, headers=headers)
        batch = await http.post(path, json={"messages": [{"payload": 2}, {"payload": 3}]}, headers=headers)
    assert (first.status_code, again.status_code, batch.status_code) == (200, 200, 200)
    assert first.json()["durable"]
    assert again.json() == {**first.json(), "duplicate": True}
    live = [(await anext(frames))[0] for _ in range(3)]
    assert [msgspec.json.decode(data)["payload"] for data in live] == ["one", 2, 3]
    await reader.close()
    history = History()
    history.view("in", session)
    await rig.confirmed([session])
    await rig.read_log(history, begin)
    assert [entry.frame for entry in history.log if entry.kind is Kind.MESSAGE] == live


async def test_who_is_connected_is_known_at_both_registries(rig: Rig) -> None:
    session, token = rig.session(), rig.token(subject="who")
    lines = [
        await Line.open(url, "line", Hello(token=token, agent="a", subscriptions=[Subscription(session)]))
        for url in rig.edges
    ]
    asked = [f"{registry.url}/v1/presence/{session.replace(':', '/')}" for registry in rig.stack.registries]
    for url in asked:
        async with replaying.client() as http:
            for _ in range(100):
                answer = await http.get(url, headers={"Authorization": f"Bearer {token}"})
                assert answer.status_code == 200, answer.text
                if len(answer.json()["connections"]) == 2:
                    break
            else:
                raise AssertionError(answer.text)
    for line in lines:
        await line.close()


async def test_a_steady_load_on_two_of_each_service_is_whole(rig: Rig) -> None:
    async with load(rig, sessions=8, per_s=60.0) as run:
        await run.more(150)
        await run.seen_more()
