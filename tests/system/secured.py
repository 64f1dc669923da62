"""The whole system where others are about: Kafka over SASL_SSL, three Redis over TLS, a user of each service's own."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.secured import SecureKafka, SecureRedis, secure_kafka, secure_redis
from tests.system.rig import Rig, started

from heliograph.stores.redis.rights import Store, acl_rules

SERVICES = {"edge": 2, "router": 2, "replay": 1, "registry": 1}


class SecureRig(Rig):
    """As the other rig, for everybody but the services: tests use the plain listeners."""

    def __init__(self, directory: Path, kafka: SecureKafka, redis: Mapping[Store, SecureRedis]) -> None:
        self.secured = kafka
        self.secured_redis = redis
        own = {f"{name}-{number}": self.settings_of(name) for name, n in SERVICES.items() for number in range(1, n + 1)}
        live, metadata = redis["live"].server, redis["metadata"].server
        super().__init__(directory, kafka.server, live, metadata, readers=1, own=own, group_protocol="auto")
        for service in (*SERVICES, "operator"):
            kafka.add_service(service, self.prefix, user=service)

    def settings_of(self, service: str) -> dict[str, str]:
        """What one service is told of Kafka and Redis, where it differs from others."""
        urls = {store: self.secured_redis[store].url for store in self.secured_redis}
        return {
            "kafka_bootstrap_servers": self.secured.bootstrap_servers,
            "kafka_properties": json.dumps(self.secured.properties(service)),
            "redis_url": urls["live"],
            "metadata_redis_url": urls["metadata"],
            "token_redis_url": urls["token"],
        }

    @property
    def variables(self) -> dict[str, str]:
        """`heliograph tenant apply` is the operator's work, with its rights."""
        own = {f"HELIOGRAPH_{name.upper()}": value for name, value in self.settings_of("operator").items()}
        return {**super().variables, **own}


@contextmanager
def running_secure_rig(directory: Path) -> Iterator[SecureRig]:
    """Kafka, three Redis, and the services."""
    with (
        secure_kafka(directory / "kafka") as kafka,
        secure_redis(directory / "live", acl_rules("live")) as live,
        secure_redis(directory / "metadata", acl_rules("metadata")) as metadata,
        secure_redis(directory / "token", acl_rules("token")) as token,
        started(SecureRig(directory, kafka, {"live": live, "metadata": metadata, "token": token})) as rig,
    ):
        yield rig
