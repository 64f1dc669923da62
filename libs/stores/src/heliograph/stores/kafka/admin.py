"""Topics: what they are, and making them what they should be. Every call is idempotent and may be repeated."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

from confluent_kafka import KafkaError, KafkaException

from heliograph.stores.kafka.calls import MISSING, REQUEST_TIMEOUT_S, AdminCalls, TopicDescription
from heliograph.stores.ports import StoreError, TopicInfo, TopicSpec

VISIBLE_TIMEOUT_S = 10.0
"""How long a change may take to reach the brokers' metadata."""
VISIBLE_POLL_S = 0.05
SHOWN_TIMEOUT_S = 3.0
"""For a changed setting: brokers may spell a value their own way."""


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

    async def alter(self, topic: str, config: Mapping[str, str | None]) -> None:
        """Returns when a broker shows the change, or has shown another spelling of it for a while."""
        if not config:
            return
        await self._calls.set_config("TOPIC", topic, config)
        deadline = time.monotonic() + SHOWN_TIMEOUT_S
        while time.monotonic() < deadline:
            shown = (await self._calls.configs([topic])).get(topic, {})
            if all(value is None or shown.get(name) == value for name, value in config.items()):
                return
            await asyncio.sleep(VISIBLE_POLL_S)

    async def delete(self, topic: str) -> None:
        """A missing one is as good."""
        try:
            await self._calls.delete(topic)
        except StoreError as error:
            if not any(_is(error, code) for code in MISSING):
                raise
        await self._until(topic, "deleted", lambda found: found is None)

    async def messages(self, partitions: Mapping[str, int]) -> dict[str, int]:
        places = [(topic, number) for topic, count in partitions.items() for number in range(count)]
        earliest, ends = await asyncio.gather(self._calls.earliest(places), self._calls.ends(places))
        found: dict[str, int] = {}
        for (topic, number), end in ends.items():
            found[topic] = found.get(topic, 0) + max(0, end - earliest.get((topic, number), end))
        return found

    async def _until(self, topic: str, state: str, holds: Callable[[TopicDescription | None], bool]) -> None:
        deadline = time.monotonic() + VISIBLE_TIMEOUT_S
        while not holds((await self._calls.describe([topic])).get(topic)):
            if time.monotonic() > deadline:
                message = f"topic {topic} is {state}, but the brokers don't show it after {VISIBLE_TIMEOUT_S:g} s"
                raise StoreError("log_unavailable", message, maybe_done=True)
            await asyncio.sleep(VISIBLE_POLL_S)


def _has_leaders(found: TopicDescription) -> bool:
    return all(partition.leader is not None and partition.leader.id >= 0 for partition in found.partitions)


def _is(error: StoreError, code: int) -> bool:
    """Whether a StoreError came from this Kafka error."""
    cause = error.__cause__
    return isinstance(cause, KafkaException) and cause.args[0].code() == code
