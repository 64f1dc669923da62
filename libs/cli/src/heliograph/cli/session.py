"""`heliograph session`: what is done with a session as a whole."""

from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import urlsplit, urlunsplit

import httpx
import msgspec
import typer

from heliograph.cli.history import refused_answer
from heliograph.cli.options import (
    DEFAULT_URL,
    ConnectTimeout,
    Json,
    Session,
    TokenOption,
    Url,
    parse_duration_s,
    parse_time,
    usage,
)
from heliograph.cli.output import print_json, run, stdout
from heliograph.client import ConnectError
from heliograph.client.addresses import connect_url
from heliograph.core.sessions import SessionKey

ANSWER_TIMEOUT_S = 30.0
"""The edge answers when the log has the record of it."""

_HTTP = {"ws": "http", "wss": "https"}

app = typer.Typer(help="Sessions: expire.", no_args_is_help=True, add_completion=False)


@app.callback()
def session_() -> None:
    """Sessions: expire."""


class Answer(msgspec.Struct):
    """What the edge says."""

    session: str
    expires_at_ms: int
    gone_until_ms: int


@app.command()
def expire(
    session: Session,
    in_: Annotated[
        str | None, typer.Option("--in", metavar="DURATION", help="When so much time has passed: 30m, 12h, 7d.")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="At this time: 2026-01-31T12:00:00Z; one that has passed, or 7d for ago, too."
        ),
    ] = None,
    now: Annotated[bool, typer.Option("--now", help="At once.")] = False,
    url: Url = DEFAULT_URL,
    token: TokenOption = None,
    connect_timeout: ConnectTimeout = 10.0,
    json: Json = False,
) -> None:
    """Have a session's messages forgotten from a moment on.

    Once it has come, nobody is shown any message of that time or before: history, exports and resumes answer `expired`.
    Later messages are not touched. What is gone stays gone, also when another moment is set. Needs the scope `admin`.
    """

    async def work() -> None:
        key = SessionKey.parse(session)
        body = _body(in_, at, now=now)
        path = f"{_http_url(url)}/v1/sessions/{key.tenant}/{key.agent_type}/{key.session_id}/expiry"
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        timeout = httpx.Timeout(ANSWER_TIMEOUT_S, connect=connect_timeout)
        async with httpx.AsyncClient(headers=headers, timeout=timeout) as http:
            try:
                response = await http.put(path, json=body)
            except httpx.TransportError as error:
                message = f"{path}: {str(error) or type(error).__name__}"
                raise ConnectError("unreachable", message, (path,), error) from None
        if response.status_code != httpx.codes.OK:
            raise refused_answer(path, response, response.content)
        answer = msgspec.json.decode(response.content, type=Answer)
        if json:
            print_json(answer)
            return
        when = "has expired" if answer.gone_until_ms >= answer.expires_at_ms else "expires"
        stdout().print(f"[green]{when}[/] {answer.session}: messages up to {_time(answer.expires_at_ms)}")

    run(work(), json=json)


def _body(in_: str | None, at: str | None, *, now: bool) -> dict[str, Any]:
    if (in_ is not None) + (at is not None) + now != 1:
        raise usage("when is it to expire?", "Give one of --in, --at and --now.")
    if in_ is not None:
        return {"expires_in_s": parse_duration_s(in_)}
    if at is not None:
        return {"expires_at_ms": max(0, int(parse_time(at).timestamp() * 1000))}
    return {"expires_in_s": 0}


def _http_url(url: str) -> str:
    """The edge's HTTP address; of several the first."""
    parts = urlsplit(connect_url(url.split(",", maxsplit=1)[0].strip()))
    return urlunsplit((_HTTP[parts.scheme], parts.netloc, "", "", ""))


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
