"""The servers that tests, demo and `make up` stand on."""

import time
from collections.abc import Callable
from pathlib import Path

import redis as redis_client
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from heliograph.local.kafka import KafkaServer
from heliograph.local.ports import LOOPBACK, free_ports
from heliograph.local.providers import Redis, throwaway_kafka_cluster


def test_the_run_has_a_kafka_with_a_broker(kafka_bootstrap: str) -> None:
    metadata = AdminClient({"bootstrap.servers": kafka_bootstrap}).list_topics(timeout=10)
    assert len(metadata.brokers) == 1


def test_a_restarted_redis_is_another_server_on_the_same_port(redis_server: Callable[..., Redis]) -> None:
    server = redis_server()
    with redis_client.Redis.from_url(server.url) as client:
        client.set("a", "1")
        first_run = client.info("server")["run_id"]
        server.kill()
        server.restart()
        assert client.get("a") is None
        assert client.info("server")["run_id"] != first_run


def test_a_killed_append_only_redis_finds_its_data_again(redis_server: Callable[..., Redis]) -> None:
    server = redis_server(appendonly=True)
    with redis_client.Redis.from_url(server.url) as client:
        client.set("a", "1")
        server.kill()
        server.restart()
        assert client.get("a") == b"1"


def test_a_kafka_sends_clients_of_a_listener_to_the_address_that_it_advertises(tmp_path: Path) -> None:
    """Whoever stands between stands at that address: here nobody does, so only the first connection comes about."""
    port, advertised = free_ports(2)
    server = KafkaServer(tmp_path, listeners={"BEHIND": (port, advertised)})
    server.start()
    try:
        for bootstrap, expected in ((server.port, server.port), (port, advertised)):
            admin = AdminClient({"bootstrap.servers": f"{LOOPBACK}:{bootstrap}", "log_level": 0})
            (broker,) = admin.list_topics(timeout=10).brokers.values()
            assert f"{broker.host}:{broker.port}" == f"{LOOPBACK}:{expected}"
    finally:
        server.kill()


def test_a_cluster_has_three_brokers_and_loses_one(tmp_path: Path) -> None:
    with throwaway_kafka_cluster(tmp_path) as cluster:
        admin = AdminClient({"bootstrap.servers": cluster.bootstrap_servers, "log_level": 0})
        admin.create_topics([NewTopic("t", 3)])["t"].result(30)
        wait_for(lambda: all(len(nodes) == 3 for nodes in cluster.in_sync("t").values()))
        assert set(cluster.leaders("t").values()) == {1, 2, 3}
        cluster.broker(2).kill()
        wait_for(lambda: 2 not in cluster.leaders("t").values())
        cluster.broker(2).start()
        wait_for(lambda: all(len(nodes) == 3 for nodes in cluster.in_sync("t").values()))
        cluster.elect_preferred("t")
        wait_for(lambda: 2 in cluster.leaders("t").values())


def wait_for(holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)
