"""What Heliograph's user may do in each Redis: an ACL with these rights and no others is enough (ACL SETUSER, Redis 6).

Functions and scripts run with the rights of whoever calls them, so the commands inside them are here too. A command
that a store begins to use must be added, one that none uses any more goes: tests compare this with the sources, and
run all services as users with exactly this.
"""

from typing import Literal

Store = Literal["live", "metadata", "token"]

KEYS: dict[Store, str] = {"live": "hg:*", "metadata": "hg:*", "token": "hg:quota:*"}
"""Pattern of every key that is touched. Users of one Redis that holds all three need `hg:*`."""
CHANNELS: dict[Store, str | None] = {"live": "hg:*", "metadata": "hg:*", "token": None}
"""Pattern of every channel, sharded ones among them."""

CONNECTION = frozenset({"client|setname", "ping", "select"})
"""Of every connection. HELLO and AUTH are never forbidden."""
SCRIPTS = frozenset({"evalsha", "script|exists", "script|load"})
CLUSTER = frozenset({"asking", "cluster|shards", "cluster|slots", "readonly"})
"""To find the shards of a Redis Cluster, and follow slots that move."""
SENTINEL = frozenset({"role"})
"""On servers behind Sentinel: whether the one that a connection leads to is the primary."""
SENTINELS = frozenset({"ping", "sentinel|get-master-addr-by-name", "subscribe"})
"""On the sentinels themselves, which have users of their own."""
SENTINELS_CHANNEL = "+switch-master"
"""On it they say that another server is the primary. Unheard, one that lives on is left at its first READONLY."""
COMMANDS: dict[Store, frozenset[str]] = {
    "live": CONNECTION
    | frozenset(
        {
            "del",
            "exists",
            "fcall",
            "function|load",
            "get",
            "hdel",
            "hget",
            "hincrby",
            "hkeys",
            "hlen",
            "hmget",
            "hset",
            "hsetnx",
            "info",
            "set",
            "spublish",
            "ssubscribe",
            "sunsubscribe",
            "time",
            "xadd",
            "xdel",
            "xrange",
            "xrevrange",
            "xtrim",
            "zadd",
            "zcard",
            "zrange",
            "zrem",
            "zscan",
            "zscore",
        }
    ),
    "metadata": CONNECTION
    | SCRIPTS
    | frozenset(
        {
            "blmpop",
            "decrby",
            "del",
            "exists",
            "expire",
            "get",
            "hdel",
            "hexists",
            "hget",
            "hgetall",
            "hincrby",
            "hmget",
            "hscan",
            "hset",
            "hvals",
            "incrby",
            "pexpire",
            "publish",
            "rpush",
            "set",
            "subscribe",
            "time",
            "unlink",
            "unsubscribe",
            "xack",
            "xadd",
            "xautoclaim",
            "xdel",
            "xgroup|create",
            "xgroup|delconsumer",
            "xinfo|consumers",
            "xreadgroup",
            "zadd",
            "zcard",
            "zcount",
            "zrange",
            "zrangebylex",
            "zrangebyscore",
            "zrem",
            "zremrangebyrank",
            "zrevrangebylex",
            "zscore",
        }
    ),
    "token": CONNECTION | SCRIPTS | frozenset({"hmget", "hset", "pexpire", "time"}),
}


def acl_rules(*stores: Store, cluster: bool = False, sentinel: bool = False) -> str:
    """Rules for ACL SETUSER of a user for one Redis that holds these stores, to be said behind `on >PASSWORD`."""
    besides = (CLUSTER if cluster else frozenset()) | (SENTINEL if sentinel else frozenset())
    commands = besides.union(*(COMMANDS[store] for store in stores))
    keys = {KEYS[store] for store in stores}
    channels = {channel for store in stores if (channel := CHANNELS[store]) is not None}
    patterns = [f"~{pattern}" for pattern in sorted(keys & {"hg:*"} or keys)]
    patterns += [f"&{pattern}" for pattern in sorted(channels)]
    return " ".join(
        ["resetkeys", "resetchannels", *patterns, "-@all", *(f"+{command}" for command in sorted(commands))]
    )
