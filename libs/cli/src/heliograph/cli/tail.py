"""`heliograph tail`."""

import asyncio
import shlex
from typing import Annotated

import typer

from heliograph.cli.options import DEFAULT_URL, ConnectTimeout, Json, Session, TokenOption, Url, make_client, usage
from heliograph.cli.output import note, print_item, run
from heliograph.client import ClientState, Message, Subscription
from heliograph.protocol.frames import CURSOR


def tail(
    session: Session,
    start: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="latest|earliest|cursor|POSITION",
            help="Where to begin; `cursor`: behind what --consumer was shown last, anywhere.",
        ),
    ] = "latest",
    consumer: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Acknowledge what was shown, under this name, for --from cursor."),
    ] = None,
    count: Annotated[int | None, typer.Option("--count", "-n", min=1, help="End after so many messages.")] = None,
    url: Url = DEFAULT_URL,
    token: TokenOption = None,
    connect_timeout: ConnectTimeout = 10.0,
    json: Json = False,
) -> None:
    """Follow a session, over lost connections, until Ctrl-C.

    Messages come in order, each once; what will not come is shown as a gap. Ctrl-C says how to go on from there.

    With --consumer the server remembers what was shown: the same command with --from cursor goes on behind it, on any
    machine. Where it remembers nothing, that is the earliest message.
    """

    def on_state(state: ClientState, why: str) -> None:
        if state is ClientState.WAITING and not json:
            note(f"the connection is lost, coming back: {why}")

    async def work() -> None:
        if start == CURSOR and consumer is None:
            raise usage("--from cursor needs a name that the server remembers it by", "Add --consumer NAME.")
        client = make_client(url, token, connect_timeout, on_state=on_state, consumer=consumer)
        async with client, client.subscribe(session, start) as subscription:
            try:
                await _follow(subscription, count, acknowledge=consumer is not None, json=json)
            except asyncio.CancelledError:
                if subscription.position is not None and not json:
                    go_on = f"--consumer {shlex.quote(consumer)} --from cursor" if consumer else None
                    note(f"\ngo on with: heliograph tail {session} {go_on or f'--from {subscription.position}'}")
                raise

    run(work(), json=json)


async def _follow(subscription: Subscription, count: int | None, *, acknowledge: bool, json: bool) -> None:
    left = count
    told = False
    async for item in subscription:
        if subscription.cursor_missing and not told and not json:
            note("nothing was acknowledged under this name yet: from the earliest message on")
        told = True
        print_item(item, json=json)
        if acknowledge:
            await subscription.ack(item)
        if left is not None and isinstance(item, Message):
            left -= 1
            if left == 0:
                return
