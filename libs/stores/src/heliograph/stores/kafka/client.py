"""What the Kafka clients share: configuration, errors, logging.

Properties of the operator come last but one: what Heliograph's guarantees stand on comes last. No value of a property
is ever shown, it may be a password.
"""

import logging
import re
import time
from collections.abc import Callable, Mapping

from confluent_kafka import KafkaError, KafkaException

from heliograph.core.errors import InvalidValueError
from heliograph.stores.ports import StoreError

logger = logging.getLogger("heliograph.stores.kafka")


class Seldom(logging.Filter):
    """The same line at most once in `interval_s`, numbers aside: librdkafka tells of every attempt to connect."""

    MAX_LINES = 500

    def __init__(self, interval_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._interval_s = interval_s
        self._clock = clock
        self._seen: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        line, now = _NUMBERS.sub("#", record.getMessage())[:200], self._clock()
        if now - self._seen.get(line, -self._interval_s) < self._interval_s:
            return False
        if len(self._seen) >= self.MAX_LINES:
            self._seen.clear()
        self._seen[line] = now
        return True


_NUMBERS = re.compile(r"[0-9]+")

library_logger = logging.getLogger("confluent_kafka")
"""Where librdkafka's own lines go; it would write to stderr as text otherwise."""
library_logger.addFilter(Seldom())

SHARED_DEFAULTS: Mapping[str, object] = {
    "log.connection.close": False,  # brokers close idle connections: no news
    "reconnect.backoff.ms": 50,
    "reconnect.backoff.max.ms": 2_000,  # the default of 10 s would be felt after every restart of a broker
    "socket.keepalive.enable": True,
    "socket.nagle.disable": True,
    "client.dns.lookup": "use_all_dns_ips",
    "enable.metrics.push": False,  # telemetry to the brokers (KIP-714) is the operator's choice
}

NOT_SENT = frozenset(
    {
        KafkaError._PURGE_QUEUE,  # noqa: SLF001 - librdkafka's local codes begin with an underscore
        KafkaError._QUEUE_FULL,  # noqa: SLF001
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.INVALID_MSG,
        KafkaError.INVALID_RECORD,
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.POLICY_VIOLATION,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
    }
)
"""Errors of a produce after which the record is certainly not in the log."""


class Refusals:
    """Why the cluster will not have us, or we not it: wrong password, unknown certificate.

    librdkafka tells that in passing, to the callback for errors; its calls end with "transport failure" or in no time.
    """

    FRESH_S = 30.0
    """It tries again every two seconds at most: what was not told for so long is over."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._words = ""
        self._at_s = float("-inf")

    def note(self, error: KafkaError) -> None:
        """An error that the client told, of any kind."""
        words = SETTINGS_BY_ERROR.get(error.code())
        if words is not None:
            self._words, self._at_s = f"{words} ({_bare(error.str())})", self._clock()

    def over(self) -> None:
        """The cluster answered."""
        self._at_s = float("-inf")

    def explain(self, error: StoreError) -> StoreError:
        """The same error, with the reason and the settings to look at, where they are known."""
        if error.code != "log_unavailable" or self._clock() - self._at_s >= self.FRESH_S:
            return error
        return StoreError(error.code, f"{error.message}; {self._words}", maybe_done=error.maybe_done)


SETTINGS_BY_ERROR: Mapping[int, str] = {
    KafkaError._AUTHENTICATION: "Kafka refuses sasl.username, sasl.password or sasl.mechanism of kafka_properties",  # noqa: SLF001
    KafkaError._SSL: "TLS to Kafka fails, see ssl.ca.location and the other ssl.… of kafka_properties",  # noqa: SLF001
}


REASON_CHARS = 160
"""Of what librdkafka says: behind it come hints of its own."""


def _bare(text: str) -> str:
    """What librdkafka says without the broker's address before it and the time after it: the same for the same."""
    text = _ABOUT.sub("", text)
    return text if len(text) <= REASON_CHARS else f"{text[:REASON_CHARS].rstrip()}…"


_ABOUT = re.compile(r"^\S+://\S+: | \(after \d+ms in state \w+\)$")


def configuration(
    properties: Mapping[str, object], defaults: Mapping[str, object], owned: Mapping[str, object]
) -> dict[str, object]:
    """`defaults` < the operator's `properties` < what is `owned` by Heliograph."""
    return {**SHARED_DEFAULTS, **defaults, **properties, **owned}


def bad_configuration(error: Exception, config: Mapping[str, object]) -> InvalidValueError:
    """What a client's constructor raised, naming the property and no value."""
    text = str(error.args[0].str() if _has_kafka_error(error) else error)
    name = next((name for name in sorted(config, key=len, reverse=True) if name in text), "one of them")
    return InvalidValueError(
        "value_invalid", "kafka_properties", name, "a librdkafka property with a value that it takes"
    )


def error_name(error: KafkaError) -> str:
    """The code's name, stable: `_MSG_TIMED_OUT`, `NOT_ENOUGH_REPLICAS`."""
    return str(error.name())


def store_error(what: str, error: BaseException | KafkaError, *, maybe_done: bool = False) -> StoreError:
    """`log_unavailable` with the code's name and what was tried."""
    if isinstance(error, KafkaException) and _has_kafka_error(error):
        error = error.args[0]
    if isinstance(error, KafkaError):
        return StoreError("log_unavailable", f"{what}: {error_name(error)} ({error.str()})", maybe_done=maybe_done)
    text = str(error) or type(error).__name__
    return StoreError("log_unavailable", f"{what}: {text}", maybe_done=maybe_done)


def _has_kafka_error(error: BaseException) -> bool:
    return bool(error.args) and isinstance(error.args[0], KafkaError)
