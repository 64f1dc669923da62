"""JSON Schema (2020-12) of the frames and of tenant.yaml, made from the code that reads them.

Shapes and bounds come from the types, descriptions from the docstrings beside the fields, so that neither can be
forgotten. Where a type says `str` and a later check says more (sessions, positions), the schema says it too.
"""

import ast
import inspect
import re
import sys
from collections.abc import Iterable
from functools import cache
from typing import Any, get_args

import msgspec

from heliograph.core.positions import EPOCH_PATTERN, POSITION_PATTERN
from heliograph.core.sessions import LABEL_PATTERN, SESSION_PATTERN
from heliograph.protocol import frames, tenants

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
ID_BASE = "https://heliograph.dev/schemas/"

_TEXTS: dict[str, Schema] = {
    "Session": {
        "title": "Session",
        "description": "A session key: `tenant:agent-type:session-id`.",
        "type": "string",
        "pattern": f"^{SESSION_PATTERN}$",
        "examples": ["acme:planner:trip-42"],
    },
    "Position": {
        "title": "Position",
        "description": "Where a message stands in its session. Opaque; sorts as text.",
        "type": "string",
        "pattern": f"^{POSITION_PATTERN}$",
        "examples": ["1764000000000-1a2b3c4d-0000000000000042"],
    },
    "EpochName": {
        "title": "EpochName",
        "description": "One life of a session's counter: the beginning of its positions.",
        "type": "string",
        "pattern": f"^{EPOCH_PATTERN}$",
        "examples": ["1764000000000-1a2b3c4d"],
    },
    "Start": {
        "title": "Start",
        "description": "`earliest`, `latest`, `cursor`, or the last position the client has.",
        "type": "string",
        "pattern": f"^({frames.EARLIEST}|{frames.LATEST}|{frames.CURSOR}|{POSITION_PATTERN})$",
    },
}
"""Texts with a format, referred to by the fields below."""

_FORMATS = {
    ("*", "session"): "Session",
    ("*", "position"): "Position",
    ("Subscription", "from"): "Start",
    ("Subscribe", "from"): "Start",
    ("Assigned", "from"): "Position",
    ("Gap", "from"): "Position",
    ("Gap", "to"): "Position",
    ("Epoch", "from"): "EpochName",
    ("Epoch", "last"): "Position",
    ("Epoch", "gaps"): "Position",
}
"""(component, member) → the text it holds."""

_MODULES = ("heliograph.protocol.frames", "heliograph.protocol.tenants", "heliograph.core.messages")


def frame_types(union: Any) -> tuple[type[msgspec.Struct], ...]:
    """The structs of `ClientFrame` or `ServerFrame`."""
    return get_args(union)


def type_name(frame: type[msgspec.Struct]) -> str:
    """What `type` is on the wire."""
    return str(frame.__struct_config__.tag)


def frame_components(ref_template: str) -> dict[str, Schema]:
    """Schemas of every frame and what they refer to, by name. `ref_template`: `#/$defs/{name}` or the like."""
    found = _components([*frame_types(frames.ClientFrame), *frame_types(frames.ServerFrame)], ref_template)
    return {**found, **_TEXTS}


def frames_schema() -> Schema:
    """docs/reference/frames.schema.json: any frame; `#/$defs/ClientFrame` and `ServerFrame` one direction."""
    template = "#/$defs/{name}"
    unions = {
        name: {
            "title": name,
            "description": description,
            "oneOf": [{"$ref": template.format(name=frame.__name__)} for frame in frame_types(union)],
        }
        for name, union, description in (
            ("ClientFrame", frames.ClientFrame, "A frame from client to server."),
            ("ServerFrame", frames.ServerFrame, "A frame from server to client. Clients ignore types not listed."),
        )
    }
    return {
        "$schema": DIALECT,
        "$id": ID_BASE + "frames.schema.json",
        "title": f"Frames of {frames.SUBPROTOCOL}",
        "description": "One JSON object a WebSocket text message. Members not listed are ignored.",
        "anyOf": [{"$ref": template.format(name=name)} for name in unions],
        "$defs": {**unions, **frame_components(template)},
    }


def tenant_schema() -> Schema:
    """docs/reference/tenant.schema.json: what `heliograph tenant apply` takes. Unknown members are errors there."""
    template = "#/$defs/{name}"
    components = _components([tenants.Tenant], template)
    for component in components.values():
        component["additionalProperties"] = False
    tenant = components.pop("Tenant")
    members = tenant["properties"]
    members["tenant"]["pattern"] = f"^{LABEL_PATTERN}$"
    members["agent_types"]["propertyNames"] = {"pattern": f"^{LABEL_PATTERN}$"}
    members["allowed_origins"]["items"]["pattern"] = f"^(?:{tenants.ORIGIN_PATTERN})$"
    components["AuthSettings"]["properties"]["jwks"]["properties"] = {
        "keys": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["kid", "kty"],
                "properties": {
                    "kid": {"type": "string"},
                    "kty": {"type": "string"},
                    **dict.fromkeys(sorted(tenants.PRIVATE_KEY_MEMBERS), False),
                },
            },
        }
    }
    for name in ("TopicSettings", "DeferredTopicSettings"):
        config = components[name]["properties"]["config"]
        config["properties"] = {
            key: {"type": "string", "pattern": f"^(?:{pattern.pattern})$"}
            for key, pattern in tenants.TOPIC_CONFIG.items()
        }
        config["additionalProperties"] = False
    revocation = components["Revocation"]
    revocation["anyOf"] = [
        {"required": [member], "properties": {member: {"not": {"type": "null"}}}} for member in revocation["properties"]
    ]
    return {"$schema": DIALECT, "$id": ID_BASE + "tenant.schema.json", **tenant, "$defs": components}


_IN_JSON = {"None": "null", "True": "true", "False": "false"}


def prose(docstring: str) -> str:
    """A docstring as text for readers of any language: a line a paragraph, JSON's words for Python's."""
    paragraphs = inspect.cleandoc(docstring).split("\n\n")
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    return re.sub(r"\b(None|True|False)\b", lambda word: _IN_JSON[word[0]], text)


def _components(types: Iterable[type], ref_template: str) -> dict[str, Schema]:
    _, found = msgspec.json.schema_components(types, ref_template=ref_template)
    for name, component in found.items():
        described = _member_docs(_class_named(name))
        component["description"] = prose(component["description"])
        if "enum" in component:
            component["description"] = " ".join(
                [component["description"], *(f"`{value}`: {described[value.upper()]}" for value in component["enum"])]
            )
        for member, schema in component.get("properties", {}).items():
            component["properties"][member] = _member(name, member, schema, described, ref_template)
    return dict(found)


def _member(component: str, member: str, schema: Schema, described: dict[str, str], ref_template: str) -> Schema:
    _plain_patterns(schema)
    text = _FORMATS.get((component, member)) or _FORMATS.get(("*", member))
    if text is not None:
        _refer(schema, {"$ref": ref_template.format(name=text)})
    if "enum" in schema and member == "type":
        schema = {"const": schema["enum"][0]}
    if member in described:
        schema["description"] = described[member]
    if "$ref" in schema and len(schema) > 1:  # before 2019-09, and so in AsyncAPI, nothing counts beside a reference
        schema = {"allOf": [{"$ref": schema.pop("$ref")}], **schema}
    return schema


def _plain_patterns(schema: Schema) -> None:
    """Python's `\\Z` is `$` in JSON Schema (ECMA-262), which knows no line breaks there."""
    for option in (schema, *schema.get("anyOf", ())):
        if "pattern" in option:
            option["pattern"] = option["pattern"].replace(r"\Z", "$")


def _refer(schema: Schema, reference: Schema) -> None:
    """Put `reference` in the place of the bare string in `schema`, however deep in options and lists."""
    if schema.get("type") == "string":
        del schema["type"]
        schema.update(reference)
    for option in schema.get("anyOf", ()):
        _refer(option, reference)
    if "items" in schema:
        _refer(schema["items"], reference)


def _class_named(name: str) -> type:
    for module in _MODULES:
        found = getattr(sys.modules[module], name, None)
        if isinstance(found, type):
            return found
    raise LookupError(f"no class {name} in {', '.join(_MODULES)}")


@cache
def _member_docs(cls: type) -> dict[str, str]:
    """`attribute_docs` of a class and those it extends, by the attribute's name on the wire."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base.__module__ in _MODULES:
            docs.update(attribute_docs(base))
    if issubclass(cls, msgspec.Struct):
        names = {field.name: field.encode_name for field in msgspec.structs.fields(cls)}
        return {names[name]: text for name, text in docs.items()}
    return docs


def attribute_docs(cls: type) -> dict[str, str]:
    """The strings right below a class's attributes, by attribute."""
    (definition,) = ast.parse(inspect.getsource(cls)).body
    assert isinstance(definition, ast.ClassDef)
    docs: dict[str, str] = {}
    for statement, following in zip(definition.body, definition.body[1:], strict=False):
        target = statement.target if isinstance(statement, ast.AnnAssign) else None
        if isinstance(statement, ast.Assign):
            target = statement.targets[0]  # type: ignore[assignment]
        if (
            isinstance(target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
            and isinstance(following.value.value, str)
        ):
            docs[target.id] = prose(following.value.value)
    return docs
