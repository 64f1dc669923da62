"""Under pressure: telemetry is sampled, then shed; events are refused with a time; control is deferred, never refused;
and everybody is told. Pressure is real: a store that is nearly full, readers that read nothing, a log that is away.
"""

import json
import math
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from tests.services.edge.client import Client
from tests.services.edge.rig import Edge, RoutedLog, World, until
from tests.services.edge.test_deferral import deferred, deliver_deferred
from tests.services.edge.test_slow_readers import slow_reader
from websockets.exceptions import InvalidStatus

from heliograph.stores.memory.log import MemoryLogWriter
from heliograph.stores.ports import StoreError

SESSION = "acme:planner:1"
PATH = "/v1/sessions/acme/planner/1/messages"
ELEVATED, HIGH, CRITICAL = 0.85, 0.93, 0.98
"""Shares of the live store's memory that mean so by the default marks."""
CONTROL, TELEMETRY = {"class": "control"}, {"class": "telemetry"}

EdgeWith = Callable[..., Awaitable[Edge]]


@pytest.fixture(autouse=True)
def quick_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heliograph.edge.pressure.PASS_S", 0.01)
    monkeypatch.setattr("heliograph.edge.pressure.ASK_S", 0.01)
    monkeypatch.setattr("heliograph.edge.connections.PASS_S", 0.05)


@pytest.fixture
def edge_with(world: World) -> EdgeWith:
    """An edge whose levels come and go at once."""

    async def make(**options: Any) -> Edge:
        return await world.edge(**{"pressure_confirm_s": 0.0, "pressure_calm_s": 0.0, **options})

    return make


async def press(world: World, edge: Edge, share: float) -> None:
    """Let the live store be as full as `share` says; 0: it has no limit again."""
    used = world.live.memory().used_bytes
    world.live.max_bytes = math.ceil(used / share) if share else 0
    level = sum(share >= mark for mark in (0.8, 0.9, 0.97))
    await until(lambda: edge.value("pressure_level", source="live") == level, f"level {level}")


async def publish_telemetry(client: Client, count: int) -> None:
    """Without answers, judged when this returns."""
    for number in range(count):
        await client.send({"type": "publish", "session": SESSION, "payload": number, **TELEMETRY})
    await client.barrier()


async def told(client: Client, level: str) -> dict[str, Any]:
    """The notice of this level, whatever came before it: levels may be passed one by one."""
    return await client.next("notice", level=level)


def telemetry(edge: Edge) -> dict[str, float]:
    """What became of it, on the publishing side."""
    reasons = ("sampled", "pressure", "live_unavailable")
    found = {reason: edge.value("telemetry_dropped_total", reason=reason) for reason in reasons}
    return {"published": edge.value("published_total", **{"class": "telemetry"}), **found}


# ---- the live path --------------------------------------------------------------------------------------------------


async def test_telemetry_is_sampled_then_shed_and_each_is_counted_once(world: World, edge_with: EdgeWith) -> None:
    edge = await edge_with(telemetry_sample_ratio=0.25)
    writer, reader = await edge.client(), await edge.client()
    await reader.subscribe(SESSION)
    await writer.publish(SESSION, "x" * 10_000)
    await press(world, edge, ELEVATED)
    await publish_telemetry(writer, 200)
    await until(lambda: sum(telemetry(edge).values()) == 200)
    sampled = telemetry(edge)
    assert sampled == {"published": pytest.approx(50, abs=3), "sampled": 200 - sampled["published"], "pressure": 0,
                       "live_unavailable": 0}  # fmt: skip
    await press(world, edge, HIGH)
    await publish_telemetry(writer, 100)
    assert telemetry(edge) == {**sampled, "pressure": 100}
    assert (await writer.publish(SESSION, "events go on"))["durable"]
    assert (await writer.publish(SESSION, "control too", **CONTROL))["position"]
    await press(world, edge, 0)
    await publish_telemetry(writer, 10)
    await until(lambda: telemetry(edge)["published"] == sampled["published"] + 10)
    await reader.messages(SESSION, int(sampled["published"]) + 10 + 3)


async def test_telemetry_that_wants_an_answer_is_told_that_it_is_not_taken(world: World, edge_with: EdgeWith) -> None:
    edge = await edge_with()
    client = await edge.client()
    await client.publish(SESSION, "x" * 10_000)
    await press(world, edge, HIGH)
    refused = await client.publish(SESSION, ack="accepted", **TELEMETRY)
    assert refused["code"] == "overloaded"
    assert world.log.records(world.topics.telemetry("acme")) == []
    assert telemetry(edge)["pressure"] == 1


async def test_when_critical_events_are_refused_with_a_time_of_their_own(world: World, edge_with: EdgeWith) -> None:
    edge = await edge_with()
    client = await edge.client(producer="p", incarnation="abcdefgh")
    await client.publish(SESSION, "x" * 10_000, seq=1)
    await press(world, edge, CRITICAL)
    refused = [await client.publish(SESSION, number, seq=2) for number in range(10)]
    assert {one["code"] for one in refused} == {"overloaded"}
    assert all(1_000 <= one["retry_after_ms"] <= 3_000 for one in refused)
    assert len({one["retry_after_ms"] for one in refused}) > 5
    assert edge.value("refused_total", code="overloaded") == 10
    await press(world, edge, 0)
    assert (await client.publish(SESSION, 2, seq=2))["position"], "nothing was taken of what was refused"


async def test_when_critical_control_is_deferred_and_keeps_its_order_when_it_is_over(
    world: World, edge_with: EdgeWith
) -> None:
    edge = await edge_with()
    client = await edge.client(producer="p", incarnation="abcdefgh")
    assert (await client.publish(SESSION, 1, seq=1, **CONTROL))["position"]
    await press(world, edge, CRITICAL)
    answers = [await client.publish(SESSION, number, seq=number, **CONTROL) for number in (2, 3)]
    assert all(answer["deferred"] and answer["durable"] for answer in answers)
    await press(world, edge, 0)
    refused = await client.publish(SESSION, 4, seq=4, **CONTROL)
    assert (refused["code"], refused["expected"]) == ("out_of_order", 2), "the deferred ones come first"
    await deliver_deferred(world)
    assert (await client.publish(SESSION, 4, seq=4, **CONTROL))["position"]
    page = world.live.page(SESSION, None)
    assert [json.loads(frame)["payload"] for frame in page.frames] == [1, 2, 3, 4]


async def test_over_http_events_get_a_503_with_a_time_and_control_is_taken(world: World, edge_with: EdgeWith) -> None:
    edge = await edge_with()
    await (await edge.client()).publish(SESSION, "x" * 10_000)
    await press(world, edge, CRITICAL)
    headers = {"Authorization": f"Bearer {world.token('acme')}"}
    async with httpx.AsyncClient(base_url=edge.url, headers=headers) as http:
        refused = await http.post(PATH, json={"payload": 1})
        assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
        assert 1 <= int(refused.headers["Retry-After"]) <= 3
        taken = await http.post(PATH, json={"payload": 1, **CONTROL})
        assert (taken.status_code, taken.json()["deferred"]) == (200, True)
        batch = await http.post(PATH, json={"messages": [{"payload": 2, **CONTROL}, {"payload": 3}, {"payload": 4}]})
    results = batch.json()["results"]
    assert [one.get("code") for one in results] == [None, "overloaded", "batch_stopped"]
    assert results[1]["retry_after_ms"] >= 1_000


async def test_a_store_that_is_full_refuses_events_as_overloaded_and_control_is_deferred(
    world: World, edge_with: EdgeWith
) -> None:
    """Before anybody has measured it."""
    edge = await edge_with(pressure_live_memory_ratio="100,100,100")
    client = await edge.client()
    await client.publish(SESSION, "x")
    world.live.max_bytes = 1
    refused = await client.publish(SESSION, 1)
    assert (refused["type"], refused["code"]) == ("refused", "overloaded")
    assert 1_000 <= refused["retry_after_ms"] <= 3_000
    assert (await client.publish(SESSION, 2, **CONTROL))["deferred"]
    assert [message.payload for message in deferred(world)] == [b"2"]
    world.live.max_bytes = 0
    assert (await client.publish(SESSION, 3))["position"]


async def test_where_the_log_takes_no_deferred_message_the_live_path_does_as_long_as_it_answers(
    world: World, edge_with: EdgeWith
) -> None:
    """Control is never refused for pressure: neither path is away."""
    edge = await edge_with()
    client = await edge.client()
    await client.publish(SESSION, "x" * 10_000)
    await press(world, edge, CRITICAL)
    world.log.refused_topics.add(world.topics.deferred("acme"))
    answer = await client.publish(SESSION, 1, **CONTROL)
    assert (answer["durable"], answer.get("deferred", False)) == (True, False)
    assert answer["position"] in world.positions_in_log(SESSION)
    world.log.refused_topics.clear()
    assert (await client.publish(SESSION, 2, **CONTROL))["deferred"]
    await deliver_deferred(world)
    assert len(world.live.page(SESSION, None).frames) == 3


async def test_where_neither_takes_it_the_refusal_says_that_it_may_be_in(world: World, edge_with: EdgeWith) -> None:
    """A publisher must not give its seq to another message: the log may have it all the same."""
    edge = await edge_with()
    client = await edge.client(producer="p", incarnation="abcdefgh")
    await client.publish(SESSION, "x" * 10_000)
    await press(world, edge, CRITICAL)
    world.log.refused_topics.add(world.topics.deferred("acme"))
    world.live.max_bytes = 1
    refused = await client.publish(SESSION, 1, seq=1, **CONTROL)
    assert (refused["code"], refused["retry_after_ms"]) == ("live_unavailable", 1_000)
    world.log.refused_topics.clear()
    assert (await client.publish(SESSION, 1, seq=1, **CONTROL))["deferred"]


async def test_a_live_path_that_is_away_for_a_second_is_critical_and_normal_again_with_it(
    world: World, edge_with: EdgeWith
) -> None:
    edge = await edge_with()
    client = await edge.client()
    world.live.stop()
    assert (await client.publish(SESSION))["code"] == "live_unavailable"
    await publish_telemetry(client, 5)
    assert telemetry(edge)["live_unavailable"] == 5
    assert (await told(client, "critical"))["sources"] == ["live"]
    assert (await client.publish(SESSION))["code"] == "live_unavailable", "which says what it is"
    world.live.restart(keep=True)
    await told(client, "normal")
    assert (await client.publish(SESSION))["position"]
    assert edge.value("pressure_changes_total", source="live", level="critical") == 1


# ---- the log --------------------------------------------------------------------------------------------------------


async def test_a_slow_log_costs_telemetrys_copies_and_nothing_else(world: World, edge_with: EdgeWith) -> None:
    await world.put_tenant("acme", topics={"telemetry": {}})
    edge = await edge_with(pressure_log_oldest_s="0.01,0.02,0.03", durable_wait_s=0.02)
    writer, reader = await edge.client(), await edge.client()
    await reader.subscribe(SESSION)
    await publish_telemetry(writer, 3)
    copies = world.topics.telemetry("acme")
    await until(lambda: len(world.log.records(copies)) == 3)
    world.log.available = False
    assert (await writer.publish(SESSION, "event"))["pending"]
    assert (await told(writer, "critical"))["sources"] == ["log"]
    await publish_telemetry(writer, 5)
    assert (await writer.publish(SESSION, "event"))["pending"]
    assert (await writer.publish(SESSION, "control", **CONTROL))["pending"]
    assert edge.value("telemetry_not_logged_total", reason="pressure") == 5
    assert telemetry(edge) == {"published": 8, "sampled": 0, "pressure": 0, "live_unavailable": 0}
    await reader.messages(SESSION, 3 + 1 + 5 + 2)
    world.log.available = True
    await told(writer, "normal")
    await publish_telemetry(writer, 1)
    await until(lambda: len(world.log.records(copies)) == 4)


# ---- the edge itself ------------------------------------------------------------------------------------------------


async def connect_refused(edge: Edge) -> tuple[int, str, int]:
    with pytest.raises(InvalidStatus) as error:
        await edge.connect()
    response = error.value.response
    return response.status_code, json.loads(response.body)["code"], int(response.headers["Retry-After"])


async def test_readers_that_read_nothing_are_the_edges_pressure(world: World, edge_with: EdgeWith) -> None:
    edge = await edge_with(
        pressure_outbound_bytes="1000,20000,100000",
        socket_send_buffer_bytes=8_192,
        outbound_soft_bytes=400_000,
        outbound_hard_bytes=800_000,
    )
    reader, writer = await slow_reader(edge, SESSION), await edge.client()
    for number in range(6):
        await writer.publish(SESSION, f"{number}" + "x" * 50_000, ack="accepted")
    notice = await told(writer, "critical")
    assert (notice["sources"], notice["retry_after_ms"]) == (["edge"], 2_000)
    assert (await writer.publish(SESSION, 1))["code"] == "overloaded"
    answer = await writer.publish(SESSION, 2, **CONTROL)
    assert answer["position"], "the live path is well: control goes there"
    await publish_telemetry(writer, 5)
    assert telemetry(edge)["pressure"] == 5
    status, code, after_s = await connect_refused(edge)
    assert (status, code) == (503, "overloaded")
    assert 2 <= after_s <= 10
    assert edge.value("handshakes_refused_total", code="overloaded") == 1
    await reader.close()
    await told(writer, "normal")
    assert (await writer.publish(SESSION, 3))["position"]
    assert (await (await edge.connect()).hello())["type"] == "welcome"


async def test_an_edge_near_its_memory_limit_takes_no_connection_instead_of_being_killed(
    world: World, edge_with: EdgeWith
) -> None:
    edge = await edge_with(memory_limit_bytes=1)
    await until(lambda: edge.value("pressure_level", source="edge") == 3)
    assert (await connect_refused(edge))[:2] == (503, "overloaded")
    headers = {"Authorization": f"Bearer {world.token('acme')}"}
    async with httpx.AsyncClient(base_url=edge.url, headers=headers) as http:
        refused = await http.post(PATH, json={"payload": 1})
        assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
        assert (await http.post(PATH, json={"payload": 1, **CONTROL})).json()["position"]
        assert (await http.get("/livez")).status_code == 200


# ---- told -----------------------------------------------------------------------------------------------------------


async def test_clients_are_told_behind_welcome_and_on_each_change_and_only_then(
    world: World, edge_with: EdgeWith
) -> None:
    edge = await edge_with()
    early = await edge.client()
    await early.publish(SESSION, "x" * 10_000)
    await press(world, edge, ELEVATED)
    assert (await early.next("notice"))["level"] == "elevated"
    late = await edge.client()
    assert [frame["type"] for frame in late.frames] == ["welcome"] or late.frames[1]["type"] == "notice"
    assert await late.next("notice") == {
        "type": "notice", "kind": "pressure", "level": "elevated", "sources": ["live"],
    }  # fmt: skip
    await press(world, edge, CRITICAL)
    for client in (early, late):
        notice = await client.next("notice")
        assert (notice["level"], notice["retry_after_ms"]) == ("critical", 2_000)
    await press(world, edge, 0)
    for client in (early, late):
        assert await client.next("notice") == {"type": "notice", "kind": "pressure", "level": "normal"}
    last = await edge.client()
    await last.barrier()
    assert last.of("notice") == [], "where all is normal nothing is told"
    assert [len(client.of("notice")) for client in (early, late)] == [3, 3]


async def test_an_edge_that_is_well_tells_nothing_and_holds_nothing_back(world: World, edge: Edge) -> None:
    client = await edge.client()
    for number in range(50):
        await client.publish(SESSION, number)
    await publish_telemetry(client, 50)
    await until(lambda: telemetry(edge)["published"] == 50)
    assert client.of("notice") == []
    assert edge.service.metrics.value("pressure_level", {"source": "live"}) == 0


# ---- telemetry that no subscriber gets ------------------------------------------------------------------------------


async def test_a_subscription_link_that_breaks_is_counted_for_each_subscriber(world: World, edge: Edge) -> None:
    readers = [await edge.client() for _ in range(3)]
    for reader in readers:
        await reader.subscribe(SESSION)
    world.live.stop()
    await until(lambda: edge.value("telemetry_cut_total") == 3)
    world.live.restart(keep=True)


# ---- publishers without a counter -----------------------------------------------------------------------------------


async def test_a_publisher_without_a_counter_keeps_its_order_when_the_pressure_is_over(
    world: World, edge_with: EdgeWith
) -> None:
    edge = await edge_with()
    client, other = await edge.client(), await edge.client("acme", producer="other")
    await client.publish(SESSION, "x" * 10_000)
    await press(world, edge, CRITICAL)
    assert (await client.publish(SESSION, 1, **CONTROL))["deferred"]
    await press(world, edge, 0)
    assert (await client.publish(SESSION, 2, **CONTROL))["deferred"], "1 is not in its place yet"
    assert (await client.publish("acme:planner:2", 1, **CONTROL))["position"], "another session"
    assert (await other.publish(SESSION, "other", **CONTROL))["position"], "another publisher"
    assert (await client.publish(SESSION, "event"))["position"], "another class"
    await deliver_deferred(world)
    await until(lambda: edge.value("deferring_publishers") == 0)
    assert (await client.publish(SESSION, 3, **CONTROL))["position"]
    payloads = [json.loads(frame)["payload"] for frame in world.live.page(SESSION, None).frames]
    assert [payload for payload in payloads if payload in (1, 2, 3)] == [1, 2, 3]


async def test_the_same_over_http(world: World, edge_with: EdgeWith) -> None:
    edge = await edge_with()
    await (await edge.client()).publish(SESSION, "x" * 10_000)
    await press(world, edge, CRITICAL)
    headers = {"Authorization": f"Bearer {world.token('acme')}"}
    async with httpx.AsyncClient(base_url=edge.url, headers=headers) as http:
        for number in (1, 2):
            assert (await http.post(PATH, json={"payload": number, **CONTROL})).json()["deferred"]
            await press(world, edge, 0)
        await deliver_deferred(world)
        await until(lambda: edge.value("deferring_publishers") == 0)
        assert (await http.post(PATH, json={"payload": 3, **CONTROL})).json()["position"]
    payloads = [json.loads(frame)["payload"] for frame in world.live.page(SESSION, None).frames]
    assert payloads[1:] == [1, 2, 3]


async def test_a_deferral_that_fails_holds_nobody_back(world: World) -> None:
    log = RoutedLog(world)
    edge = await world.edge(stores=world.stores(log=log))
    client = await edge.client()
    world.live.stop()
    world.log.refused_topics.add(world.topics.deferred("acme"))
    assert (await client.publish(SESSION, 1, **CONTROL))["code"] == "live_unavailable"
    assert edge.value("deferring_publishers") == 0
    world.live.restart(keep=True)
    assert (await client.publish(SESSION, 1, **CONTROL))["position"]


class Refusing(MemoryLogWriter):
    """A log whose queue is full."""

    def write(self, *_: object) -> None:
        raise StoreError("log_unavailable", "the producer's queue is full")


async def test_telemetry_that_the_log_does_not_take_is_counted_by_its_reason(world: World) -> None:
    await world.put_tenant("acme", topics={"telemetry": {}})
    edge = await world.edge(stores=world.stores(log=Refusing(world.log)))
    client = await edge.client()
    await publish_telemetry(client, 3)
    assert edge.value("telemetry_not_logged_total", reason="log_unavailable") == 3
    assert telemetry(edge)["published"] == 3
