"""`python -m heliograph.local up | down | status | prepare`, behind the Makefile's targets of these names."""

import argparse
import os
import sys
from dataclasses import fields
from pathlib import Path

from heliograph.local.compose import ComposeServer
from heliograph.local.errors import LocalError
from heliograph.local.providers import KAFKA_VARIABLE, REDIS_VARIABLE, provide_kafka, provide_redis
from heliograph.local.up import Background, Ports, port_variable

CHECKOUT = Path(__file__).parents[5]


def say(line: str) -> None:
    print(line, flush=True)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m heliograph.local", description=__doc__)
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="start Kafka, Redis and the services in the background")
    for entry in fields(Ports):
        up.add_argument(
            f"--{entry.name}-port",
            type=int,
            metavar="PORT",
            help=f"default {entry.default}, or ${port_variable(entry.name)}",
        )
    commands.add_parser("down", help="end what `up` started")
    commands.add_parser("status", help="say what is up, and whether it is ready")
    commands.add_parser("prepare", help="fetch what Kafka and Redis need, so that tests start at once")
    for command in commands.choices.values():
        command.add_argument(
            "--state",
            type=Path,
            default=Path(os.environ.get("HELIOGRAPH_LOCAL_STATE") or CHECKOUT / ".local" / "up"),
            metavar="DIR",
            help="where data, logs and pids are kept (default: .local/up in the checkout, or $HELIOGRAPH_LOCAL_STATE)",
        )
    return made


def prepare(state: Path) -> None:
    """Have Kafka and Redis ready to be started, or say what is missing."""
    for what, variable, provide in (
        ("kafka", KAFKA_VARIABLE, provide_kafka),
        ("redis", REDIS_VARIABLE, provide_redis),
    ):
        server = provide(state / what, progress=say)
        if os.environ.get(variable):
            source = f"given by {variable}"
        elif isinstance(server, ComposeServer):
            source = "Docker Compose"
        else:
            source = "this machine's own programs"
        say(f"{what}: {source}")


def main() -> int:
    arguments = parser().parse_args()
    background = Background(arguments.state.resolve(), say)
    try:
        match arguments.command:
            case "up":
                flags = {entry.name: getattr(arguments, f"{entry.name}_port") for entry in fields(Ports)}
                background.up(Ports.chosen(flags))
            case "down":
                background.down()
            case "status":
                return 0 if background.status() else 1
            case "prepare":
                prepare(arguments.state)
    except LocalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; what was started is ended", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
