"""`heliograph publish`."""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from heliograph.cli import stdin
from heliograph.cli.options import (
    DEFAULT_URL,
    ConnectTimeout,
    Json,
    Session,
    TokenOption,
    Url,
    make_client,
    usage,
)
from heliograph.cli.output import print_json, run, stderr, stdout
from heliograph.client import AckMode, Client, HeliographError, MessageClass, Receipt
from heliograph.core.sessions import SessionKey
from heliograph.protocol.messages import is_json

LINES_UNDER_WAY = 256
"""Lines read ahead of their answers: a few windows of 64."""


def publish(
    session: Session,
    data: Annotated[str, typer.Argument(metavar="DATA|-", help="The payload, JSON; - reads it from stdin.")],
    class_: Annotated[MessageClass, typer.Option("--class", help="What may happen to it under pressure.")] = (
        MessageClass.EVENT
    ),
    ack: Annotated[AckMode | None, typer.Option(help="What to wait for. Default: durable.", show_default=False)] = None,
    id_: Annotated[
        str | None, typer.Option("--id", help="Makes it idempotent: the same id again is the same message.")
    ] = None,
    event_type: Annotated[str | None, typer.Option("--type", help="CloudEvents type, such as com.acme.plan.")] = None,
    correlation_id: Annotated[str | None, typer.Option(help="The conversation it belongs to.")] = None,
    causation_id: Annotated[str | None, typer.Option(help="Id of the message that it answers.")] = None,
    reply_to: Annotated[str | None, typer.Option(help="The session that answers should go to.")] = None,
    content_type: Annotated[str | None, typer.Option(help="Media type; anything but JSON is sent as bytes.")] = None,
    text: Annotated[bool, typer.Option("--text", help="DATA is text, not JSON: sent as a JSON string.")] = False,
    lines: Annotated[bool, typer.Option("--lines", help="Each line is a message of its own.")] = False,
    wait: Annotated[
        float, typer.Option(help="Seconds to wait for the log where it is slow; the exit status is 6 after that.")
    ] = 30.0,
    retry: Annotated[bool, typer.Option(help="Try again for a while what is refused for now.")] = True,
    url: Url = DEFAULT_URL,
    token: TokenOption = None,
    connect_timeout: ConnectTimeout = 10.0,
    json: Json = False,
) -> None:
    """Publish a message, or one for each line.

    Says where it stands: the position in its session. Ends with 0 only when the message is as safe as --ack asks.
    """
    fields: dict[str, Any] = {
        "cls": class_,
        "ack": ack,
        "event_type": event_type,
        "correlation_id": correlation_id,
        "causation_id": causation_id,
        "reply_to": reply_to,
        "content_type": content_type,
        "retry": retry,
    }
    durable = class_ is not MessageClass.TELEMETRY and ack in (None, AckMode.DURABLE)

    async def work() -> None:
        SessionKey.parse(session)
        if lines and id_ is not None:
            raise usage("--id names one message, --lines publishes many", "Leave one of them out.")
        if not lines:
            value = _payload(data.encode() if data != "-" else await stdin.everything(), content_type, text=text)
        async with make_client(url, token, connect_timeout) as client:
            if lines:
                await _publish_lines(
                    client, session, data, fields, text=text, wait_s=wait if durable else None, json=json
                )
                return
            receipt = await client.publish(session, value, id=id_, **fields)
            if durable:
                await receipt.durable(timeout=wait)
            _show(receipt, json=json)

    run(work(), json=json)


def _payload(raw: bytes, content_type: str | None, *, text: bool) -> Any:
    """What to publish: bytes for a type that is not JSON, else the JSON as it stands."""
    if not is_json(content_type):
        return raw
    if text:
        return raw.decode(errors="replace")
    try:
        raw.decode()
        msgspec.json.decode(raw)
    except (UnicodeDecodeError, msgspec.MsgspecError, RecursionError) as error:
        raise usage(
            f"DATA is no JSON: {error}", "Quote it for the shell ('{\"a\": 1}'), or send it with --text."
        ) from None
    return msgspec.Raw(raw.strip())


async def _publish_lines(
    client: Client, session: str, data: str, fields: dict[str, Any], *, text: bool, wait_s: float | None, json: bool
) -> None:
    """Every line in order, many under way at once. The first that fails ends it; those before it are in."""
    window = asyncio.Semaphore(LINES_UNDER_WAY)
    done = 0
    columns = (TextColumn("{task.completed} published"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=stderr(), transient=True, disable=json or not sys.stderr.isatty()) as progress:
        bar = progress.add_task("", total=None)

        async def one(value: Any, number: int) -> None:
            nonlocal done
            try:
                receipt = await client.publish(session, value, **fields)
                if wait_s is not None:
                    await receipt.durable(timeout=wait_s)
            finally:
                window.release()
            done += 1
            progress.update(bar, advance=1)
            if json:
                print_json({"line": number, **_receipt_json(receipt)})

        try:
            async with asyncio.TaskGroup() as group:
                number = 0
                async for line in _lines(data):
                    number += 1
                    await window.acquire()
                    group.create_task(one(_payload(line, fields["content_type"], text=text), number))
        except* HeliographError as errors:
            raise _first(errors) from None
    if not json:
        stdout().print(f"[green]published[/] {done} messages to {session}")


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """One error of the group: the others are of messages behind it, or of its own cancellation."""
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


async def _lines(data: str) -> AsyncIterator[bytes]:
    """Lines that are not empty."""
    if data == "-":
        async for line in stdin.lines():
            if line.strip():
                yield line
        return
    for line in data.encode().splitlines():
        if line.strip():
            yield line


def _receipt_json(receipt: Receipt) -> dict[str, Any]:
    return {
        "session": receipt.session,
        "message_id": receipt.message_id,
        "position": receipt.position,
        "durable": receipt.is_durable,
        "duplicate": receipt.duplicate,
        "deferred": receipt.deferred,
    }


def _show(receipt: Receipt, *, json: bool) -> None:
    if json:
        print_json(_receipt_json(receipt))
        return
    how = "durable" if receipt.is_durable else "accepted" if receipt.position else "sent"
    also = ", had it already" if receipt.duplicate else ", in its place once the live path is back" * receipt.deferred
    at = f" at {receipt.position}" if receipt.position else ""
    stdout().print(f"[green]{how}[/]{at} ({receipt.message_id or 'no id'}{also})")
