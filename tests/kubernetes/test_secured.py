"""The chart against Kafka and Redis as they are in production: TLS of a private CA, users with the documented rights.

Everything that is secret comes from Secrets, as deploy/examples/README.md makes them. Kafka and Redis are processes of
this machine, which pods reach at the address of a node.
"""

import json
from collections.abc import Iterator, Mapping

import pytest
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.images import Images
from tests.kubernetes.installation import Installation, Namespace
from tests.secured import MECHANISM, SecureKafka, SecureRedis, password_of, secure_kafka, secure_redis

from heliograph.stores.redis.rights import acl_rules

USER = "heliograph"
EDGES = "edges"
"""Their own user of Kafka, given as docs/install.md says."""
PORTS = {"edge": 8080, "router": 8083, "replay": 8081, "registry": 8082, "operator": 8084}
REDIS_CA = "/etc/heliograph/redis/ca.crt"
"""Where the chart mounts `redis.tls.caSecret`, as docs/install.md says."""


@pytest.fixture(scope="module")
def here(cluster: Cluster) -> str:
    """This machine's address as pods see it."""
    if cluster.script is None:
        pytest.skip("pods of a cluster elsewhere do not reach Kafka and Redis of this machine")
    return cluster.node_address()


@pytest.fixture(scope="module")
def kafka(here: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    with secure_kafka(tmp_path_factory.mktemp("kafka"), here) as kafka:
        yield kafka


@pytest.fixture(scope="module")
def redis(here: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureRedis]:
    with secure_redis(tmp_path_factory.mktemp("redis"), acl_rules("live", "metadata", "token"), here) as redis:
        yield redis


@pytest.fixture(scope="module")
def installed(
    cluster: Cluster,
    crds: None,
    images: Images,
    kafka: SecureKafka,
    redis: SecureRedis,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Installation]:
    del crds
    namespace = Namespace(cluster, "secured")
    namespace.create()
    prefix = namespace.name
    for service in ("router", "replay", "operator"):
        kafka.add_service(service, prefix, USER)
    kafka.add_service("edge", prefix, EDGES)
    secret(namespace, "kafka-ca", {"ca.crt": kafka.ca.read_text(encoding="ascii")})
    secret(namespace, "redis-ca", {"ca.crt": redis.ca.read_text(encoding="ascii")})
    secret(namespace, "kafka-user", {"username": USER, "password": password_of(USER)})
    secret(namespace, "kafka-edges", {"username": EDGES, "password": password_of(EDGES)})
    secret(namespace, "redis", {"url": redis.url_of(password_of(redis.user), REDIS_CA)})
    stores = ",".join(f"redis.{store}.existingSecret.name=redis" for store in ("live", "metadata", "token"))
    values = [
        f"dev.enabled=false,kafka.bootstrapServers={kafka.bootstrap_servers},kafka.topicPrefix={prefix}",
        "kafka.tls.enabled=true,kafka.tls.caSecret.name=kafka-ca,redis.tls.caSecret.name=redis-ca",
        f"kafka.sasl.mechanism={MECHANISM},kafka.sasl.existingSecret=kafka-user,{stores}",
        f"operator.namespaces={{{namespace.name}}}",
    ]
    sets = [part for value in values for part in ("--set", value)]
    own = [
        {"name": f"KAFKA_{key.upper()}", "valueFrom": {"secretKeyRef": {"name": "kafka-edges", "key": key}}}
        for key in ("username", "password")
    ]
    sets += ["--set-json", f"edge.pods.extraEnv={json.dumps(own)}"]
    made = Installation(namespace, images, tmp_path_factory.mktemp("secured"), values=sets)
    with made.running():
        yield made


def secret(namespace: Namespace, name: str, content: Mapping[str, str]) -> None:
    namespace.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": dict(content)})


def test_with_tls_logins_and_the_documented_rights_a_message_goes_all_its_way(installed: Installation) -> None:
    where = [installed.release, "--namespace", installed.namespace.name]
    said = installed.cluster.helm("test", *where, "--logs", "--timeout", "3m", timeout_s=200)
    assert "all is well" in said
    for component, port in PORTS.items():
        (pod,) = installed.namespace.pods(component)
        assert installed.readyz(pod["metadata"]["name"], port)["degraded"] == [], component


def test_no_password_is_anywhere_but_in_secrets(installed: Installation, redis: SecureRedis) -> None:
    kinds = "configmaps,deployments,replicasets,pods,events,services"
    shown = installed.namespace.kubectl("get", kinds, "-o", "yaml")
    shown += installed.namespace.kubectl("logs", "-l", "app.kubernetes.io/part-of=heliograph", "--tail=-1")
    assert "kafka-user" in shown
    for password in map(password_of, (USER, EDGES, redis.user)):
        assert password not in shown
