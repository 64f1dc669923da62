"""Logs are JSON events with fields, of libraries too, and nothing secret is in them."""

import io
import json
import logging
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import structlog

from heliograph.service.logs import RateLimitedLog, configure_logs, get_logger
from heliograph.service.redaction import REDACTED

LogLines = Callable[[], list[dict[str, Any]]]
JWT = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"


def test_an_event_is_one_json_object_with_its_fields(log_lines: LogLines) -> None:
    get_logger("heliograph.edge").info("tenant_changed", tenant="acme", position="1-2-3", count=2)
    (line,) = log_lines()
    assert list(line)[:3] == ["time", "level", "event"]
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "event": "tenant_changed",
        "tenant": "acme",
        "position": "1-2-3",
        "count": 2,
        "service": "test",
        "version": "1.2.3",
    }


def test_an_event_stays_one_line_whatever_is_in_it(log_lines: LogLines) -> None:
    get_logger().info("odd", text="a\nb\u2028c", value={1, 2}, other=object)
    (line,) = log_lines()
    assert line["text"] == "a\nb\u2028c"
    assert sorted(line["value"]) == [1, 2]


def test_secrets_are_replaced_wherever_they_stand(log_lines: LogLines) -> None:
    get_logger().bind(authorization="Bearer x").warning(
        f"got {JWT}", token="t", nested={"password": "p"}, url=f"/?t={JWT}"
    )
    (line,) = log_lines()
    assert line["authorization"] == line["token"] == line["nested"]["password"] == REDACTED
    assert JWT.split(".")[1] not in json.dumps(line)


def test_an_exception_is_logged_without_the_secrets_of_its_message(log_lines: LogLines) -> None:
    try:
        raise ValueError(f"refused {JWT} at redis://:hunter2@host")
    except ValueError:
        get_logger().exception("it_failed")
    (line,) = log_lines()
    assert "ValueError: refused" in line["exception"]
    assert "eyJ" not in line["exception"]
    assert "hunter2" not in line["exception"]


@pytest.mark.parametrize("name", ["uvicorn.error", "redis.asyncio.client", "aiokafka.consumer", "asyncio", "somebody"])
def test_events_of_libraries_go_the_same_way(log_lines: LogLines, name: str) -> None:
    logging.getLogger(name).warning("lost %s with %s", "redis://:hunter2@host", JWT)
    (line,) = log_lines()
    assert line["logger"] == name
    assert line["level"] == "warning"
    assert line["service"] == "test"
    assert line["event"] == f"lost redis://:{REDACTED}@host with {REDACTED}"


def test_uvicorns_own_handlers_are_taken_away() -> None:
    logging.getLogger("uvicorn.error").addHandler(logging.NullHandler())
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level
    stream = io.StringIO()
    try:
        configure_logs(service="test", version="0", stream=stream)
        logging.getLogger("uvicorn.error").info("here")
        logging.getLogger("uvicorn.access").info("a request")
    finally:
        logging.captureWarnings(False)
        structlog.reset_defaults()
        logging.getLogger().handlers[:] = handlers
        logging.getLogger().setLevel(level)
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["here"]


def test_pythons_warnings_become_events(log_lines: LogLines) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old thing", stacklevel=1)
    (line,) = log_lines()
    assert line["logger"] == "py.warnings"
    assert "old thing" in line["event"]


def test_the_level_is_obeyed() -> None:
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level
    stream = io.StringIO()
    try:
        configure_logs(service="test", version="0", level="error", stream=stream)
        get_logger().warning("quiet")
        logging.getLogger("uvicorn.error").warning("quiet")
        get_logger().error("loud")
    finally:
        logging.captureWarnings(False)
        structlog.reset_defaults()
        logging.getLogger().handlers[:] = handlers
        logging.getLogger().setLevel(level)
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["loud"]


def test_the_console_form_is_for_people_and_as_discreet() -> None:
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level
    stream = io.StringIO()
    try:
        configure_logs(service="test", version="0", form="console", stream=stream)
        get_logger().info("hello", token="hunter2", tenant="acme")
    finally:
        logging.captureWarnings(False)
        structlog.reset_defaults()
        logging.getLogger().handlers[:] = handlers
        logging.getLogger().setLevel(level)
    assert "hello" in stream.getvalue()
    assert "acme" in stream.getvalue()
    assert "hunter2" not in stream.getvalue()


def test_a_limited_warning_is_logged_once_an_interval_and_says_how_many_it_stands_for(log_lines: LogLines) -> None:
    now = 100.0
    limited = RateLimitedLog(get_logger(), interval_s=10, clock=lambda: now)
    assert limited.warning("slow", key="a", n=1)
    assert not limited.warning("slow", key="a", n=2)
    assert not limited.warning("slow", key="a", n=3)
    assert limited.warning("slow", key="b", n=4)
    now = 110.0
    assert limited.warning("slow", key="a", n=5)
    assert limited.warning("slow", key="b", n=6)
    assert [(line["n"], line.get("suppressed")) for line in log_lines()] == [(1, None), (4, None), (5, 2), (6, None)]


def test_limited_warnings_remember_a_bounded_number_of_keys(log_lines: LogLines) -> None:
    limited = RateLimitedLog(get_logger(), clock=lambda: 0.0)
    for number in range(RateLimitedLog.MAX_KEYS + 1):
        assert limited.warning("slow", key=str(number))
    assert limited.warning("slow", key="0"), "the oldest was forgotten"
    assert not limited.warning("slow", key=str(RateLimitedLog.MAX_KEYS))
    assert len(log_lines()) == RateLimitedLog.MAX_KEYS + 2


def test_fields_of_the_stores_standard_loggers_are_kept(log_lines: LogLines) -> None:
    logging.getLogger("heliograph.stores.kafka").warning("log_rewound", extra={"topic": "t", "offset": 7})
    logging.getLogger("uvicorn.error").warning("hello", extra={"color_message": "no field of ours"})
    ours, theirs = log_lines()
    assert (ours["event"], ours["topic"], ours["offset"]) == ("log_rewound", "t", 7)
    assert "color_message" not in theirs
