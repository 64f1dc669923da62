"""Joins and leaves: who is told, of what, when, and how often."""

import asyncio
from typing import Any

import pytest
from tests.services.edge.client import Client
from tests.services.edge.rig import Edge, World, until, until_told
from tests.services.edge.test_registration import Registry
from tests.services.edge.test_serving import Router, busy
from tests.services.edge.test_slow_readers import slow_reader

from heliograph.stores.ports import Connection, EdgeLease

SESSION = "acme:planner:1"
OTHER = "acme:planner:2"


async def watcher(edge: Edge, *sessions: str) -> Client:
    """A client that asked for presence, and has seen its own joins."""
    client = await edge.client(token=edge.world.token(subject="watcher"))
    for session in sessions or (SESSION,):
        assert (await client.ask("subscribe", session=session, presence=True))["type"] == "subscribed"
        await client.next("presence", session=session, event="join", subject="watcher")
    return client


def events(client: Client, session: str = SESSION, subject: str | None = None) -> list[tuple[str, ...]]:
    """What it was told of a session, in order: event and, of a leave, the reason."""
    return [
        (frame["event"], *([frame["reason"]] if "reason" in frame else []))
        for frame in client.of("presence", session)
        if subject is None or frame["subject"] == subject
    ]


async def test_who_asked_is_told_who_joins_and_leaves(world: World) -> None:
    edge = await world.edge()
    watching = await watcher(edge)
    robot = await edge.client(token=world.token(subject="robot"), agent="arm-7")
    await robot.subscribe(SESSION)
    joined = await watching.next("presence", subject="robot")
    id_ = robot.of("welcome")[0]["connection"]
    assert (joined["event"], joined["connection"], joined["agent"]) == ("join", id_, "arm-7")
    assert "reason" not in joined
    await robot.ask("unsubscribe", session=SESSION)
    left = await watching.next("presence", subject="robot")
    assert (left["event"], left["reason"], left["connection"]) == ("leave", "closed", id_)
    assert left["time"] >= joined["time"]
    assert joined["id"].removesuffix("join") == left["id"].removesuffix("leave")
    assert joined["id"].startswith(f"edge-1/{id_}/1/")


async def test_who_closes_leaves_every_session(world: World) -> None:
    edge = await world.edge()
    watching = await watcher(edge, SESSION, OTHER)
    robot = await edge.client(token=world.token(subject="robot"))
    for session in (SESSION, OTHER):
        await robot.subscribe(session)
        await watching.next("presence", session=session, event="join", subject="robot")
    robot.abort()
    for session in (SESSION, OTHER):
        left = await watching.next("presence", session=session, subject="robot")
        assert (left["event"], left["reason"]) == ("leave", "closed")


async def test_subscribers_on_other_edges_are_told(world: World) -> None:
    here, there = await world.edge(), await world.edge()
    watching = await watcher(there)
    robot = await here.client(token=world.token(subject="robot"))
    await robot.subscribe(SESSION)
    assert (await watching.next("presence", subject="robot"))["id"].startswith("edge-1/")


async def test_who_did_not_ask_is_told_nothing(world: World) -> None:
    edge = await world.edge()
    plain, watching = await edge.client(), await watcher(edge)
    await plain.subscribe(SESSION)
    await watching.next("presence", subject="you")
    await plain.barrier()
    assert plain.of("presence") == []


async def test_presence_may_be_asked_for_in_hello(world: World) -> None:
    edge = await world.edge()
    client = await edge.connect()
    await client.hello(subscriptions=[{"session": SESSION, "presence": True}])
    assert (await client.next("presence"))["event"] == "join"


@pytest.mark.parametrize("how", ["subscribe", "hello"])
async def test_presence_needs_its_scope(world: World, how: str) -> None:
    edge = await world.edge()
    token = world.token(scopes=["subscribe:*:*", "presence:tool:*", "presence:planner:2"])
    client = await edge.connect(token=token)
    if how == "hello":
        await client.hello(subscriptions=[{"session": SESSION, "presence": True}])
        refused = await client.next("refused")
    else:
        await client.hello()
        refused = await client.ask("subscribe", session=SESSION, presence=True)
    assert (refused["type"], refused["code"], refused["session"]) == ("refused", "forbidden", SESSION)
    assert edge.value("refused_total", code="forbidden") == 1
    assert (await client.ask("subscribe", session=SESSION))["type"] == "subscribed", "without it"
    assert (await client.ask("subscribe", session=OTHER, presence=True))["type"] == "subscribed"


async def test_a_new_token_without_the_scope_ends_what_needed_it(world: World) -> None:
    edge = await world.edge()
    client = await watcher(edge, SESSION)
    await client.subscribe(OTHER)
    weaker = world.token(subject="watcher", scopes=["subscribe:*:*"])
    await client.ask("refresh", token=weaker)
    refused = await client.next("refused")
    assert (refused["code"], refused["session"]) == ("forbidden", SESSION)
    assert (await client.publish(SESSION))["code"] == "forbidden", "the new scopes count"
    assert (await client.ask("unsubscribe", session=OTHER))["type"] == "unsubscribed"


async def test_a_join_is_told_only_once_the_registry_knows_it(world: World) -> None:
    """What the registry does not know it could not tell as lost."""
    store = Registry()
    world.connections = store
    edge = await world.edge(lease_s=1.0)
    watching = await watcher(edge)
    pause = store.hold("update")
    robot = await edge.client(token=world.token(subject="robot"))
    await robot.subscribe(SESSION)
    await until(lambda: store.waiting == 1)
    await watching.barrier()
    assert events(watching, subject="robot") == []
    store.pause = None
    pause.set()
    await watching.next("presence", subject="robot", event="join")
    (robot_record,) = [one for _, one in await store.connections(SESSION, 10) if one.subject == "robot"]
    assert robot_record.registration == 1
    assert len(robot_record.joins) == 1
    assert robot_record.joins[0] > 0


async def test_who_came_and_went_while_the_registry_was_away_is_not_told(world: World) -> None:
    store = Registry()
    world.connections = store
    edge = await world.edge(lease_s=60.0)
    watching = await watcher(edge)
    stays = await edge.client(token=world.token(subject="stays"))
    await stays.subscribe(SESSION)
    await watching.next("presence", subject="stays", event="join")
    store.away = True
    for _ in range(3):
        guest = await edge.client(token=world.token(subject="guest"))
        await guest.subscribe(SESSION)
        await guest.close()
    await stays.close()
    await until(lambda: edge.value("registry_failures_total") >= 1 and edge.value("connections") == 1)
    store.away = False
    await watching.next("presence", subject="stays", event="leave")
    assert events(watching, subject="guest") == []
    assert edge.value("presence_waiting") == 0


async def test_who_subscribes_again_at_once_has_not_left(world: World) -> None:
    """As a reader does that was parked for a moment."""
    store = Registry()
    world.connections = store
    edge = await world.edge(lease_s=60.0)
    watching = await watcher(edge)
    robot = await edge.client(token=world.token(subject="robot"))
    await robot.subscribe(SESSION)
    await watching.next("presence", subject="robot", event="join")
    store.away = True
    await robot.ask("unsubscribe", session=SESSION)
    await robot.subscribe(SESSION)
    store.away = False
    await robot.close()
    left = await watching.next("presence", subject="robot", event="leave")
    assert left["reason"] == "closed"
    assert events(watching, subject="robot") == [("join",), ("leave", "closed")]


async def test_a_worker_joins_the_session_it_is_given_and_leaves_it_when_done(world: World) -> None:
    edge, watched = await world.edge(), await world.edge()
    watching = await watcher(watched)
    client, fence, positions = await busy(world, edge, Router(world))
    joined = await watching.next("presence", subject="you", event="join")
    assert joined["connection"] == client.of("welcome")[0]["connection"]
    await client.ask("ack", session=SESSION, position=positions[-1], lease=str(fence), done=True)
    left = await watching.next("presence", subject="you", event="leave")
    assert (left["connection"], left["reason"]) == (joined["connection"], "closed")


async def test_an_edge_that_drains_says_so(world: World) -> None:
    staying, going = await world.edge(), await world.edge()
    watching = await watcher(staying)
    for subject in ("one", "two"):
        client = await going.client(token=world.token(subject=subject))
        await client.subscribe(SESSION)
        await watching.next("presence", subject=subject, event="join")
    going.begin_stop()
    for subject in ("one", "two"):
        left = await watching.next("presence", subject=subject)
        assert (left["event"], left["reason"]) == ("leave", "drained")
    await going.stopped()
    assert [held.edge for held, _ in await world.connections.connections("acme", 10)] == ["edge-1"]


async def test_leaves_that_could_not_be_told_at_the_end_are_left_to_a_registry(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is forgotten untold nobody would ever tell."""
    monkeypatch.setattr("heliograph.edge.registration.LAST_WORDS_S", 0.05)
    store = Registry()
    world.connections = store
    edge = await world.edge(lease_s=1.0)
    robot = await edge.client(token=world.token(subject="robot"))
    await robot.subscribe(SESSION)
    await until(lambda: edge.value("presence_announced_total") == 1)
    world.live.stop()
    edge.begin_stop()
    await edge.stopped()
    lapsed: list[EdgeLease] = []

    async def ran_out() -> bool:
        lapsed[:] = await store.lapsed()
        return bool(lapsed)

    await until_told(ran_out)
    (left,) = await store.left_behind(lapsed[0], 10)
    assert (left.subject, left.sessions) == ("robot", [SESSION])
    world.live.restart(keep=True)


async def test_an_edge_that_was_reaped_lets_its_clients_join_anew(world: World) -> None:
    """Stopped for longer than its lease: a registry told that they are lost, and they are not."""
    store = Registry()
    world.connections = store
    staying, stopped = await world.edge(lease_s=60.0), await world.edge(lease_s=1.0)
    watching = await watcher(staying)
    robot = await stopped.client(token=world.token(subject="robot"))
    await robot.subscribe(SESSION)
    first = await watching.next("presence", subject="robot", event="join")
    pause = store.hold("renew")
    await until(lambda: store.waiting >= 1)
    await MemoryReap(store).of("edge-2")
    store.pause = None
    pause.set()
    second = await watching.next("presence", subject="robot", event="join")
    assert second["connection"] == first["connection"]
    assert second["id"] != first["id"]
    assert second["id"].split("/")[2] == "2"
    assert not robot.is_closed
    await robot.close()
    left = await watching.next("presence", subject="robot", event="leave")
    assert left["id"].split("/")[2] == "2"


class MemoryReap:
    """What a registry does to the store, without telling anybody."""

    def __init__(self, store: Registry) -> None:
        self._store = store

    async def of(self, edge: str) -> None:
        lease = self._store._leases[edge]
        lease.ends_ms = 0
        await self._store.remove(lease, await self._store.left_behind(lease, 100))
        assert await self._store.bury(lease)


async def test_what_a_former_process_of_the_name_left_is_told_as_lost(world: World) -> None:
    """Killed and started again within its lease: to register would forget what it had."""
    store = Registry()
    world.connections = store
    staying = await world.edge(lease_s=60.0)
    watching = await watcher(staying)
    await store.renew(EdgeLease("edge-2", "the former", "edge-2:8080", 2, 0), 60.0)
    back = Connection("c-2", "acme", "watcher", None, 0, [SESSION], 1, [8])
    await store.update("edge-2", [Connection("c-1", "acme", "robot", None, 0, [SESSION], 1, [7]), back], [])
    await world.edge(lease_s=60.0)
    left = await watching.next("presence", subject="robot")
    assert (left["event"], left["reason"], left["id"]) == ("leave", "lost", "edge-2/c-1/1/7/leave")
    assert events(watching, subject="watcher") == [("join",)], "that agent is connected elsewhere"
    assert [one.connection for _, one in await store.connections(SESSION, 10)] == [
        watching.of("welcome")[0]["connection"]
    ]


async def test_who_comes_to_a_crowded_session_is_not_announced_and_is_known_all_the_same(world: World) -> None:
    edge = await world.edge(presence_subscribers=3)
    watching = await watcher(edge)
    crowd = [await edge.client(token=world.token(subject=f"c{number}")) for number in range(4)]
    for client in crowd:
        await client.subscribe(SESSION)
    await watching.next("presence", subject="c1", event="join")
    await watching.next("presence", subject="c0", event="join")

    async def all_known() -> bool:
        return len(await world.connections.connections(SESSION, 100)) == 5

    await until_told(all_known)
    assert edge.value("presence_unannounced_total") == 2
    for client in crowd:
        await client.close()
    await watching.next("presence", subject="c0", event="leave")
    await watching.next("presence", subject="c1", event="leave")
    await until(lambda: edge.value("presence_waiting") == 0)
    assert {frame["subject"] for frame in watching.of("presence")} == {"watcher", "c0", "c1"}


async def test_while_the_live_store_is_away_joins_wait_and_the_lease_is_renewed(world: World) -> None:
    store = Registry()
    world.connections = store
    edge = await world.edge(lease_s=1.0)
    watching = await watcher(edge)
    robot = await edge.client(token=world.token(subject="robot"))
    world.live.stop()
    pause = store.hold("update")
    await robot.send({"type": "subscribe", "session": SESSION})
    await until(lambda: store.waiting == 1)
    store.pause = None
    pause.set()
    await until(lambda: edge.value("presence_failures_total", code="live_unavailable") >= 1)
    renewals = store.renewals
    await until(lambda: store.renewals >= renewals + 2)
    world.live.restart(keep=True)
    await watching.next("presence", subject="robot", event="join")
    assert [lease.edge for lease in await store.edges()] == ["edge-1"]


async def test_joins_are_told_when_edges_have_subscribed_again_after_the_live_store_was_away(world: World) -> None:
    edge = await world.edge()
    watching = await watcher(edge)
    robot = await edge.client(token=world.token(subject="robot"))
    subscribes_again_after(edge.service_live, 1.0)
    world.live.stop()
    await robot.send({"type": "subscribe", "session": SESSION})
    await until(lambda: edge.value("presence_failures_total", code="live_unavailable") >= 1)
    world.live.restart(keep=True)
    await watching.next("presence", subject="robot", event="join")


def subscribes_again_after(live: Any, delay_s: float) -> None:
    """Its connection for subscriptions comes back later than the one for commands."""
    loop, at_once = asyncio.get_running_loop(), live._resubscribe

    def later() -> None:
        loop.call_later(*((delay_s, at_once) if live.available else (0.01, later)))

    live._resubscribe = later


async def test_a_slow_reader_is_spared_and_it_is_counted(world: World) -> None:
    await world.put_tenant("acme", limits={"connection_messages_per_s": 1e6, "connection_burst_bytes": 10**9})
    edge = await world.edge(outbound_soft_bytes=65_536, outbound_hard_bytes=1 << 20, socket_send_buffer_bytes=8_192)
    reader, writer = await slow_reader(edge), await edge.client()
    reader.send({"type": "subscribe", "session": SESSION, "presence": True})
    await reader.frame("subscribed")
    await until(lambda: edge.value("presence_sent_total") == 1)
    for number in range(3):
        await writer.publish(SESSION, f"{number}" + "x" * 40_000, ack="accepted")
    joiner = await edge.client(token=world.token(subject="robot"))
    await joiner.subscribe(SESSION)
    await until(lambda: edge.value("presence_shed_total") == 1)
    await reader.close()


async def test_a_restart_of_everything_told_is_told_once(world: World) -> None:
    """The task that tells breaks off after the live store took it: the id says that it was."""
    edge = await world.edge()
    watching = await watcher(edge)
    store: Any = edge.service_live
    published = store.announce_many
    broken = asyncio.Event()

    async def broken_off(batch: Any) -> Any:
        await published(batch)
        if not broken.is_set():
            broken.set()
            raise ConnectionError("broken off")
        return await published(batch)

    store.announce_many = broken_off
    robot = await edge.client(token=world.token(subject="robot"))
    await robot.subscribe(SESSION)
    await broken.wait()
    await until(lambda: edge.value("presence_waiting") == 0)
    await robot.close()
    await watching.next("presence", subject="robot", event="leave")
    assert events(watching, subject="robot") == [("join",), ("leave", "closed")]
