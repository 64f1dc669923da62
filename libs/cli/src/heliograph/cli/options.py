"""Options that several commands share, and the environment variables that set them."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from heliograph.cli.exit_codes import ExitCode
from heliograph.cli.output import CommandError
from heliograph.client import Client, ClientSettings, ClientState

DEFAULT_URL = "ws://127.0.0.1:8080"
DEFAULT_REPLAY_URL = "http://127.0.0.1:8081"

Session = Annotated[str, typer.Argument(metavar="SESSION", help="tenant:agent-type:session-id", show_default=False)]
Url = Annotated[
    str,
    typer.Option("--url", envvar="HELIOGRAPH_URL", help="The edge; several with commas between them."),
]
ReplayUrl = Annotated[str, typer.Option("--replay-url", envvar="HELIOGRAPH_REPLAY_URL", help="The replay service.")]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token", envvar="HELIOGRAPH_TOKEN", help="Who you are. Better in the variable: arguments are visible to all.",
        show_default=False, show_envvar=True,
    ),
]  # fmt: skip
Json = Annotated[bool, typer.Option("--json", envvar="HELIOGRAPH_JSON", help="One JSON object a line.")]
ConnectTimeout = Annotated[
    float,
    typer.Option("--connect-timeout", envvar="HELIOGRAPH_CONNECT_TIMEOUT_S", help="Seconds until nobody is there."),
]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhdw]?)", re.ASCII)


def usage(message: str, hint: str = "") -> CommandError:
    """The command line is wrong."""
    return CommandError("value_invalid", message, ExitCode.USAGE, hint)


def make_client(
    url: str,
    token: str | None,
    connect_timeout_s: float,
    on_state: Callable[[ClientState, str], None] | None = None,
    consumer: str | None = None,
) -> Client:
    """A client for one command."""
    urls = [part.strip() for part in url.split(",") if part.strip()]
    settings = ClientSettings(connect_timeout_s=connect_timeout_s)
    return Client(urls, token=token, producer="cli", consumer=consumer, settings=settings, on_state=on_state)


def parse_duration_s(text: str) -> float:
    """`90`, `15m`, `2h`, `7d` in seconds."""
    found = _DURATION.fullmatch(text.strip())
    if not found:
        raise usage(f"{text!r} is no duration", "Write a number and s, m, h, d or w, such as 15m.")
    return float(found[1]) * _UNITS[found[2] or "s"]


def parse_time(text: str, now: datetime | None = None) -> datetime:
    """A time: RFC 3339, a date, or how long ago (`15m`)."""
    now = now or datetime.now(UTC)
    if _DURATION.fullmatch(text.strip()) and text.strip()[-1:] in _UNITS:
        return now - timedelta(seconds=parse_duration_s(text))
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        raise usage(f"{text!r} is no time", "Write 2026-01-31T12:00:00Z, 2026-01-31, or how long ago: 15m.") from None
    return at if at.tzinfo is not None else at.astimezone()
