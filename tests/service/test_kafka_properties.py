"""Properties passed through to librdkafka."""

import pytest
from pydantic import SecretStr

from heliograph.service.kafka_properties import OWNED, parse_kafka_properties, reveal


def test_pairs_and_json_say_the_same() -> None:
    expected = {"linger.ms": "5", "security.protocol": "SASL_SSL", "socket.keepalive.enable": "true"}
    pairs = "linger.ms=5, security.protocol = SASL_SSL\nsocket.keepalive.enable=true"
    as_json = '{"linger.ms": 5, "security.protocol": "SASL_SSL", "socket.keepalive.enable": true}'
    assert parse_kafka_properties(pairs) == parse_kafka_properties(as_json) == expected


def test_a_value_may_hold_an_equals_sign() -> None:
    assert parse_kafka_properties("client.id=a=b") == {"client.id": "a=b"}


@pytest.mark.parametrize(
    "name",
    ["sasl.password", "ssl.key.pem", "ssl.key.password", "ssl.keystore.password", "sasl.oauthbearer.client.secret"],
)
def test_a_value_that_is_a_secret_is_hidden_and_can_be_revealed(name: str) -> None:
    parsed = parse_kafka_properties({name: "hunter2"})
    assert isinstance(parsed[name], SecretStr)
    assert "hunter2" not in repr(parsed)
    assert reveal(parsed) == {name: "hunter2"}
    assert parse_kafka_properties(parsed) == parsed


@pytest.mark.parametrize("name", sorted(OWNED))
def test_what_the_guarantees_stand_on_can_not_be_set(name: str) -> None:
    with pytest.raises(ValueError, match="must not set"):
        parse_kafka_properties({name: "1"})


@pytest.mark.parametrize("text", ["acks", "=1", '{"a": [1]}', '{"a"', '{"a": null}', "[]", 5, "a=b,c"])
def test_what_is_no_property_is_refused_without_its_value(text: object) -> None:
    with pytest.raises(ValueError, match=r"must be|begins like|has a value"):
        parse_kafka_properties(text)


def test_nothing_is_no_properties() -> None:
    assert parse_kafka_properties(" ") == {}
