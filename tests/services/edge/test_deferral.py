"""The live path is away: control messages go to the log alone, in their order; nothing else is taken."""

import httpx
import pytest
from tests.services.edge.rig import Edge, RoutedLog, World, until

from heliograph.protocol.messages import (
    Message,
    content_hash,
    extras,
    frame_content,
    frame_rest,
    message_from_record,
)
from heliograph.protocol.tenants import Tenant
from heliograph.service.bounds import bounds_of
from heliograph.stores.ports import Append, AppendStatus

SESSION = "acme:planner:1"
PATH = "/v1/sessions/acme/planner/1/messages"
CONTROL = {"class": "control"}


def deferred(world: World, tenant: str = "acme") -> list[Message]:
    """What stands in the tenant's topic of deferred messages, in the order of the log."""
    records = world.log.records(world.topics.deferred(tenant))
    return [message_from_record(one.key, one.value, one.headers) for one in records]


async def deliver_deferred(world: World, tenant: str = "acme") -> None:
    """Put what is deferred in its place, as the router does: in order, judged by its counter and by its id."""
    bounds = bounds_of(Tenant(tenant), world.live.virtual_shards)
    for message in deferred(world, tenant):
        content = frame_content(message)
        counted = message.producer_seq is not None
        producer = f"{message.class_}|{message.producer}|{message.incarnation}".encode() if counted else b""
        answer = world.live.append(
            Append(
                message.session, frame_rest(message, content), extras(message), 513, 0, content_hash(content),
                producer, message.producer_seq or 0, message.message_id,
            ),
            bounds,
        )  # fmt: skip
        assert answer.status in (AppendStatus.OK, AppendStatus.DUPLICATE), answer


async def test_control_is_deferred_and_answered_as_durable_without_a_position(world: World, edge: Edge) -> None:
    client = await edge.client(producer="worker", incarnation="abcdefgh")
    world.live.stop()
    answers = [await client.publish(SESSION, number, seq=number, **CONTROL) for number in range(1, 6)]
    assert [answer["type"] for answer in answers] == ["published"] * 5
    assert all(answer["durable"] and answer["deferred"] and "position" not in answer for answer in answers)
    assert [message.payload for message in deferred(world)] == [b"1", b"2", b"3", b"4", b"5"]
    assert [message.producer_seq for message in deferred(world)] == [1, 2, 3, 4, 5]
    assert {message.message_id for message in deferred(world)} == {answer["message_id"] for answer in answers}
    assert world.positions_in_log(SESSION) == []
    assert edge.value("deferred_total") == 5


@pytest.mark.parametrize("ack", ["accepted", "durable"])
async def test_it_is_answered_once_the_log_has_it_whatever_was_asked(world: World, edge: Edge, ack: str) -> None:
    client = await edge.client()
    world.live.stop()
    answer = await client.publish(SESSION, 1, ack=ack, **CONTROL)
    assert (answer["durable"], answer["deferred"]) == (True, True)


async def test_a_publish_without_an_answer_is_deferred_too(world: World, edge: Edge) -> None:
    client = await edge.client()
    world.live.stop()
    await client.send({"type": "publish", "session": SESSION, "payload": 1, "ack": "none", **CONTROL})
    await client.barrier()
    assert [message.payload for message in deferred(world)] == [b"1"]
    assert client.of("published") == []


async def test_events_and_telemetry_are_not_deferred(world: World, edge: Edge) -> None:
    client = await edge.client()
    world.live.stop()
    assert (await client.publish(SESSION))["code"] == "live_unavailable"
    await client.publish(SESSION, ack="accepted", **{"class": "telemetry"})
    assert deferred(world) == []


async def test_with_both_paths_away_everything_is_refused_with_a_time(world: World, edge: Edge) -> None:
    client = await edge.client()
    world.live.stop()
    world.log.available = False
    for class_ in ("control", "event"):
        refused = await client.publish(SESSION, 1, **{"class": class_})
        assert (refused["code"], refused["retry_after_ms"]) == ("live_unavailable", 1_000)
    assert edge.value("deferred_total") == 0
    assert edge.value("log_in_flight_records") == 0


async def test_over_http_it_is_a_200_that_says_deferred(world: World, edge: Edge) -> None:
    world.live.stop()
    headers = {"Authorization": f"Bearer {world.token('acme')}"}
    async with httpx.AsyncClient(base_url=edge.url, headers=headers) as http:
        answer = await http.post(PATH, json={"payload": 1, **CONTROL})
        assert (answer.status_code, answer.json()["deferred"], answer.json()["durable"]) == (200, True, True)
        batch = await http.post(PATH, json={"messages": [{"payload": 1, **CONTROL}, {"payload": 2}]})
    assert [one.get("code") for one in batch.json()["results"]] == [None, "live_unavailable"]


async def test_a_tenants_bound_in_flight_holds_for_deferred_ones(world: World) -> None:
    log = RoutedLog(world)
    edge = await world.edge(stores=world.stores(log=log), log_in_flight_per_tenant=2)
    client = await edge.client()
    world.live.stop()
    log.held.add(world.topics.deferred("acme"))
    for number in range(3):
        await client.send({"type": "publish", "id": 90 + number, "session": SESSION, "payload": number, **CONTROL})
    assert (await client.next("refused"))["id"] == 92
    log.release()
    assert [(await client.next("published", id=90 + number))["deferred"] for number in range(2)] == [True, True]


async def test_back_again_control_goes_the_live_way_behind_what_was_deferred(world: World, edge: Edge) -> None:
    client = await edge.client()
    world.live.stop()
    assert (await client.publish(SESSION, 1, **CONTROL))["deferred"]
    world.live.restart(keep=True)
    assert (await client.publish(SESSION, 2, **CONTROL))["deferred"], "the first is not in its place yet"
    await deliver_deferred(world)
    await until(lambda: edge.value("deferring_publishers") == 0)
    answer = await client.publish(SESSION, 3, **CONTROL)
    assert answer["position"]
    assert "deferred" not in answer
