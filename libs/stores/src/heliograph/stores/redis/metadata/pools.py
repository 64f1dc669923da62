"""Connections of redis-py to one server, from its address: what is bounded, and how, is the same for all of them."""

from typing import Any

from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from heliograph.stores.redis.address import RedisAddress


def connection_arguments(address: RedisAddress, timeout_s: float) -> dict[str, Any]:
    """For redis-py's pools and connections, `connection_class` but for which the class takes them all."""
    tls: dict[str, Any] = {}
    if address.tls:
        tls = {
            "ssl_ca_certs": address.ca_file,
            "ssl_cert_reqs": "required" if address.verify else "none",
            "ssl_check_hostname": address.verify,
        }
    return {
        "host": address.host,
        "port": address.port,
        "db": address.database,
        "username": address.username or None,
        "password": address.password or None,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        # An idle connection that the server closed; more is for the caller to decide. What ran into the timeout is not
        # tried again: the caller would wait twice as long for a server that is stuck.
        "retry": Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        "protocol": 2,
        **tls,
    }


def pool_of(address: RedisAddress, timeout_s: float, max_connections: int) -> BlockingConnectionPool:
    """Who finds all connections taken waits for one, at most `timeout_s`."""
    return BlockingConnectionPool(
        max_connections=max_connections,
        timeout=timeout_s,
        connection_class=SSLConnection if address.tls else Connection,
        **connection_arguments(address, timeout_s),
    )


def redis_of(pool: BlockingConnectionPool) -> Any:
    """redis-py's types are for both of its decoding modes at once; here every reply is bytes."""
    return Redis(connection_pool=pool)
