"""Settings explain themselves, are checked, and never show a secret."""

import pytest
from pydantic import SecretStr, ValidationError

from heliograph.service.settings import (
    CommaList,
    KafkaSettings,
    RedisSettings,
    ServiceSettings,
    Settings,
    TokenSettings,
    groups,
    is_secret,
    setting,
    unit_of,
)


class Everything(ServiceSettings, KafkaSettings, RedisSettings, TokenSettings):
    """All groups."""

    port: int = setting(8099, "Another default.", unit="TCP port")
    origins: CommaList = setting((), "Pages that may connect.")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("HELIOGRAPH_"):
            monkeypatch.delenv(name)


def test_a_setting_without_a_default_can_not_be_defined() -> None:
    with pytest.raises(TypeError, match="x has no default"):
        type("Bad", (Settings,), {"__annotations__": {"x": str}})


def test_a_setting_without_a_reason_can_not_be_defined() -> None:
    with pytest.raises(TypeError, match="x gives no reason"):
        type("Bad", (Settings,), {"__annotations__": {"x": str}, "x": "default"})


def test_a_number_without_a_unit_can_not_be_defined() -> None:
    with pytest.raises(TypeError, match="x is a number without a unit"):
        type("Bad", (Settings,), {"__annotations__": {"x": int | None}, "x": setting(1, "reason")})


@pytest.mark.parametrize(
    ("name", "unit"), [("wait_s", "s"), ("wait_ms", "ms"), ("size_bytes", "bytes"), ("spans_per_s", "per second")]
)
def test_a_unit_is_read_from_the_name(name: str, unit: str) -> None:
    made: type[Settings] = type("Good", (Settings,), {"__annotations__": {name: int}, name: setting(1, "reason")})
    assert unit_of(name, made.model_fields[name]) == unit


def test_an_environment_variable_sets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOGRAPH_PORT", "9001")
    monkeypatch.setenv("HELIOGRAPH_ORIGINS", "https://a.example, https://b.example")
    settings = Everything()
    assert settings.port == 9001
    assert settings.origins == ("https://a.example", "https://b.example")


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOGRAPH_PORT", "")
    assert Everything().port == 8099


def test_a_service_may_change_the_default_of_a_shared_setting_and_it_stays_in_its_group() -> None:
    by_group = groups(Everything)
    assert by_group[Everything] == ["origins"]
    assert "port" in by_group[ServiceSettings]


def test_the_other_redis_urls_default_to_the_live_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOGRAPH_REDIS_URL", "rediss://user:pass@live:6380/1")
    settings = Everything()
    assert settings.metadata_url() == settings.token_url() == settings.live_url() == "rediss://user:pass@live:6380/1"
    monkeypatch.setenv("HELIOGRAPH_METADATA_REDIS_URL", "redis://meta")
    assert Everything().metadata_url() == "redis://meta"
    assert Everything().token_url() == "rediss://user:pass@live:6380/1"


@pytest.mark.parametrize(
    "url",
    [
        "redis://one:6379/1",
        "rediss+sentinel://u:p@s1,s2:26380/main/2?sentinel_password=x&ssl_ca_certs=/ca.crt",
        "redis+cluster://n1,n2:6379,[::1]",
    ],
)
def test_each_redis_may_be_one_server_behind_sentinel_or_a_cluster(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    for name in ("REDIS_URL", "METADATA_REDIS_URL", "TOKEN_REDIS_URL"):
        monkeypatch.setenv(f"HELIOGRAPH_{name}", url)
    settings = Everything()
    assert settings.live_url() == settings.metadata_url() == settings.token_url() == url


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("live:6379", "redis+cluster://"),
        ("http://live", "redis+cluster://"),
        ("redis://", "each host is"),
        ("redis://live:99999", "a port is 1 to 65535"),
        ("redis://live:x", "1 to 65535"),
        ("redis://live/0#very-secret", "%23"),
        ("redis+sentinel://u:very-secret@s1,s2", "the name that the sentinels monitor"),
        ("redis+cluster://u:very-secret@n1/1", "only database 0"),
    ],
)
@pytest.mark.parametrize("name", ["redis_url", "metadata_redis_url", "token_redis_url"])
def test_a_redis_url_is_checked_and_not_echoed(monkeypatch: pytest.MonkeyPatch, name: str, url: str, says: str) -> None:
    monkeypatch.setenv(f"HELIOGRAPH_{name.upper()}", url)
    with pytest.raises(ValidationError) as caught:
        Everything()
    assert name in str(caught.value)
    assert says in str(caught.value)
    assert "very-secret" not in str(caught.value)


@pytest.mark.parametrize("servers", ["kafka", "kafka:", "kafka:9092,", "kafka:9092 other:9092", "k:123456"])
def test_bootstrap_servers_are_checked(monkeypatch: pytest.MonkeyPatch, servers: str) -> None:
    monkeypatch.setenv("HELIOGRAPH_KAFKA_BOOTSTRAP_SERVERS", servers)
    with pytest.raises(ValidationError, match="host:port"):
        Everything()


@pytest.mark.parametrize("servers", ["kafka:9092", "a:1,b:2", "[::1]:9092"])
def test_good_bootstrap_servers_pass(monkeypatch: pytest.MonkeyPatch, servers: str) -> None:
    monkeypatch.setenv("HELIOGRAPH_KAFKA_BOOTSTRAP_SERVERS", servers)
    assert Everything().kafka_config()["bootstrap.servers"] == servers


def test_a_share_can_be_neither_more_than_all_nor_not_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("1.5", "-0.1", "nan", "inf"):
        monkeypatch.setenv("HELIOGRAPH_TRACE_SAMPLE_RATIO", wrong)
        with pytest.raises(ValidationError):
            Everything()


def test_secrets_are_known_as_such() -> None:
    secret = {name for name, field in Everything.model_fields.items() if is_secret(field)}
    assert secret == {"redis_url", "metadata_redis_url", "token_redis_url", "kafka_properties"}


def test_no_secret_is_in_the_text_of_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOGRAPH_REDIS_URL", "redis://:hunter2@live")
    monkeypatch.setenv("HELIOGRAPH_KAFKA_PROPERTIES", "sasl.password=hunter2")
    settings = Everything()
    assert "hunter2" not in repr(settings) + str(settings) + settings.model_dump_json()
    assert settings.kafka_config()["sasl.password"] == "hunter2"
    assert isinstance(settings.redis_url, SecretStr)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Everything().port = 1
