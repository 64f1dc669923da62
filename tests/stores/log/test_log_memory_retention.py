"""Retention of the log in memory."""

from heliograph.stores.memory.log import MemoryLog, record_bytes
from heliograph.stores.memory.retention import retain
from heliograph.stores.ports import LogRecord, TopicSpec


def record(topic: str, value: bytes = b"v" * 90) -> LogRecord:
    return LogRecord(topic, 0, -1, 0, b"0123456789", value, [])


def log_with(now: list[int], **config: str) -> MemoryLog:
    log = MemoryLog(lambda: now[0])
    log.create(TopicSpec("t", 1, None, {name.replace("_", "."): value for name, value in config.items()}))
    return log


def kept(log: MemoryLog) -> list[int]:
    return [one.offset for one in log.records("t")]


def test_what_is_older_than_its_topic_keeps_is_forgotten_and_offsets_stay() -> None:
    now = [0]
    log = log_with(now, retention_ms="1000")
    for time_ms in (0, 500, 900):
        now[0] = time_ms
        log.append(record("t"))
    assert retain(log, 1_000) == 0
    assert retain(log, 1_501) == 2
    assert kept(log) == [2]
    assert log.append(record("t")).offset == 3


def test_the_oldest_go_until_the_rest_is_within_the_bytes() -> None:
    log = log_with([0], retention_bytes="250")
    for _ in range(5):
        log.append(record("t"))
    assert record_bytes(log.records("t")[0]) == 100
    assert retain(log, 0) == 3
    assert kept(log) == [3, 4]
    assert retain(log, 0) == 0
    log.append(record("t"))
    assert retain(log, 0) == 1
    assert kept(log) == [4, 5]


def test_a_topic_without_bounds_keeps_everything() -> None:
    log = log_with([0], retention_ms="-1", retention_bytes="-1")
    log.append(record("t"))
    assert retain(log, 1 << 50) == 0
    log = log_with([0])
    log.append(record("t"))
    assert retain(log, 1 << 50) == 0
