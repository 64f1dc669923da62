"""docs/reference: every file's text, from the code."""

import json
from typing import Any

import yaml

from heliograph.local.docs.rights import rights_page
from heliograph.local.docs.tables import (
    close_codes_page,
    codes_page,
    redis_keys_page,
    store_events_page,
    topics_and_headers_page,
)
from heliograph.protocol.asyncapi import asyncapi
from heliograph.protocol.schemas import frames_schema, tenant_schema

INDEX = {
    "asyncapi.yaml": "The WebSocket interface, AsyncAPI 3.0",
    "frames.schema.json": "JSON Schema of every frame",
    "tenant.schema.json": "JSON Schema of `tenant.yaml`",
    "close-codes.md": "Why a connection was closed, and whether to come back",
    "codes.md": "Why a request was refused, and whether to try again; reasons of gaps",
    "topics-and-headers.md": "Kafka topics, and the headers of a record",
    "redis-keys.md": "Every Redis key",
    "store-events.md": "What services count of their stores, and of their way to them",
    "rights.md": "What the services may do in Kafka and Redis: ACLs",
}


def rendered() -> dict[str, str]:
    """Path below docs/ → text."""
    files = {
        "README.md": _index_page(),
        "asyncapi.yaml": as_yaml(asyncapi()),
        "frames.schema.json": json.dumps(frames_schema(), indent=2, ensure_ascii=False) + "\n",
        "tenant.schema.json": json.dumps(tenant_schema(), indent=2, ensure_ascii=False) + "\n",
        "close-codes.md": close_codes_page(),
        "codes.md": codes_page(),
        "topics-and-headers.md": topics_and_headers_page(),
        "redis-keys.md": redis_keys_page(),
        "store-events.md": store_events_page(),
        "rights.md": rights_page(),
    }
    return {f"reference/{name}": text for name, text in files.items()}


class _Dumper(yaml.SafeDumper):
    """YAML for people: no anchors, text of several lines as a block."""

    def ignore_aliases(self, data: Any) -> bool:
        del data  # PyYAML's name for what is drawn; every node is spelled out
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def as_yaml(document: dict[str, Any]) -> str:
    header = "# Generated from the code by `make docs`. Do not edit.\n"
    return header + yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _index_page() -> str:
    rows = "\n".join(f"- [{name}]({name}): {what}" for name, what in INDEX.items())
    return f"# Reference\n\nGenerated from the code by `make docs`; a test fails where they differ.\n\n{rows}\n"
