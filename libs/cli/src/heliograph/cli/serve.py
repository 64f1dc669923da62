"""`heliograph serve`: an agent made of any program."""

import asyncio
import os
import shlex
from contextlib import suppress
from typing import Annotated

import msgspec
import typer

from heliograph.cli.exit_codes import ExitCode
from heliograph.cli.options import DEFAULT_URL, ConnectTimeout, Json, TokenOption, Url, make_client, usage
from heliograph.cli.output import CommandError, item_json, note, print_item, run
from heliograph.client import Client, ClientState, Gap, Message, WorkSession


def serve(
    agent_type: Annotated[str, typer.Argument(metavar="AGENT_TYPE", help="The kind of agent to be, such as planner.")],
    command: Annotated[
        str | None,
        typer.Option("--exec", metavar="COMMAND", help="Run this for each message; without it they are shown."),
    ] = None,
    reply: Annotated[
        bool, typer.Option("--reply", help="Publish what COMMAND writes, as the answer (JSON, or else a text).")
    ] = False,
    capacity: Annotated[int, typer.Option(min=1, max=10_000, help="Sessions at a time.")] = 8,
    idle_s: Annotated[
        float, typer.Option("--idle", metavar="SECONDS", min=0.01, help="Give a session back that is quiet so long.")
    ] = 30.0,
    count: Annotated[int | None, typer.Option("--count", "-n", min=1, help="End after so many messages.")] = None,
    url: Url = DEFAULT_URL,
    token: TokenOption = None,
    connect_timeout: ConnectTimeout = 10.0,
    json: Json = False,
) -> None:
    """Work on sessions of an agent type, until Ctrl-C.

    Sessions come when they have a message that no worker has seen; one worker has a session at a time. COMMAND is run
    once for each message, of one session in turn, with the message as a line of JSON on its standard input, and
    HELIOGRAPH_SESSION in its environment. When it ends with 0 the message is done with; otherwise the message comes
    again, to this worker or another. Gaps are shown on standard error.
    """

    def on_state(state: ClientState, why: str) -> None:
        if state is ClientState.WAITING and not json:
            note(f"the connection is lost, coming back: {why}")

    async def work() -> None:
        words = _words(command)
        if reply and not words:
            raise usage("--reply needs a command whose output is the answer", "Add --exec COMMAND.")
        async with make_client(url, token, connect_timeout, on_state=on_state) as client:
            await _serve(client, agent_type, _Program(client, words, reply=reply, json=json), capacity, idle_s, count)

    run(work(), json=json)


def _words(command: str | None) -> list[str]:
    """The program and its arguments, as a shell splits them; empty where there is none."""
    if command is None:
        return []
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise usage(f"--exec can't be read: {error}", "Quote it as in a shell.") from None
    if not words:
        raise usage("--exec is empty", "Name a program, such as --exec './agent.sh --fast'.")
    return words


class _Program:
    """What is done with a message."""

    def __init__(self, client: Client, words: list[str], *, reply: bool, json: bool) -> None:
        self._client = client
        self._words = words
        self._reply = reply
        self._json = json

    async def handle(self, item: Message) -> None:
        """Raises CommandError where the command failed: the message is not done with."""
        if not self._words:
            print_item(item, json=self._json)
            return
        environment = {**os.environ, "HELIOGRAPH_SESSION": item.session, "HELIOGRAPH_MESSAGE_ID": item.id}
        try:
            process = await asyncio.create_subprocess_exec(
                *self._words,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE if self._reply else None,
                env=environment,
            )
        except OSError as error:
            raise CommandError("command_failed", f"{self._words[0]} can't be run: {error}", ExitCode.USAGE) from None
        try:
            written, _ = await process.communicate(msgspec.json.encode(item_json(item)) + b"\n")
        except BaseException:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        if process.returncode != 0:
            raise CommandError("command_failed", f"{self._words[0]} ended with {process.returncode}")
        if written and written.strip():
            await self._client.reply(item, _answer(written))


def _answer(written: bytes) -> object:
    """JSON as it is, anything else as a text."""
    try:
        return msgspec.json.decode(written)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return written.decode(errors="replace").rstrip("\n")


async def _serve(
    client: Client, agent_type: str, program: _Program, capacity: int, idle_s: float, count: int | None
) -> None:
    enough: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    done = 0

    async def handle(session: WorkSession, item: Message | Gap) -> None:
        nonlocal done
        if isinstance(item, Gap):
            note(f"{session.session}: {item.reason}: messages will not come, up to {item.last or 'the next'}")
            return
        try:
            await program.handle(item)
        except CommandError as error:
            if error.status is ExitCode.USAGE and not enough.done():
                enough.set_exception(error)
            note(f"{session.session}: {error.message}; the message comes again")
            raise
        await session.ack(item)
        done += 1
        if done == count and not enough.done():
            enough.set_result(None)

    serving = asyncio.create_task(client.serve_each(agent_type, handle, capacity=capacity, idle_s=idle_s))
    try:
        await asyncio.wait([serving, enough], return_when=asyncio.FIRST_COMPLETED)
        if enough.done():
            await enough
        else:
            await serving
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
