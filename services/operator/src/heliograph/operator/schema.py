"""JSON Schema as custom resource definitions take it: structural OpenAPI 3.0, with descriptions that read as documents.

Kubernetes wants every reference resolved and a type at each node, and knows neither `const`, nor `propertyNames`, nor
numbers as exclusive bounds. A default that the API server fills in is stored in the object for good, so only what a
rule guards gets one; the others are told in words, and stay the service's to choose.
"""

import re
from collections.abc import Mapping
from typing import Any

from heliograph.operator.naming import camel

Schema = dict[str, Any]

MAX_ITEMS = 100
"""Of a list that says no bound: rules are only taken by the API server where their cost has one."""

MAX_TEXT_CHARS = 2_048
"""Of a text that says no bound."""

_KEPT = ("type", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems")


def structural(schema: Mapping[str, Any], definitions: Mapping[str, Any], *, respell: bool = True) -> Schema:
    """`schema` without references, each object's members respelled (`naming.camel`) where `respell`."""
    schema, texts = _resolved(schema, definitions)
    result: Schema = {name: schema[name] for name in _KEPT if name in schema}
    if "enum" in result:
        result.setdefault("type", "string")
    if result.get("type") == "integer":
        result["format"] = "int64"
    if result.get("type") == "array":
        result.setdefault("maxItems", MAX_ITEMS)
    if result.get("type") == "string" and "enum" not in result:
        result.setdefault("maxLength", MAX_TEXT_CHARS)
    if "exclusiveMinimum" in schema:
        result |= {"minimum": schema["exclusiveMinimum"], "exclusiveMinimum": True}
    default = schema.get("default")
    if default not in (None, {}, []) or default is False:
        texts.append(f"Default: {_shown(default)}.")
    if texts:
        result["description"] = re.sub(r"^null: ", "Left out: ", " ".join(texts))
    if "items" in schema:
        result["items"] = structural(schema["items"], definitions, respell=respell)
    if isinstance(schema.get("additionalProperties"), Mapping):
        result["additionalProperties"] = structural(schema["additionalProperties"], definitions, respell=respell)
    elif "properties" in schema:
        members = {name: one for name, one in schema["properties"].items() if isinstance(one, Mapping)}
        result["properties"] = {
            camel(name) if respell else name: structural(one, definitions, respell=respell)
            for name, one in members.items()
        }
        if schema.get("required"):
            result["required"] = [camel(name) if respell else name for name in schema["required"]]
    return result


def definition(
    *,
    group: str,
    version: str,
    kind: str,
    plural: str,
    short_names: list[str],
    description: str,
    spec: Schema,
    status: Schema,
    columns: list[tuple[str, str, str, str]],
    wide_columns: list[tuple[str, str, str, str]],
    scale: Mapping[str, str] | None = None,
    rules: list[Schema] | None = None,
) -> Schema:
    """A CustomResourceDefinition of one version. Columns: name, type, JSON path, description."""
    drawn = [_column(column, 0) for column in columns] + [_column(column, 1) for column in wide_columns]
    age = {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}
    top: Schema = {
        "type": "object",
        "description": description,
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": "Which version of this resource it is written in."},
            "kind": {"type": "string", "description": f"`{kind}`."},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
    }
    if rules:
        top["x-kubernetes-validations"] = rules
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}", "labels": {"app.kubernetes.io/part-of": "heliograph"}},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": short_names,
                "categories": ["heliograph"],
            },
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}, **({"scale": dict(scale)} if scale else {})},
                    "additionalPrinterColumns": [*drawn, age],
                    "schema": {"openAPIV3Schema": top},
                }
            ],
        },
    }


def conditions(types: Mapping[str, str]) -> Schema:
    """The schema of `status.conditions`; `types`: what each type says when it is true."""
    told = " ".join(f"`{name}`: {meaning}" for name, meaning in types.items())
    return {
        "type": "array",
        "description": f"How it is, aspect by aspect. {told}",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": {"type": "string", "description": "Which aspect.", "maxLength": 316},
                "status": {
                    "type": "string",
                    "enum": ["True", "False", "Unknown"],
                    "description": "Whether it holds; Unknown: it can't be told now.",
                },
                "reason": {"type": "string", "description": "Why, as one word for programs.", "maxLength": 1024},
                "message": {"type": "string", "description": "Why, for people.", "maxLength": 32768},
                "observedGeneration": {
                    "type": "integer",
                    "format": "int64",
                    "description": "The `metadata.generation` that this was said of.",
                },
                "lastTransitionTime": {
                    "type": "string",
                    "format": "date-time",
                    "description": "Since when it has this status.",
                },
            },
        },
    }


def _column(column: tuple[str, str, str, str], priority: int) -> Schema:
    name, kind, path, description = column
    drawn = {"name": name, "type": kind, "jsonPath": path, "description": description}
    return {**drawn, "priority": priority} if priority else drawn


def _resolved(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> tuple[Schema, list[str]]:
    """`schema` with what it refers to, or its only real alternative, in its place; and the outermost text."""
    result: Schema = dict(schema)
    texts = [str(result.pop("description"))] if "description" in result else []
    for options in (result.pop("allOf", None), result.pop("anyOf", None)):
        real = [one for one in options or () if one.get("type") != "null" and set(one) != {"required", "properties"}]
        if len(real) == 1:
            inner, more = _resolved(real[0], definitions)
            result, texts = {**inner, **result}, texts or more
    if "$ref" in result:
        inner, more = _resolved(definitions[str(result.pop("$ref")).rpartition("/")[2]], definitions)
        result, texts = {**inner, **result}, texts or more
    return result, texts


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, dict):
        return "{" + ", ".join(f"{camel(name)}: {_shown(one)}" for name, one in value.items()) + "}"
    return str(value)
