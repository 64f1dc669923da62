"""Names of the record's fields as Kubernetes spells them, and back."""

from typing import get_args

import msgspec
import pytest

from heliograph.operator.naming import camel, from_record, struct_in, to_record
from heliograph.protocol.tenants import Tenant, parse_tenant


@pytest.mark.parametrize(
    ("name", "spelled"),
    [
        ("retention_s", "retentionSeconds"),
        ("bytes_per_s", "bytesPerSecond"),
        ("connection_messages_per_s", "connectionMessagesPerSecond"),
        ("agent_types", "agentTypes"),
        ("tenant", "tenant"),
    ],
)
def test_names_are_respelled(name: str, spelled: str) -> None:
    assert camel(name) == spelled


def _structs(struct: type[msgspec.Struct]) -> set[type[msgspec.Struct]]:
    found = {struct}
    for field in msgspec.structs.fields(struct):
        for annotation in (field.type, *get_args(field.type)):
            nested = struct_in(annotation)
            if nested is not None:
                found |= _structs(nested)
    return found


def test_no_two_fields_of_the_record_are_spelled_alike() -> None:
    for struct in _structs(Tenant):
        names = [camel(field.encode_name) for field in msgspec.structs.fields(struct)]
        assert len(set(names)) == len(names), struct


def test_a_record_comes_back_from_its_resource_as_it_was() -> None:
    record = parse_tenant(
        {
            "tenant": "acme",
            "auth": {"jwks": {"keys": [{"kid": "a_b", "kty": "OKP", "x_y": 1}]}, "revoked": [{"jti": "x"}]},
            "topics": {"log": {"retention_s": 60, "config": {"segment.ms": "1"}}, "telemetry": {"partitions": 2}},
            "agent_types": {"night-shift": {"log": {"retention_s": 120}}},
            "quotas": {"event": {"messages_per_s": 1, "bytes_per_s": 2}},
        }
    )
    spec = from_record(record)
    assert isinstance(spec, dict)
    assert spec["agentTypes"]["night-shift"]["log"]["retentionSeconds"] == 120
    assert spec["topics"]["log"]["config"] == {"segment.ms": "1"}
    assert parse_tenant(to_record(spec, Tenant)) == record


def test_what_no_field_is_called_is_kept_for_the_check_to_complain_about() -> None:
    assert to_record({"retentionHours": 1, "topics": 3}, Tenant) == {"retentionHours": 1, "topics": 3}
