"""Questions to the cluster, as coroutines.

librdkafka's admin client answers through futures of its own threads, which the event loop awaits: no thread of ours
waits.
"""

import asyncio
import concurrent.futures
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

import confluent_kafka.admin
from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition

from heliograph.stores.events import LOG, Tally
from heliograph.stores.kafka.client import (
    Refusals,
    bad_configuration,
    configuration,
    error_name,
    library_logger,
    store_error,
)
from heliograph.stores.kafka.hearing import Hearing
from heliograph.stores.ports import StoreError, TopicSpec

REQUEST_TIMEOUT_S = 10.0
"""Of one question, a broker's fail-over included."""

CLOSE_TIMEOUT_S = 2.0
"""For questions still open when the client is closed, and for those that it replaced to end."""

DEFAULTS: Mapping[str, object] = {
    "metadata.max.age.ms": 2_000,  # a leader that died is asked for no longer; by default it would be for 15 minutes
}

OWNED: Mapping[str, object] = {
    # A question to a broker that is away costs librdkafka a whole core until it is answered or given up: its main
    # thread and the broker's wake each other without a pause. Not where the client keeps a connection to every broker.
    # librdkafka doesn't document the property; tests/system/test_kafka_cluster.py shows what it is for.
    "enable.sparse.connections": False,
}

_abandoned: list[object] = []
"""Clients of a process that ends."""

_library: Any = confluent_kafka.admin  # has no types

Partition = tuple[str, int]

MISSING = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNKNOWN_TOPIC_ID,
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
    }
)
"""There is no such topic, or partition."""

DEAF = frozenset(
    {
        KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001
        KafkaError._TIMED_OUT,  # noqa: SLF001
        KafkaError._TIMED_OUT_QUEUE,  # noqa: SLF001
        KafkaError._TRANSPORT,  # noqa: SLF001
    }
)
"""No broker answered: the client's own word for it."""

TRANSPORT = DEAF | frozenset(
    {
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.NOT_CONTROLLER,
        KafkaError.NOT_COORDINATOR,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.REQUEST_TIMED_OUT,
    }
)
"""The cluster could not be asked; all else is its answer."""


STALE = ("FENCED_LEADER_EPOCH", "UNKNOWN_LEADER_EPOCH", "NOT_LEADER_FOR_PARTITION")
"""The client's idea of who leads a partition is out of date: after a broker's restart, for minutes."""


REFRESH_INTERVAL_S = 1.0
"""At least between two looks at all topics on account of partitions that are said to be missing: they may really be."""


class TopicDescription(Protocol):
    """What of a description is used here; the class itself has no types."""

    topic_id: object
    partitions: Sequence[Any]


class AdminCalls:
    """The admin client with coroutines, and errors as StoreError."""

    def __init__(
        self,
        properties: Mapping[str, object],
        timeout_s: float = REQUEST_TIMEOUT_S,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._refusals = Refusals()
        self._config = configuration(
            properties, DEFAULTS, {**OWNED, "logger": library_logger, "error_cb": self._refusals.note}
        )
        self._client: Any = self._made()
        self._timeout_s = timeout_s
        self._stats = Tally(LOG)
        self._hearing = Hearing("admin", self._stats, clock)
        self._refreshed_at = float("-inf")
        self._refreshing = asyncio.Lock()
        self._open: set[asyncio.Future[Any]] = set()
        self._replaced: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Let go of the client; that joins its threads.

        One that still has questions open is kept until the process ends: it would be torn down under its callbacks.
        """
        client, self._client = self._client, None
        if self._open:
            await asyncio.wait(self._open, timeout=CLOSE_TIMEOUT_S)
        if self._open:
            _abandoned.append(client)
        else:
            await asyncio.get_running_loop().run_in_executor(None, _drop, [client])
        if self._replaced:
            await asyncio.wait(self._replaced, timeout=CLOSE_TIMEOUT_S)
        for task in self._replaced:
            task.cancel()
        await asyncio.gather(*self._replaced, return_exceptions=True)

    def _made(self) -> Any:
        try:
            return _library.AdminClient(self._config)
        except (KafkaException, ValueError, TypeError) as error:
            raise bad_configuration(error, self._config) from None

    def _not_heard(self) -> None:
        """The cluster could not be asked: a client that failed for long is replaced."""
        if self._client is not None and self._hearing.missed():
            before, self._client = self._client, self._made()
            task = asyncio.create_task(_let_go(before, frozenset(self._open)))
            self._replaced.add(task)
            task.add_done_callback(self._replaced.discard)

    async def describe(self, topics: Collection[str]) -> dict[str, TopicDescription]:
        """Those that exist."""
        if not topics:
            return {}
        futures = self.call("describe_topics", TopicCollection(sorted(set(topics))))
        return await self.gather("describe topics", futures)

    async def configs(self, topics: Collection[str]) -> dict[str, dict[str, str]]:
        """Every setting of each topic that exists, as text."""
        resources = {
            _library.ConfigResource(_library.ConfigResource.Type.TOPIC, name): name for name in sorted(set(topics))
        }
        if not resources:
            return {}
        found = await self.gather("describe configs", self.call("describe_configs", list(resources)))
        return {
            resources[resource]: {name: "" if entry.value is None else entry.value for name, entry in entries.items()}
            for resource, entries in found.items()
        }

    async def earliest(self, places: Iterable[Partition]) -> dict[Partition, int]:
        """The first offset of each that exists."""
        return await self._offsets(dict.fromkeys(places, _library.OffsetSpec.earliest()))

    async def ends(self, places: Iterable[Partition]) -> dict[Partition, int]:
        """The end of each that exists: the offset that its next record will have."""
        return await self._offsets(dict.fromkeys(places, _library.OffsetSpec.latest()))

    async def at_time(self, place: Partition, time_ms: int) -> int | None:
        """The first offset with this timestamp or a later one, -1 with none; None where there is no such partition."""
        return (await self._offsets({place: _library.OffsetSpec.for_timestamp(time_ms)})).get(place)

    async def create(self, topic: TopicSpec) -> None:
        wanted = _library.NewTopic(
            topic.name,
            num_partitions=topic.partitions,
            replication_factor=topic.replication_factor or -1,
            config={name: value for name, value in topic.config.items() if value is not None},
        )
        await self._one(f"create topic {topic.name}", self.call("create_topics", [wanted]))

    async def grow(self, topic: str, partitions: int) -> None:
        wanted = _library.NewPartitions(topic, partitions)
        await self._one(f"grow topic {topic}", self.call("create_partitions", [wanted]))

    async def set_config(self, kind: Literal["TOPIC", "GROUP"], name: str, config: Mapping[str, str | None]) -> None:
        """Set these, leave others (KIP-339); None: back to the default."""
        kinds = _library.AlterConfigOpType
        entries = [
            _library.ConfigEntry(key, value, incremental_operation=kinds.DELETE if value is None else kinds.SET)
            for key, value in config.items()
        ]
        resource = _library.ConfigResource(
            getattr(_library.ConfigResource.Type, kind), name, incremental_configs=entries
        )
        await self._one(f"configure {kind.lower()} {name}", self.call("incremental_alter_configs", [resource]))

    async def delete(self, topic: str) -> None:
        await self._one(f"delete topic {topic}", self.call("delete_topics", [topic]))

    async def ping(self) -> int:
        """How many brokers there are."""
        loop = asyncio.get_running_loop()
        try:
            metadata = await loop.run_in_executor(None, lambda: self._client.list_topics(timeout=self._timeout_s))
        except KafkaException as error:
            self._not_heard()
            raise self._explained(store_error("ask for brokers", error)) from None
        self._hearing.heard()
        self._refusals.over()
        return len(metadata.brokers)

    async def _offsets(self, wanted: Mapping[Partition, Any]) -> dict[Partition, int]:
        if not wanted:
            return {}
        asked_at = time.monotonic()
        try:
            found = await self._list_offsets(wanted)
        except StoreError as error:
            if not any(name in error.message for name in STALE):
                raise
            await self.ping()  # makes the client learn of the new leaders, which these errors don't
            return await self._list_offsets(wanted)
        missing = {place: spec for place, spec in wanted.items() if place not in found}
        if missing:
            # To the client a topic that it has met has as many partitions as it had then, for minutes after it grew.
            async with self._refreshing:
                if time.monotonic() - self._refreshed_at >= REFRESH_INTERVAL_S:
                    await self.ping()
                    self._refreshed_at = time.monotonic()
            if self._refreshed_at >= asked_at:
                found |= await self._list_offsets(missing)
        return found

    async def _list_offsets(self, wanted: Mapping[Partition, Any]) -> dict[Partition, int]:
        asked = {TopicPartition(topic, partition): spec for (topic, partition), spec in wanted.items()}
        # Where none of the partitions has a leader it says _NOENT.
        found = await self.gather("list offsets", self.call("list_offsets", asked), MISSING | {KafkaError._NOENT})  # noqa: SLF001
        return {(place.topic, place.partition): result.offset for place, result in found.items()}

    def call(self, method: str, *arguments: object) -> dict[Any, concurrent.futures.Future[Any]]:
        """Ask the client; the answers come as futures."""
        if self._client is None:
            raise StoreError("log_unavailable", f"{method}: the admin client is closed")
        try:
            futures: dict[Any, concurrent.futures.Future[Any]] = getattr(self._client, method)(
                *arguments, request_timeout=self._timeout_s
            )
        except KafkaException as error:
            raise store_error(method, error) from None
        finally:
            self._client.poll(0)  # librdkafka's log lines wait there
        return futures

    async def gather(
        self, what: str, futures: dict[Any, concurrent.futures.Future[Any]], missing: frozenset[int] = MISSING
    ) -> dict[Any, Any]:
        """Results by key without those that do not exist; raises for any other error."""
        results = await asyncio.gather(*map(self._awaited, futures.values()), return_exceptions=True)
        found = {}
        for key, result in zip(futures, results, strict=True):
            if isinstance(result, KafkaException):
                self._noted(result)
                if result.args[0].code() not in missing:
                    raise self._explained(classified(what, result))
            elif isinstance(result, BaseException):
                raise result
            else:
                self._hearing.heard()
                found[key] = result
        return found

    async def _one(self, what: str, futures: dict[Any, concurrent.futures.Future[Any]]) -> None:
        (future,) = futures.values()
        try:
            await self._awaited(future)
        except KafkaException as error:
            self._noted(error)
            raise self._explained(classified(what, error)) from error
        self._hearing.heard()

    def _noted(self, error: KafkaException) -> None:
        code = error.args[0].code()
        if code not in MISSING:
            self._stats.error(error_name(error.args[0]))
        if code in DEAF:
            self._not_heard()
        else:
            self._hearing.heard()

    def _explained(self, error: StoreError) -> StoreError:
        if self._client is not None:
            self._client.poll(0)  # what the client tells in passing waits there
        return self._refusals.explain(error)

    async def _awaited(self, future: concurrent.futures.Future[Any]) -> Any:
        """`future`'s result. Cancelling the waiter leaves it alone: the client's thread still answers it."""
        waiting = asyncio.wrap_future(future)
        self._open.add(waiting)
        waiting.add_done_callback(self._answered)
        return await asyncio.shield(waiting)

    def _answered(self, future: asyncio.Future[Any]) -> None:
        self._open.discard(future)
        if not future.cancelled():
            future.exception()  # looked at, also where nobody waits any more


class Users:
    """Questions about users and their rights, by the same client."""

    def __init__(self, calls: AdminCalls) -> None:
        self._calls = calls

    async def described(self, user: str) -> bool:
        """Whether the user has a password."""
        futures = self._calls.call("describe_user_scram_credentials", [user])
        missing = frozenset({KafkaError.RESOURCE_NOT_FOUND})
        return user in await self._calls.gather("describe users", futures, missing)

    async def alter(self, what: str, change: Any, *, missing: frozenset[int] = frozenset()) -> None:
        await self._calls.gather(what, self._calls.call("alter_user_scram_credentials", [change]), missing)

    async def rights(self, which: Any) -> list[Any]:
        future: Any = self._calls.call("describe_acls", which)
        found: list[Any] = (await self._calls.gather("describe rights", {"": future})).get("", [])
        return found

    async def allow(self, what: str, bindings: Sequence[Any]) -> None:
        await self._calls.gather(what, self._calls.call("create_acls", list(bindings)))

    async def forbid(self, what: str, which: Any) -> None:
        """Brokers without an authorizer have nothing to take away."""
        await self._calls.gather(
            what, self._calls.call("delete_acls", [which]), frozenset({KafkaError.SECURITY_DISABLED})
        )


def _drop(holder: list[object]) -> None:
    holder.clear()


async def _let_go(client: object, open_: Collection[asyncio.Future[Any]]) -> None:
    """Of a client that was replaced, once its questions have run out of time; that joins its threads."""
    holder = [client]
    del client
    try:
        if open_:
            await asyncio.wait(open_)
        await asyncio.get_running_loop().run_in_executor(None, _drop, holder)
    except asyncio.CancelledError:
        _abandoned.extend(holder)
        raise


def classified(what: str, error: KafkaException) -> StoreError:
    """`log_unavailable` where the cluster could not be asked, `unavailable` where its answer is no."""
    kafka_error: KafkaError = error.args[0]
    found = store_error(what, kafka_error, maybe_done=kafka_error.code() in TRANSPORT)
    if kafka_error.code() not in TRANSPORT:
        found.code = "unavailable"
    return found
