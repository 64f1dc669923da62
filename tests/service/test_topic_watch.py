"""A topic that was made again under its name is noticed, said, and shown for a while."""

import pytest

from heliograph.service.health import Condition, Readiness, State
from heliograph.service.metrics import Metrics
from heliograph.service.topic_watch import AGAIN_AT_ONCE, SHOWN_S, TopicWatch
from heliograph.stores.memory.log import MemoryLog, MemoryLogAdmin
from heliograph.stores.ports import TopicSpec

TOPIC = "hg.acme.log"


class World:
    def __init__(self, metrics: Metrics) -> None:
        self.log = MemoryLog()
        self.now_s = 0.0
        self.condition: Condition = Readiness().condition("topics")
        self.watch = TopicWatch(self.condition, metrics, MemoryLogAdmin(self.log), clock=lambda: self.now_s)
        self.told: list[str] = []
        self.watch.listen(self.told.append)

    def create(self, *topics: str) -> None:
        for topic in topics:
            self.log.create(TopicSpec(topic, 1, None, {}))

    @property
    def problem(self) -> str:
        return self.condition.last_error.text if self.condition.last_error is not None else ""


@pytest.fixture
def world(metrics: Metrics) -> World:
    return World(metrics)


async def test_a_topic_made_again_is_told_once_counted_and_shown_for_an_hour(world: World, metrics: Metrics) -> None:
    world.create(TOPIC)
    await world.watch.look([TOPIC])
    assert world.condition.state is State.OK
    before = world.watch.topic_id(TOPIC)
    world.log.delete(TOPIC)
    world.create(TOPIC)
    for _ in range(2):
        await world.watch.look([TOPIC])
    assert world.told == [TOPIC]
    assert world.watch.topic_id(TOPIC) not in (before, None)
    assert world.condition.as_json()["state"] == "degraded"
    assert TOPIC in world.problem
    assert metrics.value("topics_recreated_total", {}) == 1
    world.now_s = SHOWN_S + 1
    await world.watch.look([TOPIC])
    assert world.condition.state is State.OK


async def test_also_where_it_was_away_for_a_while(world: World, metrics: Metrics) -> None:
    world.create(TOPIC)
    await world.watch.look([TOPIC])
    world.log.delete(TOPIC)
    await world.watch.look([TOPIC])
    assert world.watch.missing == {TOPIC}
    assert "missing" in world.problem
    assert metrics.value("topics_deleted_total", {}) == 1
    world.create(TOPIC)
    await world.watch.look([TOPIC])
    assert world.told == [TOPIC]
    assert world.watch.missing == frozenset()


async def test_who_only_hears_of_topics_notices_too(metrics: Metrics) -> None:
    condition = Readiness().condition("topics")
    watch = TopicWatch(condition, metrics)
    for topic_id in ("a", "a", None, "b"):
        watch.met(TOPIC, topic_id)
    assert metrics.value("topics_recreated_total", {}) == 1
    assert condition.state is State.DEGRADED


async def test_topics_that_nobody_wants_any_more_are_forgotten_without_a_word(world: World, metrics: Metrics) -> None:
    world.create(TOPIC, "hg.beta.log")
    await world.watch.look([TOPIC, "hg.beta.log"])
    world.log.delete("hg.beta.log")
    await world.watch.look([TOPIC])
    assert world.watch.topic_id("hg.beta.log") is None
    assert metrics.value("topics_deleted_total", {}) == 0
    assert world.condition.state is State.OK


async def test_of_many_topics_some_are_looked_at_in_turn_until_all_were(world: World) -> None:
    topics = [f"hg.t{number}.log" for number in range(AGAIN_AT_ONCE * 2 + 1)]
    world.create(*topics)
    await world.watch.look(topics)
    world.log.delete(topics[-1])
    world.create(topics[-1])
    for _ in range(3):
        await world.watch.look(topics)
    assert len(world.told) == 1
