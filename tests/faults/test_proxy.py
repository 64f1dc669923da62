"""The fault-injecting proxy: what it carries arrives whole and in order, and each fault is what its name says."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from tests.faults.links import Link, Links, running_links

from heliograph.local.ports import LOOPBACK, free_port

DEADLINE_S = 30.0
SILENCE_S = 0.3
"""For what must not come: bytes that a link holds."""


@pytest.fixture(scope="module")
def links(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Links]:
    with running_links(tmp_path_factory.mktemp("proxy")) as made:
        yield made


class Echo:
    """A server that sends back what it gets, and ends when it is ended."""

    def __init__(self) -> None:
        self.port = 0
        self.ends: list[str] = []
        """How its connections ended: `eof` or `reset`."""
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
            self.ends.append("eof")
        except ConnectionError:
            self.ends.append("reset")
        writer.close()


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    made = Echo()
    server = await asyncio.start_server(made.serve, LOOPBACK, 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()
    for writer in made.writers:
        writer.transport.abort()


@pytest.fixture
def link(links: Links, echo: Echo) -> Link:
    return links.add(f"echo-{echo.port}", echo.port)


class Line:
    """A connection through a link."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, link: Link) -> "Line":
        return cls(*await asyncio.open_connection(LOOPBACK, link.port))

    async def says(self, data: bytes) -> float:
        """Send it and wait until it is back; how long that took."""
        began_s = time.monotonic()
        self.writer.write(data)
        async with asyncio.timeout(DEADLINE_S):
            assert await self.reader.readexactly(len(data)) == data
        return time.monotonic() - began_s

    @classmethod
    async def resets(cls, link: Link) -> bool:
        """Whether who connects is reset."""
        try:
            return await (await cls.to(link)).is_reset()
        except ConnectionError:
            return True

    async def silent(self) -> bool:
        """Whether nothing comes, and no end."""
        try:
            async with asyncio.timeout(SILENCE_S):
                await self.reader.read(1)
        except TimeoutError:
            return True
        return False

    async def is_reset(self) -> bool:
        """Whether it ends by a reset, and not in order."""
        async with asyncio.timeout(DEADLINE_S):
            try:
                await self.reader.read()
            except ConnectionResetError:
                return True
        return False

    def close(self) -> None:
        self.writer.transport.abort()


async def ends(echo: Echo, count: int = 1) -> list[str]:
    async with asyncio.timeout(DEADLINE_S):
        while len(echo.ends) < count:
            await asyncio.sleep(0.01)
    return echo.ends


async def test_what_it_carries_arrives_whole_and_in_order(link: Link) -> None:
    line = await Line.to(link)
    data = bytes(range(256)) * 16_384  # 4 MiB: more than all buffers on the way hold
    await line.says(data)
    told = link.told()
    assert (told["open"], told["made"], told["up"], told["down"]) == (1, 1, len(data), len(data))
    line.close()


async def test_an_end_is_passed_on_and_the_other_direction_goes_on(link: Link, echo: Echo) -> None:
    line = await Line.to(link)
    line.writer.write(b"last words")
    line.writer.write_eof()
    async with asyncio.timeout(DEADLINE_S):
        assert await line.reader.read() == b"last words"
    assert await ends(echo) == ["eof"]
    line.close()


async def test_a_reset_is_passed_on_as_a_reset(link: Link, echo: Echo) -> None:
    line = await Line.to(link)
    await line.says(b"x")
    link.reset()
    assert await line.is_reset()
    assert await ends(echo) == ["reset"]
    again = await Line.to(link)
    await again.says(b"back")
    again.close()


async def test_a_cut_link_resets_who_is_there_and_who_comes_until_it_is_healed(link: Link, echo: Echo) -> None:
    line = await Line.to(link)
    await line.says(b"x")
    link.cut()
    assert await line.is_reset()
    assert await ends(echo) == ["reset"]
    assert await Line.resets(link)
    assert len(echo.writers) == 1, "nobody new reached the server"
    link.heal()
    healed = await Line.to(link)
    await healed.says(b"z")
    healed.close()


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_a_held_direction_passes_nothing_and_then_all_of_it(link: Link, direction: str) -> None:
    line = await Line.to(link)
    await line.says(b"before")
    link.hold(direction)
    line.writer.write(b"held")
    assert await line.silent()
    link.heal()
    async with asyncio.timeout(DEADLINE_S):
        assert await line.reader.readexactly(4) == b"held"
    await line.says(b"after")
    line.close()


async def test_over_a_held_link_nobody_learns_that_the_other_is_gone(link: Link, echo: Echo) -> None:
    """Half open: the client is gone, the server still believes in it; then the link heals, and it learns."""
    line = await Line.to(link)
    await line.says(b"x")
    link.hold()
    line.close()
    other = await Line.to(link)  # the proxy answers for the target, which says nothing
    assert await other.silent()
    assert echo.ends == []
    link.heal()
    await ends(echo)
    await other.says(b"y")
    other.close()


async def test_frozen_connections_pass_nothing_and_later_ones_are_carried(link: Link) -> None:
    line = await Line.to(link)
    await line.says(b"before")
    link.freeze()
    line.writer.write(b"held")
    other = await Line.to(link)
    await other.says(b"carried")
    assert await line.silent()
    link.heal()
    async with asyncio.timeout(DEADLINE_S):
        assert await line.reader.readexactly(4) == b"held"
    for one in (line, other):
        await one.says(b"after")
        one.close()


async def test_a_held_link_stops_its_sender_instead_of_swallowing_for_it(link: Link) -> None:
    line = await Line.to(link)
    await line.says(b"x")
    link.hold("up")
    before = link.told()["up"]
    line.writer.write(b"x" * 64 * 1024 * 1024)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(SILENCE_S):
            await line.writer.drain()
    assert link.told()["up"] - before < 1024 * 1024
    line.close()


async def test_a_delay_is_added_with_jitter_and_bytes_keep_their_order(link: Link) -> None:
    line = await Line.to(link)
    link.delay(0.1, 0.05, "down")
    took = [await line.says(b"%d" % number) for number in range(5)]
    assert min(took) >= 0.05
    for number in range(50):
        line.writer.write(b"%03d" % number)
        await asyncio.sleep(0.002)  # chunks of their own, each with its own delay
    async with asyncio.timeout(DEADLINE_S):
        assert await line.reader.readexactly(150) == b"".join(b"%03d" % number for number in range(50))
    line.close()


async def test_a_throttled_direction_passes_so_many_bytes_a_second_over_all_its_connections(link: Link) -> None:
    lines = [await Line.to(link) for _ in range(2)]
    link.throttle(200_000, "up")
    began_s = time.monotonic()
    await asyncio.gather(*(line.says(b"x" * 100_000) for line in lines))
    took_s = time.monotonic() - began_s
    assert took_s >= 0.9, "200 kB at 200 kB/s"
    link.heal()
    assert await lines[0].says(b"x" * 100_000) < took_s
    for line in lines:
        line.close()


async def test_healing_lets_go_what_was_delayed_for_longer(link: Link) -> None:
    line = await Line.to(link)
    link.delay(3600.0)
    line.writer.write(b"x")
    assert await line.silent()
    link.heal()
    async with asyncio.timeout(DEADLINE_S):
        assert await line.reader.readexactly(1) == b"x"
    line.close()


async def test_nobody_at_the_target_is_a_reset(links: Links) -> None:
    nowhere = links.add("nowhere", free_port())
    assert await Line.resets(nowhere)


def test_what_it_does_not_know_is_said(links: Links) -> None:
    with pytest.raises(ValueError, match="KeyError"):
        links.ask(link="unheard-of")
