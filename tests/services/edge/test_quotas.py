"""What all publishers of a tenant together may send, over edges; another tenant's and another class' is untouched."""

import asyncio
from collections.abc import Sequence

import httpx
import pytest
from tests.services.edge.client import Client
from tests.services.edge.rig import Edge, World, until

from heliograph.stores.memory.metadata import MemoryConnectionStore, MemoryQuotaStore
from heliograph.stores.ports import EdgeLease, QuotaGrant, QuotaRequest, StoreError

SESSION = "acme:planner:1"
PATH = "/v1/sessions/acme/planner/1/messages"

SCARCE = {"messages_per_s": 2.0, "bytes_per_s": 1e6}
"""Four at once, and on each edge one on credit."""
PLENTY = {"messages_per_s": 1e6, "bytes_per_s": 1e9}


class Store(MemoryQuotaStore):
    """The memory store, which can be away or hang."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.hangs = False
        self.breaks = False

    async def lease(self, requests: Sequence[QuotaRequest]) -> list[QuotaGrant]:
        if self.hangs:
            await asyncio.Event().wait()
        if self.breaks:
            raise LookupError("an error that no store should raise")
        if self.away:
            raise StoreError("unavailable", "token store: it is away")
        return await super().lease(requests)


@pytest.fixture
def store(world: World) -> Store:
    world.quotas = store = Store()
    return store


async def admitted(clients: Sequence[Client], count: int, **fields: str) -> int:
    """Of `count` publishes, a client in turn each: those that were taken."""
    answers = [await clients[number % len(clients)].publish(SESSION, number, **fields) for number in range(count)]
    refused = [answer for answer in answers if answer["type"] == "refused"]
    assert {answer["code"] for answer in refused} <= {"quota_exceeded"}
    assert all(1 <= answer["retry_after_ms"] <= 2_500 for answer in refused)
    return count - len(refused)


async def lowest_share(edge: Edge, tries: int = 2) -> float:
    """The lowest count of quotas on share while the store is asked so often, in vain."""
    seen: set[float] = set()
    before = edge.value("quota_store_failures_total")

    def looked() -> bool:
        seen.add(edge.value("quotas_on_share"))
        return edge.value("quota_store_failures_total") >= before + tries

    await until(looked)
    return min(seen)


async def test_a_tenants_publishers_share_one_quota_over_all_edges(world: World) -> None:
    await world.put_tenant("acme", quotas={"event": SCARCE})
    edges = [await world.edge() for _ in range(2)]
    clients = [await edge.client() for edge in edges for _ in range(3)]
    assert 4 <= await admitted(clients, 60) <= 4 + 2 + 2  # the burst, each edge's credit, and what came back meanwhile
    assert edges[0].value("refused_total", code="quota_exceeded") > 0
    assert edges[0].value("quota_leases_total") > 0


async def test_who_waits_as_told_is_admitted(world: World) -> None:
    await world.put_tenant("acme", quotas={"event": SCARCE})
    client = await (await world.edge()).client()
    async with asyncio.timeout(30):
        while (answer := await client.publish(SESSION))["type"] == "published":
            pass
        while answer["type"] == "refused":
            await asyncio.sleep(answer["retry_after_ms"] / 1000)
            answer = await client.publish(SESSION)


async def test_a_flood_of_events_holds_up_neither_control_nor_telemetry(world: World) -> None:
    await world.put_tenant("acme", quotas={"event": SCARCE, "control": PLENTY, "telemetry": PLENTY})
    client = await (await world.edge()).client()
    assert await admitted([client], 30) < 30
    control = [await client.publish(SESSION, **{"class": "control"}) for _ in range(20)]
    assert {answer["type"] for answer in control} == {"published"}
    telemetry = [await client.publish(SESSION, ack="accepted", **{"class": "telemetry"}) for _ in range(20)]
    assert {answer["type"] for answer in telemetry} == {"published"}


async def test_a_connections_flood_of_events_leaves_its_control_messages(world: World) -> None:
    await world.put_tenant("acme", limits={"connection_messages_per_s": 1, "connection_burst_messages": 2})
    client = await (await world.edge()).client()
    events = [await client.publish(SESSION) for _ in range(5)]
    assert [answer["type"] for answer in events] == ["published"] * 2 + ["refused"] * 3
    assert (await client.publish(SESSION, **{"class": "control"}))["type"] == "published"


async def test_a_connections_flood_of_telemetry_leaves_its_events_and_its_control_messages(world: World) -> None:
    await world.put_tenant("acme", limits={"connection_messages_per_s": 1, "connection_burst_messages": 2})
    client = await (await world.edge()).client()
    telemetry = [await client.publish(SESSION, ack="accepted", **{"class": "telemetry"}) for _ in range(5)]
    assert [answer["type"] for answer in telemetry] == ["published"] * 2 + ["refused"] * 3
    assert {answer["code"] for answer in telemetry[2:]} == {"rate_limited"}
    for class_ in ("event", "control"):
        answers = [await client.publish(SESSION, **{"class": class_}) for _ in range(3)]
        assert [answer["type"] for answer in answers] == ["published", "published", "refused"]


async def test_control_over_its_own_quota_is_refused_with_a_time_and_what_was_taken_is_delivered(world: World) -> None:
    await world.put_tenant("acme", quotas={"control": SCARCE, "event": PLENTY})
    edge = await world.edge()
    client, reader = await edge.client(), await edge.client()
    await reader.subscribe(SESSION, "latest")
    answers = [await client.publish(SESSION, number, **{"class": "control"}) for number in range(30)]
    refused = [answer for answer in answers if answer["type"] == "refused"]
    assert {answer["code"] for answer in refused} == {"quota_exceeded"}
    assert all(answer["retry_after_ms"] > 0 and "position" not in answer for answer in refused)
    taken = [number for number, answer in enumerate(answers) if answer["type"] == "published"]
    assert [message["payload"] for message in await reader.messages(SESSION, len(taken))] == taken
    assert len(world.positions_in_log(SESSION)) == len(taken), "what was refused is nowhere"
    assert (await client.publish(SESSION))["type"] == "published", "and events have their own"


async def test_another_tenants_quota_is_its_own(world: World) -> None:
    await world.put_tenant("acme", quotas={"event": SCARCE})
    await world.put_tenant("other")
    edge = await world.edge()
    client, other = await edge.client(), await edge.client("other")
    assert await admitted([client], 30) < 30
    answers = [await other.publish("other:planner:1") for _ in range(30)]
    assert {answer["type"] for answer in answers} == {"published"}


async def test_bytes_are_a_quota_too(world: World) -> None:
    await world.put_tenant("acme", quotas={"event": {"messages_per_s": 1e6, "bytes_per_s": 1_000.0}})
    client = await (await world.edge()).client()
    answers = [await client.publish(SESSION, "x" * 900) for _ in range(20)]
    assert 2 <= sum(answer["type"] == "published" for answer in answers) <= 5


async def test_a_refused_message_costs_its_sender_nothing(world: World) -> None:
    limits = {"connection_messages_per_s": 0.001, "connection_burst_messages": 30}
    await world.put_tenant("acme", quotas={"event": SCARCE}, limits=limits)
    client = await (await world.edge()).client()
    assert await admitted([client], 60) < 30  # else the connection's own bucket would refuse from the 31st on


async def test_a_changed_quota_holds_within_a_second(world: World) -> None:
    await world.put_tenant("acme", quotas={"event": SCARCE})
    edge = await world.edge()
    client = await edge.client()
    assert await admitted([client], 30) < 30
    await world.put_tenant("acme", quotas={"event": PLENTY})
    async with asyncio.timeout(10):
        while await admitted([client], 20) < 20:
            await asyncio.sleep(0.05)


async def test_over_http_it_is_a_429_with_a_time(world: World) -> None:
    await world.put_tenant("acme", quotas={"event": SCARCE})
    edge = await world.edge()
    headers = {"Authorization": f"Bearer {world.token('acme')}"}
    async with httpx.AsyncClient(base_url=edge.url, headers=headers) as http:
        answers = [await http.post(PATH, json={"payload": number}) for number in range(20)]
    assert {answer.status_code for answer in answers} == {200, 429}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["code"] == "quota_exceeded"
    assert int(refused.headers["retry-after"]) >= 1


# ---- the token store is away ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["away", "hangs"])
async def test_while_the_token_store_is_away_an_edge_spends_its_share(world: World, store: Store, how: str) -> None:
    await world.put_tenant("acme", quotas={"event": SCARCE})
    setattr(store, how, True)
    edge = await world.edge()
    client = await edge.client()
    await client.publish(SESSION)
    await until(lambda: edge.value("quotas_on_share") == 1)
    assert await lowest_share(edge) == 1, "also while it is being asked: an alert waits for minutes without a break"
    assert 1 <= await admitted([client], 30) <= 6
    assert edge.value("quota_store_failures_total") > 0
    setattr(store, how, False)
    await until(lambda: edge.value("quotas_on_share") == 0)


async def test_whatever_breaks_a_lease_nobody_waits_for_it_for_ever(world: World, store: Store) -> None:
    """An error that nobody thought of ends the round, not the quota: who asked would be refused until a restart."""
    await world.put_tenant("acme", quotas={"event": SCARCE})
    store.breaks = True
    edge = await world.edge()
    client = await edge.client()
    await client.publish(SESSION)
    await until(lambda: edge.value("task_crashes_total", task="quotas") > 0)
    assert edge.value("quotas_on_share") == 1
    store.breaks = False
    await until(lambda: edge.value("quotas_on_share") == 0)
    async with asyncio.timeout(10):
        while (answer := await client.publish(SESSION))["type"] == "refused":
            await asyncio.sleep(answer["retry_after_ms"] / 1000)


async def test_a_share_is_the_rate_by_the_edges_there_are(world: World, store: Store) -> None:
    await world.put_tenant("acme", quotas={"event": {"messages_per_s": 20.0, "bytes_per_s": 1e6}})
    edges = [await world.edge() for _ in range(4)]
    clients = [await edge.client() for edge in edges]
    for edge in edges:
        await until(lambda edge=edge: edge.value("known_edges") == 4, deadline_s=20)  # type: ignore[misc]
    store.away = True
    for client in clients:
        await client.publish(SESSION)
    for edge in edges:
        await until(lambda edge=edge: edge.value("quotas_on_share") >= 1)  # type: ignore[misc]
    assert await admitted(clients[:1], 40) <= 10 + 5  # a quarter of 40 at once, and what came back meanwhile


async def test_edges_that_can_not_be_counted_are_as_many_as_before_and_that_is_counted(world: World) -> None:
    class Uncounted(MemoryConnectionStore):
        async def edges(self) -> list[EdgeLease]:
            raise StoreError("unavailable", "metadata store: it is away")

    world.connections = Uncounted()
    edge = await world.edge()
    await until(lambda: edge.value("edges_not_counted_total") > 0)
    assert edge.value("known_edges") == 1


async def test_an_edge_without_the_token_store_is_ready_and_says_so(world: World, store: Store, edge: Edge) -> None:
    store.away = True
    client = await edge.client()
    await client.publish(SESSION)
    await until(lambda: edge.value("quota_store_failures_total") > 0)
    assert edge.service.readiness.ready
