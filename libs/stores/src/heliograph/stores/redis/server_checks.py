"""What a Redis must be to hold the live path; asked on each connect, since it may be another one behind the address."""

import re
from collections.abc import Awaitable, Callable
from typing import Any

from heliograph.stores.keys import CONFIG
from heliograph.stores.ports import StoreError
from heliograph.stores.redis.address import RedisKind
from heliograph.stores.redis.redirects import is_elsewhere

NEEDED = (7, 0)
"""Functions and sharded pub/sub."""


_NODE = "a node of a Redis Cluster", "redis+cluster://"
_NO_NODE = "no node of a Redis Cluster", "redis:// or, with sentinels, redis+sentinel://"


async def check_server(
    call: Callable[..., Awaitable[Any]], virtual_shards: int, kind: RedisKind = RedisKind.SINGLE
) -> None:
    """Raise StoreError(`unavailable`) that says what is wrong and what would be right.

    `call` returns a ReplyError instead of raising it. INFO is asked, not CONFIG: managed Redis forbids that.
    """
    info = await _info(call, "server")
    is_node = info.get("redis_mode") == "cluster"
    if is_node is not (kind is RedisKind.CLUSTER):
        raise wrong_kind(is_node=is_node)
    version = info.get("redis_version", "")
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < NEEDED:
        raise StoreError("unavailable", f"the live store is Redis {version or '?'}; it must be 7.0 or newer")
    policy = (await _info(call, "memory")).get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise StoreError(
            "unavailable",
            f"the live store's maxmemory-policy is {policy}; it must be noeviction: "
            "evicted keys are lost messages and positions given twice",
        )
    await call("HSETNX", CONFIG, "virtual_shards", virtual_shards)
    stored = await call("HGET", CONFIG, "virtual_shards")
    if is_elsewhere(stored):
        return  # whoever has the key checks it
    if stored != b"%d" % virtual_shards:
        shown = stored.decode("ascii", "replace")[:20] if isinstance(stored, bytes) else "not readable"
        raise StoreError(
            "unavailable",
            f"the live store was laid out for virtual_shards {shown}; this service is set to {virtual_shards}. "
            "Sessions would be looked for where they are not",
        )


def wrong_kind(*, is_node: bool) -> StoreError:
    """What to say of a server that is a node of a Redis Cluster, or none, where the other was meant."""
    what, wanted = _NODE if is_node else _NO_NODE
    return StoreError("unavailable", f"the live store is {what}; its URL must begin with {wanted}")


async def check_primary(call: Callable[..., Awaitable[Any]]) -> None:
    """Raise StoreError(`live_unavailable`) where it is a replica: soon another one is named, or this one promoted."""
    role = (await _info(call, "replication")).get("role", "")
    if role != "master":
        raise StoreError("live_unavailable", f"this Redis is a {role or 'server without a role'}, not a primary")


async def _info(call: Callable[..., Awaitable[Any]], section: str) -> dict[str, str]:
    reply = await call("INFO", section)
    if isinstance(reply, Exception):
        raise StoreError("unavailable", f"the live store refuses INFO {section}")
    text = reply if isinstance(reply, str) else reply.decode("utf-8", "replace")
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
