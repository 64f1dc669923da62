"""What a Redis must be to hold the live path; asked on each connect, since it may be another one behind the address."""

import re
from collections.abc import Awaitable, Callable
from typing import Any

from heliograph.stores.keys import CONFIG
from heliograph.stores.ports import StoreError

NEEDED = (7, 0)
"""Functions and sharded pub/sub."""


async def check_server(call: Callable[..., Awaitable[Any]], virtual_shards: int) -> None:
    """Raise StoreError(`unavailable`) that says what is wrong and what would be right.

    `call` returns a ReplyError instead of raising it. INFO is asked, not CONFIG: managed Redis forbids that.
    """
    info = await _info(call, "server")
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
    if stored != b"%d" % virtual_shards:
        shown = stored.decode("ascii", "replace")[:20] if isinstance(stored, bytes) else "not readable"
        raise StoreError(
            "unavailable",
            f"the live store was laid out for virtual_shards {shown}; this service is set to {virtual_shards}. "
            "Sessions would be looked for where they are not",
        )


async def _info(call: Callable[..., Awaitable[Any]], section: str) -> dict[str, str]:
    reply = await call("INFO", section)
    if isinstance(reply, Exception):
        raise StoreError("unavailable", f"the live store refuses INFO {section}")
    text = reply if isinstance(reply, str) else reply.decode("utf-8", "replace")
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
