"""A Redis behind sentinels and a Redis Cluster of real processes, of which one can be taken away."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import redis as redis_client
from redis.sentinel import MasterNotFoundError, Sentinel

from heliograph.local.errors import NotReadyError
from heliograph.local.ports import LOOPBACK
from heliograph.local.redis import RedisServer
from heliograph.local.redis_cluster import RedisCluster, slot_of
from heliograph.local.redis_sentinel import MASTER, RedisSentinel

PASSWORD = "needs/es:caping@here"


def client_of(server: RedisServer) -> Any:
    return redis_client.Redis.from_url(server.url)


def test_the_replica_takes_the_place_of_a_killed_primary_and_the_other_comes_back_behind_it(
    redis_sentinel: Callable[..., RedisSentinel],
) -> None:
    servers = redis_sentinel(password=PASSWORD, sentinel_password="watch", appendonly=True)
    assert servers.url.startswith("redis+sentinel://:needs%2Fes%3Acaping%40here@127.0.0.1:")
    first = servers.primary
    with client_of(first) as client:
        client.set("a", "1")
        assert client.wait(1, 10_000) == 1
    first.kill()
    wait_for(lambda: servers.primary is not first)
    second = servers.primary
    with client_of(second) as client:
        wait_for(lambda: client.role()[0] == b"master")
        assert client.get("a") == b"1"
        client.set("a", "2")
    sentinels = [(LOOPBACK, sentinel.port) for sentinel in servers.sentinels]
    asked: Any = Sentinel(sentinels, sentinel_kwargs={"password": "watch"})  # type: ignore[no-untyped-call]

    def named() -> object:
        with suppress(MasterNotFoundError):  # to a sentinel who has yet to reach the new primary it seems to be down
            return asked.discover_master(MASTER)
        return None

    wait_for(lambda: named() == (LOOPBACK, second.port))

    first.start()
    servers.wait_ready()
    assert servers.primary is second
    servers.kill()
    servers.start()
    assert servers.primary is second
    with client_of(second) as client:
        assert client.get("a") == b"2"


def test_a_slot_of_a_cluster_moves_with_its_keys(redis_cluster: Callable[..., RedisCluster]) -> None:
    cluster = redis_cluster(password=PASSWORD)
    assert len(cluster.primaries) == 3
    key, slot = "hg:{v7}:x", slot_of("hg:{v7}:x")
    source = cluster.owner(key)
    target = next(node for node in cluster.primaries if node is not source)
    with client_of(source) as there, client_of(target) as here:
        there.set(key, "1")
        cluster.begin_move(slot, source, target)
        assert cluster.move_keys(slot, source, target) == 1
        with pytest.raises(redis_client.exceptions.AskError):
            there.get(key)
        cluster.end_move(slot, source, target)
        assert cluster.owner(key) is target
        assert here.get(key) == b"1"
    cluster.move_slot(slot, source)
    assert cluster.owner(key) is source


def test_a_replica_takes_the_slots_of_a_killed_primary(redis_cluster: Callable[..., RedisCluster]) -> None:
    cluster = redis_cluster(replicas=1, appendonly=True)
    assert (len(cluster.nodes), len(cluster.primaries)) == (6, 3)
    key = "hg:{v7}:x"
    first = cluster.owner(key)
    with client_of(first) as client:
        client.set(key, "1")
        assert client.wait(1, 10_000) == 1
    first.kill()
    with pytest.raises(NotReadyError):
        cluster.owner(key)
    wait_for(lambda: cluster.has_owner(key))
    with client_of(cluster.owner(key)) as client:
        assert client.get(key) == b"1"
    first.start()
    cluster.wait_ready()
    assert cluster.owner(key) is not first
    cluster.restart()
    with client_of(cluster.owner(key)) as client:
        assert client.get(key) == b"1"


def wait_for(holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)
