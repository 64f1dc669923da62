"""Properties that an operator passes through to librdkafka: a JSON object, or `k=v` with commas or newlines between.

Values under names that hold secrets become `SecretStr`, so that neither a log nor an error ever shows them. Properties
that Heliograph's guarantees stand on are refused, with what to use instead.
"""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import SecretStr

SECRET_PARTS = ("password", "secret", "key.pem", "oauthbearer.config", "jaas", "passphrase", "token")

OWNED = {
    "bootstrap.servers": "set HELIOGRAPH_KAFKA_BOOTSTRAP_SERVERS",
    "metadata.broker.list": "set HELIOGRAPH_KAFKA_BOOTSTRAP_SERVERS",
    "acks": "all, or `durable` would be a lie",
    "request.required.acks": "all, or `durable` would be a lie",
    "enable.idempotence": "true, or the log gets duplicates out of order",
    "max.in.flight.requests.per.connection": "at most 5, which idempotence needs",
    "max.in.flight": "at most 5, which idempotence needs",
    "partitioner": "murmur2_random, or other clients would look for a session in another partition",
    "enable.auto.commit": "false: the router commits after the work",
    "enable.auto.offset.store": "false: the router commits after the work",
    "group.id": "the service's own",
    "isolation.level": "read_committed, which is the default",
}
"""Property → what it is, and why nobody else sets it."""


class KafkaProperties:
    """Marks the setting whose values may hold secrets (metadata of the annotated type)."""


def parse_kafka_properties(value: Any) -> Any:
    """Text or mapping → `{property: str | SecretStr}`; ValueError that names the property, never a value."""
    pairs = _pairs(value) if isinstance(value, str) else value
    if not isinstance(pairs, Mapping):
        raise ValueError("must be a JSON object or k=v,k=v")
    properties: dict[str, str | SecretStr] = {}
    for name, given in pairs.items():
        if name in OWNED:
            raise ValueError(f"must not set {name}: it is {OWNED[name]}")
        if isinstance(given, SecretStr):
            properties[name] = given
            continue
        if isinstance(given, bool):
            given = "true" if given else "false"  # noqa: PLW2901 - librdkafka's spelling
        elif not isinstance(given, str | int | float):
            raise ValueError(f"has a value for {name} that is neither text nor number")
        properties[name] = SecretStr(str(given)) if _holds_secret(name) else str(given)
    return properties


def reveal(properties: Mapping[str, str | SecretStr]) -> dict[str, str]:
    """The same as plain text, for the client alone."""
    return {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value for name, value in properties.items()
    }


def _holds_secret(name: str) -> bool:
    return any(part in name for part in SECRET_PARTS)


def _pairs(text: str) -> Any:
    text = text.strip()
    if text.startswith("{"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise ValueError("begins like a JSON object but isn't one") from None
    pairs: dict[str, str] = {}
    for part in text.replace("\n", ",").split(","):
        if not part.strip():
            continue
        name, equals, value = part.partition("=")
        if not equals or not name.strip():
            raise ValueError("must be a JSON object or k=v,k=v (use JSON where a value has a comma)")
        pairs[name.strip()] = value.strip()
    return pairs
