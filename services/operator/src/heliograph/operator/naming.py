"""Names of a tenant record's fields as Kubernetes spells them, and back: `messages_per_s` is `messagesPerSecond`.

Mechanical, in both directions by the record's own types, so that a field that is added to the record is in the resource
too. What people name themselves (agent types, Kafka's settings, members of keys) is never respelled.
"""

from typing import Any, get_args, get_origin

import msgspec

_UNITS = {"s": "seconds", "ms": "milliseconds"}


def camel(name: str) -> str:
    """`retention_s` → `retentionSeconds`, `bytes_per_s` → `bytesPerSecond`, `agent_types` → `agentTypes`."""
    words = name.split("_")
    if len(words) > 1:
        words[-1] = "second" if words[-2:] == ["per", "s"] else _UNITS.get(words[-1], words[-1])
    return words[0] + "".join(word.capitalize() for word in words[1:])


def to_record(document: object, struct: type[msgspec.Struct]) -> object:
    """A part of a resource as the record's document: names respelled, values as they are, nothing checked.

    Names that no field has are kept, for the record's own check to complain about.
    """
    if not isinstance(document, dict):
        return document
    fields = {camel(field.encode_name): field for field in msgspec.structs.fields(struct)}
    result = {}
    for name, value in document.items():
        field = fields.get(name)
        if field is None:
            result[name] = value
        else:
            result[field.encode_name] = _value(value, field.type)
    return result


def from_record(value: object) -> object:
    """The other way round, of a struct."""
    if isinstance(value, msgspec.Struct):
        return {
            camel(field.encode_name): from_record(getattr(value, field.name)) for field in msgspec.structs.fields(value)
        }
    if isinstance(value, list):
        return [from_record(one) for one in value]
    if isinstance(value, dict):
        return {name: from_record(one) for name, one in value.items()}
    return msgspec.to_builtins(value)


def _value(value: object, annotation: Any) -> object:
    nested = struct_in(annotation)
    if nested is None:
        return value
    if isinstance(value, list):
        return [to_record(one, nested) for one in value]
    if get_origin(annotation) is dict and isinstance(value, dict):
        return {name: to_record(one, nested) for name, one in value.items()}
    return to_record(value, nested)


def struct_in(annotation: Any) -> type[msgspec.Struct] | None:
    """The struct that a field holds: itself, optional, or as values of a dict or items of a list."""
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return annotation
    return next(filter(None, map(struct_in, get_args(annotation))), None)
