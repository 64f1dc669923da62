"""What the server tells about how it fares reaches the program, once for each change."""

from collections.abc import Callable

from tests.client.fake_edge import FakeConnection, FakeEdge

from heliograph.client import Client, Level, MessageClass, Pressure
from heliograph.protocol.frames import Notice, Publish, Published, Refused

SESSION = "acme:planner:1"
MakeClient = Callable[..., Client]


async def test_a_program_is_told_each_change_and_can_look(edge: FakeEdge, make_client: MakeClient) -> None:
    told: list[Pressure] = []
    async with make_client(on_notice=told.append) as client:
        assert client.pressure == Pressure(Level.NORMAL)
        edge.broadcast(Notice("pressure", "critical", ["live", "edge"], 1_500))
        await edge.until(lambda: len(told) == 1)
        assert client.pressure == told[0] == Pressure(Level.CRITICAL, ("live", "edge"), 1.5)
        edge.broadcast(Notice("pressure", "critical", ["live", "edge"], 1_500))
        edge.broadcast(Notice("pressure", "elevated", ["log"]))
        await edge.until(lambda: len(told) == 2)
        assert told[1] == Pressure(Level.ELEVATED, ("log",))
        edge.broadcast(Notice("pressure", "normal"))
        await edge.until(lambda: len(told) == 3)
        assert client.pressure == Pressure()


async def test_kinds_and_levels_of_a_newer_server_are_ignored(edge: FakeEdge, make_client: MakeClient) -> None:
    told: list[Pressure] = []
    async with make_client(on_notice=told.append) as client:
        edge.broadcast(Notice("weather"))
        edge.broadcast(Notice("weather", "critical"))
        edge.broadcast(Notice("pressure", "apocalyptic"))
        edge.broadcast(Notice("pressure", "high", ["edge"]))
        await edge.until(lambda: bool(told))
        assert told == [client.pressure] == [Pressure(Level.HIGH, ("edge",))]


async def test_a_new_connection_begins_at_normal(edge: FakeEdge, make_client: MakeClient) -> None:
    told: list[Level] = []
    async with make_client(on_notice=lambda pressure: told.append(pressure.level)) as client:
        edge.broadcast(Notice("pressure", "high", ["edge"]))
        await edge.until(lambda: told == [Level.HIGH])
        edge.drop_all()
        await edge.until(lambda: told == [Level.HIGH, Level.NORMAL])
        assert client.stats.connections == 2


async def test_a_callback_that_fails_harms_nothing(edge: FakeEdge, make_client: MakeClient) -> None:
    def fail(_: Pressure) -> None:
        raise RuntimeError("the program's")

    async with make_client(on_notice=fail) as client:
        edge.broadcast(Notice("pressure", "high", ["edge"]))
        await edge.until(lambda: client.pressure.level is Level.HIGH)
        assert (await client.publish(SESSION, 1)).position is not None


async def test_an_event_that_is_refused_as_overloaded_is_tried_again(edge: FakeEdge, make_client: MakeClient) -> None:
    refused = 0

    def on_publish(_: FakeConnection, frame: Publish) -> Refused | None:
        nonlocal refused
        refused += 1
        return Refused("overloaded", "", frame.id, retry_after_ms=5) if refused < 4 else None

    edge.on_publish = on_publish
    async with make_client() as client:
        receipt = await client.publish(SESSION, 1)
        assert receipt.position is not None
        assert edge.session(SESSION).payloads == [1]
        assert client.stats.rotations == 0


async def test_control_that_is_deferred_under_pressure_counts_as_published(
    edge: FakeEdge, make_client: MakeClient
) -> None:
    edge.on_publish = lambda _, frame: Published(True, id=frame.id, message_id="m", deferred=True)
    async with make_client() as client:
        receipt = await client.publish(SESSION, 1, cls=MessageClass.CONTROL)
        assert (receipt.deferred, receipt.position) == (True, None)
