"""Retention of the log in memory: what is past its topic's `retention.ms` or `retention.bytes` is forgotten.

Brokers do that by themselves, a segment at a time. Here whoever runs the log says when, and records go one by one.
"""

from collections.abc import Mapping

from heliograph.stores.memory.log import MemoryLog, record_bytes

WITHOUT_BOUND = -1
"""As Kafka spells it; what a topic has that says nothing."""


def retain(log: MemoryLog, now_ms: int) -> int:
    """Forget what is past its retention; how many records."""
    gone = 0
    for topic in log.topics.values():
        kept_ms, kept_bytes = (_bound(topic.config, name) for name in ("retention.ms", "retention.bytes"))
        for partition in topic.partitions:
            keep_from = partition.first
            over_bytes = partition.size_bytes - kept_bytes if kept_bytes != WITHOUT_BOUND else 0
            for record in partition.records:
                too_old = kept_ms != WITHOUT_BOUND and record.timestamp_ms < now_ms - kept_ms
                if not too_old and over_bytes <= 0:
                    break
                over_bytes -= record_bytes(record)
                keep_from = record.offset + 1
            gone += keep_from - partition.first
            partition.forget_before(keep_from)
    return gone


def _bound(config: Mapping[str, str], name: str) -> int:
    return int(config.get(name, WITHOUT_BOUND))
