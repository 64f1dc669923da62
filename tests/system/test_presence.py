"""Who is there, on real processes: edges killed, stopped and drained, the metadata store stopped, two registries."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from msgspec import Raw
from tests.system.attending import Attender
from tests.system.replaying import client as http_client
from tests.system.rig import SETTINGS, Rig, until

from heliograph.protocol.frames import MessageFrame, Publish

pytestmark = pytest.mark.xdist_group("system-services")

LEASE_S = float(SETTINGS["lease_s"])
AGENTS = 40

COUNTS = tuple(
    f"heliograph_registry_{name}_total"
    for name in ("reaped_edges", "lost_connections", "lost_announced", "lost_suppressed")
)
"""Of registries; over all of them each loss counts once."""

BOUND_S = LEASE_S + 0.5 + 10.0
"""From an edge's last renewal until its agents are told as lost: its lease, the time between two looks, and what a busy
machine needs to tell them."""

Come = Callable[..., Coroutine[Any, Any, Attender]]


@pytest.fixture
async def come(rig: Rig) -> AsyncIterator[Come]:
    """Agents, closed at the end of the test."""
    async with AsyncExitStack() as cleanup:

        async def open_(*args: Any, **options: Any) -> Attender:
            found = await Attender.come(rig, *args, **options)
            cleanup.push_async_callback(found.close)
            return found

        yield open_


def subjects(told: Sequence[Any]) -> list[str]:
    return sorted(one.subject for one in told)


def total(rig: Rig, name: str) -> float:
    """A registry's metric, over both."""
    return sum(rig.metric(registry, name) for registry in rig.stack.registries)


async def counted(rig: Rig, name: str) -> float:
    """`total`, while agents go on."""
    return await asyncio.to_thread(total, rig, name)


async def connections(rig: Rig, session: str) -> list[dict[str, Any]]:
    """What each registry answers about a session: the same."""
    answers = []
    async with http_client() as http:
        for registry in rig.stack.registries:
            answer: httpx.Response = await http.get(
                f"{registry.url}/v1/presence/{session.replace(':', '/')}",
                headers={"Authorization": f"Bearer {rig.token()}"},
            )
            assert answer.status_code == 200, answer.text
            answers.append(answer.json()["connections"])
    assert answers[0] == answers[1] or answers[0]
    found: list[dict[str, Any]] = answers[0]
    return found


async def known(rig: Rig, session: str, wanted: Sequence[str]) -> None:
    """Return once the registry knows exactly these subjects in a session."""
    async with asyncio.timeout(60):
        while sorted(one["subject"] for one in await connections(rig, session)) != sorted(wanted):
            await asyncio.sleep(0.1)


async def test_agents_of_a_killed_edge_are_told_as_lost_once_though_two_registries_run(rig: Rig, come: Come) -> None:
    dies, lives = rig.edges
    session, other = rig.sessions(2)
    before = {name: await counted(rig, name) for name in COUNTS}
    watcher = await come(lives, "watcher", session, other, presence=True)
    agents = [await come(dies, f"agent-{number}", session, other, agent="arm") for number in range(AGENTS)]
    await watcher.hears(2 * (AGENTS + 1), "join")
    took_s = await counted(rig, "heliograph_registry_lost_after_seconds_sum")
    await rig.kill(rig.stack.edges[0])
    lost = await watcher.hears(2 * AGENTS, "leave", "lost")
    wanted = sorted((agent.subject, agent.connection, of) for agent in agents for of in (session, other))
    assert sorted((one.subject, one.connection, one.session) for one in lost) == wanted
    await until_counted(rig, before, (1, AGENTS, 2 * AGENTS, 0))
    assert len(watcher.told("leave", "lost")) == 2 * AGENTS, "each once"
    await known(rig, session, ["watcher"])
    took_s = await counted(rig, "heliograph_registry_lost_after_seconds_sum") - took_s
    assert LEASE_S <= took_s <= BOUND_S


async def until_counted(rig: Rig, before: dict[str, float], more: Sequence[int]) -> None:
    """Return once COUNTS have risen by so much, and not by more."""
    wanted = {name: before[name] + count for name, count in zip(COUNTS, more, strict=True)}
    # One registry buries an edge while the other still counts what it has told of it.
    await until(
        f"counted are {wanted}",
        lambda: all(total(rig, name) >= count for name, count in wanted.items()),
        60.0,
        lambda: str({name: total(rig, name) for name in COUNTS}),
    )
    assert {name: total(rig, name) for name in COUNTS} == wanted


async def test_an_agent_that_is_back_elsewhere_is_not_told_as_lost(rig: Rig, come: Come) -> None:
    dies, lives = rig.edges
    session = rig.session()
    before = {name: await counted(rig, name) for name in COUNTS}
    watcher = await come(lives, "watcher", session, presence=True)
    for agent in ("arm-1", "arm-2", "arm-3"):
        await come(dies, "robot", session, agent=agent)
    await watcher.hears(4, "join")
    await rig.kill(rig.stack.edges[0])
    await come(lives, "robot", session, agent="arm-2")
    await watcher.hears(5, "join")
    await watcher.hears(2, "leave", "lost")
    await until_counted(rig, before, (1, 3, 2, 1))
    assert sorted(one.agent or "" for one in watcher.told("leave", "lost")) == ["arm-1", "arm-3"]


async def test_an_edge_killed_and_back_within_its_lease_tells_whom_it_lost(rig: Rig, come: Come) -> None:
    """Its name is the same: what it registers must not hide what the process before had."""
    dies, lives = rig.edges
    session = rig.session()
    watcher = await come(lives, "watcher", session, presence=True)
    for number in range(5):
        await come(dies, f"agent-{number}", session)
    await watcher.hears(6, "join")
    edge = rig.stack.edges[0]
    await rig.kill(edge)
    await rig.launch(edge)
    lost = await watcher.hears(5, "leave", "lost")
    assert subjects(lost) == [f"agent-{number}" for number in range(5)]
    await rig.ready(edge)
    newcomer = await come(dies, "agent-0", session)
    await watcher.until(lambda: len(watcher.told("join")) >= 7, "the newcomer's join")
    assert watcher.told("join")[-1].connection == newcomer.connection
    await known(rig, session, ["watcher", "agent-0"])
    assert len(watcher.told("leave", "lost")) == 5


async def test_an_edge_stopped_for_longer_than_its_lease_goes_on_with_its_clients(rig: Rig, come: Come) -> None:
    stops, lives = rig.edges
    session = rig.session()
    watcher = await come(lives, "watcher", session, presence=True)
    agents = [await come(stops, f"agent-{number}", session, agent="arm") for number in range(10)]
    first = await watcher.hears(11, "join")
    edge = rig.stack.edges[0]
    edge.signal(signal.SIGSTOP)
    try:
        lost = await watcher.hears(10, "leave", "lost")
        await known(rig, session, ["watcher"])
    finally:
        edge.signal(signal.SIGCONT)
    assert subjects(lost) == subjects(agents)
    again = (await watcher.hears(21, "join"))[11:]
    assert sorted(one.connection for one in again) == sorted(agent.connection for agent in agents)
    assert not {one.id for one in again} & {one.id for one in first}
    await known(rig, session, ["watcher", *(agent.subject for agent in agents)])
    await watcher.line.send(Publish(session, Raw(b"1"), 1))
    for agent in agents:
        await agent.until(lambda agent=agent: bool(agent.of(MessageFrame)), "a message")  # type: ignore[misc]
        assert not agent.gone
    await agents[0].leave(session)
    assert subjects(await watcher.hears(1, "leave", "closed")) == ["agent-0"]
    assert len(watcher.told("leave", "lost")) == 10


async def test_a_metadata_store_stopped_for_longer_than_a_lease_reaps_nobody(rig: Rig, come: Come) -> None:
    """Not either where an edge takes a moment to come back to it. That registries reap again afterwards shows one that
    is killed then.
    """
    dies, lives = rig.edges
    session = rig.session()
    watcher = await come(lives, "watcher", session, presence=True)
    agents = [await come(dies, f"agent-{number}", session) for number in range(5)]
    await watcher.hears(6, "join")
    await known(rig, session, ["watcher", *(agent.subject for agent in agents)])
    reaped = await counted(rig, "heliograph_registry_reaped_edges_total")
    slow = rig.stack.edges[0]
    slow.signal(signal.SIGSTOP)
    try:
        async with rig.frozen(rig.metadata):
            await asyncio.sleep(2.5 * LEASE_S)
        await asyncio.sleep(LEASE_S / 2)
    finally:
        slow.signal(signal.SIGCONT)
    await known(rig, session, ["watcher", *(agent.subject for agent in agents)])
    await until(
        "both edges hold a lease",
        lambda: all(rig.metric(registry, "heliograph_registry_edges") == 2 for registry in rig.stack.registries),
    )
    assert watcher.told("leave", "lost") == []
    await rig.kill(rig.stack.edges[0])
    assert subjects(await watcher.hears(5, "leave", "lost")) == subjects(agents)
    await until(
        "the killed edge is buried",
        lambda: total(rig, "heliograph_registry_reaped_edges_total") > reaped,
    )
    assert await counted(rig, "heliograph_registry_reaped_edges_total") == reaped + 1
    assert len(watcher.told("leave", "lost")) == 5
    assert watcher.told("leave", "closed") == []
    assert not watcher.gone


async def test_agents_of_a_drained_edge_are_told_as_drained(rig: Rig, come: Come) -> None:
    drains, lives = rig.edges
    session = rig.session()
    reaped = await counted(rig, "heliograph_registry_reaped_edges_total")
    watcher = await come(lives, "watcher", session, presence=True)
    agents = [await come(drains, f"agent-{number}", session) for number in range(10)]
    await watcher.hears(11, "join")
    edge = rig.stack.edges[0]
    edge.terminate()
    assert subjects(await watcher.hears(10, "leave", "drained")) == subjects(agents)
    await until("the edge has ended", lambda: edge.returncode is not None)
    await known(rig, session, ["watcher"])
    assert [one.reason for one in watcher.told("leave", "lost")] == []
    assert await counted(rig, "heliograph_registry_reaped_edges_total") == reaped


async def test_a_registry_killed_in_the_midst_leaves_it_to_the_other(rig: Rig, come: Come) -> None:
    dies, lives = rig.edges
    session = rig.session()
    watcher = await come(lives, "watcher", session, presence=True)
    for number in range(AGENTS):
        await come(dies, f"agent-{number}", session)
    await watcher.hears(AGENTS + 1, "join")
    await rig.kill(rig.stack.edges[0])
    await watcher.hears(1, "leave", "lost")
    await rig.kill(rig.stack.registries[0])
    lost = await watcher.hears(AGENTS, "leave", "lost")
    assert subjects(lost) == sorted(f"agent-{number}" for number in range(AGENTS))
    await until(
        "the killed edge is buried",
        lambda: rig.metric(rig.stack.registries[1], "heliograph_registry_lapsed_edges") == 0,
    )
    assert len(watcher.told("leave", "lost")) == AGENTS
