"""The tenant record: what `heliograph tenant apply` and the Tenant resource say, and what services obey.

Stored as JSON in the metadata store. Unknown fields are an error where people write it (a typo must not pass) and
ignored where services read it (an older service meets a newer record).
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from heliograph.core import limits
from heliograph.core.errors import InvalidValueError
from heliograph.core.sessions import check_label

DAY_S = 24 * 3600


class TopicSettings(Struct, omit_defaults=True):
    """One kind of topic of a tenant."""

    partitions: Annotated[int, Meta(ge=1, le=1_000)] = 6
    """Parallelism of the router; may grow, never shrink."""
    replication_factor: Annotated[int, Meta(ge=1, le=10)] | None = None
    """None: the brokers' default."""
    retention_s: Annotated[int, Meta(ge=60)] = 7 * DAY_S
    retention_bytes: Annotated[int, Meta(ge=-1)] = -1
    """Per partition; -1: no bound."""


class TopicsSettings(Struct, omit_defaults=True):
    """A tenant's topics by kind."""

    log: TopicSettings = msgspec.field(default_factory=TopicSettings)
    deferred: TopicSettings = msgspec.field(default_factory=lambda: TopicSettings(retention_s=14 * DAY_S))
    """Kept longer than the longest outage planned for."""
    telemetry: TopicSettings | None = None
    """None: telemetry is not logged."""


class AuthSettings(Struct, omit_defaults=True):
    """Whose tokens are taken."""

    jwks: dict[str, Any] = {}
    """A JWK set (RFC 7517) of public keys, each with a `kid`."""
    issuer: str | None = None
    """Where set, `iss` must equal it."""
    audience: str | None = None
    """None: the services' `HELIOGRAPH_JWT_AUDIENCE`."""


class LimitSettings(Struct, omit_defaults=True):
    """What a tenant may use."""

    max_payload_bytes: Annotated[int, Meta(ge=1, le=limits.MAX_PAYLOAD_BYTES_CEILING)] = limits.MAX_PAYLOAD_BYTES
    connection_messages_per_s: Annotated[float, Meta(gt=0)] = 200.0
    """Token bucket of one connection; an agent that streams tokens sends some 50 a second."""
    connection_burst_messages: Annotated[int, Meta(ge=1)] = 400
    connection_bytes_per_s: Annotated[float, Meta(gt=0)] = 4.0 * 1024 * 1024
    connection_burst_bytes: Annotated[int, Meta(ge=1)] = 8 * 1024 * 1024
    subscriptions_per_connection: Annotated[int, Meta(ge=1)] = limits.MAX_SUBSCRIPTIONS_PER_CONNECTION
    unconfirmed_bytes: Annotated[int, Meta(ge=limits.MAX_PAYLOAD_BYTES_CEILING)] = 256 * 1024 * 1024
    """Over all sessions, while the log is away; each virtual shard gets a share."""


class AgentTypeSettings(Struct, omit_defaults=True):
    """An agent type with a retention, and so a log topic, of its own."""

    log: TopicSettings


class Tenant(Struct, omit_defaults=True):
    """One tenant."""

    tenant: str
    auth: AuthSettings = msgspec.field(default_factory=AuthSettings)
    topics: TopicsSettings = msgspec.field(default_factory=TopicsSettings)
    limits: LimitSettings = msgspec.field(default_factory=LimitSettings)
    agent_types: dict[str, AgentTypeSettings] = {}
    allowed_origins: list[str] = []
    """Origins of web pages that may connect, besides the edge's own list; `https://*.example.com` is understood."""
    suspended: bool = False

    @property
    def own_log(self) -> frozenset[str]:
        """Agent types with a log topic of their own."""
        return frozenset(self.agent_types)


_decoder = msgspec.json.Decoder(Tenant)
encode_tenant = msgspec.json.Encoder(order="deterministic").encode


def decode_tenant(data: bytes) -> Tenant:
    """A stored record. Raises msgspec.MsgspecError."""
    tenant: Tenant = _decoder.decode(data)
    return tenant


def parse_tenant(document: object) -> Tenant:
    """A record from what somebody wrote (decoded YAML or JSON).

    Raises InvalidValueError(`value_invalid`) that names the field.
    """
    try:
        tenant = msgspec.convert(document, Tenant, strict=True)
    except msgspec.ValidationError as error:
        raise InvalidValueError("value_invalid", "tenant", _name(document), str(error)) from None
    _refuse_unknown(document, Tenant, "tenant")
    check_label("tenant", tenant.tenant)
    for name in tenant.agent_types:
        check_label("agent type", name)
    return tenant


def _name(document: object) -> object:
    """What to show of a bad document: never the whole, it may hold keys."""
    return document.get("tenant") if isinstance(document, dict) else type(document).__name__


def _refuse_unknown(document: Any, struct: type[Struct], path: str) -> None:
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    for name, value in document.items():
        if name not in fields:
            raise InvalidValueError("value_invalid", path, name, f"one of {', '.join(sorted(fields))}")
        nested = _struct_of(fields[name].type)
        if nested is not None and isinstance(value, dict):
            _refuse_unknown(value, nested, f"{path}.{name}")
        elif name == "agent_types" and isinstance(value, dict):
            for key, settings in value.items():
                _refuse_unknown(settings, AgentTypeSettings, f"{path}.{name}.{key}")


def _struct_of(annotation: Any) -> type[Struct] | None:
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, Struct):
            return candidate
    return None
