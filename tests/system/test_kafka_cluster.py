"""Three brokers, of which one, two and all are lost under load: what is durable is on those that are left."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.system.history import Outcome
from tests.system.load import Run, load
from tests.system.rig import DELIVERY_TIMEOUT_S, TENANT, Rig, started
from tests.systems import Systems

from heliograph.local.errors import CannotProvideError
from heliograph.local.java import prepare_jars
from heliograph.local.kafka_cluster import BROKERS, KafkaCluster
from heliograph.local.providers import throwaway_kafka_cluster, throwaway_redis
from heliograph.stores.kafka.calls import AdminCalls
from heliograph.stores.ports import StoreError

pytestmark = pytest.mark.xdist_group("system-kafka-cluster")

PATIENCE_S = 180.0
"""For brokers to notice, start and catch up: some 15 s each alone, and far longer where others want the machine too."""

MINUTES = pytest.param(180.0, id="minutes", marks=[pytest.mark.chaos, pytest.mark.timeout(900)])
"""Too long for every day, and for the time that a test has; CONTRIBUTING.md says how to run it."""

PER_S = 12.0
"""Of each publisher: four JVMs and seven services share two cores."""


@pytest.fixture(scope="module")
def stack(systems: Systems, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Three brokers and a controller, two Redis, two edges, two routers, one of each other service."""
    systems.end()
    try:
        prepare_jars()
    except CannotProvideError as error:
        pytest.skip(f"only brokers that are processes can be killed one by one: {error}")
    directory = tmp_path_factory.mktemp("cluster")
    with (
        throwaway_kafka_cluster(directory / "kafka") as kafka,
        throwaway_redis(directory / "redis", appendonly=True) as redis,
        throwaway_redis(directory / "metadata", appendonly=True) as metadata,
        started(Rig(directory, kafka, redis, metadata, readers=1)) as rig,
    ):
        yield rig


@pytest.fixture
def cluster(rig: Rig) -> KafkaCluster:
    assert isinstance(rig.kafka, KafkaCluster)
    return rig.kafka


@pytest.fixture
def topic(rig: Rig) -> str:
    return rig.topics.log(TENANT)


def busiest(cluster: KafkaCluster, topic: str) -> int:
    """The broker that leads most of the topic's partitions."""
    return Counter(cluster.leaders(topic).values()).most_common(1)[0][0]


async def all_in_sync(cluster: KafkaCluster, topic: str, count: int = BROKERS) -> None:
    """Return when every partition has so many replicas in sync."""

    def enough() -> bool:
        return all(len(nodes) == count for nodes in cluster.in_sync(topic).values())

    async with asyncio.timeout(PATIENCE_S):
        while not await asyncio.to_thread(enough):
            await asyncio.sleep(0.2)


async def led_by(cluster: KafkaCluster, topic: str, node: int, *, some: bool) -> None:
    """Return when the broker leads some partition, or none."""
    async with asyncio.timeout(PATIENCE_S):
        while (node in (await asyncio.to_thread(cluster.leaders, topic)).values()) != some:
            await asyncio.sleep(0.2)


def pending(run: Run, from_s: float) -> int:
    """Publishes answered as taken and not durable yet, since then."""
    answers = [answer for attempt in run.history.attempts for answer in attempt.answers if answer.at_s > from_s]
    return sum(answer.outcome is Outcome.PENDING for answer in answers)


async def test_a_broker_killed_costs_nothing_and_its_partitions_get_other_leaders_and_it_back(
    rig: Rig, cluster: KafkaCluster, topic: str
) -> None:
    """kill -9, then a preferred leader election: twice other leaders under load, the second time with nobody dead."""
    await all_in_sync(cluster, topic)
    async with load(rig, per_s=PER_S) as run:
        await run.more()
        node = busiest(cluster, topic)
        await run.busy(4)
        run.kafka_hurt(f"kill -9 broker {node}, which leads {topic}")
        await rig.kill(cluster.broker(node))
        await led_by(cluster, topic, node, some=False)
        run.history.note("others lead")
        await run.more()
        await rig.launch(cluster.broker(node))
        await all_in_sync(cluster, topic)
        run.history.note("it is back and in sync")
        await asyncio.to_thread(cluster.elect_preferred, topic)
        await led_by(cluster, topic, node, some=True)
        run.history.note("it leads again")
        await run.more()


@pytest.mark.parametrize("question", ["ends", "describe", "configs"])
async def test_a_question_to_a_killed_broker_waits_and_costs_no_core(
    rig: Rig, cluster: KafkaCluster, topic: str, question: str
) -> None:
    """librdkafka's threads wake each other 80,000 times a second, unless it is kept from it; else it is some ten."""
    await all_in_sync(cluster, topic)
    calls = AdminCalls({"bootstrap.servers": cluster.bootstrap_servers}, timeout_s=3.0)
    places = [(topic, partition) for partition in cluster.leaders(topic)]
    asked: dict[str, Callable[[], Awaitable[object]]] = {
        "ends": lambda: calls.ends(places),
        "describe": lambda: calls.describe([topic]),
        "configs": lambda: calls.configs([topic]),
    }
    ask = asked[question]
    assert await ask()
    node = cluster.broker(busiest(cluster, topic))
    await rig.kill(node)
    before, until_s = switches(), time.monotonic() + 6.0
    while time.monotonic() < until_s:
        with suppress(StoreError):
            await ask()
        await asyncio.sleep(0.2)
    assert switches() - before < 6_000
    await calls.close()
    await rig.launch(node)


def switches() -> int:
    """How often threads of Kafka's clients in this process gave up their core so far, as the kernel counts it."""
    found = 0
    for path in Path("/proc/self/task").glob("*/status"):
        with suppress(FileNotFoundError):
            status = dict(line.split(":", 1) for line in path.read_text().splitlines())
            if status["Name"].strip().startswith("rdk:"):
                found += int(status["voluntary_ctxt_switches"]) + int(status["nonvoluntary_ctxt_switches"])
    return found


async def test_with_two_of_three_brokers_away_live_goes_on_and_nothing_is_called_durable(
    rig: Rig, cluster: KafkaCluster, topic: str
) -> None:
    """One replica is left, two are needed (NotEnoughReplicas): an acknowledgement now would be one disk's word."""
    await all_in_sync(cluster, topic)
    async with load(rig, per_s=PER_S) as run:
        await run.more()
        first, second, _ = cluster.brokers
        run.kafka_hurt("kill -9 two brokers")
        await asyncio.gather(rig.kill(first), rig.kill(second))
        await all_in_sync(cluster, topic, 1)
        alone_s = run.history.now()
        run.history.note("one replica is left")
        await run.more(settled=False)
        await run.seen_more()
        durable = [
            answer
            for attempt in run.history.attempts
            for answer in attempt.answers
            if attempt.at_s > alone_s and answer.outcome is Outcome.DURABLE
        ]
        assert pending(run, alone_s) > 0
        assert durable == []
        await asyncio.gather(rig.launch(first), rig.launch(second))
        await all_in_sync(cluster, topic)
        run.history.note("all are back")
        await run.more()


@pytest.mark.parametrize("away_s", [pytest.param(2 * DELIVERY_TIMEOUT_S + 2, id="seconds"), MINUTES])
async def test_all_brokers_away_for_longer_than_produces_last_and_back_again(
    rig: Rig, cluster: KafkaCluster, topic: str, away_s: float
) -> None:
    """With the controller. Edges give up what they hold; the router writes it from the hot window, in order."""
    await all_in_sync(cluster, topic)
    async with load(rig, per_s=PER_S) as run:
        await run.more()
        run.kafka_hurt("kill -9 all brokers and the controller")
        gone_s = run.history.now()
        await rig.kill(cluster)
        away = asyncio.create_task(asyncio.sleep(away_s))
        await run.more(settled=False)
        await run.seen_more()
        await away
        assert pending(run, gone_s) > 0
        await rig.launch(cluster)
        await rig.ready(cluster)
        run.history.note("all are back")
        await run.more()
    written = sum(rig.metric(router, "heliograph_router_reconciled_total") for router in rig.stack.routers)
    assert written > 0, "nothing was left to the routers: the outage proved nothing"
