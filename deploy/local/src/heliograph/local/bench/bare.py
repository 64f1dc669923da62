"""What the router and replay are held against: loops that do only what can't be left out.

`python -m heliograph.local.bench.bare router|scan …` prints one line of JSON: records, seconds, CPU seconds. A process
of its own, as the services are.
"""

import argparse
import json
import resource
import socket
import struct
import sys
import time
from typing import Any
from urllib.parse import urlsplit
from zlib import crc32

import hiredis
from confluent_kafka import Consumer, TopicPartition

from heliograph.core.limits import RECORD_OVERHEAD_BYTES, VIRTUAL_SHARDS
from heliograph.core.positions import EPOCH_LENGTH
from heliograph.stores import keys

BATCH = 1_000
"""Records at once, as the router's default."""
INDEX_POSITIONS = 64
INDEX_NEAR_POSITIONS = 16
INDEX_BYTES = 1024 * 1024
"""A session is indexed after so many positions, after fewer where so much of its partition has passed: the router's
rule. The share of records that either indexes is in the table, so that a difference shows."""
HEADERS_BYTES = 400
INDEX_KEPT = 2_000
INDEX_TTL_MS = 7 * 24 * 3600 * 1000
TOPIC_ID = "AAAAAAAAAAAAAAAAAAAAAA"
PATIENCE_S = 60.0


_pack: Any = hiredis.pack_command
"""Typed as taking one word only."""


class Redis:
    """Commands in one write, replies in one wait."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 6379))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()

    def run(self, commands: list[bytes]) -> None:
        """Raise the first error among the replies."""
        self._socket.sendall(b"".join(commands))
        for _ in commands:
            while (reply := self._reader.gets()) is False:
                self._reader.feed(self._socket.recv(262_144))
            for part in reply if isinstance(reply, list) else (reply,):
                if isinstance(part, Exception):
                    raise part


def confirm_commands(batch: dict[tuple[str, str], list[tuple[int, int]]]) -> list[bytes]:
    """One `hg1_confirm` for each virtual shard met."""
    shards: dict[int, tuple[list[bytes], list[bytes]]] = {}
    for (session, epoch), pairs in batch.items():
        number = crc32(session.encode()) % VIRTUAL_SHARDS
        found = shards.get(number)
        if found is None:
            of_shard = keys.ShardKeys.of(number)
            found = shards[number] = ([of_shard.shard, of_shard.dirty], [])
        named = keys.SessionKeys.of(session, number)
        found[0].extend((named.meta, named.ahead))
        flat = [part for pair in pairs for part in pair]
        packed = struct.pack(">" + "QI" * len(pairs), *flat)
        found[1].extend((session.encode(), session.partition(":")[0].encode(), epoch.encode(), packed))
    return [
        _pack((b"FCALL", b"hg1_confirm", str(len(its_keys)).encode(), *its_keys, *arguments))
        for its_keys, arguments in shards.values()
    ]


def index_commands(session: str, position: str, message: Any) -> list[bytes]:
    """One entry of the sparse index."""
    key = keys.index(session).encode()
    member = f"{position} {TOPIC_ID} {message.partition()} {message.offset()}".encode()
    return [
        _pack((b"ZADD", key, b"0", member)),
        _pack((b"ZREMRANGEBYRANK", key, b"0", b"%d" % (-INDEX_KEPT - 1))),
        _pack((b"PEXPIRE", key, b"%d" % INDEX_TTL_MS)),
    ]


def consumer(bootstrap_servers: str, group: str) -> Any:
    return Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "queued.min.messages": 20_000,
            "fetch.queue.backoff.ms": 20,
        }
    )


def read(client: Any) -> list[Any]:
    """The next batch, without errors. Raises TimeoutError where none comes."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = client.consume(1, 1.0)
        if found:
            found += client.consume(BATCH - 1, 0)
        messages = [message for message in found if message.error() is None]
        if messages:
            return messages
    raise TimeoutError(f"no record for {PATIENCE_S:g} s")


def route(options: argparse.Namespace) -> dict[str, int]:
    """Consume, confirm, index, commit: the router's work without its judgement."""
    client, redis = consumer(options.kafka, options.group), Redis(options.redis)
    client.subscribe([options.topic])
    done, indexed, passed = 0, dict[str, tuple[int, int]](), dict[int, int]()
    entries = 0
    while done < options.records:
        messages = read(client)
        batch: dict[tuple[str, str], list[tuple[int, int]]] = {}
        commands: list[bytes] = []
        for message in messages:
            position = next(value for name, value in message.headers() if name == "ce_sequence").decode()
            session, seq = message.key().decode(), int(position[EPOCH_LENGTH + 1 :])
            size = len(message.value()) + RECORD_OVERHEAD_BYTES
            batch.setdefault((session, position[:EPOCH_LENGTH]), []).append((seq, size))
            partition = message.partition()
            passed[partition] = at = passed.get(partition, 0) + len(message.value()) + HEADERS_BYTES
            last_seq, last_at = indexed.get(session, (-INDEX_POSITIONS, 0))
            if seq - last_seq >= (INDEX_POSITIONS if at - last_at < INDEX_BYTES else INDEX_NEAR_POSITIONS):
                indexed[session] = (seq, at)
                entries += 1
                commands += index_commands(session, position, message)
        redis.run(confirm_commands(batch) + commands)
        client.commit(message=messages[-1], asynchronous=True)
        done += len(messages)
    client.close()
    return {"records": done, "indexed": entries}


def scan(options: argparse.Namespace) -> dict[str, int]:
    """Read one partition from its beginning to its end; of one key's records also value and headers, which hold what a
    frame is made of."""
    client = consumer(options.kafka, options.group)
    place = TopicPartition(options.topic, options.partition, 0)
    _, end = client.get_watermark_offsets(place)
    client.assign([place])
    done, found, key, at = 0, 0, options.key.encode(), -1
    while at < end - 1:
        messages = read(client)
        for message in messages:
            if message.key() == key:
                found += bool(message.value() and message.headers())
        done, at = done + len(messages), messages[-1].offset()
    client.close()
    if found != options.records:
        raise ValueError(f"{found} records of the session were found, {options.records} should be there")
    return {"records": done}


def main() -> int:
    made = argparse.ArgumentParser(prog="python -m heliograph.local.bench.bare")
    made.add_argument("work", choices=("router", "scan"))
    made.add_argument("--kafka", required=True)
    made.add_argument("--redis", default="")
    made.add_argument("--topic", required=True)
    made.add_argument("--group", required=True)
    made.add_argument("--records", type=int, required=True)
    made.add_argument("--partition", type=int, default=0)
    made.add_argument("--key", default="")
    options = made.parse_args()
    before, at = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    counts = route(options) if options.work == "router" else scan(options)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({**counts, "took_s": time.monotonic() - at, "cpu_s": cpu_s}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
