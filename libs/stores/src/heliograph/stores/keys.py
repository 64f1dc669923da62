"""Every Redis key and every Kafka topic, spelled in one place. The table in `docs/` is generated from `REDIS_KEYS`.

Live-store keys of one session share the hash tag of its virtual shard (`{v17}`), so that one function call may touch
them all on a Redis Cluster. Metadata keys are touched one at a time, or share a tag of their own.
"""

import re
from dataclasses import dataclass
from zlib import crc32

from heliograph.core.errors import InvalidValueError
from heliograph.core.sessions import SessionKey
from heliograph.protocol.tenants import Tenant, retention_class


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """A row of the documentation: what one Redis key is."""

    pattern: str
    store: str
    """live, metadata or token: each may be another Redis."""
    shape: str
    ttl: str
    writer: str
    meaning: str


REDIS_KEYS: tuple[KeyInfo, ...] = (
    KeyInfo("hg:config", "live", "hash", "none", "any service, once", "Number of virtual shards; checked at start-up."),
    KeyInfo("hg:{vN}:shard", "live", "hash", "none", "append, confirm, expire, forget", "`run` (run_id of the primary), `epoch` and `last` (ms): what epochs are made from. `gone` (ms): the newest epoch that was forgotten with its session. `bytes`: unconfirmed bytes of all sessions; `bytes:<tenant>`: of one tenant's."),
    KeyInfo("hg:{vN}:m:<session>", "live", "hash", "with its session", "append, confirm", "`s`: epoch, head, confirmed, partition, bytes, packed; `old`: the former epoch; `<class>|<producer>|<incarnation>`: its counter; the same, NUL and 0 to 8: the last 64 messages of it, packed in blocks of 8."),
    KeyInfo("hg:{vN}:w:<session>", "live", "stream", "with its session", "append", "Hot window: `f` the client frame, `h` what the log has besides; ids `<epoch ms>-<seq>`. Also the sharded pub/sub channel."),
    KeyInfo("hg:{vN}:o:<session>", "live", "sorted set", "with its session", "confirm", "Positions confirmed ahead of a hole, by seq."),
    KeyInfo("hg:{vN}:i:<session>:<message id>", "live", "string", "10 min", "append", "Position and content hash of a message whose id the caller chose."),
    KeyInfo("hg:{vN}:c:<session>", "live", "hash", "with its session", "cursor", "Consumer → its cursor: epoch, seq and fence, packed. `c:<subject>`, NUL and the name it gave itself; `s:<agent type>`: of the workers that serve it."),
    KeyInfo("hg:{vN}:a:<session>:<announcement id>", "live", "string", "10 min", "edge, registry", "This join or leave was announced: whoever says it again is not repeated."),
    KeyInfo("hg:{vN}:dirty", "live", "sorted set", "none", "append, confirm", "Sessions with unconfirmed messages, by the time (ms) since which."),
    KeyInfo("hg:{vN}:idle", "live", "sorted set", "none", "append, expire", "Sessions by the time (ms) at which to look whether they are idle."),
    KeyInfo("hg:{tenants}", "metadata", "hash", "none", "`heliograph tenant apply`, operator", "Tenant → its record (JSON)."),
    KeyInfo("hg:{tenants}:changes", "metadata", "sorted set", "none", "with hg:{tenants}", "Tenant → the version of its last change."),
    KeyInfo("hg:{tenants}:version", "metadata", "counter", "none", "with hg:{tenants}", "Rises with every change; services ask for it twice a second."),
    KeyInfo("hg:{tenants}:taken", "metadata", "hash", "none", "any service", "Service → `<version> <ms>`: the last change that it obeys, and until when it counts as running."),
    KeyInfo("hg:{tenants}:owners", "metadata", "hash", "none", "operator", "Tenant → the resource that its data belongs to (JSON), also after it was deleted with the data kept."),
    KeyInfo("hg:edge:<edge>", "metadata", "hash", "none", "edge", "Lease of an edge: incarnation, address, load, and when it ends. One that ran out stays until a registry has told its connections as lost."),
    KeyInfo("hg:edges", "metadata", "sorted set", "none", "edge", "Edges by the time (ms) at which their lease ends."),
    KeyInfo("hg:edge:<edge>:connections", "metadata", "hash", "none", "edge", "Connection id and registration → what it is (JSON)."),
    KeyInfo("hg:where:<tenant>", "metadata", "sorted set", "none", "edge", "`<edge>/<connection> <registration>` of a tenant's connections, sorted as text."),
    KeyInfo("hg:where:<tenant>:<agent-type>", "metadata", "sorted set", "none", "edge", "The same, of subscribers of sessions of one agent type."),
    KeyInfo("hg:where:<session>", "metadata", "sorted set", "none", "edge", "The same, of one session's subscribers."),
    KeyInfo("hg:index:<session>", "metadata", "sorted set", "log retention", "router", "Sparse index: `<position> <topic id> <partition> <offset>`, sorted as text."),
    KeyInfo("hg:replay:requests", "metadata", "stream", "capped", "edge", "Rehydration requests, one consumer group."),
    KeyInfo("hg:replay:asked:<request>", "metadata", "string", "deadline", "edge", "Collapses equal requests: set by the first."),
    KeyInfo("hg:replay:page:<request>", "metadata", "string", "60 s", "replay", "The answer to a request; its name is published on hg:replay:ready."),
    KeyInfo("hg:replay:bytes:<tenant>:<minute>", "metadata", "counter", "2 min", "replay", "Bytes of pages written for a tenant in a minute; tenant `*`: for all."),
    KeyInfo("hg:replay:full:<tenant>", "metadata", "string", "5 s", "replay", "The tenant's pages are at their bound: edges don't ask."),
    KeyInfo("hg:expiry", "metadata", "hash", "none", "edge, router", "Tenant → the version of the last change of its sessions' expiries; services ask for it twice a second."),
    KeyInfo("hg:expiry:<tenant>", "metadata", "hash", "none; the router removes what is older than the log", "edge, router", "Session → until when its messages are forgotten: the moment, when it was set, and one before it that has come (ms)."),
    KeyInfo("hg:lease:<name>", "metadata", "string", "lease", "router", "Who holds a virtual shard's reconciliation, or dispatches an agent type's sessions."),
    KeyInfo("hg:serve:types", "metadata", "sorted set", "none", "edge, router", "`<tenant>:<agent type>` that is served, by the time (ms) at which a worker was last known. Also the channel that says where something is due."),
    KeyInfo("hg:{serve:<tenant>:<agent type>}:workers", "metadata", "hash", "none", "edge, router", "Worker → edge, connection and capacity (JSON)."),
    KeyInfo("hg:{serve:<tenant>:<agent type>}:load", "metadata", "hash", "none", "edge, router", "Worker → the number of sessions that it holds."),
    KeyInfo("hg:{serve:<tenant>:<agent type>}:due", "metadata", "sorted set", "none", "edge, router", "Sessions that wait for a worker, by the time (ms) since which."),
    KeyInfo("hg:{serve:<tenant>:<agent type>}:sessions", "metadata", "hash", "none", "edge, router", "Session → worker, fence, newest position to see, cursor (JSON); forgotten some minutes after it was done with."),
    KeyInfo("hg:{serve:<tenant>:<agent type>}:fence", "metadata", "counter", "none", "router", "The last fence; rises with every assignment."),
    KeyInfo("hg:edge:<edge>:orders", "metadata", "list", "60 s", "router", "Sessions assigned to workers of an edge, for it to take up (JSON)."),
    KeyInfo("hg:edge:<edge>:drain", "metadata", "hash", "while it is renewed", "operator", "Order to an edge to let all its clients go: `order` (JSON), its `id`, and `since_ms` when it stands."),
    KeyInfo("hg:edge:<edge>:shed", "metadata", "string", "until it is carried out", "operator", "Order to an edge to ask some of its clients to come back elsewhere (JSON)."),
    KeyInfo("hg:{use}:holders", "metadata", "sorted set", "none", "edge", "Edges (each by a name of one life) by the time (ms) until which what they use counts."),
    KeyInfo("hg:{use}:of:<holder>", "metadata", "hash", "none; edges remove those that ran out", "edge", "What one edge uses of what is limited over all edges: `c:<tenant>` connections, `i:<tenant>:<subject>` of one subject, `s:<tenant>`, NUL and a session: it is in use there."),
    KeyInfo("hg:{use}:totals", "metadata", "hash", "none", "edge", "The same, added up; `s:<tenant>`: different sessions."),
    KeyInfo("hg:quota:<tenant>:<class>", "token", "hash", "until full", "edge", "`m` and `b`: Unix time (s) at which the tenant's bucket of messages, and of bytes, would be full."),
)  # fmt: skip


# ---- live store -----------------------------------------------------------------------------------------------------


def virtual_shard(session: str, shards: int) -> int:
    """crc32 of the session's text (zlib's, unsigned) modulo the number of virtual shards."""
    return crc32(session.encode()) % shards


@dataclass(frozen=True, slots=True)
class ShardKeys:
    """Keys of one virtual shard."""

    shard: bytes
    dirty: bytes
    idle: bytes

    @classmethod
    def of(cls, number: int) -> "ShardKeys":
        tag = b"hg:{v%d}:" % number
        return cls(tag + b"shard", tag + b"dirty", tag + b"idle")


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """Keys of one session; `window` is its channel too."""

    meta: bytes
    window: bytes
    ahead: bytes
    id_prefix: bytes
    cursors: bytes
    announcement_prefix: bytes

    @classmethod
    def of(cls, session: str, number: int) -> "SessionKeys":
        tag, name = b"hg:{v%d}:" % number, session.encode()
        return cls(
            tag + b"m:" + name,
            tag + b"w:" + name,
            tag + b"o:" + name,
            tag + b"i:" + name + b":",
            tag + b"c:" + name,
            tag + b"a:" + name + b":",
        )


def session_of_channel(channel: bytes) -> str:
    """The session whose window key (and so channel) this is."""
    return channel.split(b":w:", 1)[1].decode()


def client_consumer(subject: str, consumer: str) -> str:
    """The field of a consumer's cursor. Names hold no NUL (`check_name`), so no two subjects share one."""
    return f"c:{subject}\0{consumer}"


def serving_consumer(agent_type: str) -> str:
    """The field of the cursor that the workers of an agent type share; no client can name it."""
    return f"s:{agent_type}"


CONFIG = b"hg:config"

# ---- metadata store -------------------------------------------------------------------------------------------------

TENANTS = "hg:{tenants}"
TENANT_CHANGES = "hg:{tenants}:changes"
TENANTS_VERSION = "hg:{tenants}:version"
TENANTS_TAKEN = "hg:{tenants}:taken"
TENANT_OWNERS = "hg:{tenants}:owners"
EDGES = "hg:edges"
EXPIRY_VERSIONS = "hg:expiry"
REPLAY_REQUESTS = "hg:replay:requests"
REPLAY_READY = "hg:replay:ready"


def edge(name: str) -> str:
    return f"hg:edge:{name}"


def edge_connections(name: str) -> str:
    return f"hg:edge:{name}:connections"


def where(scope: str) -> str:
    """`scope`: a tenant, `tenant:agent-type` or a session."""
    return f"hg:where:{scope}"


def index(session: str) -> str:
    return f"hg:index:{session}"


def expiry(tenant: str) -> str:
    return f"hg:expiry:{tenant}"


def replay_asked(request: str) -> str:
    return f"hg:replay:asked:{request}"


def replay_page(request: str) -> str:
    return f"hg:replay:page:{request}"


def replay_bytes(tenant: str, minute: int) -> str:
    return f"hg:replay:bytes:{tenant}:{minute}"


def replay_full(tenant: str) -> str:
    return f"hg:replay:full:{tenant}"


def lease(name: str) -> str:
    return f"hg:lease:{name}"


SERVE_TYPES = "hg:serve:types"


@dataclass(frozen=True, slots=True)
class ServeKeys:
    """Keys of one served agent type: one tag, so that a script may touch them together."""

    workers: str
    load: str
    due: str
    sessions: str
    fence: str

    @classmethod
    def of(cls, kind: str) -> "ServeKeys":
        tag = f"hg:{{serve:{kind}}}:"
        return cls(tag + "workers", tag + "load", tag + "due", tag + "sessions", tag + "fence")


def edge_orders(name: str) -> str:
    return f"hg:edge:{name}:orders"


def edge_drain(name: str) -> str:
    return f"hg:edge:{name}:drain"


def edge_shed(name: str) -> str:
    return f"hg:edge:{name}:shed"


USE_HOLDERS = "hg:{use}:holders"
USE_TOTALS = "hg:{use}:totals"
USE_OF = "hg:{use}:of:"
"""Before the holder's name."""


# ---- token store ----------------------------------------------------------------------------------------------------


def quota(bucket: str) -> str:
    """`bucket`: `<tenant>:<class>`."""
    return f"hg:quota:{bucket}"


# ---- topics ---------------------------------------------------------------------------------------------------------

SHARED = "_shared"
"""Stands in place of the tenant in names of shared topics; no tenant can be called so."""

_PREFIX = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Topics:
    """Topic names of an installation. Labels hold no dots, so names of different kinds never meet."""

    prefix: str

    def __post_init__(self) -> None:
        if not _PREFIX.fullmatch(self.prefix):
            raise InvalidValueError("value_invalid", "topic prefix", self.prefix, "1 to 63 of a-z 0-9 -")

    def log(self, tenant: str) -> str:
        return f"{self.prefix}.{tenant}.log"

    def agent_type_log(self, tenant: str, agent_type: str) -> str:
        return f"{self.prefix}.{tenant}.{agent_type}.log"

    def deferred(self, tenant: str) -> str:
        return f"{self.prefix}.{tenant}.deferred"

    def telemetry(self, tenant: str) -> str:
        return f"{self.prefix}.{tenant}.telemetry"

    @property
    def dead(self) -> str:
        return f"{self.prefix}.dead"

    def shared(self, retention_s: int, kind: str) -> str:
        """The shared topic of a kind (`log`, `deferred`, `telemetry`) for this retention."""
        return f"{self.prefix}.{SHARED}.{retention_class(retention_s)}.{kind}"

    def log_of(self, session: SessionKey, tenant: Tenant) -> str:
        """The log topic of a session of this tenant."""
        return self.log_for(tenant, session.agent_type)

    def log_for(self, tenant: Tenant, agent_type: str) -> str:
        """The log topic of the sessions of an agent type."""
        if tenant.shared:
            return self.shared(tenant.log_settings(agent_type).retention_s, "log")
        if agent_type in tenant.agent_types:
            return self.agent_type_log(tenant.tenant, agent_type)
        return self.log(tenant.tenant)

    def logs_of(self, tenant: Tenant) -> list[str]:
        """Every log topic that holds sessions of this tenant, each once, the tenant's main one first."""
        return list(
            dict.fromkeys((self.log_for(tenant, ""), *(self.log_for(tenant, name) for name in tenant.agent_types)))
        )

    def deferred_of(self, tenant: Tenant) -> str:
        if tenant.shared:
            return self.shared(tenant.topics.deferred.retention_s, "deferred")
        return self.deferred(tenant.tenant)

    def telemetry_of(self, tenant: Tenant) -> str | None:
        """None where telemetry is not logged."""
        if tenant.topics.telemetry is None:
            return None
        if tenant.shared:
            return self.shared(tenant.topics.telemetry.retention_s, "telemetry")
        return self.telemetry(tenant.tenant)
