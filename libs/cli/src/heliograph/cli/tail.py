"""`heliograph tail`."""

import asyncio
from typing import Annotated

import typer

from heliograph.cli.options import DEFAULT_URL, ConnectTimeout, Json, Session, TokenOption, Url, make_client
from heliograph.cli.output import note, print_item, run
from heliograph.client import ClientState, Message, Subscription


def tail(
    session: Session,
    start: Annotated[
        str, typer.Option("--from", metavar="latest|earliest|POSITION", help="Where to begin.")
    ] = "latest",
    count: Annotated[int | None, typer.Option("--count", "-n", min=1, help="End after so many messages.")] = None,
    url: Url = DEFAULT_URL,
    token: TokenOption = None,
    connect_timeout: ConnectTimeout = 10.0,
    json: Json = False,
) -> None:
    """Follow a session, over lost connections, until Ctrl-C.

    Messages come in order, each once; what will not come is shown as a gap. Ctrl-C says how to go on from there.
    """

    def on_state(state: ClientState, why: str) -> None:
        if state is ClientState.WAITING and not json:
            note(f"the connection is lost, coming back: {why}")

    async def work() -> None:
        client = make_client(url, token, connect_timeout, on_state=on_state)
        async with client, client.subscribe(session, start) as subscription:
            try:
                await _follow(subscription, count, json=json)
            except asyncio.CancelledError:
                if subscription.position is not None and not json:
                    note(f"\ngo on with: heliograph tail {session} --from {subscription.position}")
                raise

    run(work(), json=json)


async def _follow(subscription: Subscription, count: int | None, *, json: bool) -> None:
    left = count
    async for item in subscription:
        print_item(item, json=json)
        if left is not None and isinstance(item, Message):
            left -= 1
            if left == 0:
                return
