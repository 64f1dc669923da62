"""What a group has committed, asked by a client that never joins it.

The admin client has a call for this, and it must not be used: when the coordinator's connection breaks under it,
librdkafka tears the request down twice and aborts the process, or answers nothing until the client is made anew
(confluentinc/librdkafka#4605, #3663). A consumer's `committed` asks the same over a path that survives.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

from heliograph.stores.events import LOG, Tally
from heliograph.stores.kafka.calls import DEAF, MISSING, Partition
from heliograph.stores.kafka.client import bad_configuration, configuration, library_logger, store_error
from heliograph.stores.kafka.hearing import Hearing, close_aside
from heliograph.stores.ports import StoreError

TIMEOUT_S = 5.0
"""Of one question, a coordinator's fail-over included."""


class GroupOffsets:
    """Asks for the commits of one group. A thread of its own waits for the answers."""

    def __init__(
        self,
        properties: Mapping[str, object],
        group: str,
        timeout_s: float = TIMEOUT_S,
        *,
        consumer: Callable[[dict[str, Any]], Any] = Consumer,
    ) -> None:
        """Raises InvalidValueError for a property that librdkafka refuses."""
        self._config = configuration(
            properties,
            {},
            {
                "group.id": group,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "logger": library_logger,
            },
        )
        self._make = consumer
        self._consumer: Any = self._made()
        self._hearing = Hearing("group offsets", Tally(LOG))
        self._timeout_s = timeout_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="group-offsets")

    def _made(self) -> Any:
        try:
            return self._make(dict(self._config))
        except (KafkaException, ValueError, TypeError) as error:
            raise bad_configuration(error, self._config) from None

    async def committed(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """What the group has committed; partitions without a commit, or that do not exist, are left out."""
        places = [TopicPartition(topic, partition) for topic, partition in partitions]
        if not places:
            return {}
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._ask, places)
        except RuntimeError:  # the executor was shut down
            raise StoreError("log_unavailable", "read committed offsets: closed") from None

    def _ask(self, places: list[TopicPartition]) -> dict[Partition, int]:
        self._consumer.poll(0)  # librdkafka's log lines wait there
        try:
            answers = self._consumer.committed(places, timeout=self._timeout_s)
        except KafkaException as error:
            if error.args[0].code() not in DEAF:
                self._hearing.heard()
            elif self._hearing.missed():
                before, self._consumer = self._consumer, self._made()
                close_aside(before.close)
            raise store_error("read committed offsets", error) from None
        self._hearing.heard()
        found = {}
        for place in answers:
            if place.error is not None and place.error.code() not in MISSING:
                raise store_error("read committed offsets", place.error)
            if place.error is None and place.offset >= 0:
                found[place.topic, place.partition] = place.offset
        return found

    async def close(self) -> None:
        """After the question that is open."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, lambda: self._hearing.close(self._consumer.close))
        self._thread.shutdown(wait=False)
