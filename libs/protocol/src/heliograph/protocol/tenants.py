"""The tenant record: what `heliograph tenant apply` and the Tenant resource say, and what services obey.

Stored as JSON in the metadata store. Unknown fields are an error where people write it (a typo must not pass) and
ignored where services read it (an older service meets a newer record).
"""

import re
from enum import StrEnum
from typing import Annotated, Any, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from heliograph.core import limits
from heliograph.core.errors import InvalidValueError
from heliograph.core.positions import MAX_SEQ
from heliograph.core.sessions import check_label

DAY_S = 24 * 3600
MAX_RETENTION_S = 100 * 365 * DAY_S
"""For ever, as far as Kafka goes: its retention is in ms, in 64 bits."""
MAX_PER_S = 1e12
"""Above any rate; a bound keeps infinity out, which JSON can't say."""

PositiveRate = Annotated[float, Meta(gt=0, le=MAX_PER_S)]
PositiveCount = Annotated[int, Meta(ge=1, le=MAX_SEQ)]


class Isolation(StrEnum):
    """Whose topics a tenant's messages are in. Can't be changed: messages don't move between topics."""

    DEDICATED = "dedicated"
    """Its own."""
    SHARED = "shared"
    """Those of all shared tenants of its retention class: for installations with thousands of small tenants."""


RETENTION_CLASSES: dict[str, int] = {
    "1d": DAY_S,
    "7d": 7 * DAY_S,
    "30d": 30 * DAY_S,
    "90d": 90 * DAY_S,
    "365d": 365 * DAY_S,
}
"""Of shared topics, and the retention (s) that Kafka enforces on each; a tenant's own is enforced where it is read."""

MAX_EARLIER_PARTITIONS = 16
"""Partition counts remembered; a topic that grows by half each time has a thousandfold of its partitions then."""


def retention_class(retention_s: int) -> str:
    """The smallest class that keeps so long. Raises InvalidValueError where none does."""
    for name, seconds in RETENTION_CLASSES.items():
        if retention_s <= seconds:
            return name
    longest = max(RETENTION_CLASSES.values())
    raise InvalidValueError("value_invalid", "retention_s", retention_s, f"at most {longest} where isolation is shared")


_NUMBER = re.compile(r"-?[0-9]{1,19}", re.ASCII)

TOPIC_CONFIG: dict[str, re.Pattern[str]] = {
    "compression.type": re.compile(r"producer|uncompressed|gzip|snappy|lz4|zstd"),
    "local.retention.bytes": _NUMBER,
    "local.retention.ms": _NUMBER,
    "min.insync.replicas": re.compile(r"[1-9]"),
    "remote.storage.enable": re.compile(r"true|false"),
    "segment.bytes": _NUMBER,
    "segment.ms": _NUMBER,
}
"""Kafka's topic settings that a tenant may set, and how their values look. None of them can break what is promised, as
`cleanup.policy`, `unclean.leader.election.enable` or `max.message.bytes` could."""


class TopicSettings(Struct, omit_defaults=True):
    """One kind of topic of a tenant."""

    partitions: Annotated[int, Meta(ge=1, le=1_000)] = 6
    """Parallelism of the router; may grow, never shrink. Of shared topics: at least so many."""
    earlier_partitions: Annotated[
        list[Annotated[int, Meta(ge=1, le=1_000)]], Meta(max_length=MAX_EARLIER_PARTITIONS)
    ] = []
    """Counts that sessions were begun with before it grew; kept by who applies a tenant, so that they are found."""
    replication_factor: Annotated[int, Meta(ge=1, le=10)] | None = None
    """None: the brokers' default."""
    retention_s: Annotated[int, Meta(ge=60, le=MAX_RETENTION_S)] = 7 * DAY_S
    """How long messages are kept."""
    retention_bytes: Annotated[int, Meta(ge=-1, le=MAX_SEQ)] = -1
    """Per partition; -1: no bound."""
    config: dict[str, str] = {}
    """More of Kafka's topic settings, from a short list: `compression.type`, `local.retention.bytes`,
    `local.retention.ms`, `min.insync.replicas`, `remote.storage.enable`, `segment.bytes`, `segment.ms`. One that is
    taken away goes back to the brokers' default."""


class DeferredTopicSettings(TopicSettings, omit_defaults=True):
    """The topic of what the live path could not take."""

    retention_s: Annotated[int, Meta(ge=60, le=MAX_RETENTION_S)] = 14 * DAY_S
    """Longer than the longest outage planned for."""


class TopicsSettings(Struct, omit_defaults=True):
    """A tenant's topics by kind."""

    log: TopicSettings = msgspec.field(default_factory=TopicSettings)
    """Every message with a position: what is replayed, exported, and kept for audits."""
    deferred: DeferredTopicSettings = msgspec.field(default_factory=DeferredTopicSettings)
    """Control messages that came while the live path was away, until they have a position."""
    telemetry: TopicSettings | None = None
    """None: telemetry is not logged."""


MAX_REVOCATIONS = 1_000
"""Of one tenant: each is compared with each token once a change of the record. Who needs more rotates the key."""


class Revocation(Struct, omit_defaults=True):
    """Tokens that are no longer taken: those for which all that is said here holds. Something must be said."""

    jti: Annotated[str, Meta(min_length=1, max_length=255)] | None = None
    """The token's id."""
    subject: Annotated[str, Meta(min_length=1, max_length=255)] | None = None
    """The token's `sub`."""
    before: Annotated[int, Meta(ge=0, le=MAX_SEQ)] | None = None
    """Unix time in s: tokens issued (`iat`) before it, and tokens that don't say when. None: whenever."""


class AuthSettings(Struct, omit_defaults=True):
    """Whose tokens are taken."""

    jwks: dict[str, Any] = {}
    """A JWK set (RFC 7517) of public keys, each with a `kid`."""
    issuer: str | None = None
    """Where set, `iss` must equal it."""
    audience: str | None = None
    """None: the services' `HELIOGRAPH_JWT_AUDIENCE`."""
    revoked: Annotated[list[Revocation], Meta(max_length=MAX_REVOCATIONS)] = []
    """Tokens refused although they are signed well and have not run out."""


class LimitSettings(Struct, omit_defaults=True):
    """What a tenant may use."""

    max_payload_bytes: Annotated[int, Meta(ge=1, le=limits.MAX_PAYLOAD_BYTES_CEILING)] = limits.MAX_PAYLOAD_BYTES
    """Of one message's payload; larger ones belong elsewhere, with a reference in the message."""
    connection_messages_per_s: PositiveRate = 200.0
    """Token bucket of one connection, for each class; an agent that streams tokens sends some 50 a second."""
    connection_burst_messages: PositiveCount = 400
    """What one connection may publish at once, after it was quiet."""
    connection_bytes_per_s: PositiveRate = 4.0 * 1024 * 1024
    """The same in bytes of payload."""
    connection_burst_bytes: PositiveCount = 8 * 1024 * 1024
    """The same in bytes of payload."""
    subscriptions_per_connection: PositiveCount = limits.MAX_SUBSCRIPTIONS_PER_CONNECTION
    """Sessions that one connection may be subscribed to."""
    connections: PositiveCount = 20_000
    """Open at once, over all edges: some 600 MB of them. A limit below what is open closes nobody."""
    connections_per_subject: PositiveCount = 2_000
    """The same of one token subject: a service that runs many agents under one name has room, a client that leaks
    connections can't take all of the tenant's."""
    sessions: PositiveCount = 100_000
    """Subscribed to, or published to within a minute, over all edges: each has keys in Redis, 1 KB and what its window
    holds."""
    unconfirmed_bytes: Annotated[int, Meta(ge=limits.MAX_PAYLOAD_BYTES_CEILING, le=MAX_SEQ)] = 256 * 1024 * 1024
    """Over all sessions, while the log is away; each virtual shard gets a share."""


class Quota(Struct, frozen=True, omit_defaults=True):
    """What all publishers of a tenant together may send of one class, over all edges. A burst is two seconds of it."""

    messages_per_s: PositiveRate
    """Messages a second."""
    bytes_per_s: PositiveRate
    """Bytes of payload a second."""


class QuotaSettings(Struct, omit_defaults=True):
    """A tenant's quotas by class: each has a bucket of its own, so that a flood of one class never costs another.

    An event's append is some 20 µs of one Redis shard: the defaults are a fifth of it, with room for whoever is larger.
    """

    control: Quota = Quota(2_000.0, 8.0 * 1024 * 1024)
    """Of messages that are never shed."""
    event: Quota = Quota(10_000.0, 40.0 * 1024 * 1024)
    """Of ordinary messages."""
    telemetry: Quota = Quota(10_000.0, 40.0 * 1024 * 1024)
    """Of messages that are shed first."""


class TracingSettings(Struct, omit_defaults=True):
    """What of a tenant's messages is shown to whoever reads its traces."""

    payload_sample_ratio: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """Share of the traced messages whose payload, its first 4 KiB, is put on the edge's span. 0: none, ever. Which
    messages are traced is for their publishers and the edges' `HELIOGRAPH_TRACE_SAMPLE_RATIO` to say."""


class AgentTypeSettings(Struct, omit_defaults=True):
    """An agent type with a retention, and so a log topic, of its own."""

    log: TopicSettings
    """The topic of its sessions' messages."""


class Tenant(Struct, omit_defaults=True):
    """One tenant."""

    tenant: str
    """Its name, a DNS label: part of every session key, topic name and token. Can't be changed."""
    auth: AuthSettings = msgspec.field(default_factory=AuthSettings)
    """Whose tokens are taken, and which are not any more."""
    isolation: Isolation = Isolation.DEDICATED
    topics: TopicsSettings = msgspec.field(default_factory=TopicsSettings)
    """Its Kafka topics by kind: how many partitions, how long messages are kept."""
    limits: LimitSettings = msgspec.field(default_factory=LimitSettings)
    """Bounds on payloads, connections and sessions."""
    quotas: QuotaSettings = msgspec.field(default_factory=QuotaSettings)
    """What all its publishers together may send a second, by class of message."""
    tracing: TracingSettings = msgspec.field(default_factory=TracingSettings)
    """What of its messages is shown in traces."""
    agent_types: dict[str, AgentTypeSettings] = {}
    """Agent types with a retention, and so a log topic, of their own, by name. Say so before a type's first session:
    messages don't move between topics."""
    allowed_origins: list[str] = []
    """Origins of web pages that may connect, besides the edge's own list; `https://*.example.com` is understood."""
    suspended: bool = False
    """New connections and publishes are refused, open ones closed, with a code that says why. Data stays."""

    @property
    def shared(self) -> bool:
        """Whether its messages are in topics that it shares with others."""
        return self.isolation is Isolation.SHARED

    def log_settings(self, agent_type: str) -> TopicSettings:
        """Of the log that sessions of an agent type are in."""
        own = self.agent_types.get(agent_type)
        return self.topics.log if own is None else own.log

    def every_log(self) -> dict[str, TopicSettings]:
        """The settings of each log, by the field that holds them."""
        return {"topics.log": self.topics.log} | {
            f"agent_types.{name}.log": one.log for name, one in self.agent_types.items()
        }

    def every_topic(self) -> dict[str, TopicSettings]:
        """The settings of each topic, by the field that holds them."""
        every = {**self.every_log(), "topics.deferred": self.topics.deferred}
        if self.topics.telemetry is not None:
            every["topics.telemetry"] = self.topics.telemetry
        return every


_decoder = msgspec.json.Decoder(Tenant)
encode_tenant = msgspec.json.Encoder(order="deterministic").encode


def decode_tenant(data: bytes) -> Tenant:
    """A stored record. Raises msgspec.MsgspecError, whatever the store held."""
    try:
        tenant: Tenant = _decoder.decode(data)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(f"not a tenant record: {error}"[:300]) from None
    return tenant


def parse_tenant(document: object) -> Tenant:
    """A record from what somebody wrote (decoded YAML or JSON).

    Raises InvalidValueError(`value_invalid`) that names the field.
    """
    try:
        tenant = msgspec.convert(document, Tenant, strict=True)
    except (msgspec.ValidationError, RecursionError) as error:
        raise InvalidValueError("value_invalid", "tenant", _name(document), str(error)) from None
    _refuse_unknown(document, Tenant, "tenant")
    _check_label("tenant", tenant.tenant)
    for name in tenant.agent_types:
        _check_label("tenant.agent_types", name)
    for origin in tenant.allowed_origins:
        if not _ORIGIN.fullmatch(origin):
            raise InvalidValueError(
                "value_invalid",
                "tenant.allowed_origins",
                origin,
                "like https://app.example.com or https://*.example.com",
            )
    _check_topic_config(tenant)
    if tenant.shared:
        _check_shared(tenant)
    _check_jwks(tenant.auth.jwks)
    _check_revocations(tenant.auth.revoked)
    _check_stays_itself(tenant)
    return tenant


ORIGIN_PATTERN = r"https?://(?:(?:\*\.)?[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?"
"""As browsers spell an origin (RFC 6454, 6.2): lower case, no path."""
_ORIGIN = re.compile(ORIGIN_PATTERN, re.ASCII)

PRIVATE_KEY_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth"})
"""What only a private key has (RFC 7518, 6; RFC 8037, 2)."""


def _check_label(field: str, value: str) -> None:
    try:
        check_label(field, value)
    except InvalidValueError as error:
        raise InvalidValueError("value_invalid", field, value, error.wanted) from None


def _check_topic_config(tenant: Tenant) -> None:
    """Raise for a setting of Kafka's that is not on the list, or has a value that it can't have."""
    for field, settings in tenant.every_topic().items():
        for name, value in settings.config.items():
            path, pattern = f"tenant.{field}.config", TOPIC_CONFIG.get(name)
            if pattern is None:
                raise InvalidValueError("value_invalid", path, name, f"one of {', '.join(TOPIC_CONFIG)}")
            if not pattern.fullmatch(value):
                wanted = "a whole number, as text" if pattern is _NUMBER else pattern.pattern.replace("|", ", ")
                raise InvalidValueError("value_invalid", f"{path}.{name}", value, wanted)


def _check_shared(tenant: Tenant) -> None:
    """Raise for what can't be had in a topic with others."""
    for field, settings in tenant.every_topic().items():
        try:
            retention_class(settings.retention_s)
        except InvalidValueError as error:
            name = f"tenant.{field}.retention_s"
            raise InvalidValueError("value_invalid", name, settings.retention_s, error.wanted) from None
        if settings.retention_bytes != -1:
            name = f"tenant.{field}.retention_bytes"
            raise InvalidValueError(
                "value_invalid", name, settings.retention_bytes, "-1 where isolation is shared: it would be everybody's"
            )
        if settings.config:
            wanted = "empty where isolation is shared: it would be everybody's"
            raise InvalidValueError("value_invalid", f"tenant.{field}.config", sorted(settings.config), wanted)


def _check_jwks(jwks: dict[str, Any]) -> None:
    """Shape only: whether a key can be used is for who verifies with it. A private key must not reach the store."""
    path = "tenant.auth.jwks.keys"
    keys = jwks.get("keys", [])
    if not isinstance(keys, list):
        raise InvalidValueError("value_invalid", path, type(keys).__name__, "a list of keys (RFC 7517, 5)")
    for at, key in enumerate(keys):
        if not isinstance(key, dict) or not isinstance(key.get("kid"), str) or not isinstance(key.get("kty"), str):
            raise InvalidValueError("value_invalid", path, f"key {at}", "a JWK with `kty` and `kid` (RFC 7517, 4)")
        if not PRIVATE_KEY_MEMBERS.isdisjoint(key):
            raise InvalidValueError("value_invalid", path, f"the private key {key['kid']}", "a public key")


def _check_revocations(revoked: list[Revocation]) -> None:
    """One that says nothing would lock everybody out, for good."""
    for at, revocation in enumerate(revoked):
        if revocation == Revocation():
            raise InvalidValueError(
                "value_invalid", "tenant.auth.revoked", f"entry {at}, which is empty", "with jti, subject or before"
            )


def _check_stays_itself(tenant: Tenant) -> None:
    """Services read a record back from JSON. YAML has more (dates, numbers as keys, NaN), and a JWK set may hold it."""
    try:
        same = decode_tenant(encode_tenant(tenant)) == tenant
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        same = False
    if not same:
        raise InvalidValueError("value_invalid", "tenant", tenant.tenant, "plain JSON throughout")


def _name(document: object) -> object:
    """What to show of a bad document: never the whole, it may hold keys."""
    return document.get("tenant") if isinstance(document, dict) else type(document).__name__


def _refuse_unknown(document: Any, struct: type[Struct], path: str) -> None:
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    for name, value in document.items():
        if name not in fields:
            raise InvalidValueError("value_invalid", path, name, f"one of {', '.join(sorted(fields))}")
        nested = _struct_of(fields[name].type)
        if nested is not None and isinstance(value, list):
            for at, one in enumerate(value):
                _refuse_unknown(one, nested, f"{path}.{name}.{at}")
        if nested is None or not isinstance(value, dict):
            continue
        if get_origin(fields[name].type) is dict:
            for key, one in value.items():
                _refuse_unknown(one, nested, f"{path}.{name}.{key}")
        else:
            _refuse_unknown(value, nested, f"{path}.{name}")


def _struct_of(annotation: Any) -> type[Struct] | None:
    """The struct that a field holds: itself, optional, or as values of a dict or items of a list."""
    if isinstance(annotation, type) and issubclass(annotation, Struct):
        return annotation
    return next(filter(None, map(_struct_of, get_args(annotation))), None)
