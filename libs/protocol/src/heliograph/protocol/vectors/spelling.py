"""How vectors spell bytes and frames in JSON."""

import base64
from typing import Any

import msgspec


def spelled(data: bytes) -> dict[str, str]:
    """`text` where `data` is UTF-8 (encode it to get the bytes), else `base64`."""
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def fields_of(struct: msgspec.Struct) -> dict[str, Any]:
    """Every field by its name on the wire, defaults too; a payload is its JSON text."""
    return {field.encode_name: _plain(getattr(struct, field.name)) for field in msgspec.structs.fields(struct)}


def _plain(value: Any) -> Any:
    if isinstance(value, msgspec.Raw):
        return bytes(value).decode()
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, msgspec.Struct):
        return fields_of(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
