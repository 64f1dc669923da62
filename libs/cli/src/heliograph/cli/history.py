"""`heliograph history`: a session as the log has it, from the replay service."""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Annotated

import httpx
import msgspec
import typer

from heliograph.cli.options import (
    DEFAULT_REPLAY_URL,
    ConnectTimeout,
    Json,
    ReplayUrl,
    Session,
    TokenOption,
    parse_time,
    usage,
)
from heliograph.cli.output import note, print_item, run
from heliograph.client import (
    AuthenticationError,
    ConnectError,
    Gap,
    HeliographError,
    InvalidValueError,
    Message,
    RefusedError,
)
from heliograph.core.positions import Position
from heliograph.core.sessions import SessionKey
from heliograph.protocol.frames import Epoch as EpochFrame
from heliograph.protocol.frames import Error, FrameError, MessageFrame, decode_server_frame
from heliograph.protocol.frames import Gap as GapFrame

NDJSON = "application/x-ndjson"
READ_TIMEOUT_S = 60.0
"""Between two lines: a scan of a long log may find nothing for a while."""
ASKED_LIMIT = 1_000
"""A higher limit is not told to the service, which has a bound on the number; the command stops by itself."""
FRUITLESS_ANSWERS = 5
"""Answers in a row that brought nothing new, until the command gives up."""
PAUSE_S = 0.5
"""Before asking again after an answer that brought nothing."""


def history(
    session: Session,
    after: Annotated[str | None, typer.Option(metavar="POSITION", help="Only what comes after this position.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="From this time on: 2026-01-31T12:00:00Z, or ago: 15m, 2h, 7d.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME|POSITION", help="Up to this time, or this position.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, help="At most so many messages.")] = None,
    replay_url: ReplayUrl = DEFAULT_REPLAY_URL,
    token: TokenOption = None,
    connect_timeout: ConnectTimeout = 10.0,
    json: Json = False,
) -> None:
    """Read a session back from the log.

    Oldest first, in order; gaps are shown where retention or a fault left one. Where the service ends an answer before
    the end, the command goes on from there by itself.
    """

    async def work() -> None:
        key = SessionKey.parse(session)
        query: dict[str, str] = {}
        if after is not None and since is not None:
            raise usage("--after and --since both say where to begin", "Leave one of them out.")
        if after is not None:
            query["after"] = str(Position.parse(after))
        if since is not None:
            query["from_time"] = parse_time(since).isoformat(timespec="milliseconds")
        if until is not None:
            query |= _until(until)
        headers = {"Accept": NDJSON} | ({"Authorization": f"Bearer {token}"} if token else {})
        path = f"{replay_url.rstrip('/')}/v1/history/{key.tenant}/{key.agent_type}/{key.session_id}"
        timeout = httpx.Timeout(READ_TIMEOUT_S, connect=connect_timeout)
        async with httpx.AsyncClient(headers=headers, timeout=timeout) as http:
            shown = 0
            async for item in read_history(http, path, query, limit):
                print_item(item, json=json)
                shown += isinstance(item, Message)
        if not json and sys.stdout.isatty():
            note(f"{shown} messages")

    run(work(), json=json)


def _until(text: str) -> dict[str, str]:
    """A time, or the last position that is wanted."""
    try:
        return {"until": str(Position.parse(text))}
    except InvalidValueError:
        return {"until_time": parse_time(text).isoformat(timespec="milliseconds")}


class Ended(msgspec.Struct, tag="end", tag_field="type"):
    """The last line of a stream."""

    complete: bool
    next: str | None = None
    resume: str | None = None


class _Details(msgspec.Struct):
    code: str
    message: str
    retry_after_ms: int | None = None


class _Problem(msgspec.Struct):
    """The body of an error answer (RFC 9457, with `error` of our own)."""

    error: _Details


_ended = msgspec.json.Decoder(Ended)
_problem = msgspec.json.Decoder(_Problem)


async def read_history(
    http: httpx.AsyncClient, path: str, query: dict[str, str], limit: int | None
) -> AsyncIterator[Message | Gap]:
    """Messages and gaps, over as many answers as it takes. Ends where the log does, or after `limit` messages.

    An answer that breaks off (a service that restarts, a lost connection) is gone on with from its last message.
    Raises ConnectError, AuthenticationError, RefusedError.
    """
    query = dict(query)
    left = limit
    fruitless = 0
    while left is None or left > 0:
        asked = query | ({"limit": str(left)} if left is not None and left <= ASKED_LIMIT else {})
        last: str | None = None
        end: Ended | None = None
        failure: HeliographError | None = None
        try:
            async for item in _one_answer(http, path, asked):
                if isinstance(item, Ended):
                    end = item
                    continue
                last = item.position if isinstance(item, Message) else item.last or last
                if isinstance(item, Message) and left is not None:
                    left -= 1
                yield item
                if left == 0:
                    return
        except (ConnectError, RefusedError) as error:
            if last is None and not (isinstance(error, RefusedError) and error.retry):
                raise
            failure = error
        if end is not None and end.complete:
            return
        go_on = (end.next if end is not None else None) or last
        fruitless = 0 if go_on is not None and go_on != query.get("after") else fruitless + 1
        if fruitless > FRUITLESS_ANSWERS:
            raise failure or ConnectError("history_unavailable", "the answers break off without getting any further")
        if go_on is not None:
            query.pop("from_time", None)
            query["after"] = go_on
        query.pop("resume", None)
        if end is not None and end.resume is not None:
            query["resume"] = end.resume
        if fruitless:
            await asyncio.sleep(PAUSE_S)


async def _one_answer(
    http: httpx.AsyncClient, path: str, query: dict[str, str]
) -> AsyncIterator[Message | Gap | Ended]:
    """The lines of one answer; an `Ended` as the last, unless it was cut off."""
    try:
        async with http.stream("GET", path, params=query) as response:
            if response.status_code != httpx.codes.OK:
                raise refused_answer(path, response, await response.aread())
            async for line in response.aiter_lines():
                item = _item(line)
                if item is not None:
                    yield item
    except httpx.TransportError as error:
        message = f"{path}: {str(error) or type(error).__name__}"
        raise ConnectError("unreachable", message, (path,), error) from None


def _item(line: str) -> Message | Gap | Ended | None:
    if line.startswith('{"type":"end"'):
        return _ended.decode(line)
    try:
        frame = decode_server_frame(line) if line else None
    except FrameError as error:
        raise ConnectError("malformed", f"replay sent what can't be read: {error.message}") from None
    match frame:
        case MessageFrame():
            return Message(frame)
        case GapFrame():
            return Gap(frame.session, frame.reason, frame.first, frame.last)
        case EpochFrame() if not frame.certain:
            return Gap(frame.session, "epoch", None, None, certain=False)
        case Error():
            raise RefusedError(frame.code, frame.message, "", PAUSE_S)
        case _:
            return None


def refused_answer(
    path: str, response: httpx.Response, body: bytes, service: str = "replay service"
) -> HeliographError:
    try:
        problem = _problem.decode(body).error
    except msgspec.MsgspecError:
        return ConnectError("unreachable", f"{path}: HTTP {response.status_code}, and no answer of a {service}")
    if response.status_code == httpx.codes.UNAUTHORIZED:
        return AuthenticationError(problem.code, problem.message, (path,))
    after_s = problem.retry_after_ms / 1000 if problem.retry_after_ms is not None else None
    return RefusedError(problem.code, problem.message, path, after_s)
