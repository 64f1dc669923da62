"""The documented rights in Redis are those that the code needs: compared with the sources.

That services can live with them: tests/system/test_redis_rights.py.
"""

import random
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis as Admin
from tests.stores.live.helpers import (
    Listener,
    message,
    new_session,
    put,
    redis_store,
    shard_of,
    subscribed,
    until,
)

import heliograph.stores.redis
from heliograph.local.providers import Redis
from heliograph.local.redis_cluster import RedisCluster
from heliograph.local.redis_sentinel import RedisSentinel
from heliograph.stores.events import StoreEvent
from heliograph.stores.ports import IndexEntry, StoreError
from heliograph.stores.redis.live import RedisLiveStore
from heliograph.stores.redis.metadata import (
    MetadataClient,
    RedisEdgeOrders,
    RedisLeases,
    RedisPositionIndex,
    RedisQuotaStore,
    RedisServeStore,
)
from heliograph.stores.redis.rights import (
    CLUSTER,
    COMMANDS,
    CONNECTION,
    SCRIPTS,
    SENTINEL,
    SENTINELS,
    SENTINELS_CHANNEL,
    Store,
    acl_rules,
)
from heliograph.stores.redis.topology import slot_of_virtual_shard

SOURCES = Path(heliograph.stores.redis.__file__).parent
TOKEN_SOURCES = {SOURCES / "metadata" / "quotas.py"}
CONNECTION_SOURCES = {SOURCES / "connection.py"}

SENDERS = "call_?|call_setup|_raw|pack|send|send_command|execute_command"
FIRST_WORDS = re.compile(rf"""(?:{SENDERS})\(\s*(?:wire,\s*)?\(?\s*b?["']([A-Z]{{2,}})["']""")
"""Of commands that are spelled out, in Lua and in Python."""
TUPLES = re.compile(r"""\(\s*b["']([A-Z]{2,})["'],""")
PUSHED = re.compile(r"\bb\"(s(?:un)?subscribe)\"")
"""Spelled as Redis answers it."""
METHODS = re.compile(r"\b(?:redis|pipeline|pubsub)\.([a-z_]+)\(")
SPELLED = {
    "delete": {"del"},
    "register_script": SCRIPTS,
    "script_load": {"script|load"},
    "subscribe": {"subscribe", "unsubscribe"},
    "xgroup_create": {"xgroup|create"},
    "xgroup_delconsumer": {"xgroup|delconsumer"},
    "xinfo_consumers": {"xinfo|consumers"},
}
WHOLE = {
    "client": "client|setname",
    "cluster": "cluster|slots",
    "function": "function|load",
    "sentinel": "sentinel|get-master-addr-by-name",
}
NO_COMMANDS = {
    "aclose", "call", "error_reply", "execute", "execute_command", "get_message", "pcall", "pipeline", "pubsub",
    "register_function", "sha1hex",
}  # fmt: skip


def written(path: Path) -> set[str]:
    """Commands that a source sends, in the words of an ACL."""
    text = path.read_text(encoding="utf-8")
    found = {word.lower() for word in (*FIRST_WORDS.findall(text), *TUPLES.findall(text))}
    found |= set(PUSHED.findall(text))
    for method in set(METHODS.findall(text)) - NO_COMMANDS:
        found |= SPELLED.get(method, {method})
    if "transaction=True" in text:
        found |= {"multi", "exec"}
    return {WHOLE.get(word, word) for word in found}


def used(store: Store) -> set[str]:
    paths = {path for path in SOURCES.rglob("*") if path.suffix in {".py", ".lua"}} - CONNECTION_SOURCES
    metadata = {path for path in paths if path.parent.name == "metadata"}
    of_store = {"live": paths - metadata, "metadata": metadata - TOKEN_SOURCES, "token": TOKEN_SOURCES}[store]
    return set().union(*(written(path) for path in of_store)) - {"hello", "auth", "evalsha"}


@pytest.mark.parametrize("store", COMMANDS)
def test_the_rights_are_the_commands_that_the_sources_use(store: Store) -> None:
    allowed, needed = COMMANDS[store] - CONNECTION - SCRIPTS, used(store) - CONNECTION - SCRIPTS
    assert needed - allowed - CLUSTER - SENTINEL - SENTINELS == set(), "used, and not allowed"
    assert allowed - needed == set(), "allowed, and not used"


def test_rules_say_what_is_allowed_and_forbid_the_rest() -> None:
    rules = acl_rules("token").split()
    assert rules[:4] == ["resetkeys", "resetchannels", "~hg:quota:*", "-@all"]
    assert set(rules[4:]) == {f"+{command}" for command in COMMANDS["token"]}
    together = acl_rules("live", "metadata", "token", cluster=True).split()
    assert [rule for rule in together if rule[0] in "~&"] == ["~hg:*", "&hg:*"]
    assert {f"+{command}" for command in CLUSTER} <= set(together)


async def test_a_password_is_changed_under_services_that_stay_connected(redis_server: Callable[..., Redis]) -> None:
    """Old and new are both good for a while; who is connected stays, and who starts afterwards needs the new one."""
    url = redis_server().url
    place = urlsplit(url).netloc

    def as_user(password: str) -> str:
        return f"redis://heliograph:{password}@{place}/0"

    async def users(*rules: str) -> None:
        async with Admin.from_url(url) as admin:
            await admin.execute_command("ACL", "SETUSER", "heliograph", *rules)  # type: ignore[no-untyped-call]

    await users("on", ">old", *acl_rules("live", "metadata", "token").split())
    live = RedisLiveStore(as_user("old"), uniform=random.random)
    metadata = MetadataClient(as_user("old"))
    await live.start()
    await metadata.start()
    await users(">new")
    newcomer = RedisLiveStore(as_user("new"), uniform=random.random)
    await newcomer.start()
    await users("<old")
    await live.heads(["acme:planner:1"])
    await newcomer.heads(["acme:planner:1"])
    await metadata.redis.ping()
    assert live.connections["commands"].stats[StoreEvent.CONNECTION_LOST] == 0
    late = RedisLiveStore(as_user("old"), uniform=random.random)
    with pytest.raises(StoreError):
        await late.start()
    for store in (late, newcomer, live, metadata):
        await store.close()


async def works(client: MetadataClient) -> None:
    """Something of each kind: commands and scripts of one key and of many, packed ones, pub/sub, the clock."""
    await client.start()
    assert await RedisLeases(client).acquire("rights", "me", 10.0)
    entry = IndexEntry("1764000000000-0a0b0c0d-0000000000000001", "topic", 0, 1)
    await RedisPositionIndex(client).add([(f"acme:planner:{number}", entry) for number in range(20)], 10.0)
    store = RedisServeStore(client)
    await store.mark("acme:planner", {"acme:planner:1": entry.position})
    await store.keep("acme:planner")
    assert await store.changed(0.01) == set()
    await RedisEdgeOrders(client).standing(["edge-1", "edge-2"])
    await RedisQuotaStore(client).lease([])
    await store.close()
    await client.close()


async def test_a_cluster_wants_no_more_than_is_said(redis_cluster: Callable[..., RedisCluster]) -> None:
    cluster = redis_cluster()
    for node in cluster.nodes:
        async with Admin.from_url(node.url) as admin:
            rules = acl_rules("live", "metadata", "token", cluster=True).split()
            await admin.execute_command("ACL", "SETUSER", "heliograph", "on", ">pw", *rules)  # type: ignore[no-untyped-call]
    url = cluster.url.replace("://", "://heliograph:pw@")
    await works(MetadataClient(url))
    listener, session = Listener(), new_session()
    live = await redis_store(url, listener)
    await subscribed(live, listener, session)
    slot = slot_of_virtual_shard(shard_of(session))
    source = cluster.owner_of_slot(slot)
    cluster.move_slot(slot, next(node for node in cluster.primaries if node is not source))
    await put(live, message(session))
    assert live.load.moves == 1
    await until(lambda: len(listener.subscribed) == 2)
    await live.close()


async def test_sentinel_wants_no_more_than_is_said(redis_sentinel: Callable[..., RedisSentinel]) -> None:
    servers = redis_sentinel()
    allowed = ["resetkeys", "resetchannels", f"&{SENTINELS_CHANNEL}", "-@all", *(f"+{one}" for one in SENTINELS)]
    rules = {
        **{server.url: acl_rules("live", "metadata", "token", sentinel=True).split() for server in servers.servers},
        **{sentinel.url: allowed for sentinel in servers.sentinels},
    }
    for url, rule in rules.items():
        async with Admin.from_url(url) as admin:
            await admin.execute_command("ACL", "SETUSER", "heliograph", "on", ">pw", *rule)  # type: ignore[no-untyped-call]
    url = servers.url.replace("://", "://heliograph:pw@") + "?sentinel_username=heliograph&sentinel_password=pw"
    await works(MetadataClient(url))
    live = await redis_store(url, Listener())
    await put(live, message(new_session()))
    old = servers.primary.port
    servers.fail_over()
    await until(lambda: all(connection.node[1] != old for connection in live.connections.values()))
    await live.close()
