"""Applies a tenant straight through the stores (interim, until the command is there)."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path

from heliograph.protocol.tenants import encode_tenant, parse_tenant
from heliograph.stores.kafka.admin import KafkaLogAdmin
from heliograph.stores.keys import Topics
from heliograph.stores.ports import TopicSpec
from heliograph.stores.redis.metadata import MetadataClient, RedisTenantStore


def apply_tenant(file: Path, variables: Mapping[str, str]) -> None:
    asyncio.run(apply(file, variables))


async def apply(file: Path, variables: Mapping[str, str]) -> None:
    tenant = parse_tenant(json.loads(file.read_text()))
    topics = Topics(variables["HELIOGRAPH_TOPIC_PREFIX"])
    admin = KafkaLogAdmin({"bootstrap.servers": variables["HELIOGRAPH_KAFKA_BOOTSTRAP_SERVERS"]})
    metadata = MetadataClient(variables["HELIOGRAPH_METADATA_REDIS_URL"])
    await metadata.start()
    for name in (topics.log(tenant.tenant), topics.deferred(tenant.tenant)):
        await admin.create(TopicSpec(name, tenant.topics.log.partitions, None, {}))
    await admin.create(TopicSpec(topics.dead, 1, None, {}))
    await RedisTenantStore(metadata).put(tenant.tenant, encode_tenant(tenant))
    await metadata.close()
    await admin.close()
