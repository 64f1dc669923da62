"""The custom resource definitions: structural, documented, guarded."""

from collections.abc import Iterator
from typing import Any

import pytest

from heliograph.operator.crds import CRDS
from heliograph.operator.schema import structural
from heliograph.operator.tenants.crd import tenant_crd

Schema = dict[str, Any]


def nodes(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, member in schema.get("properties", {}).items():
        yield from nodes(member, f"{path}.{name}")
    for inside in ("items", "additionalProperties"):
        if isinstance(schema.get(inside), dict):
            yield from nodes(schema[inside], f"{path}[]")


def schema_of(crd: Schema) -> Schema:
    (version,) = crd["spec"]["versions"]
    found: Schema = version["schema"]["openAPIV3Schema"]
    return found


def at(path: str) -> Schema:
    return dict(nodes(schema_of(tenant_crd())))[path]


@pytest.mark.parametrize("name", CRDS)
def test_every_node_has_a_type_and_every_field_a_description(name: str) -> None:
    for path, node in nodes(schema_of(CRDS[name]())):
        assert "type" in node, path
        assert not {"$ref", "allOf", "anyOf", "title", "const", "propertyNames"} & node.keys(), path
        if path and not path.endswith("[]") and path != ".metadata":
            assert len(node.get("description", "")) > 5, path


@pytest.mark.parametrize("name", CRDS)
def test_every_rule_says_what_is_wrong(name: str) -> None:
    rules = [rule for _, node in nodes(schema_of(CRDS[name]())) for rule in node.get("x-kubernetes-validations", ())]
    assert rules
    assert all(rule["message"] and len(rule["message"]) < 200 for rule in rules)


PARTITIONS = [
    ".spec.topics.log.partitions",
    ".spec.topics.deferred.partitions",
    ".spec.topics.telemetry.partitions",
    ".spec.agentTypes[].log.partitions",
]


@pytest.mark.parametrize("path", PARTITIONS)
def test_partitions_of_every_kind_do_not_shrink_and_have_a_default(path: str) -> None:
    node = at(path)
    assert node["default"] == 6
    assert [rule["rule"] for rule in node["x-kubernetes-validations"]] == ["self >= oldSelf"]


def test_there_are_no_other_partitions() -> None:
    found = {path for path, _ in nodes(at(".spec"), ".spec") if path.endswith("partitions")}
    assert found == set(PARTITIONS)


def test_what_a_rule_guards_is_required_or_made_anew_when_it_is_taken_away() -> None:
    assert "tenant" in at(".spec")["required"]
    assert at(".spec.isolation")["default"] == "dedicated"
    for path in (".spec.topics", ".spec.topics.log", ".spec.topics.deferred", ".spec.agentTypes"):
        assert at(path)["default"] == {}, path
    assert at(".spec.agentTypes[]")["required"] == ["log"]
    assert any("telemetry" in rule["rule"] for rule in at(".spec.topics")["x-kubernetes-validations"])


def test_what_the_record_has_the_resource_has() -> None:
    assert at(".spec.limits.connections")["format"] == "int64"
    assert at(".spec.quotas.event.messagesPerSecond")["exclusiveMinimum"] is True
    assert "Default" in at(".spec.limits.maxPayloadBytes")["description"]


def test_a_schema_is_resolved_and_respelled() -> None:
    inner = {"type": "object", "description": "Inner.", "properties": {"is_so": {"type": "boolean"}}}
    made = structural({"anyOf": [{"$ref": "#/$defs/Inner"}, {"type": "null"}], "default": None}, {"Inner": inner})
    assert made == {
        "type": "object",
        "description": "Inner.",
        "properties": {"isSo": {"type": "boolean"}},
    }
