"""What a Tenant's `access` gives on brokers that ask everybody who they are.

The operator is a user of its own, with the documented rights; the consumer is one as anybody has it.
"""

import asyncio
import base64
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from tests.secured import SecureKafka
from tests.services.operator.tenant_rig import SHARDS, Rig

from heliograph.operator.kube import SECRETS, TENANTS
from heliograph.operator.tenants.stores import NamedLogAdmin, TenantStores
from heliograph.stores.kafka import KafkaLogAccess, KafkaLogAdmin
from heliograph.stores.keys import Topics
from heliograph.stores.memory.live import MemoryLiveStore
from heliograph.stores.memory.live_server import MemoryLiveServer
from heliograph.stores.memory.metadata import (
    MemoryConnectionStore,
    MemoryServeStore,
    MemorySessionExpiries,
    MemoryTenantStore,
)

PASSWORD = "consumers' own"
ACCESS = {"passwordFrom": {"secretKeyRef": {"name": "kafka", "key": "password"}}}
DEADLINE_S = 30.0

pytestmark = pytest.mark.xdist_group("kafka-with-users")


@pytest.fixture
async def rig(kafka_with_users: SecureKafka) -> AsyncIterator[Rig]:
    """An operator that looks after two Tenants, both with access."""
    prefix = f"t{secrets.token_hex(4)}"
    client = kafka_with_users.client(kafka_with_users.add_service("operator", prefix))
    admin, access = KafkaLogAdmin(client), KafkaLogAccess(client)
    stores = TenantStores(
        topics=Topics(prefix),
        admin=NamedLogAdmin(admin),
        access=access,
        tenants=MemoryTenantStore(),
        connections=MemoryConnectionStore(),
        live=MemoryLiveStore(MemoryLiveServer(lambda: 1_000, virtual_shards=SHARDS)),
        serving=MemoryServeStore(),
        expiries=MemorySessionExpiries(),
        virtual_shards=SHARDS,
    )
    made = Rig(stores=stores)
    await made.kube.create(SECRETS, "team", secret(PASSWORD))
    for name in ("acme", "globex"):
        await made.make(name, tenant=name, access=ACCESS)
        for _ in range(2):
            await made.look(name)
        assert made.condition("AccessReady", name)[0] == "True", made.condition("AccessReady", name)
    yield made
    await access.close()
    await admin.close()


def secret(password: str) -> dict[str, Any]:
    data = {"password": base64.b64encode(password.encode()).decode()}
    return {"metadata": {"name": "kafka", "labels": {"heliograph.dev/watched": "true"}}, "data": data}


class Outsider:
    """A tenant's own program, with confluent-kafka and nothing of ours."""

    def __init__(self, kafka: SecureKafka, rig: Rig, tenant: str, password: str = PASSWORD) -> None:
        self.user = f"{rig.stores.topics.prefix}.{tenant}"
        self._client = kafka.client(self.user, password)

    async def reads(self, topic: str, group: str | None = None) -> list[bytes | None] | str:
        """All that there is, as a member of a group; or the name of the error."""
        return await asyncio.to_thread(self._read, topic, group or f"{self.user}.{secrets.token_hex(4)}")

    def _read(self, topic: str, group: str) -> list[bytes | None] | str:
        refused: list[KafkaError] = []
        config = {
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            "error_cb": refused.append,
        }
        consumer: Any = Consumer({**self._client, **config})
        try:
            return _drained(consumer, topic, refused)
        except KafkaException as error:
            return str(error.args[0].name())
        finally:
            consumer.close()

    async def writes(self, topic: str) -> str:
        """`done`, or the name of the error."""
        return await asyncio.to_thread(_written, Producer({**self._client, "message.timeout.ms": 10_000}), topic)


def _drained(consumer: Any, topic: str, refused: list[KafkaError]) -> list[bytes | None]:
    """All records up to the end of each partition. Raises KafkaException for what was refused."""
    consumer.subscribe([topic])
    values: list[bytes | None] = []
    ended: set[int] = set()
    deadline = time.monotonic() + DEADLINE_S
    while not ended or len(ended) < len(consumer.assignment()):
        assert time.monotonic() < deadline, f"nothing was said about {topic} for {DEADLINE_S:g} s"
        for message in consumer.consume(100, 0.1):
            error = message.error()
            if error is None:
                values.append(message.value())
            elif error.code() == KafkaError._PARTITION_EOF:
                ended.add(message.partition())
            else:
                raise KafkaException(error)
        for error in refused:
            if error.code() == KafkaError._AUTHENTICATION:
                raise KafkaException(error)
    if values:
        consumer.commit(asynchronous=False)
    return values


def _written(producer: Producer, topic: str) -> str:
    said: list[str] = []
    producer.produce(topic, b"?", on_delivery=lambda error, _: said.append("done" if error is None else error.name()))
    producer.flush(DEADLINE_S)
    return said[0]


async def written(kafka: SecureKafka, topic: str) -> None:
    """A record in the log, by somebody who may."""
    producer = Producer({"bootstrap.servers": kafka.server.bootstrap_servers})
    assert await asyncio.to_thread(_written, producer, topic) == "done"


async def until_said(ask: Callable[[], Any], wanted: object) -> None:
    """Brokers learn of users and rights a moment after they were changed."""
    said: object = None
    try:
        async with asyncio.timeout(DEADLINE_S):
            while (said := await ask()) != wanted:
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"{said} instead of {wanted}") from None


async def test_a_tenants_own_consumer_logs_in_and_reads_its_topics_and_nothing_else(
    rig: Rig, kafka_with_users: SecureKafka
) -> None:
    topics, acme = rig.stores.topics, Outsider(kafka_with_users, rig, "acme")
    for name in ("acme", "globex"):
        await written(kafka_with_users, topics.log(name))
    await until_said(lambda: acme.reads(topics.log("acme")), [b"?"])
    assert await acme.reads(topics.deferred("acme")) == []
    for other in (topics.log("globex"), topics.deferred("globex"), topics.dead):
        assert await acme.reads(other) == "TOPIC_AUTHORIZATION_FAILED"
    assert await acme.reads(topics.log("acme"), f"{topics.prefix}.globex.group") == "GROUP_AUTHORIZATION_FAILED"
    assert await acme.reads(topics.log("acme"), f"{topics.prefix}.router") == "GROUP_AUTHORIZATION_FAILED"
    assert await acme.writes(topics.log("acme")) == "TOPIC_AUTHORIZATION_FAILED"
    assert await acme.writes(topics.log("globex")) == "TOPIC_AUTHORIZATION_FAILED"


async def test_a_consumer_loses_its_access_when_it_is_taken_back_also_while_it_is_connected(
    rig: Rig, kafka_with_users: SecureKafka
) -> None:
    topics, acme = rig.stores.topics, Outsider(kafka_with_users, rig, "acme")
    globex = Outsider(kafka_with_users, rig, "globex")
    await written(kafka_with_users, topics.log("acme"))
    await until_said(lambda: acme.reads(topics.log("acme")), [b"?"])

    consumer: Any = Consumer({**kafka_with_users.client(acme.user, PASSWORD), "group.id": f"{acme.user}.standing"})
    try:
        await asyncio.to_thread(consumer.list_topics, timeout=DEADLINE_S)
        await rig.kube.patch(TENANTS, "team", "acme", {"spec": {"access": None}})
        await rig.look("acme")
        await until_said(lambda: asyncio.to_thread(_sees, consumer, topics.log("acme")), False)
    finally:
        consumer.close()
    assert await acme.reads(topics.log("acme")) == "_AUTHENTICATION"
    await until_said(lambda: globex.reads(topics.log("globex")), [])


async def test_another_password_ends_the_one_before(rig: Rig, kafka_with_users: SecureKafka) -> None:
    topic = rig.stores.topics.log("acme")
    await rig.kube.patch(SECRETS, "team", "kafka", {"data": secret("another")["data"]})
    await rig.look("acme")
    await until_said(lambda: Outsider(kafka_with_users, rig, "acme", "another").reads(topic), [])
    await until_said(lambda: Outsider(kafka_with_users, rig, "acme").reads(topic), "_AUTHENTICATION")


@pytest.mark.parametrize("policy", ["Retain", "Delete"])
async def test_with_its_tenant_a_consumers_access_goes_also_where_the_topics_stay(
    rig: Rig, kafka_with_users: SecureKafka, policy: str
) -> None:
    topic, acme = rig.stores.topics.log("acme"), Outsider(kafka_with_users, rig, "acme")
    await until_said(lambda: acme.reads(topic), [])
    await rig.kube.patch(TENANTS, "team", "acme", {"spec": {"reclaimPolicy": policy}})
    await rig.look("acme")
    await rig.kube.delete(TENANTS, "team", "acme")
    await rig.look("acme")
    await until_said(lambda: acme.reads(topic), "_AUTHENTICATION")
    assert await rig.stores.access.readable(acme.user) == set()
    assert (topic in await rig.stores.admin.describe([topic])) == (policy == "Retain")


def _sees(consumer: Any, topic: str) -> bool:
    return topic in consumer.list_topics(timeout=DEADLINE_S).topics
