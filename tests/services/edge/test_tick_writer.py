"""Frames of a tick go out with one write each, and a great many of them let others in between."""

import asyncio

import pytest

from heliograph.edge.websocket import FLUSH_SLICE, TickWriter


class Reader:
    """Collects frames as a connection does, and notes what each flush wrote."""

    def __init__(self, writer: TickWriter, log: list["Reader"]) -> None:
        self._writer = writer
        self._log = log
        self.out: list[int] = []
        self.written: list[list[int]] = []

    def post(self, frame: int) -> None:
        if not self.out:
            self._writer.schedule(self)
        self.out.append(frame)

    def flush(self) -> None:
        self._log.append(self)
        self.written.append(list(self.out))
        self.out.clear()


async def turns(count: int = 1) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.fixture
async def writer() -> TickWriter:
    return TickWriter(asyncio.get_running_loop())


@pytest.fixture
def log() -> list[Reader]:
    return []


async def test_all_frames_of_a_tick_are_one_write(writer: TickWriter, log: list[Reader]) -> None:
    reader = Reader(writer, log)
    for frame in range(3):
        reader.post(frame)
    await turns()
    assert reader.written == [[0, 1, 2]]


async def test_a_fan_out_of_a_slice_goes_out_in_its_own_tick(writer: TickWriter, log: list[Reader]) -> None:
    crowd = [Reader(writer, log) for _ in range(FLUSH_SLICE)]
    for reader in crowd:
        reader.post(1)
    await turns()
    assert log == crowd


async def test_a_wide_fan_out_lets_others_in_between(writer: TickWriter, log: list[Reader]) -> None:
    crowd = [Reader(writer, log) for _ in range(FLUSH_SLICE * 20)]
    for reader in crowd:
        reader.post(1)
    await turns()
    assert len(log) < len(crowd)
    bystander = Reader(writer, log)
    bystander.post(1)
    await turns()
    assert bystander.written == [[1]]
    assert len(log) <= 4 * FLUSH_SLICE + 1
    await turns(30)
    assert [reader for reader in log if reader is not bystander] == crowd, "each once, the first first"


async def test_frames_that_come_meanwhile_keep_their_order(writer: TickWriter, log: list[Reader]) -> None:
    crowd = [Reader(writer, log) for _ in range(FLUSH_SLICE * 5)]
    for frame in range(40):
        for reader in crowd:
            reader.post(frame)
        await turns()
    await turns(20)
    for reader in crowd:
        assert [frame for write in reader.written for frame in write] == list(range(40))


async def test_nobody_waits_for_ever_behind_those_who_come_later(writer: TickWriter, log: list[Reader]) -> None:
    first = [Reader(writer, log) for _ in range(FLUSH_SLICE * 4)]
    for reader in first:
        reader.post(1)
    await turns()
    busy = [Reader(writer, log) for _ in range(FLUSH_SLICE)]
    for _ in range(10):
        for reader in busy:
            reader.post(1)
        await turns()
    assert all(reader.written for reader in first)
