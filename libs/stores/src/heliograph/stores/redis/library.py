"""The Redis function library: its source, and how it gets into a server.

The Lua is read by rooms (`functions/`), joined in an order of its own. Library and functions carry the version of what
they answer (`heliograph_1`, `hg1_…`): services of two versions can share a Redis during an upgrade. Within a version a
higher revision replaces a lower one, never the other way round (FUNCTION LOAD, Redis 7.0).
"""

import re
from collections.abc import Awaitable, Callable
from functools import cache
from importlib.resources import files
from typing import Any

import hiredis

from heliograph.stores.ports import StoreError

NAME = "heliograph_1"
ROOMS = ("common", "append", "confirm", "unconfirm", "read", "cursor", "expire", "forget", "announce")


@cache
def source() -> str:
    """The whole library."""
    folder = files("heliograph.stores.redis") / "functions"
    return f"#!lua name={NAME}\n" + "\n".join((folder / f"{room}.lua").read_text() for room in ROOMS)


@cache
def revision() -> int:
    found = re.search(r"^local REVISION = (\d+)$", source(), re.MULTILINE)
    assert found is not None
    return int(found.group(1))


def is_missing(reply: Any) -> bool:
    """Whether Redis answered that it has no such function (a restart without its data, FUNCTION FLUSH)."""
    return isinstance(reply, hiredis.ReplyError) and "Function not found" in str(reply)


async def ensure(call: Callable[..., Awaitable[Any]]) -> bool:
    """Load the library unless this revision or a later one is there. Whether it was loaded.

    `call` returns a ReplyError instead of raising it. Raises StoreError where Redis refuses to load.
    """
    found = await call("FCALL", "hg1_version", "0")
    if isinstance(found, int) and found >= revision():
        return False
    if isinstance(found, hiredis.ReplyError) and not is_missing(found):
        raise StoreError("live_unavailable", f"Redis can't say which functions it has: {found}"[:300])
    loaded = await call("FUNCTION", "LOAD", "REPLACE", source())
    if isinstance(loaded, hiredis.ReplyError):
        raise StoreError("live_unavailable", f"Redis refuses the function library: {loaded}"[:300])
    return True
