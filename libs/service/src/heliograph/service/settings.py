"""Settings: environment variables with the prefix HELIOGRAPH_, checked once, at start-up.

Every setting has a unit, a default and a reason; a class that leaves one out can't be defined. A service composes its
own from the groups here and adds what is its alone:

    class EdgeSettings(ServiceSettings, KafkaSettings, RedisSettings, TokenSettings):
        max_connections: int = setting(20_000, "About 600 MB of idle connections.", unit="connections", ge=1)

This module must never print or store the value of a secret: such values are `SecretStr`, and errors leave them out.
"""

import inspect
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from heliograph.core import limits
from heliograph.core.errors import InvalidValueError
from heliograph.service.kafka_properties import KafkaProperties, parse_kafka_properties, reveal
from heliograph.stores.redis.address import RedisLocation

PREFIX = "HELIOGRAPH_"

UNITS_BY_SUFFIX = {
    "_per_s": "per second",
    "_ms": "ms",
    "_s": "s",
    "_bytes": "bytes",
    "_ratio": "0 to 1",
}
"""What the end of a name says about its unit; any other number needs `unit=`."""

NUMBERS = (int, float)


def setting(default: Any, reason: str, *, unit: str | None = None, **constraints: Any) -> Any:
    """A default, the reason for it, the unit where the name doesn't end in one, and pydantic's constraints."""
    return Field(default, description=reason, json_schema_extra={"unit": unit} if unit else None, **constraints)


def variable(name: str) -> str:
    """The environment variable that sets `name`."""
    return PREFIX + name.upper()


def unit_of(name: str, field: FieldInfo) -> str | None:
    """The unit that a setting states, by its name or by `unit=`; None where it has none."""
    extra = field.json_schema_extra
    if isinstance(extra, dict) and "unit" in extra:
        return str(extra["unit"])
    return next((unit for suffix, unit in UNITS_BY_SUFFIX.items() if name.endswith(suffix)), None)


def is_secret(field: FieldInfo) -> bool:
    """Whether a setting's value must never be shown."""
    return SecretStr in types_in(field.annotation) or KafkaProperties in field.metadata


def types_in(annotation: Any) -> set[Any]:
    """Every type that an annotation names, at any depth."""
    found = {part for part in (annotation, get_origin(annotation)) if isinstance(part, type)}
    return found.union(*(types_in(inner) for inner in get_args(annotation)))


class Settings(BaseSettings):
    """The base of every group: the prefix, and the rule that each setting explains itself."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,  # an empty variable in a chart or compose file means "not set"
        extra="ignore",  # unknown variables are a warning (command_line.py), so that a roll-back still starts
        frozen=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,  # an error that escapes must not carry a secret into a traceback
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        for name, field in cls.model_fields.items():
            if field.is_required():
                raise TypeError(f"{cls.__name__}.{name} has no default")
            if not field.description:
                raise TypeError(f"{cls.__name__}.{name} gives no reason")
            if not types_in(field.annotation).isdisjoint(NUMBERS) and unit_of(name, field) is None:
                raise TypeError(f"{cls.__name__}.{name} is a number without a unit: name it …_s, or give unit=")


def _check_redis_url(value: SecretStr) -> SecretStr:
    try:
        RedisLocation.parse(value.get_secret_value())
    except InvalidValueError as error:
        raise ValueError(f"must be {error.wanted}") from None
    return value


def _check_http_url(value: str) -> str:
    url = urlsplit(value)
    if value and (url.scheme not in ("http", "https") or not url.hostname):
        raise ValueError("must be http://host[:port][/path] or https://…, or empty for none")
    return value


def _check_servers(value: str) -> str:
    for server in value.split(","):
        if not re.fullmatch(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}", server.strip()):
            raise ValueError("must be host:port, or several with commas between them")
    return value


def _split(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


RedisUrl = Annotated[SecretStr, AfterValidator(_check_redis_url)]
HttpUrl = Annotated[str, AfterValidator(_check_http_url)]
Servers = Annotated[str, AfterValidator(_check_servers)]
CommaList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""Several texts with commas between them."""
Properties = Annotated[dict[str, str | SecretStr], NoDecode, BeforeValidator(parse_kafka_properties), KafkaProperties]


class ServiceSettings(Settings):
    """What every service has: where it listens, what it logs and traces, how it stops."""

    host: str = setting("127.0.0.1", "Loopback, so that nothing is exposed by accident; 0.0.0.0 in a container.")
    port: int = setting(
        8080, "Clients, probes and metrics share one port. 0 picks a free one.", unit="TCP port", ge=0, le=65_535
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "info", "What an operator acts on; debug adds one event per request."
    )
    log_format: Literal["json", "console"] = setting("json", "One object a line for collectors; console is for people.")
    refusal_log_interval_s: float = setting(
        10.0, "One log line for each kind of refusal and tenant in this; metrics count all. 0: a line for each.", ge=0
    )
    otlp_endpoint: HttpUrl = setting(
        "",
        "Where traces go (OTLP over HTTP, e.g. http://collector:4318). Empty: tracing is off and costs nothing.",
        unit="URL",
    )
    trace_sample_ratio: float = setting(
        0.01, "Share of messages without a trace of their own that start one; a span costs about 30 µs.", ge=0, le=1
    )
    trace_spans_per_s: int = setting(
        200, "Bound on spans whatever publishers ask for, so that tracing can't slow delivery.", ge=0
    )
    development: bool = setting(
        False, "Accepts HS256 keys, whose secret every verifier knows. Never set it where others' data is."
    )
    drain_timeout_s: float = setting(
        25.0, "Kubernetes kills after 30 s by default; what is left of that is for closing.", gt=0, le=3_600
    )
    drain_notice_s: float = setting(
        0.0, "Served on after turning not ready, so that a balancer stops sending first; 3 to 5 in Kubernetes.", ge=0
    )
    stop_timeout_s: float = setting(
        4.0, "For open requests and then for each part to close, before the process ends anyway.", gt=0, le=600
    )
    http_head_timeout_s: float = setting(
        10.0, "From the connection to the end of a request's head: slow mobile networks need seconds.", gt=0
    )
    http_body_timeout_s: float = setting(
        30.0, "From there to the end of its body: the largest batch at 140 KB/s.", gt=0
    )
    http_unread_timeout_s: float = setting(30.0, "A client that takes no byte of its answer for so long is gone.", gt=0)
    http_idle_timeout_s: int = setting(
        75, "Between requests: longer than balancers keep theirs (60 s), or they would send into a closing one.", ge=1
    )
    http_idle_connections: int = setting(
        1_000, "Between requests at once; above, the one that waited longest is closed.", unit="connections", ge=1
    )
    descriptor_reserve: int = setting(
        128, "File descriptors that clients never get: stores, logs and probes need some 70.", unit="descriptors", ge=16
    )
    max_loop_lag_s: float = setting(
        5.0, "An event loop this late has its stack logged; heartbeats and leases survive up to here.", gt=0
    )


class KafkaSettings(Settings):
    """The log."""

    kafka_bootstrap_servers: Servers = setting(
        "127.0.0.1:9092", "Kafka's own default port. Two or three brokers are enough to find the rest."
    )
    kafka_properties: Properties = Field(
        default_factory=dict,
        description="More librdkafka properties (TLS, SASL …), as a JSON object or k=v,k=v. Default: librdkafka's own.",
        repr=False,
    )
    topic_prefix: str = setting(
        "heliograph",
        "First part of every topic's name: several installations can share one Kafka.",
        pattern=r"^[a-z0-9][a-z0-9-]{0,62}$",
    )

    def kafka_config(self) -> dict[str, str]:
        """Properties for a confluent-kafka client, secrets revealed: hand them over, don't keep or log them."""
        return {"bootstrap.servers": self.kafka_bootstrap_servers, **reveal(self.kafka_properties)}


class RedisSettings(Settings):
    """The live path, the metadata and the token store: one Redis, or three."""

    redis_url: RedisUrl = setting(
        SecretStr("redis://127.0.0.1:6379/0"),
        "The live path: sequencing, hot windows, sharded pub/sub. One server, redis+sentinel:// or redis+cluster://.",
        unit="URL",
    )
    metadata_redis_url: RedisUrl | None = setting(
        None,
        "Tenants, leases, connections. Default: the live one; its own keeps the registry up when live is not.",
        unit="URL",
    )
    token_redis_url: RedisUrl | None = setting(
        None,
        "Token buckets across edges. Default: the live one; its own takes their load off it.",
        unit="URL",
    )
    virtual_shards: int = setting(
        limits.VIRTUAL_SHARDS,
        "Slots that sessions hash onto. Stored with the data and checked: changing it means a new live store.",
        unit="shards",
        ge=1,
        le=16_384,
    )

    def live_url(self) -> str:
        """URL of the live path's Redis, with its password."""
        return self.redis_url.get_secret_value()

    def metadata_url(self) -> str:
        """URL of the metadata Redis, with its password."""
        return (self.metadata_redis_url or self.redis_url).get_secret_value()

    def token_url(self) -> str:
        """URL of the token store's Redis, with its password."""
        return (self.token_redis_url or self.redis_url).get_secret_value()


class TokenSettings(Settings):
    """How clients' tokens are judged."""

    jwt_audience: str = setting(
        "heliograph", "What a token's `aud` must name, so that tokens made for other services are no use here."
    )
    jwt_leeway_s: float = setting(
        10.0, "Clock difference allowed for exp and nbf; NTP keeps hosts well within it.", ge=0, le=300
    )
    verified_tokens: int = setting(
        20_000,
        "Verified tokens remembered until they expire, about 1 KB each: a reconnect storm costs no signature checks.",
        unit="tokens",
        ge=0,
    )


def groups(cls: type[Settings]) -> Mapping[type[Settings], list[str]]:
    """The settings of `cls` by the class that first defines them: its own, then the shared groups in their order."""
    owners: dict[type[Settings], list[str]] = {}
    for owner in cls.__mro__:
        if issubclass(owner, Settings):
            owners[owner] = []
    for name in cls.model_fields:
        owner = next(owner for owner in reversed(owners) if name in inspect.get_annotations(owner))
        owners[owner].append(name)
    return {owner: names for owner, names in owners.items() if names}


__all__ = [
    "PREFIX",
    "CommaList",
    "HttpUrl",
    "KafkaSettings",
    "RedisSettings",
    "RedisUrl",
    "ServiceSettings",
    "Settings",
    "TokenSettings",
    "groups",
    "is_secret",
    "setting",
    "unit_of",
    "variable",
]
