"""Topics: what they are, and making them what they should be. Every call is idempotent and may be repeated."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException

from heliograph.stores.kafka.calls import MISSING, REQUEST_TIMEOUT_S, AdminCalls, TopicDescription
from heliograph.stores.ports import StoreError, TopicInfo, TopicSpec

VISIBLE_TIMEOUT_S = 10.0
"""How long a change may take to reach the brokers' metadata."""
VISIBLE_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Advice:
    """A topic's setting that weakens what Heliograph promises."""

    topic: str
    setting: str
    value: str
    recommended: str
    reason: str

    def __str__(self) -> str:
        return f"{self.topic}: {self.setting} is {self.value}, recommended is {self.recommended}: {self.reason}"


class KafkaLogAdmin:
    """LogAdmin."""

    def __init__(self, properties: Mapping[str, object], *, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        """`properties`: librdkafka's, `bootstrap.servers` among them."""
        self._calls = AdminCalls(properties, timeout_s)

    async def close(self) -> None:
        await self._calls.close()

    async def ping(self) -> int:
        """How many brokers there are. Raises StoreError(`log_unavailable`)."""
        return await self._calls.ping()

    async def describe(self, topics: Sequence[str]) -> dict[str, TopicInfo]:
        described = await self._calls.describe(topics)
        configs = await self._calls.configs(list(described))
        return {
            name: TopicInfo(
                name=name,
                topic_id=str(found.topic_id),
                partitions=len(found.partitions),
                replication_factor=min((len(partition.replicas) for partition in found.partitions), default=0),
                config=configs.get(name, {}),
            )
            for name, found in described.items()
        }

    async def create(self, topic: TopicSpec) -> None:
        """Returns when the brokers know it: whoever is told of it can write to it at once."""
        try:
            await self._calls.create(topic)
        except StoreError as error:
            if not _is(error, KafkaError.TOPIC_ALREADY_EXISTS):
                raise
        await self._until(topic.name, "created", lambda found: found is not None and _has_leaders(found))

    async def grow(self, topic: str, partitions: int) -> None:
        """To at least `partitions`; a topic never shrinks."""
        try:
            await self._calls.grow(topic, partitions)
        except StoreError as error:
            found = (await self._calls.describe([topic])).get(topic)
            if not _is(error, KafkaError.INVALID_PARTITIONS) or found is None or len(found.partitions) < partitions:
                raise
        await self._until(
            topic,
            "grown",
            lambda found: found is not None and len(found.partitions) >= partitions and _has_leaders(found),
        )

    async def alter(self, topic: str, config: Mapping[str, str]) -> None:
        if config:
            await self._calls.set_config("TOPIC", topic, config)

    async def delete(self, topic: str) -> None:
        """A missing one is as good."""
        try:
            await self._calls.delete(topic)
        except StoreError as error:
            if not any(_is(error, code) for code in MISSING):
                raise
        await self._until(topic, "deleted", lambda found: found is None)

    async def check(self, topics: Sequence[str]) -> list[Advice]:
        """What of these topics weakens the promises; nothing is changed."""
        advice = []
        for name, info in sorted((await self.describe(topics)).items()):
            replicas, in_sync = info.replication_factor, int(info.config.get("min.insync.replicas", "1"))
            if replicas < 3:
                advice.append(Advice(name, "replication factor", str(replicas), "3", "one broker's disk holds it all"))
            if in_sync < 2 and replicas > 1:
                reason = "`durable` means one disk as soon as the other replicas lag"
                advice.append(Advice(name, "min.insync.replicas", str(in_sync), "2", reason))
            for setting, wanted, reason in RECOMMENDED:
                value = info.config.get(setting, wanted)
                if value != wanted:
                    advice.append(Advice(name, setting, value, wanted, reason))
        return advice

    async def _until(self, topic: str, state: str, holds: Callable[[TopicDescription | None], bool]) -> None:
        deadline = time.monotonic() + VISIBLE_TIMEOUT_S
        while not holds((await self._calls.describe([topic])).get(topic)):
            if time.monotonic() > deadline:
                message = f"topic {topic} is {state}, but the brokers don't show it after {VISIBLE_TIMEOUT_S:g} s"
                raise StoreError("log_unavailable", message, maybe_done=True)
            await asyncio.sleep(VISIBLE_POLL_S)


RECOMMENDED: tuple[tuple[str, str, str], ...] = (
    ("unclean.leader.election.enable", "false", "a replica that lags could become leader and lose durable messages"),
    ("message.timestamp.type", "LogAppendTime", "history by time and retention would go by the edges' clocks"),
    ("cleanup.policy", "delete", "compaction keeps one record a session"),
)


def _has_leaders(found: TopicDescription) -> bool:
    return all(partition.leader is not None and partition.leader.id >= 0 for partition in found.partitions)


def _is(error: StoreError, code: int) -> bool:
    """Whether a StoreError came from this Kafka error."""
    cause = error.__cause__
    return isinstance(cause, KafkaException) and cause.args[0].code() == code
