"""Which primary has what, on a Redis Cluster: decisions only, of values that were asked for elsewhere.

A virtual shard never changes its slot: all its keys have one hash tag. Slots change their primary, by a failover or
because somebody moves them.
https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/
"""

from binascii import crc_hqx
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from heliograph.stores.ports import StoreError

SLOTS = 16_384

Node = tuple[str, int]
"""Host and port as clients reach it."""


def slot_of(key: bytes) -> int:
    """The slot of a key or channel: CRC-16/XMODEM of its hash tag, or of all of it where there is none."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key, 0) % SLOTS


def slot_of_virtual_shard(number: int) -> int:
    """The slot of everything that is tagged `{v<number>}`."""
    return crc_hqx(b"v%d" % number, 0) % SLOTS


def tag_of(channel: bytes) -> bytes:
    """What is between the first braces: equal tags are one slot."""
    return channel[channel.find(b"{") + 1 : channel.find(b"}")]


def primaries(answer: Any, asked: Node) -> list[tuple[int, int, Node]]:
    """First slot, last slot and primary of each range in an answer to CLUSTER SLOTS.

    A node that doesn't know how others reach it answers without a host: then it is where it was asked. Raises
    StoreError where this is no such answer.
    """
    found = []
    try:
        for first, last, primary, *_replicas in answer:
            host, port = primary[0], primary[1]
            name = host.decode() if isinstance(host, bytes) else host
            node = (name if name and name != "?" else asked[0], int(port))
            found.append((int(first), int(last), node))
    except (TypeError, ValueError, IndexError):
        raise StoreError("live_unavailable", f"Redis at {asked[0]}:{asked[1]}: its slots can't be read") from None
    return found


def owners(ranges: Sequence[tuple[int, int, Node]], slots: Sequence[int]) -> list[Node | None]:
    """The primary of each slot, in the order asked; None where the cluster has none for it."""
    in_order = sorted(ranges)
    firsts = [first for first, _, _ in in_order]
    found: list[Node | None] = []
    for slot in slots:
        at = bisect_right(firsts, slot) - 1
        found.append(in_order[at][2] if at >= 0 and slot <= in_order[at][1] else None)
    return found


def agreed(answers: Sequence[Sequence[Node | None]]) -> list[Node | None]:
    """What most answers say of each slot; the first said of those that equally many do."""
    found: list[Node | None] = []
    for said in zip(*answers, strict=True):
        named = [node for node in said if node is not None]
        found.append(max(named, key=named.count) if named else None)
    return found


def changes(before: Sequence[Node], after: Sequence[Node | None]) -> dict[int, Node]:
    """What has another primary than before, and which. Where there is none now, all stays as it was."""
    return {
        index: new for index, (old, new) in enumerate(zip(before, after, strict=True)) if new is not None and new != old
    }
