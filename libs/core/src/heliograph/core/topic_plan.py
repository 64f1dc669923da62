"""What has to be done so that the topics are as they should be.

Wanted and existing topics come in, steps come out: whoever applies a tenant (the command, the operator) carries them
out, and planning again afterwards comes to nothing. The steps are the same whether a run before was broken off or not.

What this must never do: shrink or delete a topic (that loses messages, and is for people to say), change what was not
asked for, or ask for a change that the brokers can't make; such a difference is a warning.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class Wanted(Protocol):
    """A topic as it should be (`heliograph.stores.ports.TopicSpec`)."""

    @property
    def name(self) -> str: ...
    @property
    def partitions(self) -> int: ...
    @property
    def replication_factor(self) -> int | None: ...
    @property
    def config(self) -> Mapping[str, str | None]:
        """None: what the brokers have where nobody says anything."""


class Existing(Protocol):
    """A topic as it is (`heliograph.stores.ports.TopicInfo`)."""

    @property
    def partitions(self) -> int: ...
    @property
    def replication_factor(self) -> int: ...
    @property
    def config(self) -> Mapping[str, str]: ...


W = TypeVar("W", bound=Wanted)


@dataclass(frozen=True, slots=True)
class Grow:
    """More partitions. Sessions stay in the partition of their first message, so growth reorders nothing."""

    topic: str
    have: int
    want: int


@dataclass(frozen=True, slots=True)
class Alter:
    """Settings to change, by key: what they are (None: not known) and what they become (None: the brokers' default)."""

    topic: str
    changes: Mapping[str, tuple[str | None, str | None]]

    @property
    def config(self) -> dict[str, str | None]:
        """What to set."""
        return {key: new for key, (_, new) in self.changes.items()}


@dataclass(frozen=True, slots=True)
class TopicWarning:
    """A difference that is left alone. `code`: `fewer_partitions` or `replication_differs`."""

    topic: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class TopicPlan(Generic[W]):
    """The steps, in the order of the wanted topics."""

    create: tuple[W, ...]
    grow: tuple[Grow, ...]
    alter: tuple[Alter, ...]
    warnings: tuple[TopicWarning, ...]

    @property
    def empty(self) -> bool:
        """Nothing to do. Warnings are nothing to do."""
        return not (self.create or self.grow or self.alter)


def plan_topics(wanted: Iterable[W], existing: Mapping[str, Existing]) -> TopicPlan[W]:
    """The steps from `existing` (by name) to `wanted`. Raises ValueError where a topic is wanted twice."""
    create: list[W] = []
    grow: list[Grow] = []
    alter: list[Alter] = []
    warnings: list[TopicWarning] = []
    seen: set[str] = set()
    for topic in wanted:
        if topic.name in seen:
            raise ValueError(f"topic {topic.name} is wanted twice")
        seen.add(topic.name)
        found = existing.get(topic.name)
        if found is None:
            create.append(topic)
            continue
        if topic.partitions > found.partitions:
            grow.append(Grow(topic.name, found.partitions, topic.partitions))
        elif topic.partitions < found.partitions:
            message = f"has {found.partitions} partitions, {topic.partitions} are wanted: partitions are never removed"
            warnings.append(TopicWarning(topic.name, "fewer_partitions", message))
        if topic.replication_factor not in (None, found.replication_factor):
            message = (
                f"has replication factor {found.replication_factor}, {topic.replication_factor} is wanted: "
                "move it with kafka-reassign-partitions"
            )
            warnings.append(TopicWarning(topic.name, "replication_differs", message))
        changes = {
            key: (found.config.get(key), value)
            for key, value in sorted(topic.config.items())
            if found.config.get(key) != value
        }
        if changes:
            alter.append(Alter(topic.name, changes))
    return TopicPlan(tuple(create), tuple(grow), tuple(alter), tuple(warnings))
