"""What a publisher is told about the log, while it is there, slow or away; and `status`."""

from typing import Any

import pytest
from tests.services.edge.rig import Edge, RoutedLog, World, until

from heliograph.stores.ports import StoreError

SESSION = "acme:planner:1"
OLD = "1000000000000-00000000-0000000000000001"


# ---- the log is away ------------------------------------------------------------------------------------------------


async def test_a_publish_that_the_log_takes_late_is_pending_then_confirmed(world: World) -> None:
    edge = await world.edge(durable_wait_s=0.05)
    client = await edge.client()
    world.log.available = False
    answer = await client.publish(SESSION, "a")
    assert (answer["durable"], answer["pending"]) == (False, True)
    world.log.available = True
    confirmed = await client.next("confirmed")
    assert (confirmed["session"], confirmed["position"]) == (SESSION, answer["position"])
    assert world.positions_in_log(SESSION) == [answer["position"]]
    await client.barrier()
    assert [len(client.of(type_)) for type_ in ("published", "confirmed", "refused")] == [1, 1, 0]
    assert edge.value("pending_total") == 1


async def test_subscribers_get_what_the_log_has_not(world: World, edge: Edge) -> None:
    client = await edge.client()
    await client.subscribe(SESSION)
    world.log.available = False
    await client.publish(SESSION, "live goes on", ack="accepted")
    (message,) = await client.messages(SESSION, 1)
    assert message["payload"] == "live goes on"
    world.log.available = True


@pytest.mark.parametrize("durable_wait_s", [0.05, 5.0], ids=["pending", "waiting"])
async def test_what_somebody_else_writes_is_confirmed(world: World, durable_wait_s: float) -> None:
    """The producer gives up, the router writes it: whether that comes before the answer or after it."""
    edge = await world.edge(durable_wait_s=durable_wait_s)
    client = await edge.client()
    world.log.refused_topics.add(world.topics.log("acme"))
    await client.send({"type": "publish", "id": 1, "session": SESSION, "payload": 1})
    await until(lambda: edge.value("log_failures_total", code="log_unavailable") == 1)
    if durable_wait_s < 1:
        assert (await client.next("published", id=1))["pending"] is True
    head = world.live.head(SESSION)
    world.live.confirm(SESSION, head.epoch, [(1, 513)])
    if durable_wait_s < 1:
        assert (await client.next("confirmed"))["position"] == f"{head.epoch}-{1:016d}"
    else:
        answer = await client.next("published", id=1)
        assert (answer["durable"], answer.get("duplicate", False)) == (True, False)


async def test_a_repeat_of_what_is_under_way_is_followed_not_written_again(world: World) -> None:
    edge = await world.edge(durable_wait_s=0.05)
    client = await edge.client(producer="p", incarnation="abcdefgh")
    world.log.available = False
    first = await client.publish(SESSION, "a", seq=1)
    again = await client.publish(SESSION, "a", seq=1)
    assert (again["position"], again["pending"], again["duplicate"]) == (first["position"], True, True)
    world.log.available = True
    await client.next("confirmed")
    world.confirm_log()
    assert (await client.next("confirmed"))["position"] == first["position"]
    assert len(world.positions_in_log(SESSION)) == 1


async def test_pending_publishes_of_other_sessions_are_followed_past_one_that_is_corrupt(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = await world.edge(durable_wait_s=0.05)
    client = await edge.client()
    world.log.refused_topics.add(world.topics.log("acme"))
    known = world.live.session

    def session(name: str) -> object:
        if name == "acme:planner:corrupt":
            raise StoreError("internal", "corrupt")
        return known(name)

    monkeypatch.setattr(world.live, "session", session)
    await client.publish("acme:planner:corrupt")
    await client.publish(SESSION)
    world.live.confirm(SESSION, world.live.head(SESSION).epoch, [(1, 513)])
    assert (await client.next("confirmed"))["session"] == SESSION


async def test_one_tenants_stuck_partition_is_not_anothers(world: World) -> None:
    log = RoutedLog(world)
    edge = await world.edge(stores=world.stores(log=log), durable_wait_s=0.05, log_in_flight_per_tenant=3)
    log.held.add(world.topics.log("acme"))
    acme, other = await edge.client("acme"), await edge.client("other")
    answers = [await acme.publish(SESSION, number) for number in range(5)]
    assert [answer["pending"] for answer in answers] == [True] * 5
    assert edge.value("log_in_flight_records") == 3, "two were left to the router"
    assert (await other.publish("other:planner:1"))["durable"] is True
    log.release()
    for answer in answers[:3]:
        assert (await acme.next("confirmed"))["position"] == answer["position"]
    await until(lambda: edge.value("log_in_flight_records") == 0)


async def test_in_flight_stays_true_when_the_tenant_changes_meanwhile(world: World) -> None:
    log = RoutedLog(world)
    edge = await world.edge(stores=world.stores(log=log), durable_wait_s=0.05, log_in_flight_per_tenant=3)
    client = await edge.client()
    for round_ in range(3):
        log.held.add(world.topics.log("acme"))
        for number in range(3):
            await client.publish(SESSION, number)
        await world.put_tenant("acme", limits={"max_payload_bytes": 1_000 + round_})
        await until(lambda round_=round_: edge.value("tenant_changes_total") == 3 + round_)  # type: ignore[misc]
        log.release()
        await until(lambda: edge.value("log_in_flight_records") == 0)
    assert (await client.publish(SESSION))["durable"] is True


# ---- the live path is away ------------------------------------------------------------------------------------------


async def test_without_the_live_path_events_are_refused_with_a_time_to_come_back(world: World, edge: Edge) -> None:
    client = await edge.client()
    world.live.stop()
    for ack in ("durable", "accepted", "none"):
        refused = await client.publish(SESSION, 1, ack=ack)
        assert (refused["code"], refused["retry_after_ms"]) == ("live_unavailable", 1_000)
    await client.send({"type": "publish", "session": SESSION, "class": "telemetry", "payload": 1})
    await client.barrier()
    assert world.positions_in_log(SESSION) == []
    world.live.restart(keep=True)
    assert (await client.publish(SESSION))["durable"] is True


# ---- status ---------------------------------------------------------------------------------------------------------


async def test_status_tells_what_the_log_has(world: World) -> None:
    edge = await world.edge(durable_wait_s=0.05)
    client = await edge.client()
    world.log.available = False
    position = (await client.publish(SESSION))["position"]
    answer = await client.ask("status", session=SESSION, position=position)
    assert (answer["type"], answer["durable"], answer["position"]) == ("status", False, position)
    world.log.available = True
    await client.next("confirmed")
    world.confirm_log()
    assert (await client.ask("status", session=SESSION, position=position))["durable"] is True


@pytest.mark.parametrize("session", [SESSION, "acme:planner:unknown"])
async def test_status_of_what_cannot_be_told_is_null(edge: Edge, session: str) -> None:
    client = await edge.client()
    await client.publish(SESSION)
    assert (await client.ask("status", session=session, position=OLD))["durable"] is None


async def test_status_without_the_live_path_is_null(world: World, edge: Edge) -> None:
    client = await edge.client()
    world.live.stop()
    assert (await client.ask("status", session=SESSION, position=OLD))["durable"] is None
    assert edge.value("status_unknown_total", code="live_unavailable") == 1


SCOPES: list[Any] = [
    (["publish:planner:1"], True),
    (["subscribe:planner:1"], True),
    (["history:planner:1"], False),
    ([], False),
]


async def test_status_takes_a_scope_for_the_session(world: World, edge: Edge) -> None:
    for scopes, allowed in SCOPES:
        client = await edge.client(token=world.token(scopes=scopes))
        answer = await client.ask("status", session=SESSION, position=OLD)
        wanted = ("status", None) if allowed else ("refused", "forbidden")
        assert (answer["type"], answer.get("code")) == wanted, scopes


NO_POSITIONS: list[Any] = ["", "latest", OLD + "0", "x"]


async def test_status_of_no_position_is_refused(edge: Edge) -> None:
    client = await edge.client()
    for position in NO_POSITIONS:
        assert (await client.ask("status", session=SESSION, position=position))["code"] == "position_invalid"
