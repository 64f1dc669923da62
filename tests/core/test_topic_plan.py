from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.core.topic_plan import Alter, Grow, TopicPlan, plan_topics


@dataclass(frozen=True)
class Topic:
    name: str
    partitions: int
    replication_factor: int | None
    config: Mapping[str, str]


@dataclass(frozen=True)
class Found:
    partitions: int
    replication_factor: int
    config: Mapping[str, str]


LOG = Topic("hg.acme.log", 6, None, {"retention.ms": "1000"})


def found(topic: Topic, **changes: object) -> Found:
    return replace(Found(topic.partitions, topic.replication_factor or 3, topic.config), **changes)  # type: ignore[arg-type]


def set_of(alter: Alter) -> dict[str, str]:
    return {key: value for key, value in alter.config.items() if value is not None}


def test_a_missing_topic_is_created() -> None:
    assert plan_topics([LOG], {}) == TopicPlan((LOG,), (), (), ())


def test_a_topic_that_is_as_it_should_be_needs_nothing() -> None:
    assert plan_topics([LOG], {LOG.name: found(LOG)}).empty


def test_partitions_grow() -> None:
    plan = plan_topics([LOG], {LOG.name: found(LOG, partitions=2)})
    assert plan.grow == (Grow(LOG.name, 2, 6),)


def test_partitions_never_shrink_and_a_warning_says_so() -> None:
    plan = plan_topics([LOG], {LOG.name: found(LOG, partitions=12)})
    assert plan.empty
    assert [(warning.topic, warning.code) for warning in plan.warnings] == [(LOG.name, "fewer_partitions")]
    assert "12" in plan.warnings[0].message


def test_only_settings_that_differ_are_changed() -> None:
    plan = plan_topics([LOG], {LOG.name: found(LOG, config={"retention.ms": "5", "segment.ms": "7"})})
    assert plan.alter == (Alter(LOG.name, {"retention.ms": ("5", "1000")}),)
    assert plan.alter[0].config == {"retention.ms": "1000"}


def test_another_replication_factor_is_a_warning() -> None:
    plan = plan_topics([replace(LOG, replication_factor=3)], {LOG.name: found(LOG, replication_factor=1)})
    assert plan.empty
    assert [warning.code for warning in plan.warnings] == ["replication_differs"]


def test_topics_that_nobody_asked_for_are_left_alone() -> None:
    assert plan_topics([], {LOG.name: found(LOG)}).empty


def test_a_topic_wanted_twice_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"hg\.acme\.log"):
        plan_topics([LOG, LOG], {})


CONFIGS = st.dictionaries(st.sampled_from(["retention.ms", "retention.bytes", "x"]), st.sampled_from(["1", "2"]))
TOPICS = st.builds(Topic, st.sampled_from("abc"), st.integers(1, 9), st.none() | st.integers(1, 3), CONFIGS)


@given(
    st.lists(TOPICS, unique_by=lambda topic: topic.name),
    st.dictionaries(st.sampled_from("abcd"), st.builds(Found, st.integers(1, 9), st.integers(1, 3), CONFIGS)),
)
def test_after_a_plan_is_carried_out_nothing_is_left_to_do(wanted: list[Topic], existing: dict[str, Found]) -> None:
    plan = plan_topics(wanted, existing)
    after = dict(existing)
    for topic in plan.create:
        after[topic.name] = Found(topic.partitions, topic.replication_factor or 1, topic.config)
    for grow in plan.grow:
        assert grow.want > after[grow.topic].partitions
        after[grow.topic] = replace(after[grow.topic], partitions=grow.want)
    for alter in plan.alter:
        after[alter.topic] = replace(after[alter.topic], config={**after[alter.topic].config, **set_of(alter)})
    assert plan_topics(wanted, after).empty
    assert set(existing) <= set(after)
