"""Structural schemas of custom resources, as the API server takes them: what they do not know is dropped in silence."""

from collections.abc import Iterator
from typing import Any

BEYOND_SCHEMA = {"apiVersion", "kind", "metadata"}


def unknown(value: Any, schema: dict[str, Any], place: str = "") -> Iterator[str]:
    """Fields that a structural schema does not have: the API server would drop them."""
    if isinstance(value, list):
        for one in value:
            yield from unknown(one, schema.get("items", {}), f"{place}[]")
    elif isinstance(value, dict):
        rest, open_ = schema.get("additionalProperties"), schema.get("x-kubernetes-preserve-unknown-fields")
        for name, inner in value.items():
            if not place and name in BEYOND_SCHEMA:
                continue
            known = schema.get("properties", {}).get(name, rest if isinstance(rest, dict) else None)
            if known is not None:
                yield from unknown(inner, known, f"{place}.{name}")
            elif not open_:
                yield f"{place}.{name}"
