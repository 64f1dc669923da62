"""`heliograph dev`: everything in one process, for a first look. It must say, however it is asked, what it is not."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from heliograph.cli.exit_codes import ExitCode
from heliograph.cli.keys import SigningKey
from heliograph.cli.options import Json
from heliograph.cli.output import CommandError, fail, print_json, stdout
from heliograph.core.errors import HeliographError
from heliograph.dev.options import DEMO_TENANT, NOTHING_IS_DURABLE, DevOptions, DevServerError
from heliograph.dev.running import run
from heliograph.dev.server import DevServer

HINTS = {"port_taken": "--port 9000 takes 9000 to 9003, --port 0 free ones."}
"""What to do about an error, by its code."""

app = typer.Typer(add_completion=False)


@app.command()
def dev(
    port: Annotated[
        int,
        typer.Option(
            min=0, max=65_532, help="The edge's; replay, registry and router take the next three. 0: free ones."
        ),
    ] = 8080,
    host: Annotated[str, typer.Option(help="Where it listens. Beyond loopback, everybody who can reach it may.")] = (
        "127.0.0.1"
    ),
    tenant: Annotated[
        list[str] | None,
        typer.Option(
            "--tenant", metavar="NAME", help="A tenant to have; repeat it for several.", show_default=DEMO_TENANT
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            help="The key that signs for the tenants (`heliograph token keygen` makes one), so that tokens "
            "outlive a restart. Default: a new one.",
            show_default=False,
        ),
    ] = None,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        typer.Option(envvar="HELIOGRAPH_LOG_LEVEL", help="What the services log, on stderr."),
    ] = "warning",
    json: Json = False,
) -> None:
    """Run all of Heliograph in this process, in memory: no Kafka, no Redis, no Java. Nothing is durable.

    For a first look and for tests. Prints where everything is, and a token. Messages, cursors and tenants are gone when
    it ends; an answer that says `durable: true` means no more than that the log in memory has it.

    Other settings of the services are their variables, as ever (`python -m heliograph.edge --help`).
    """  # fmt: skip
    try:
        run(
            DevOptions(host=host, port=port, tenants=tenant or (DEMO_TENANT,)),
            SigningKey.read(key) if key is not None else None,
            _print_json if json else _print,
            log_level=log_level,
            log_form="json" if json else "console",
        )
    except DevServerError as error:
        status = ExitCode.USAGE if error.code == "value_invalid" else ExitCode.FAILED
        fail(CommandError(error.code, error.message, status, HINTS.get(error.code, "")), json=json)
    except HeliographError as error:
        fail(error, json=json)
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def _print_json(dev: DevServer) -> None:
    print_json({**dev.describe(), "token": dev.token()})


def _print(dev: DevServer) -> None:
    tenant = dev.tenants[0]
    edge, replay = dev.url("edge"), dev.url("replay")
    session = f"{tenant}:planner:hello"
    out = stdout()
    out.print(f"[bold yellow]{escape(NOTHING_IS_DURABLE[0].upper() + NOTHING_IS_DURABLE[1:])}.[/]\n")
    for name, where in (
        ("edge", f"{edge}   {edge.replace('http', 'ws', 1)}/v1/connect"),
        ("replay", replay),
        ("registry", dev.url("registry")),
        ("router", f"{dev.url('router')}/metrics"),
        ("tenants", ", ".join(dev.tenants)),
    ):
        out.print(f"[dim]{name:<10}[/] {escape(where)}")
    out.print(f"\nIn another shell (the token speaks for {escape(tenant)}, for a day):\n")
    for line in (
        f"export HELIOGRAPH_URL={edge} HELIOGRAPH_REPLAY_URL={replay}",
        f"export HELIOGRAPH_TOKEN={dev.token()}",
        f'heliograph publish {session} \'{{"text": "hello"}}\'',
        f"heliograph tail {session} --from earliest",
        f"heliograph history {session}",
    ):
        out.print(f"  {escape(line)}")
    out.print("\nCtrl-C ends it.")
