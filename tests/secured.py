"""Kafka and Redis as they are where others are about: TLS, users with passwords, and nobody may what nobody allowed.

Both have a plain listener on loopback beside, for tests alone: through it Kafka takes everybody for a superuser, and
Redis for its default user. Services only get the other one.
"""

import ipaddress
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import confluent_kafka.admin
from confluent_kafka import KafkaException
from cryptography import x509
from tests.certificates import ADDRESS, NAME, certificate

from heliograph.local import RedisServer
from heliograph.local.java import prepare_jars
from heliograph.local.kafka import KafkaServer, Seat
from heliograph.local.ports import LOOPBACK, free_port, free_ports
from heliograph.local.redis import prepare_redis
from heliograph.stores.kafka.rights import KAFKA_RIGHTS

_library: Any = confluent_kafka.admin  # has no types

RESOURCES = {
    "topic": _library.ResourceType.TOPIC,
    "group": _library.ResourceType.GROUP,
    "cluster": _library.ResourceType.BROKER,
}
LISTENER = "SECURE"
MECHANISM = "SCRAM-SHA-512"
TAKEN_UP_S = 30.0
"""For a user or a right to be known to the broker."""


@dataclass(frozen=True)
class SecureKafka:
    """One node with a listener for SASL_SSL, and users of it."""

    server: KafkaServer
    port: int
    ca: Path
    host: str = LOOPBACK

    @property
    def bootstrap_servers(self) -> str:
        return f"{self.host}:{self.port}"

    def properties(self, user: str, password: str | None = None, ca: Path | None = None) -> dict[str, str]:
        """What somebody sets in `kafka_properties`."""
        return {
            "security.protocol": "SASL_SSL",
            "ssl.ca.location": str(ca or self.ca),
            "sasl.mechanism": MECHANISM,
            "sasl.username": user,
            "sasl.password": password_of(user) if password is None else password,
        }

    def client(self, user: str, password: str | None = None, **more: object) -> dict[str, Any]:
        """A client's whole configuration."""
        servers = {"bootstrap.servers": self.bootstrap_servers}
        return {**servers, **self.properties(user, password), "log_level": 0, **more}

    def add_service(self, service: str, prefix: str, user: str | None = None) -> str:
        """A user who may what that service has to, on names with this prefix, and nothing else; its name."""
        user = user or f"{prefix}-{service}"
        info = _library.ScramCredentialInfo(_library.ScramMechanism.SCRAM_SHA_512, 4_096)
        change = _library.UserScramCredentialUpsertion(user, info, password_of(user).encode())
        bindings = [
            _library.AclBinding(
                RESOURCES[right.resource],
                right.of(prefix),
                _library.ResourcePatternType["PREFIXED" if right.prefixed else "LITERAL"],
                f"User:{user}",
                "*",
                _library.AclOperation[_words(operation)],
                _library.AclPermissionType.ALLOW,
            )
            for right in KAFKA_RIGHTS
            if right.service == service
            for operation in right.operations
        ]
        admin = _library.AdminClient({"bootstrap.servers": self.server.bootstrap_servers})
        answers = [admin.alter_user_scram_credentials([change]), admin.create_acls(bindings) if bindings else {}]
        for future in (future for futures in answers for future in futures.values()):
            future.result(TAKEN_UP_S)
        until(lambda: self._logs_in(user), f"{user} can log in")
        return user

    def _logs_in(self, user: str) -> bool:
        try:
            _library.AdminClient(self.client(user)).list_topics(timeout=2)
        except KafkaException:
            return False
        return True


def _words(operation: str) -> str:
    """`DescribeConfigs` → `DESCRIBE_CONFIGS`."""
    return "".join(f"_{letter}" if letter.isupper() and at else letter for at, letter in enumerate(operation)).upper()


def password_of(user: str) -> str:
    """The same in each process of a run, and nowhere else."""
    return f"{_SALT}-{user}"


_SALT = secrets.token_hex(8)


def until(holds: Callable[[], bool], what: str, timeout_s: float = TAKEN_UP_S) -> None:
    """Wait for a state of a server."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"after {timeout_s:g} s still not so: {what}")
        time.sleep(0.05)


def certificate_for(directory: Path, host: str) -> Path:
    """For this machine's loopback, and another address of it."""
    hosts = (NAME, ADDRESS, x509.IPAddress(ipaddress.ip_address(host)))
    return certificate(directory, *dict.fromkeys(hosts))


@contextmanager
def secure_kafka(directory: Path, host: str = LOOPBACK) -> Iterator[SecureKafka]:
    """A started one. A process of this machine, whatever else there is: CannotProvideError where it has no Java.

    `host`: the address of this machine that clients with a name come by.
    """
    prepare_jars()
    directory.mkdir(parents=True, exist_ok=True)
    ca, port, plain, controller = certificate_for(directory, host), *free_ports(3)
    ways = f"PLAINTEXT://{LOOPBACK}:{plain},{LISTENER}://{host}:{port}"
    both = directory / "server.pem"
    both.write_bytes((directory / "key.pem").read_bytes() + ca.read_bytes())
    ours = f"listener.name.{LISTENER.lower()}"
    settings = {
        "listeners": f"{ways},CONTROLLER://{LOOPBACK}:{controller}",
        "advertised.listeners": ways,
        "listener.security.protocol.map": f"PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,{LISTENER}:SASL_SSL",
        f"{ours}.ssl.keystore.type": "PEM",
        f"{ours}.ssl.keystore.location": both,
        f"{ours}.sasl.enabled.mechanisms": MECHANISM,
        f"{ours}.{MECHANISM.lower()}.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        ),
    }
    server = KafkaServer(directory, plain, seat=Seat(voters={1: controller}, settings=settings))
    try:
        server.start()
        yield SecureKafka(server, port, ca, host)
    finally:
        server.kill()


@dataclass(frozen=True)
class SecureRedis:
    """One with a port for TLS, and a user of it."""

    server: RedisServer
    port: int
    ca: Path
    user: str = "heliograph"
    host: str = LOOPBACK

    @property
    def url(self) -> str:
        """What somebody sets in `redis_url`."""
        return self.url_of(password_of(self.user))

    def url_of(self, password: str, ca: Path | str | None = None) -> str:
        return f"rediss://{self.user}:{password}@{self.host}:{self.port}/0?ssl_ca_certs={ca or self.ca}"


@contextmanager
def secure_redis(directory: Path, rules: str, host: str = LOOPBACK) -> Iterator[SecureRedis]:
    """A started one, with an append-only file. `rules`: what the user may, as in an ACL file. `host`: as above."""
    prepare_redis()
    directory.mkdir(parents=True, exist_ok=True)
    ca, port = certificate_for(directory, host), free_port()
    users = directory / "users.acl"
    users.write_text(
        f"user default on nopass ~* &* +@all\nuser heliograph on >{password_of('heliograph')} {rules}\n",
        encoding="utf-8",
    )
    settings = {
        "bind": " ".join(dict.fromkeys((LOOPBACK, host))),
        "protected-mode": "no",  # it would keep others than loopback away, as the default user has no password
        "tls-port": str(port),
        "tls-cert-file": str(ca),
        "tls-key-file": str(directory / "key.pem"),
        "tls-ca-cert-file": str(ca),
        "tls-auth-clients": "no",
        "aclfile": str(users),
    }
    server = RedisServer(directory, appendonly=True, settings=settings)
    try:
        server.start()
        yield SecureRedis(server, port, ca, host=host)
    finally:
        server.kill()
