"""The command line: its commands, and those that installed parts of a server bring along."""

from importlib.metadata import EntryPoint, entry_points, version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from heliograph.cli.capacity import capacity_
from heliograph.cli.exit_codes import MEANINGS, ExitCode
from heliograph.cli.exporting.command import export
from heliograph.cli.history import history
from heliograph.cli.output import CommandError, fail
from heliograph.cli.presence import presence
from heliograph.cli.publish import publish
from heliograph.cli.serve import serve
from heliograph.cli.session import app as session_app
from heliograph.cli.tail import tail
from heliograph.cli.token import app as token_app

COMMANDS_GROUP = "heliograph.commands"
"""Entry points: name → a typer application. `heliograph[server]` brings `tenant`, `heliograph[dev]` `dev`."""

SERVER_COMMANDS = {
    "dev": "All of Heliograph in this process, in memory; nothing is durable (a part of the server).",
    "import": "Write an export into this installation's log (a part of the server).",
    "tenant": "Tenants: apply, get, list, delete (a part of the server).",
}
"""Commands that are known though they may not be installed, so that they can say how to get them."""

EXTRAS = {"dev": "dev"}
"""Commands that another extra than `server` brings."""

EPILOG = "Exit status: " + ", ".join(f"{code.value} {meaning}" for code, meaning in MEANINGS.items()) + "."


class Commands(TyperGroup):
    """The group that also knows what entry points bring; a part is imported when its command is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *sorted(SERVER_COMMANDS.keys() | _installed().keys())]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        found = _installed().get(cmd_name)
        if found is not None:
            try:
                command = get_command(found.load())
            except ImportError as error:
                return _missing(cmd_name, f"{cmd_name} can't be loaded: {error}")
            command.name = cmd_name
            return command
        if cmd_name in SERVER_COMMANDS:
            return _missing(cmd_name, f"{cmd_name} is a part of the server, which is not installed")
        return None


def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=COMMANDS_GROUP)}


def _missing(name: str, why: str) -> Any:
    """A command in the place of one that can't be had."""
    stub = typer.Typer(help=SERVER_COMMANDS.get(name, ""), add_completion=False)
    install = f"pip install 'heliograph[{EXTRAS.get(name, 'server')}]'"

    @stub.command(name, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
    def missing() -> None:
        fail(CommandError("not_installed", why, ExitCode.FAILED, install), json=False)

    missing.__doc__ = SERVER_COMMANDS.get(name, "")
    command = get_command(stub)
    command.name, command.help = name, SERVER_COMMANDS.get(name, "")
    return command


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"heliograph {version('heliograph')}")
        raise typer.Exit


app = typer.Typer(
    name="heliograph",
    cls=Commands,
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def heliograph(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Heliograph: messages between AI agents, live and durable."""


app.command()(publish)
app.command()(tail)
app.command()(serve)
app.command()(history)
app.command()(export)
app.command()(presence)
app.command("capacity")(capacity_)
app.add_typer(session_app, name="session")
app.add_typer(token_app, name="token")
