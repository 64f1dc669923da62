"""dialing: one name, several addresses. Each test's name resolves to loopback addresses, 127.0.0.1 and on."""

import asyncio
import email.utils
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pytest
from tests.client.conftest import QUICK
from tests.client.fake_edge import FakeEdge, response

from heliograph.client import Client, ConnectError
from heliograph.client.dialing import NEXT_ADDRESS_S, default_context, dial
from heliograph.client.link import retry_after_ms
from heliograph.core.choosing import Choice
from heliograph.protocol.frames import AFFINITY_HEADER, Reconnect

MakeClient = Callable[..., Client]
Stands = Callable[[str, Sequence[str]], None]


@pytest.fixture
async def stands(monkeypatch: pytest.MonkeyPatch) -> Stands:
    """Makes a name stand for addresses, as DNS would."""
    loop, names = asyncio.get_running_loop(), dict[str, Sequence[str]]()
    system = loop.getaddrinfo

    async def resolve(host: Any, port: Any, **options: Any) -> Any:
        if host not in names:
            return await system(host, port, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in names[host]]

    monkeypatch.setattr(loop, "getaddrinfo", resolve)

    def stand(name: str, addresses: Sequence[str]) -> None:
        names[name] = addresses

    return stand


async def edges_on(*addresses: str) -> list[FakeEdge]:
    """Edges on one port of several addresses."""
    edges: list[FakeEdge] = []
    for address in addresses:
        edge = FakeEdge(host=address, name=f"edge at {address}")
        await edge.start(edges[0].port if edges else 0)
        edges.append(edge)
    return edges


async def test_clients_of_one_name_spread_over_its_addresses(stands: Stands, make_client: MakeClient) -> None:
    edges = await edges_on("127.0.0.1", "127.0.0.2", "127.0.0.3")
    stands("edges.test", [f"127.0.0.{n}" for n in (1, 2, 3)])
    clients = [make_client(url=f"ws://edges.test:{edges[0].port}", uniform=Random(seed).random) for seed in range(60)]
    try:
        await asyncio.gather(*(client.connect() for client in clients))
        on = Counter(client.edge for client in clients)
        assert len(on) == 3
        assert max(on.values()) <= 32
    finally:
        await asyncio.gather(*(client.close() for client in clients))
        for edge in edges:
            await edge.stop()


async def test_a_client_comes_back_to_the_address_it_was_on(stands: Stands, make_client: MakeClient) -> None:
    edges = await edges_on("127.0.0.1", "127.0.0.2", "127.0.0.3")
    stands("edges.test", [f"127.0.0.{n}" for n in (1, 2, 3)])
    async with make_client(url=f"ws://edges.test:{edges[0].port}") as client:
        for times in range(2, 8):
            await asyncio.sleep(QUICK.reconnect.healthy_s)  # what makes a connection a good one
            for edge in edges:
                edge.drop_all()
            await edges[0].until(lambda times=times: client.stats.connections == times)  # type: ignore[misc]
        assert client.stats.moves == 0
    for edge in edges:
        await edge.stop()


async def test_one_that_asks_to_be_left_is_left_for_another_address(stands: Stands, make_client: MakeClient) -> None:
    edges = await edges_on("127.0.0.1", "127.0.0.2")
    stands("edges.test", ["127.0.0.1", "127.0.0.2"])
    async with make_client(url=f"ws://edges.test:{edges[0].port}") as client:
        before = client.edge
        for edge in edges:
            edge.broadcast(Reconnect(0, "draining"))
        await edges[0].until(lambda: client.stats.connections == 2)
        assert client.edge != before
        assert client.stats.moves == 1
    for edge in edges:
        await edge.stop()


async def test_a_dead_address_is_passed_over_at_once_and_tried_last_from_then_on(stands: Stands) -> None:
    (edge,) = await edges_on("127.0.0.1")
    stands("edges.test", ["127.0.0.2", "127.0.0.1"])  # nobody listens on the first
    choice, url, begin_s = Choice(lambda: 0.0), f"ws://edges.test:{edge.port}/v1/connect", time.monotonic()
    for _ in range(3):
        more, peer = await dial(url, choice, {"proxy": None})
        more["sock"].close()
        assert peer == f"127.0.0.1 {edge.port}"
    assert time.monotonic() - begin_s < 3 * NEXT_ADDRESS_S
    names = [f"127.0.0.{n} {edge.port}" for n in (2, 1)]
    assert choice.order(names, asyncio.get_running_loop().time())[-1] == names[0]
    await edge.stop()


async def test_an_address_that_hangs_costs_a_moment_not_the_try(stands: Stands) -> None:
    """A full accept queue: the kernel drops what comes, as a dead host's silence does."""
    (edge,) = await edges_on("127.0.0.1")
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.2", edge.port))
        deaf.listen(0)
        filling = []
        for _ in range(4):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(("127.0.0.2", edge.port))
            filling.append(one)
        stands("edges.test", ["127.0.0.2", "127.0.0.1"])
        url = f"ws://edges.test:{edge.port}/v1/connect"
        async with asyncio.timeout(20 * NEXT_ADDRESS_S):
            more, peer = await dial(url, Choice(lambda: 0.0), {"proxy": None})
        assert peer == f"127.0.0.1 {edge.port}"
        more["sock"].close()
        for one in filling:
            one.close()
    await edge.stop()


async def test_a_name_of_dead_addresses_only_is_no_connection(stands: Stands, make_client: MakeClient) -> None:
    stands("edges.test", [f"127.0.0.{n}" for n in range(2, 30)])
    client = make_client(url="ws://edges.test:1", settings=QUICK_TO_GIVE_UP)
    with pytest.raises(ConnectError, match=r"edges\.test:1"):
        await client.connect()


QUICK_TO_GIVE_UP = type(QUICK)(connect_timeout_s=0.2, reconnect=QUICK.reconnect)


async def test_a_program_that_says_where_to_connect_is_obeyed(edge: FakeEdge) -> None:
    made = Client("ws://nowhere.test:9", token="t", proxy=None, settings=QUICK, host="127.0.0.1", port=edge.port)
    async with made as client:
        assert client.edge == "edge-1"


async def test_the_hint_for_balancers_is_a_hash_and_beside_the_programs_own_headers(
    edge: FakeEdge, make_client: MakeClient
) -> None:
    for affinity in ("acme:planner:1", "acme:planner:1", None):
        async with make_client(affinity=affinity, additional_headers={"X-Own": "1"}):
            pass
    hints = [headers[AFFINITY_HEADER] for headers in edge.headers]
    assert hints[0] == hints[1] != hints[2]
    assert all(len(hint) == 16 for hint in hints)
    assert [headers["X-Own"] for headers in edge.headers] == ["1"] * 3


async def test_a_redirect_is_not_followed(edge: FakeEdge, make_client: MakeClient) -> None:
    """Its token would go wherever that leads."""
    edge.refuse_handshakes.append(response(307, Location="ws://elsewhere.test/v1/connect"))
    with pytest.raises(ConnectError, match="redirects are not followed"):
        await make_client().connect()


def test_the_system_certificates_are_read_once_for_all_clients() -> None:
    assert default_context() is default_context()


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (None, None),
        ("2", 2_000),
        ("0.5", 500),
        ("-1", 0),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("", None),
        (email.utils.formatdate(1_764_000_090, usegmt=True), 90_000),
        (email.utils.formatdate(1_763_999_000, usegmt=True), 0),
        ("Wed, 99 Nov 2025 00:00:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, wanted: float | None) -> None:
    assert retry_after_ms(value, 1_764_000_000.0) == wanted
