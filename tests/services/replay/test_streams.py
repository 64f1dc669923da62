"""NDJSON streams of a session's history."""

import asyncio
import json

from tests.services.replay.rig import E1, E2, SESSION, World, frames_of, message, until

from heliograph.core.positions import Position
from heliograph.replay.scanning import BATCH


def at(seq: int, epoch: str = E1) -> str:
    return str(Position(epoch, seq))


async def test_a_stream_is_a_frame_a_line_and_ends_with_an_end(world: World) -> None:
    sent = [message(seq) for seq in range(1, BATCH + 100)]
    world.write(*sent)
    await world.start()
    *lines, end = await world.lines()
    assert lines == frames_of(*sent)
    assert json.loads(end) == {"type": "end", "next": None, "complete": True, "resume": None}


async def test_gaps_and_epochs_are_lines_in_their_place(world: World) -> None:
    world.write(message(1), message(3), message(1, E2))
    await world.start()
    lines = [json.loads(line) for line in await world.lines()]
    assert [line["type"] for line in lines] == ["message", "gap", "message", "epoch", "message", "end"]
    assert lines[1] == {"type": "gap", "session": SESSION, "reason": "never_written", "from": at(2), "to": at(2)}
    assert (lines[3]["from"], lines[3]["last"]) == (E2, at(3))


async def test_the_accept_header_asks_for_a_stream(world: World) -> None:
    world.write(message(1))
    await world.start()
    answer = await world.get(token={**world.headers(), "accept": "text/html, application/x-ndjson;q=0.9"})
    assert answer.headers["content-type"] == "application/x-ndjson"
    answer = await world.get(token={**world.headers(), "accept": "application/x-ndjson"}, format="json")
    assert answer.headers["content-type"] == "application/json"


async def test_a_bounded_stream_says_where_to_go_on(world: World) -> None:
    sent = [message(seq) for seq in range(1, 31)]
    world.write(*sent)
    await world.start(stream_messages=12)
    seen: list[bytes] = []
    *lines, last = await world.lines()
    end = json.loads(last)
    while not end["complete"]:
        assert len(lines) == 12
        seen += lines
        assert end["next"] == at(len(seen))
        *lines, last = await world.lines(after=end["next"], resume=end["resume"])
        end = json.loads(last)
    assert seen + lines == frames_of(*sent)


async def test_an_empty_stream_is_its_end(world: World) -> None:
    await world.start()
    assert len(await world.lines("acme:planner:never")) == 1


async def test_a_reader_that_goes_away_stops_the_read(world: World) -> None:
    world.write(*(message(seq, payload=b'"' + b"x" * 20_000 + b'"') for seq in range(1, 4 * BATCH)))
    await world.start()
    host, port = world.client.base_url.host, world.client.base_url.port
    reader, writer = await asyncio.open_connection(host, port, limit=1_024)
    token = world.headers()["authorization"]
    path = "/v1/history/" + SESSION.replace(":", "/") + "?format=ndjson"
    writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: {token}\r\n\r\n".encode())
    assert b"200 OK" in await reader.readline()
    assert world.http_log.reading == 1
    writer.transport.abort()
    await until(lambda: world.http_log.reading == 0)
    await until(lambda: world.value("readers_gone_total") == 1)
    await until(lambda: world.value("reads_held") == 0)
    assert world.value("records_scanned_total") < 4 * BATCH


async def test_a_log_that_fails_in_the_middle_is_said_and_the_stream_ends_where_it_can_go_on(world: World) -> None:
    world.write(*(message(seq) for seq in range(1, 3 * BATCH)))
    await world.start()
    scan = world.http_log.scan

    async def failing(*arguments: object, **options: object):  # type: ignore[no-untyped-def] # as the one it stands for
        count = 0
        async for step in scan(*arguments, **options):  # type: ignore[arg-type]
            count += 1
            if count == 3:
                world.log.available = False
            world.log.check()
            yield step

    world.http_log.scan = failing  # type: ignore[method-assign]
    *lines, error, end = await world.lines()
    assert json.loads(error)["code"] == "log_unavailable"
    said = json.loads(end)
    assert (said["complete"], said["next"]) == (False, at(len(lines)))
    assert len(lines) == 2 * BATCH


async def test_streams_end_when_the_service_stops(world: World) -> None:
    world.write(*(message(seq) for seq in range(1, 3 * BATCH)))
    await world.start()
    assert world.service is not None
    world.service.readiness.drain()
    *lines, end = await world.lines()
    said = json.loads(end)
    assert len(lines) == BATCH
    assert (said["complete"], said["next"]) == (False, at(BATCH))
