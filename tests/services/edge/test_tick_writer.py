"""Frames of a tick go out with one write each, and a great many of them let others in between."""

import asyncio

import pytest

from heliograph.edge.tick_writer import CROWD_SLICE, FLUSH_SLICE, TickWriter


class Reader:
    """Collects frames as a connection does, and notes what each flush wrote."""

    def __init__(self, writer: TickWriter, log: list["Reader"]) -> None:
        self._writer = writer
        self._log = log
        self.waits = False
        self.out: list[int] = []
        self.written: list[list[int]] = []

    def post(self, frame: int, *, late: bool = False) -> None:
        if not self.out:
            (self._writer.schedule_late if late else self._writer.schedule)(self)
        elif self.waits and not late:
            self._writer.hurry(self)
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


async def test_whoever_comes_in_the_tick_of_a_crowd_goes_before_it(writer: TickWriter, log: list[Reader]) -> None:
    crowd = [Reader(writer, log) for _ in range(FLUSH_SLICE * 20)]
    for reader in crowd:
        reader.post(1, late=True)
    bystander = Reader(writer, log)
    bystander.post(1)
    await turns()
    assert log[0] is bystander
    assert len(log) == CROWD_SLICE + 1
    await turns(60)
    assert log[1:] == crowd, "each once, the first first"


async def test_what_is_for_one_of_a_crowd_alone_does_not_wait_for_the_crowd(
    writer: TickWriter, log: list[Reader]
) -> None:
    crowd = [Reader(writer, log) for _ in range(FLUSH_SLICE * 20)]
    for reader in crowd:
        reader.post(1, late=True)
    crowd[-1].post(2)
    await turns()
    assert log[0] is crowd[-1]
    assert crowd[-1].written == [[1, 2]], "in order, and with one write"
    await turns(60)
    assert log[1:] == crowd[:-1], "nobody twice"


async def test_one_that_came_out_of_a_crowd_may_stand_in_the_next(writer: TickWriter, log: list[Reader]) -> None:
    crowd = [Reader(writer, log) for _ in range(FLUSH_SLICE * 4)]
    last = crowd[-1]
    for reader in crowd:
        reader.post(1, late=True)
    last.post(2)
    await turns()
    for reader in crowd:
        reader.post(3, late=True)
    await turns(20)
    assert last.written == [[1, 2], [3]]
    for reader in crowd[:-1]:
        assert [frame for write in reader.written for frame in write] == [1, 3]
    assert all(log.count(reader) <= 2 for reader in crowd), "each was written to as often as it had something"
