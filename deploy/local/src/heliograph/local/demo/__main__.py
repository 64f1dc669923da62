"""`python -m heliograph.local.demo`, behind `make demo`. Exit status 0: all was well; 1: it says what was off."""

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from rich.console import Console

from heliograph.client import HeliographError
from heliograph.local.demo.play import DemoError, Play
from heliograph.local.demo.reading_back import ReadBackError
from heliograph.local.demo.stage import set_up
from heliograph.local.demo.telling import Teller, show, show_failure
from heliograph.local.demo.verdict import Result, judge
from heliograph.local.errors import LocalError

CHECKOUT = Path(__file__).parents[6]
SECONDS = 20.0
LEAST_SECONDS = 5.0
"""Below, nobody has time to be away."""
INTERRUPTED = 130


class _OffError(Exception):
    """The verdict was not good. Raised on the stage, so that its logs stay."""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="make demo",
        description="Agents at work on real Kafka and Redis; an edge is killed in the middle; nothing is lost.",
    )
    made.add_argument("--seconds", type=float, default=SECONDS, help=f"how long agents talk (default {SECONDS:g})")
    made.add_argument("--json", action="store_true", help="print the result as JSON; the story goes to stderr")
    made.add_argument(
        "--directory",
        type=Path,
        default=CHECKOUT / ".local" / "demo",
        metavar="DIR",
        help="where data and logs are kept while it runs, and after a failure (default: .local/demo in the checkout)",
    )
    return made


def main() -> int:
    arguments = parser().parse_args()
    if arguments.seconds < LEAST_SECONDS:
        print(f"error: --seconds is {arguments.seconds:g}; at least {LEAST_SECONDS:g}", file=sys.stderr)
        return 2
    console = Console(stderr=arguments.json)
    directory = arguments.directory.resolve() / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    signal.signal(signal.SIGTERM, _interrupt)
    result: Result | None = None
    try:
        result = perform(directory, arguments.seconds, console)
        return 0
    except _OffError as off:
        result = off.args[0]
        show_failure(console, result.problems[0], directory)
        return 1
    except KeyboardInterrupt:
        console.print("\ninterrupted; everything that was started is ended")
        return INTERRUPTED
    except (LocalError, DemoError, ReadBackError, HeliographError) as error:
        show_failure(console, str(error), directory)
    except ExceptionGroup as group:
        show_failure(console, _first(group), directory)
    finally:
        if arguments.json and result is not None:
            print(json.dumps(result.as_json(), indent=2))
    return 1


def perform(directory: Path, seconds: float, console: Console) -> Result:
    """Set up, play, judge, take down. Raises _OffError with a result that is not good."""
    teller = Teller(console)
    with set_up(directory, teller.progress) as stage:
        evidence = asyncio.run(Play(stage, seconds, teller).perform())
        result = judge(evidence)
        show(console, result)
        if not result.ok:
            raise _OffError(result)
    return result


def _first(error: BaseException) -> str:
    """The first error in a group: the others are its echo."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
