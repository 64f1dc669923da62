"""Where a session lives: its Kafka partition and its virtual shard.

Both are pure functions of the session's text that other programs compute too. The partition must be the one that
Java's Kafka clients (and whoever else writes to a tenant's topic with its key) would choose, or two writers of one
session land in two partitions and order is gone. The virtual shard is part of every Redis key.

What this must never do: change. A different result for a known text is lost data, not a bug fix; the tests hold it to
Kafka's own vectors.
"""

from zlib import crc32

_SEED = 0x9747B28C
_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """The signed 32-bit hash that `org.apache.kafka.common.utils.Utils.murmur2` computes (Apache Kafka 4.x)."""
    length = len(data)
    h = _SEED ^ length
    whole = length & ~3
    for at in range(0, whole, 4):
        k = (int.from_bytes(data[at : at + 4], "little") * _M) & _MASK
        k ^= k >> 24
        h = ((h * _M) & _MASK) ^ ((k * _M) & _MASK)
    if whole != length:
        h ^= int.from_bytes(data[whole:], "little")
        h = (h * _M) & _MASK
    h ^= h >> 13
    h = (h * _M) & _MASK
    h ^= h >> 15
    return h - (1 << 32) if h & 0x80000000 else h


def partition_of(key: bytes, partitions: int) -> int:
    """The partition for `key` among `partitions`: `Utils.toPositive(murmur2(key)) % partitions`.

    Once given, a session keeps its partition: pass the count of the time of its first append, not today's.
    """
    if partitions < 1:
        raise ValueError(f"partitions is {partitions!r}; a topic has at least 1")
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def virtual_shard_of(session: str, shards: int) -> int:
    """The virtual shard for a session's text: crc32 (ISO-HDLC, as zlib) of its UTF-8, modulo `shards`."""
    if shards < 1:
        raise ValueError(f"shards is {shards!r}; there is at least 1")
    return crc32(session.encode()) % shards
