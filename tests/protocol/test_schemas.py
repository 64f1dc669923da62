"""The generated schemas: valid themselves, and right about real frames and tenants."""

import base64
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from jsonschema import Draft7Validator, Draft202012Validator
from tests.protocol.strategies import few, messages

from heliograph.core.errors import InvalidValueError
from heliograph.protocol import frames, tenants
from heliograph.protocol.asyncapi import asyncapi
from heliograph.protocol.codes import CLOSES
from heliograph.protocol.messages import Message, frame
from heliograph.protocol.schemas import Schema, attribute_docs, frame_types, frames_schema, prose, tenant_schema
from heliograph.protocol.tenants import encode_tenant, parse_tenant
from heliograph.protocol.vectors import DOCUMENTS

FRAMES = frames_schema()
TENANT = tenant_schema()
ASYNCAPI = asyncapi()
META_SCHEMA = json.loads((Path(__file__).parent / "schemas" / "asyncapi-3.0.0.json").read_text(encoding="utf-8"))
EXAMPLE_TENANT = Path(__file__).parents[2] / "deploy" / "examples" / "tenant.yaml"

CLIENT_CASES = DOCUMENTS["client-frames"]["good"]
SERVER_CASES = DOCUMENTS["server-frames"]["good"]
MESSAGE_CASES = [case["frame"] for case in DOCUMENTS["messages"]["cases"]]


def of(definition: str) -> Draft202012Validator:
    return Draft202012Validator({**FRAMES, "anyOf": [{"$ref": f"#/$defs/{definition}"}]})


CLIENT_FRAME = of("ClientFrame")
SERVER_FRAME = of("ServerFrame")


def references(schema: Any) -> list[str]:
    if isinstance(schema, dict):
        own = [schema["$ref"]] if isinstance(schema.get("$ref"), str) else []
        return own + [reference for value in schema.values() for reference in references(value)]
    if isinstance(schema, list):
        return [reference for value in schema for reference in references(value)]
    return []


def resolve(document: Any, reference: str) -> Any:
    """What a local reference points to. Raises KeyError where it points to nothing."""
    assert reference.startswith("#/")
    for part in reference[2:].split("/"):
        document = document[part]
    return document


# ---- frames ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schema", [FRAMES, TENANT], ids=["frames", "tenant"])
def test_a_schema_is_valid_json_schema_and_its_references_lead_somewhere(schema: Schema) -> None:
    Draft202012Validator.check_schema(schema)
    for reference in references(schema):
        assert resolve(schema, reference)


@pytest.mark.parametrize("case", CLIENT_CASES, ids=lambda case: case["type"])
def test_golden_client_frames_are_valid(case: dict[str, Any]) -> None:
    CLIENT_FRAME.validate(json.loads(case["text"]))


@pytest.mark.parametrize("case", [*SERVER_CASES, *MESSAGE_CASES], ids=lambda case: case.get("type", "message"))
def test_golden_server_frames_are_valid(case: dict[str, Any]) -> None:
    SERVER_FRAME.validate(json.loads(case["text"]))


@few
@given(messages())
def test_any_message_frame_is_valid(message: Message) -> None:
    SERVER_FRAME.validate(json.loads(frame(message)))


def bad_client_frames() -> list[Any]:
    """Golden bad frames that are JSON: what is wrong with the others, no schema can say."""
    found = []
    for case in DOCUMENTS["client-frames"]["bad"]:
        text = case["text"].encode() if "text" in case else base64.b64decode(case["base64"])
        try:
            msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        found.append(json.loads(text))
    return found


@pytest.mark.parametrize("bad", bad_client_frames(), ids=json.dumps)
def test_golden_bad_frames_are_invalid(bad: Any) -> None:
    assert not CLIENT_FRAME.is_valid(bad)


def test_there_are_bad_frames_to_be_invalid() -> None:
    assert len(bad_client_frames()) > 10


@pytest.mark.parametrize(
    "bad",
    [
        {"type": "subscribe", "session": "acme:planner"},
        {"type": "subscribe", "session": "acme:planner:trip 42"},
        {"type": "subscribe", "session": "acme:planner:trip-42", "from": "yesterday"},
        {"type": "status", "session": "acme:planner:trip-42", "position": "42"},
        {"type": "hello", "subscriptions": [{"session": "acme:planner:trip-42", "from": "first"}]},
    ],
)
def test_texts_with_a_format_are_held_to_it(bad: Any) -> None:
    assert not CLIENT_FRAME.is_valid(bad)


def test_every_frame_is_in_the_schema_with_its_own_words() -> None:
    for union in (frames.ClientFrame, frames.ServerFrame):
        for struct in frame_types(union):
            component = FRAMES["$defs"][struct.__name__]
            assert component["description"] == prose(struct.__doc__ or "")
            assert set(component["properties"]) == {"type", *(f.encode_name for f in msgspec.structs.fields(struct))}


def test_descriptions_come_from_the_docstrings_beside_the_fields() -> None:
    described = FRAMES["$defs"]["Publish"]["properties"]
    assert described["seq"]["description"] == "The producer seq: from 1, per session and class, by one incarnation."
    assert described["ack"]["description"].startswith("null: `durable`")
    assert attribute_docs(frames.Publish)["reply_to"] == described["reply_to"]["description"]
    classes = FRAMES["$defs"]["MessageClass"]["description"]
    assert "`telemetry`: Shed first" in classes


def test_no_description_speaks_python() -> None:
    text = json.dumps([FRAMES, TENANT, ASYNCAPI])
    assert not re.search(r"\b(None|True|False)\b", text)
    assert r"\\Z" not in text


def test_bounds_of_the_schema_are_those_of_the_decoder() -> None:
    base = {"type": "publish", "session": "a:b:c", "payload": 1}
    for field, value in [("id", 2**53), ("seq", 0), ("message_id", "x" * 129), ("reply_to", ""), ("traceparent", "00")]:
        bad = {**base, field: value}
        assert not CLIENT_FRAME.is_valid(bad)
        with pytest.raises(frames.FrameError):
            frames.decode_client_frame(json.dumps(bad).encode())


# ---- AsyncAPI -------------------------------------------------------------------------------------------------------


def test_the_asyncapi_document_is_valid_asyncapi_3() -> None:
    errors = [
        f"{error.json_path}: {error.message[:200]}" for error in Draft7Validator(META_SCHEMA).iter_errors(ASYNCAPI)
    ]
    assert errors == []


def test_the_meta_schema_finds_what_is_wrong() -> None:
    for broken in ({**ASYNCAPI, "asyncapi": "2.6.0"}, {**ASYNCAPI, "channel": {}}, {"asyncapi": "3.0.0"}):
        assert not Draft7Validator(META_SCHEMA).is_valid(broken)


def test_every_reference_of_the_asyncapi_document_leads_somewhere() -> None:
    found = references(ASYNCAPI)
    assert len(found) > 50
    for reference in found:
        assert resolve(ASYNCAPI, reference)


def test_every_frame_is_a_message_of_an_operation() -> None:
    listed = ASYNCAPI["components"]["messages"]
    assert set(listed) == {*frames.CLIENT_TYPES, *frames.SERVER_TYPES, "statusAnswer"}
    operations = ASYNCAPI["operations"].values()
    used = {
        reference["$ref"].rpartition("/")[2]
        for operation in operations
        for reference in (*operation["messages"], *operation.get("reply", {}).get("messages", ()))
    }
    assert used == set(listed)
    received = {name for name, operation in ASYNCAPI["operations"].items() if operation["action"] == "receive"}
    assert received == set(frames.CLIENT_TYPES)


def test_examples_are_real_frames_and_valid_by_the_message_they_illustrate() -> None:
    for name, message in ASYNCAPI["components"]["messages"].items():
        assert message["examples"], name
        schema = {**message["payload"], "components": ASYNCAPI["components"]}
        for example in message["examples"]:
            Draft7Validator(schema).validate(example["payload"])


def test_the_document_says_what_close_codes_mean() -> None:
    assert all(f"- {code} `{close.name}`" in ASYNCAPI["info"]["description"] for code, close in CLOSES.items())


# ---- tenant.yaml ----------------------------------------------------------------------------------------------------


def test_the_example_tenant_is_valid_and_can_be_applied() -> None:
    document = yaml.safe_load(EXAMPLE_TENANT.read_text(encoding="utf-8"))
    Draft202012Validator(TENANT).validate(document)
    tenant = parse_tenant(document)
    assert tenant.tenant == "acme"
    assert json.loads(encode_tenant(tenant))["agent_types"]["auditor"]["log"]["partitions"] == 3


def test_the_example_shows_every_field() -> None:
    document = yaml.safe_load(EXAMPLE_TENANT.read_text(encoding="utf-8"))
    shown: dict[type[msgspec.Struct], Iterable[str]] = {
        tenants.Tenant: document,
        tenants.AuthSettings: document["auth"],
        tenants.Revocation: {name for entry in document["auth"]["revoked"] for name in entry},
        tenants.TopicsSettings: document["topics"],
        tenants.TopicSettings: document["topics"]["log"],
        tenants.LimitSettings: document["limits"],
        tenants.AgentTypeSettings: document["agent_types"]["auditor"],
    }
    for struct, part in shown.items():
        assert set(part) == {field.encode_name for field in msgspec.structs.fields(struct)}


TENANT_DOCUMENTS: list[dict[str, Any]] = [
    {"tenant": "acme"},
    {"tenant": "acme", "topics": {"telemetry": None}, "agent_types": {"a-b": {"log": {}}}},
    {"tenant": "acme", "auth": {"jwks": {}}, "allowed_origins": ["http://localhost:3000", "https://[::1]"]},
    {},
    {"tenant": "Acme"},
    {"tenant": "acme", "typo": 1},
    {"tenant": "acme", "limits": {"max_payload": 1}},
    {"tenant": "acme", "limits": {"max_payload_bytes": 0}},
    {"tenant": "acme", "topics": {"log": {"retention_s": 1}}},
    {"tenant": "acme", "agent_types": {"A": {"log": {}}}},
    {"tenant": "acme", "agent_types": {"a": {"log": {"typo": 1}}}},
    {"tenant": "acme", "allowed_origins": ["*"]},
    {"tenant": "acme", "auth": {"jwks": {"keys": [{"kty": "OKP"}]}}},
    {"tenant": "acme", "auth": {"jwks": {"keys": [{"kty": "OKP", "kid": "1", "d": "secret"}]}}},
    {"tenant": "acme", "suspended": "no"},
    {"tenant": "acme", "auth": {"revoked": [{"jti": "t-1"}, {"subject": "a", "before": 7}, {"before": 0}]}},
    {"tenant": "acme", "auth": {"revoked": [{}]}},
    {"tenant": "acme", "auth": {"revoked": [{"jti": None}]}},
    {"tenant": "acme", "auth": {"revoked": [{"jti": "t-1", "befor": 1}]}},
]


@pytest.mark.parametrize("document", TENANT_DOCUMENTS, ids=json.dumps)
def test_the_tenant_schema_takes_what_the_parser_takes(document: dict[str, Any]) -> None:
    try:
        parse_tenant(document)
        taken = True
    except InvalidValueError:
        taken = False
    assert Draft202012Validator(TENANT).is_valid(document) == taken
