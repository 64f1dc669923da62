import datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.core.errors import InvalidValueError
from heliograph.protocol.tenants import DAY_S, Tenant, decode_tenant, encode_tenant, parse_tenant, retention_class

KEY = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "kid": "k1"}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=8,
)
fields = st.sampled_from(
    [
        "tenant",
        "acme",
        "auth",
        "topics",
        "limits",
        "agent_types",
        "allowed_origins",
        "suspended",
        "log",
        "jwks",
        "partitions",
    ]
)


def refused(document: object) -> InvalidValueError:
    with pytest.raises(InvalidValueError) as raised:
        parse_tenant(document)
    assert raised.value.code == "value_invalid"
    return raised.value


def test_a_name_is_all_that_is_needed() -> None:
    tenant = parse_tenant({"tenant": "acme"})
    assert tenant.topics.log.partitions == 6
    assert tenant.topics.log.retention_s == 7 * DAY_S
    assert tenant.topics.telemetry is None
    assert tenant.agent_types == {}
    assert not tenant.shared
    assert not tenant.suspended


def test_everything_that_can_be_said_is_read() -> None:
    tenant = parse_tenant(
        {
            "tenant": "acme",
            "auth": {"jwks": {"keys": [KEY]}, "issuer": "https://id.acme.example", "audience": "heliograph"},
            "topics": {
                "log": {"partitions": 12, "replication_factor": 3, "retention_s": 86_400, "retention_bytes": 10**9},
                "deferred": {"partitions": 3},
                "telemetry": {"retention_s": 3_600},
            },
            "limits": {"max_payload_bytes": 1_000, "connection_messages_per_s": 10, "unconfirmed_bytes": 10**7},
            "agent_types": {"auditor": {"log": {"retention_s": 365 * DAY_S}}},
            "allowed_origins": ["https://app.acme.example", "https://*.acme.example:8443", "http://[::1]:3000"],
            "suspended": True,
        }
    )
    assert tenant.topics.log.replication_factor == 3
    assert tenant.limits.connection_messages_per_s == 10.0
    assert tenant.log_settings("auditor").retention_s == 365 * DAY_S
    assert tenant.log_settings("planner") is tenant.topics.log
    assert decode_tenant(encode_tenant(tenant)) == tenant


@pytest.mark.parametrize(
    ("retention_s", "name"),
    [(60, "1d"), (DAY_S, "1d"), (DAY_S + 1, "7d"), (7 * DAY_S, "7d"), (30 * DAY_S, "30d"), (365 * DAY_S, "365d")],
)
def test_a_shared_topics_class_is_the_smallest_that_keeps_long_enough(retention_s: int, name: str) -> None:
    assert retention_class(retention_s) == name


def test_a_shared_tenant_can_not_have_what_would_be_everybodys() -> None:
    for kind in ("log", "deferred", "telemetry"):
        for settings in ({"retention_s": 366 * DAY_S}, {"retention_bytes": 10**9}):
            document = {"tenant": "acme", "isolation": "shared", "topics": {kind: settings}}
            assert next(iter(settings)) in str(refused(document))
            assert not parse_tenant({**document, "isolation": "dedicated"}).shared
    own = {"planner": {"log": {"retention_s": 366 * DAY_S}}}
    assert "agent_types.planner.log" in str(refused({"tenant": "acme", "isolation": "shared", "agent_types": own}))
    assert "isolation" in str(refused({"tenant": "acme", "isolation": "private"}))


def test_deferred_messages_are_kept_longer_than_the_log_unless_said_otherwise() -> None:
    tenant = parse_tenant({"tenant": "acme", "topics": {"deferred": {"partitions": 3}}})
    assert tenant.topics.deferred.retention_s == 14 * DAY_S
    shorter = parse_tenant({"tenant": "acme", "topics": {"deferred": {"retention_s": 7 * DAY_S}}})
    assert decode_tenant(encode_tenant(shorter)).topics.deferred.retention_s == 7 * DAY_S


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({"tenant": "acme", "limit": {}}, "limit"),
        ({"tenant": "acme", "limits": {"max_payload": 1}}, "max_payload"),
        ({"tenant": "acme", "topics": {"logs": {}}}, "tenant.topics"),
        ({"tenant": "acme", "topics": {"telemetry": {"partition": 1}}}, "tenant.topics.telemetry"),
        ({"tenant": "acme", "agent_types": {"planner": {"log": {"retention": 1}}}}, "tenant.agent_types.planner.log"),
        ({"tenant": "acme", "agent_types": {"planner": {"logs": {}, "log": {}}}}, "tenant.agent_types.planner"),
        ({"tenant": "acme", "auth": {"revoked": [{"jti": "a"}, {"jti": "b", "befor": 1}]}}, "tenant.auth.revoked.1"),
    ],
)
def test_a_typo_does_not_pass(document: object, named: str) -> None:
    assert named in refused(document).message


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({}, "tenant"),
        ({"tenant": "Acme"}, "tenant"),
        ({"tenant": "a.b"}, "tenant"),
        ({"tenant": "acme", "agent_types": {"Planner": {"log": {}}}}, "agent_types"),
        ({"tenant": "acme", "agent_types": {"planner": {}}}, "log"),
        ({"tenant": "acme", "topics": {"log": {"partitions": 0}}}, "partitions"),
        ({"tenant": "acme", "topics": {"log": {"partitions": "6"}}}, "partitions"),
        ({"tenant": "acme", "topics": {"log": {"retention_s": 59}}}, "retention_s"),
        ({"tenant": "acme", "topics": {"log": {"retention_s": 2**60}}}, "retention_s"),
        ({"tenant": "acme", "limits": {"max_payload_bytes": 512 * 1024 + 1}}, "max_payload_bytes"),
        ({"tenant": "acme", "limits": {"connection_messages_per_s": 0}}, "connection_messages_per_s"),
        ({"tenant": "acme", "limits": {"connection_messages_per_s": float("inf")}}, "connection_messages_per_s"),
        ({"tenant": "acme", "limits": {"connection_bytes_per_s": float("nan")}}, "connection_bytes_per_s"),
        ({"tenant": "acme", "limits": {"connection_burst_messages": 2**60}}, "connection_burst_messages"),
        ({"tenant": "acme", "suspended": "no"}, "suspended"),
        ({"tenant": "acme", "allowed_origins": ["https://app.acme.example/"]}, "allowed_origins"),
        ({"tenant": "acme", "allowed_origins": ["*"]}, "allowed_origins"),
        ({"tenant": "acme", "allowed_origins": ["https://*"]}, "allowed_origins"),
        ({"tenant": "acme", "allowed_origins": ["HTTPS://APP.ACME.EXAMPLE"]}, "allowed_origins"),
        ({"tenant": "acme", "auth": {"revoked": [{"jti": "a"}, {}]}}, "entry 1"),
        ({"tenant": "acme", "auth": {"revoked": [{"jti": ""}]}}, "revoked"),
        ({"tenant": "acme", "auth": {"revoked": [{"jti": "a", "before": "now"}]}}, "before"),
        ({"tenant": "acme", "auth": {"revoked": [{"jti": str(at)} for at in range(1_001)]}}, "1000"),
        ({"tenant": "acme", "auth": {"jwks": {"keys": {}}}}, "jwks"),
        ({"tenant": "acme", "auth": {"jwks": {"keys": ["k"]}}}, "key 0"),
        ({"tenant": "acme", "auth": {"jwks": {"keys": [{**KEY, "kid": 7}]}}}, "key 0"),
        ([], "list"),
        (None, "NoneType"),
        ("tenant: acme", "str"),
    ],
)
def test_a_bad_value_is_refused_and_named(document: object, named: str) -> None:
    assert named in refused(document).message


def test_a_private_key_is_refused_and_not_shown() -> None:
    message = refused({"tenant": "acme", "auth": {"jwks": {"keys": [{**KEY, "d": "very-secret"}]}}}).message
    assert "private key k1" in message
    assert "very-secret" not in message


@pytest.mark.parametrize("value", [datetime.date(2026, 1, 1), float("nan"), {1: 2}, b"\x00", "\ud800"])
def test_what_yaml_can_say_and_json_can_not_is_refused(value: object) -> None:
    refused({"tenant": "acme", "auth": {"jwks": {"keys": [{**KEY, "x-made": value}]}}})


@given(
    json_values | st.dictionaries(fields, json_values | st.dictionaries(fields, json_values, max_size=3), max_size=4)
)
def test_any_document_is_a_tenant_or_an_invalid_value(document: object) -> None:
    try:
        tenant = parse_tenant(document)
    except InvalidValueError as error:
        bad = error
    else:
        assert decode_tenant(encode_tenant(tenant)) == tenant
        return
    assert bad.code == "value_invalid"


def test_services_ignore_what_a_newer_version_wrote() -> None:
    assert decode_tenant(b'{"tenant":"acme","new_in_2031":{"a":[1]},"limits":{"new":1}}') == Tenant("acme")


@given(st.binary(max_size=60))
def test_any_stored_bytes_are_a_tenant_or_one_kind_of_error(data: bytes) -> None:
    outcome: Any
    for stored in (data, b'{"tenant":"' + data + b'"}', b'{"tenant":"acme","auth":' + data + b"}"):
        try:
            outcome = decode_tenant(stored)
        except msgspec.MsgspecError as error:
            outcome = error
        assert isinstance(outcome, Tenant | msgspec.MsgspecError)


def test_a_stored_record_nested_too_deep_is_that_kind_of_error_too() -> None:
    for bad in (b'{"tenant":"acme","x":' + b"[" * 10_000, b'{"tenant":"\xff"}'):
        with pytest.raises(msgspec.MsgspecError):
            decode_tenant(bad)


def test_a_record_is_written_one_way() -> None:
    one = parse_tenant({"tenant": "acme", "agent_types": {"b": {"log": {}}, "a": {"log": {}}}})
    other = parse_tenant({"agent_types": {"a": {"log": {}}, "b": {"log": {}}}, "tenant": "acme"})
    assert encode_tenant(one) == encode_tenant(other)


def test_kafkas_settings_are_those_of_a_list_with_values_that_they_can_have() -> None:
    topics = {"log": {"config": {"compression.type": "zstd", "segment.bytes": "1048576", "min.insync.replicas": "2"}}}
    assert parse_tenant({"tenant": "acme", "topics": topics}).topics.log.config["compression.type"] == "zstd"
    for config, named in (
        ({"cleanup.policy": "compact"}, "cleanup.policy"),
        ({"max.message.bytes": "1"}, "max.message.bytes"),
        ({"compression.type": "rar"}, "rar"),
        ({"segment.bytes": "many"}, "many"),
    ):
        assert named in refused({"tenant": "acme", "topics": {"deferred": {"config": config}}}).message
    shared = {"tenant": "acme", "isolation": "shared", "topics": {"log": {"config": {"segment.bytes": "1048576"}}}}
    assert "everybody" in refused(shared).message


def test_no_payload_is_shown_unless_a_tenant_says_so() -> None:
    assert parse_tenant({"tenant": "acme"}).tracing.payload_sample_ratio == 0
    refused({"tenant": "acme", "tracing": {"payload_sample_ratio": 1.5}})
