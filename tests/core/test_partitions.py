"""partitions: where a session lives."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliograph.core.partitions import murmur2, partition_of, virtual_shard_of

KAFKAS_VECTORS = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}
"""org.apache.kafka.common.utils.UtilsTest.testMurmur2."""


@pytest.mark.parametrize(("key", "expected"), KAFKAS_VECTORS.items())
def test_murmur2_is_kafkas(key: bytes, expected: int) -> None:
    assert murmur2(key) == expected


@pytest.mark.parametrize(("key", "expected"), KAFKAS_VECTORS.items())
def test_the_partition_is_the_one_that_java_clients_choose(key: bytes, expected: int) -> None:
    assert [partition_of(key, count) for count in (1, 6, 1_000)] == [
        (expected & 0x7FFFFFFF) % count for count in (1, 6, 1_000)
    ]


def test_a_virtual_shard_never_moves() -> None:
    # crc32's check value (ISO-HDLC) is cbf43926 for "123456789".
    assert virtual_shard_of("123456789", 2**32) == 0xCBF43926
    assert virtual_shard_of("acme:planner:42", 256) == 58


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_murmur2_is_a_signed_32_bit_number(data: bytes) -> None:
    assert -(2**31) <= murmur2(data) < 2**31


@given(st.binary(max_size=200), st.integers(1, 10_000))
@settings(deadline=None)
def test_a_partition_is_one_that_exists(key: bytes, partitions: int) -> None:
    assert 0 <= partition_of(key, partitions) < partitions


def test_sessions_spread_evenly() -> None:
    counts = [0] * 6
    shards = [0] * 256
    for number in range(25_600):
        session = f"acme:planner:{number}"
        counts[partition_of(session.encode(), 6)] += 1
        shards[virtual_shard_of(session, 256)] += 1
    assert max(counts) < 1.1 * 25_600 / 6
    assert max(shards) < 2 * 100


@pytest.mark.parametrize("count", [0, -1])
def test_no_partition_and_no_shard_is_an_error(count: int) -> None:
    with pytest.raises(ValueError, match="partitions"):
        partition_of(b"x", count)
    with pytest.raises(ValueError, match="shards"):
        virtual_shard_of("x", count)
