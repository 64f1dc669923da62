"""What the command says: results on stdout, everything else on stderr, both as JSON where that is asked for.

This module must never print a token, nor a payload that was not asked for.
"""

import asyncio
import os
import sys
from collections.abc import Coroutine, Iterable, Sequence
from datetime import datetime
from typing import Any, NoReturn, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from heliograph.cli.exit_codes import HINTS, ExitCode, exit_code
from heliograph.client import HeliographError, Message
from heliograph.client.messages import Gap

T = TypeVar("T")


class CommandError(HeliographError):
    """An error of the command's own, with its exit status and what to do about it."""

    def __init__(self, code: str, message: str, status: ExitCode = ExitCode.FAILED, hint: str = "") -> None:
        super().__init__(code, message)
        self.status = status
        self.hint = hint


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to `run`; rich would end the process with 1."""
        raise BrokenPipeError


def stdout() -> Console:
    """Made for each use: tests and pipes replace sys.stdout."""
    return _Console(soft_wrap=True, highlight=False)


def stderr() -> Console:
    return Console(stderr=True, soft_wrap=True, highlight=False)


def print_json(value: object) -> None:
    """One line."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Something a person may want to know, on stderr."""
    stderr().print(escape(text), style="dim")


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(title=title or None, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, style=None, header_style="dim", overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    stdout().print(table)


def run(work: Coroutine[Any, Any, T], *, json: bool) -> T:
    """Run a command's coroutine; its errors become a message, a hint and an exit status."""
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    except BrokenPipeError:  # whoever read our output has enough (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(ExitCode.OK) from None
    except HeliographError as error:
        fail(error, json=json)


def fail(error: HeliographError, *, json: bool) -> NoReturn:
    """Say what went wrong and what to do next, and end."""
    if isinstance(error, CommandError):
        status, hint = error.status, error.hint or HINTS.get(error.code, "")
    else:
        status, hint = exit_code(error), HINTS.get(error.code, "")
    if json:
        shown = {"error": {"code": error.code, "message": error.message, "hint": hint, "exit": int(status)}}
        sys.stderr.write(msgspec.json.encode(shown).decode() + "\n")
    else:
        console = stderr()
        console.print(f"[bold red]error[/] [bold]{escape(error.code)}[/]: {escape(error.message)}")
        if hint:
            console.print(f"       {escape(hint)}", style="dim")
    raise typer.Exit(status)


# ---- messages -------------------------------------------------------------------------------------------------------


def item_json(item: Message | Gap) -> dict[str, Any]:
    """A message or gap as its wire frame says it, the payload decoded (a base64 text where it is not JSON)."""
    if isinstance(item, Gap):
        gap = {"type": "gap", "session": item.session, "reason": item.reason, "certain": item.certain}
        return gap | {key: value for key, value in (("from", item.first), ("to", item.last)) if value is not None}
    shown: dict[str, Any] = {
        "type": "message",
        "position": item.position,
        "session": item.session,
        "message_id": item.id,
        "time": item.time_ms,
        "producer": item.producer,
        "class": item.class_.value,
        "event_type": item.event_type,
        "correlation_id": item.correlation_id,
        "causation_id": item.causation_id,
        "reply_to": item.reply_to,
        "content_type": item.content_type,
        "traceparent": item.traceparent,
        "payload": msgspec.Raw(item.payload),
    }
    return {key: value for key, value in shown.items() if value is not None}


def print_item(item: Message | Gap, *, json: bool) -> None:
    if json:
        print_json(item_json(item))
        return
    console = stdout()
    if isinstance(item, Gap):
        where = f"{item.first or 'unknown'} … {item.last or 'the next message'}"
        what = "messages will not come" if item.certain else "messages may be missing"
        console.print(f"[yellow]gap      {escape(item.reason)}: {what} ({where})[/]")
        return
    at = datetime.fromtimestamp(item.time_ms / 1000).astimezone().strftime("%H:%M:%S.%f")[:-3]
    kind = f" [cyan]{escape(item.event_type)}[/]" if item.event_type else ""
    colour = {"control": "bold magenta", "telemetry": "dim"}.get(item.class_, "default")
    data = f"<{len(item.data)} bytes of {item.content_type}>" if isinstance(item.data, bytes) else item.payload.decode()
    head = f"[dim]{at}[/] [{colour}]{item.class_.value:9}[/] [green]{escape(item.producer)}[/]{kind} "
    console.print(head + escape(printable(data)))


def printable(text: str) -> str:
    """Without what a terminal would obey: a payload is somebody else's text."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
