"""An edge that stops lets its clients go at a pace."""

import asyncio
import json
from random import Random

import httpx
import pytest
from tests.services.edge.client import Client
from tests.services.edge.rig import World, until
from websockets.exceptions import InvalidStatus

from heliograph.core.pacing import DrainPace, jittered_after_ms
from heliograph.edge import bootstrap, moving
from heliograph.service.command_line import ExitCode

SESSION = "acme:planner:1"


async def test_every_client_is_told_at_a_pace_then_closed(world: World) -> None:
    edge = await world.edge(drain_timeout_s=2.0)
    clients = [await edge.client() for _ in range(12)]
    told: list[tuple[float, int]] = []
    loop = asyncio.get_running_loop()

    async def told_to(client: Client) -> int | None:
        frame = await client.next("reconnect")
        assert frame["reason"] == "draining"
        told.append((loop.time(), frame["after_ms"]))
        return await client.closed()

    watching = [asyncio.create_task(told_to(client)) for client in clients]
    begin = loop.time()
    edge.begin_stop()
    codes = await asyncio.gather(*watching)
    assert set(codes) == {4001}
    times = sorted(at - begin for at, _ in told)
    assert times[-1] - times[0] > 0.8, "spread over the drain time, not a wave"
    assert sum(time < 0.5 for time in times) <= 6
    assert all(0 <= after_ms <= 1_000 for _, after_ms in told)
    assert len({after_ms for _, after_ms in told}) > 6, "each with a moment of its own"
    await edge.stopped()
    assert edge.exit_code is ExitCode.OK


def test_five_thousand_leave_over_twenty_seconds_without_a_wave() -> None:
    """By the edge's own shares of its drain time, each client with its own jitter on top: on virtual time."""
    random, over_s = Random(7), 20.0
    spread_s = moving.SPREAD_S
    told_over_s = over_s - min(bootstrap.DRAIN_REST_S, bootstrap.DRAIN_REST_SHARE * over_s) - spread_s
    pace, now, left, gone = DrainPace(0.0, told_over_s), 0.0, 5_000, [0] * 20
    while left:
        now += moving.TICK_S
        for _ in range(pace.due(now, left)):
            left -= 1
            gone[int(now + jittered_after_ms(0, spread_s * 1000, random.random) / 1000)] += 1
    assert sum(gone) == 5_000
    assert max(gone) <= 1.3 * 5_000 / over_s


async def test_clients_are_served_until_they_go(world: World) -> None:
    edge = await world.edge(drain_timeout_s=1.0)
    reader, writer = await edge.client(), await edge.client()
    await reader.subscribe(SESSION)
    edge.begin_stop()
    await reader.next("reconnect")
    assert (await writer.publish(SESSION, "still here"))["durable"] is True
    assert (await reader.messages(SESSION, 1))[0]["payload"] == "still here"
    await edge.stopped()


async def test_a_draining_edge_takes_nobody_new_and_says_so(world: World) -> None:
    edge = await world.edge(drain_timeout_s=5.0)
    held = await edge.client()
    edge.begin_stop()
    await until(lambda: edge.service.readiness.draining)
    async with httpx.AsyncClient(base_url=edge.url) as http:
        ready = await http.get("/readyz")
        assert (ready.status_code, ready.json()["draining"]) == (503, True)

        async def refused() -> httpx.Response:
            while True:
                answer = await http.post(
                    "/v1/sessions/acme/planner/1/messages",
                    json={"payload": 1},
                    headers={"Authorization": f"Bearer {world.token()}"},
                )
                if answer.status_code == 503:
                    return answer

        answer = await asyncio.wait_for(refused(), 5)
        assert (answer.json()["code"], answer.headers["Retry-After"]) == ("draining", "1")
    with pytest.raises(InvalidStatus) as error:
        await edge.connect()
    assert error.value.response.status_code == 503
    assert json.loads(error.value.response.body)["code"] == "unavailable"
    await held.close()
    await edge.stopped()


async def test_while_a_balancer_takes_notice_everybody_is_served(world: World) -> None:
    edge = await world.edge(drain_notice_s=1.0, drain_timeout_s=3.0)
    edge.begin_stop()
    await until(lambda: edge.service.readiness.draining)
    client = await edge.client()
    assert (await client.publish(SESSION))["durable"] is True
    async with httpx.AsyncClient(base_url=edge.url) as http:
        assert (await http.get("/readyz")).status_code == 503
    assert await client.closed() == 4001
    await edge.stopped()


async def test_the_registry_is_told_while_it_drains_and_at_the_end(world: World) -> None:
    edge = await world.edge(drain_timeout_s=1.5, lease_s=1.0)
    await edge.client()
    (lease,) = await world.connections.edges()
    assert lease.draining is False
    edge.begin_stop()

    async def draining() -> bool:
        return [lease.draining for lease in await world.connections.edges()] == [True]

    async with asyncio.timeout(10):
        while not await draining():
            await asyncio.sleep(0.01)
    await edge.stopped()
    assert await world.connections.edges() == []


async def test_what_is_in_flight_is_given_its_time(world: World) -> None:
    edge = await world.edge(drain_timeout_s=2.0)
    client = await edge.client()
    world.log.available = False
    await client.publish(SESSION, "late", ack="accepted")
    edge.begin_stop()
    assert await client.closed() == 4001
    world.log.available = True
    await edge.stopped()
    assert len(world.positions_in_log(SESSION)) == 1
    assert edge.exit_code is ExitCode.OK


async def test_a_client_that_reads_nothing_does_not_hold_the_end_up(world: World) -> None:
    from tests.services.edge.client import RawClient

    edge = await world.edge(drain_timeout_s=0.2, stop_timeout_s=1.0, socket_send_buffer_bytes=8_192)
    stuck = await RawClient.connect(edge.host, edge.port, limit=4_096, receive_buffer=4_096)
    stuck.send({"type": "hello", "token": world.token()})
    await stuck.frame("welcome")
    stuck.send({"type": "subscribe", "session": SESSION})
    await stuck.frame("subscribed")
    writer = await edge.client()
    for _ in range(10):
        await writer.publish(SESSION, "x" * 50_000, ack="accepted")
    await writer.close()
    edge.begin_stop()
    await edge.stopped()
    await stuck.close()
