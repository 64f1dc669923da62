"""A load generator that needs nothing but Python: `python -m heliograph.local.bench.load -url … -protocol …`.

Flags and report are those of the outside generator that `HELIOGRAPH_BENCH_LOAD` may name, so that either serves. It
costs several times what a compiled one does: on few cores its own work shows in the latencies.

Every payload carries the time it was sent. One process connects, publishes and reports; readers share the subscribers.
"""

import argparse
import asyncio
import json
import math
import multiprocessing
import os
import sys
import time
from array import array
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as ReaderPipe
from pathlib import Path
from typing import Any

import uvloop

from heliograph.local.bench.client import HandshakeError, LoadClient, connect
from heliograph.local.bench.machine import cpu_s, raise_file_limit, rss_kb

MAX_READERS = 4
DIALERS = 32
"""Handshakes under way at once: enough to keep a server busy, below any backlog."""
IDLE_S = 1.5
"""Before idle memory is read: the server has answered everything by then."""
LATE_S = 5.0
"""What is not delivered so long after the last publish counts as lost."""
LOOK_S = 0.02
"""Between looks at how much was delivered."""
SAMPLED = 7
"""Each so many-th latency is kept, once there are some."""
SAMPLES_KEPT = 2_000
OVERHEAD_BYTES = 34
"""Of a payload besides its padding."""
_TIME = b'"t":'
_TROUBLE = (b'"refused"', b'"error"')


@dataclass
class Frames:
    """The protocol's frames, with places for what differs."""

    hello: list[str]
    subscribe: str
    publish: str
    ping: bytes
    pong: bytes

    @classmethod
    def read(cls, file: Path) -> "Frames":
        found = json.loads(file.read_text(encoding="utf-8"))
        ping, pong = found.get("Ping", ""), found.get("Pong", "")
        return cls(found["Hello"], found["Subscribe"], found["Publish"], ping.encode(), pong.encode())


@dataclass
class Seen:
    """What connections of one process got."""

    frames: Frames
    delivered: int = 0
    troubles: int = 0
    first_trouble: str = ""
    counting: bool = False
    latencies_ms: "array[float]" = field(default_factory=lambda: array("d"))

    def on_text(self, client: LoadClient, text: bytes) -> None:
        at = text.find(_TIME)
        if at >= 0:
            if self.counting:
                self.delivered += 1
                if self.delivered % SAMPLED == 0 or self.delivered < SAMPLES_KEPT:
                    sent_ns = int(text[at + 4 : text.index(b",", at)])
                    self.latencies_ms.append((time.time_ns() - sent_ns) / 1e6)
        elif self.frames.ping and self.frames.ping in text:
            client.send(self.frames.pong)
        elif _TROUBLE[0] in text or _TROUBLE[1] in text:
            self.troubles += 1
            self.first_trouble = self.first_trouble or text[:300].decode(errors="replace")


def flags() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="load", description=__doc__)
    made.add_argument("-protocol", type=Path, required=True)
    made.add_argument("-url", required=True)
    made.add_argument("-header", default="")
    made.add_argument("-prefix", default="bench-")
    made.add_argument("-pid", type=int, required=True)
    made.add_argument("-backing", default="")
    made.add_argument("-subs", type=int, default=1000)
    made.add_argument("-channels", type=int, default=1)
    made.add_argument("-pubs", type=int, default=1)
    made.add_argument("-rate", type=float, default=50)
    made.add_argument("-seconds", type=float, default=10)
    made.add_argument("-size", type=int, default=200)
    return made


async def open_all(
    options: argparse.Namespace, seen: Seen, numbers: list[int], *, subscribed: bool
) -> list[LoadClient]:
    """Connections of these numbers, DIALERS at a time, each said hello and, if wanted, subscribed."""
    clients: dict[int, LoadClient] = {}
    left = iter(numbers)

    async def dial() -> None:
        for number in left:
            client = clients[number] = await connect(options.url, options.header, seen.on_text)
            for hello in seen.frames.hello:
                client.send(hello.replace("%CONN%", str(number)).encode())
            if subscribed:
                channel = f"{options.prefix}{number % options.channels}"
                client.send(seen.frames.subscribe.replace("%CHANNEL%", channel).encode())

    await asyncio.gather(*(dial() for _ in range(DIALERS)))
    return [clients[number] for number in numbers]


# ---- readers --------------------------------------------------------------------------------------------------------


async def read(options: argparse.Namespace, numbers: list[int], pipe: ReaderPipe, delivered: Any, index: int) -> None:
    """One process of subscribers: connect, say so, count until told to stop, hand over what was seen."""
    seen = Seen(Frames.read(options.protocol))
    pipe.send("up")
    pipe.recv()
    try:
        clients = await open_all(options, seen, numbers, subscribed=True)
    except (HandshakeError, OSError) as error:
        pipe.send(str(error))
        return
    pipe.send("connected")
    seen.counting = True
    while not pipe.poll():
        delivered[index] = seen.delivered
        await asyncio.sleep(LOOK_S)
    closed = sum(client.lost for client in clients)
    pipe.send((seen.delivered, seen.latencies_ms.tobytes(), seen.troubles + closed, seen.first_trouble))
    for client in clients:
        client.close()


def reader(options: argparse.Namespace, numbers: list[int], pipe: ReaderPipe, delivered: Any, index: int) -> None:
    """Where a reader process begins."""
    uvloop.run(read(options, numbers, pipe, delivered, index))


# ---- publisher ------------------------------------------------------------------------------------------------------


async def publish(options: argparse.Namespace, clients: list[LoadClient], frames: Frames) -> int:
    """At the rate asked for; how many were sent."""
    padding = "x" * max(0, options.size - OVERHEAD_BYTES)
    seqs = [array("l", [0]) * options.channels for _ in clients]
    begin, sent = time.monotonic(), 0
    while (gone := time.monotonic() - begin) < options.seconds:
        due = int(gone * options.rate)
        while sent < due:
            channel, who = sent % options.channels, sent % len(clients)
            seqs[who][channel] += 1
            payload = f'{{"t":{time.time_ns()},"p":"{padding}"}}'
            text = (
                frames.publish.replace("%CHANNEL%", f"{options.prefix}{channel}")
                .replace("%N%", str(sent))
                .replace("%SEQ%", str(seqs[who][channel]))
                .replace("%PAYLOAD%", payload)
            )
            clients[who].send(text.encode())
            sent += 1
        await asyncio.sleep(0.001)
    return sent


def expected_deliveries(sent: int, subscribers: int, channels: int) -> int:
    """Publication n goes to channel n mod channels, subscriber i listens to channel i mod channels."""
    return sum(
        (subscribers // channels + (channel < subscribers % channels))
        * (sent // channels + (channel < sent % channels))
        for channel in range(channels)
    )


def quantile(ordered: list[float], share: float) -> float:
    return ordered[int(share * (len(ordered) - 1))] if ordered else 0.0


def per(amount: float, count: float) -> float:
    return amount / count if count else math.nan


async def answer(pipe: ReaderPipe) -> Any:
    """What a reader says next. Raises EOFError where it ended."""
    return await asyncio.to_thread(pipe.recv)


async def drive(options: argparse.Namespace, pipes: list[ReaderPipe], delivered: Any) -> None:
    """Everything but reading: wait for the readers, publish, wait for what is late, report."""
    pid, backing = options.pid, [int(one) for one in options.backing.split(",") if one]
    for pipe in pipes:
        await answer(pipe)
    begin, cpu, memory = time.monotonic(), cpu_s(pid), rss_kb(pid)
    for pipe in pipes:
        pipe.send("connect")
    for pipe in pipes:
        if (said := await answer(pipe)) != "connected":
            raise HandshakeError(said)
    took = time.monotonic() - begin
    await asyncio.sleep(IDLE_S)
    print(
        f"connected {options.subs} in {took:.2f}s ({options.subs / took:.0f}/s,"
        f" {(cpu_s(pid) - cpu) / options.subs * 1e6:.0f} CPU us each),"
        f" {(rss_kb(pid) - memory) / options.subs:.1f} KB RSS each",
        flush=True,
    )
    seen = Seen(Frames.read(options.protocol))
    numbers = list(range(options.subs, options.subs + options.pubs))
    publishers = await open_all(options, seen, numbers, subscribed=False)
    await asyncio.sleep(0.3)
    begin, cpu, behind = time.monotonic(), cpu_s(pid), sum(map(cpu_s, backing))
    sent = await publish(options, publishers, seen.frames)
    expected = expected_deliveries(sent, options.subs, options.channels)
    for _ in range(int(LATE_S / LOOK_S)):
        if sum(delivered) >= expected:
            break
        await asyncio.sleep(LOOK_S)
    took = time.monotonic() - begin
    spent, behind = cpu_s(pid) - cpu, sum(map(cpu_s, backing)) - behind
    latencies, troubles, first = array("d"), seen.troubles, seen.first_trouble
    await asyncio.sleep(0.1)  # a delivery too many would come now
    got = 0
    for pipe in pipes:
        pipe.send("stop")
        count, samples, more, text = await answer(pipe)
        latencies.frombytes(samples)
        got, troubles, first = got + count, troubles + more, first or text
    if first:
        print("first error:", first)
    ordered = sorted(latencies)
    print(
        f"sent {sent} ({sent / took:.0f}/s) delivered {got} of {expected} ({per(100 * got, expected):.2f}%)"
        f" {got / took:.0f}/s in {got} frames; errors {troubles}"
    )
    print("latency ms", *(f"{name} {quantile(ordered, share):.2f}" for name, share in _QUANTILES))
    print(
        f"server CPU us per delivery {per(spent * 1e6, got):.2f}, per publication {per(spent * 1e6, sent):.1f},"
        f" busy {spent / took * 100:.0f}%; backing CPU us per publication {per(behind * 1e6, sent):.1f}"
    )


_QUANTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0))


def main() -> int:
    options = flags().parse_args()
    raise_file_limit()
    count = min(MAX_READERS, max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1))
    context = multiprocessing.get_context("spawn")
    delivered = context.Array("q", count, lock=False)
    pipes, processes = [], []
    for index in range(count):
        ours, theirs = context.Pipe()
        numbers = list(range(index, options.subs, count))
        processes.append(context.Process(target=reader, args=(options, numbers, theirs, delivered, index), daemon=True))
        pipes.append(ours)
    for process in processes:
        process.start()
    try:
        uvloop.run(drive(options, pipes, delivered))
    except (HandshakeError, OSError, EOFError) as error:
        print(f"error: {error}")
        return 1
    finally:
        for process in processes:
            process.join(5)
            process.kill()
    return 0


if __name__ == "__main__":
    sys.exit(main())
