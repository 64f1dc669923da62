"""Why Kafka will not have us is told with the settings to look at; what passed is no longer told."""

import pytest
from confluent_kafka import KafkaError

from heliograph.stores.kafka.client import REASON_CHARS, Refusals
from heliograph.stores.ports import StoreError

AWAY = StoreError("log_unavailable", "ask for brokers: _TRANSPORT (no)", maybe_done=True)
WRONG = (
    "sasl_ssl://10.0.0.1:9093/bootstrap: SASL authentication error: invalid credentials (after 307ms in state AUTH_REQ)"
)


class Now:
    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


def told(refusals: Refusals, code: int, text: str) -> None:
    refusals.note(KafkaError(code, text))


@pytest.mark.parametrize(
    ("code", "words"),
    [(KafkaError._AUTHENTICATION, "sasl.password"), (KafkaError._SSL, "ssl.ca.location")],
)
def test_the_setting_is_named_and_the_same_is_said_in_the_same_words(code: int, words: str) -> None:
    refusals = Refusals()
    told(refusals, code, WRONG)
    first = refusals.explain(AWAY)
    told(refusals, code, WRONG.replace("307", "12").replace("bootstrap", "1"))
    again = refusals.explain(AWAY)
    assert (first.code, first.maybe_done) == ("log_unavailable", True)
    assert words in first.message
    assert "kafka_properties" in first.message
    assert first.message.endswith("(SASL authentication error: invalid credentials)")
    assert first.message == again.message


def test_other_errors_explain_nothing_and_other_answers_need_no_explanation() -> None:
    refusals = Refusals()
    told(refusals, KafkaError._ALL_BROKERS_DOWN, "all down")
    assert refusals.explain(AWAY) is AWAY
    told(refusals, KafkaError._AUTHENTICATION, WRONG)
    no = StoreError("unavailable", "create topic: TOPIC_AUTHORIZATION_FAILED")
    assert refusals.explain(no) is no


def test_what_is_over_is_told_no_longer() -> None:
    now = Now()
    refusals = Refusals(now)
    told(refusals, KafkaError._SSL, WRONG)
    refusals.over()
    assert refusals.explain(AWAY) is AWAY
    told(refusals, KafkaError._SSL, WRONG)
    now.s += Refusals.FRESH_S
    assert refusals.explain(AWAY) is AWAY


def test_a_long_reason_is_cut() -> None:
    refusals = Refusals()
    told(refusals, KafkaError._SSL, "x" * 500)
    assert len(refusals.explain(AWAY).message) < 200 + REASON_CHARS
