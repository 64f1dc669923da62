"""`python -m heliograph.local.bench`, behind `make bench`."""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import mkdtemp

from heliograph.local.bench import gates
from heliograph.local.bench.history import HistoryBench
from heliograph.local.bench.live import LiveBench
from heliograph.local.bench.loads import LoadGenerator
from heliograph.local.bench.machine import Cores, describe, raise_file_limit
from heliograph.local.bench.report import Report
from heliograph.local.bench.rig import Rig
from heliograph.local.bench.routing import RouterBench
from heliograph.local.bench.serving import ServingBench
from heliograph.local.bench.sides import Heliograph, Reference, Side
from heliograph.local.bench.storms import STORMS, Options, Scene
from heliograph.local.errors import LocalError

CHECKOUT = Path(__file__).parents[6]
LATEST = CHECKOUT / ".local" / "bench" / "latest.md"

SECTIONS = ("session", "rooms", "fanout", "connect", "serving", "router", "replay")
STORM_SECTIONS = tuple(f"storms.{name}" for name in STORMS)
"""Measured where they are asked for, each by its name or all as `storms`: they take some half an hour."""
REPEAT = 3
STORM_REPEAT = 5

QUIET_CORES = 0.1
"""Kept busy by others: above, the report says so."""

VARIABLES = """
environment:
  HELIOGRAPH_BENCH_LOAD                a load generator: a program, or a folder with its Go source (default: our own)
  HELIOGRAPH_BENCH_REFERENCE           a server to compare with, started as `python FILE PORT REDIS_PORT KAFKA`
  HELIOGRAPH_BENCH_REFERENCE_PROTOCOL  how the generator talks to it (default: sketch.json beside the generator)
  HELIOGRAPH_BENCH_EDGE_CPU_RATIO      the gate on the edge's CPU against the reference's
"""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m heliograph.local.bench",
        description="Measure throughput, latency, CPU and memory, on Kafka, Redis and services of its own.",
        epilog=VARIABLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--only",
        metavar="NAMES",
        default="",
        help=f"of {', '.join((*SECTIONS, 'storms', *STORM_SECTIONS))}; default: all but storms",
    )
    made.add_argument("--seconds", type=float, default=6.0, help="of publishing in each run (default: 6)")
    made.add_argument(
        "--repeat", type=int, help=f"runs of each work and side (default: {REPEAT}), pairs of a storm ({STORM_REPEAT})"
    )
    made.add_argument(
        "--scale", type=float, default=1.0, help="of storms' sizes and times: 0.1 for a look whose numbers mean little"
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write every run's numbers there")
    made.add_argument("--keep", action="store_true", help="keep the servers' logs, and say where")
    made.add_argument(
        "--without-router",
        action="store_true",
        help="leave the router out, to see what the edge does alone (a session takes 1,000 messages then)",
    )
    made.add_argument("--no-pin", action="store_true", help="hold no process to a core")
    made.add_argument(
        "--edge-cpu-ratio",
        type=float,
        default=float(os.environ.get("HELIOGRAPH_BENCH_EDGE_CPU_RATIO") or gates.EDGE_CPU_RATIO),
        help=f"gate on the edge's CPU against the reference's (default: {gates.EDGE_CPU_RATIO})",
    )
    return made


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def chosen(only: str) -> tuple[str, ...]:
    """The sections asked for, in their usual order. Raises LocalError for one that there is not.

    `storms` is all of them; without a choice there are none.
    """
    wanted = {name.strip() for name in only.split(",") if name.strip()}
    if "storms" in wanted:
        wanted = wanted - {"storms"} | set(STORM_SECTIONS)
    known = (*SECTIONS, *STORM_SECTIONS)
    unknown = wanted - set(known)
    if unknown:
        raise LocalError(f"there is no section {', '.join(sorted(unknown))}; there are {', '.join(known)}, storms")
    return tuple(name for name in known if name in wanted) if wanted else SECTIONS


def reference_files(environment: Mapping[str, str]) -> tuple[Path, Path] | None:
    """The reference and its protocol; None where none is given."""
    file = environment.get("HELIOGRAPH_BENCH_REFERENCE")
    if not file:
        return None
    protocol = environment.get("HELIOGRAPH_BENCH_REFERENCE_PROTOCOL")
    if not protocol:
        load = Path(environment.get("HELIOGRAPH_BENCH_LOAD") or ".").expanduser()
        protocol = str((load if load.is_dir() else load.parent) / "sketch.json")
    return Path(file).expanduser().resolve(), Path(protocol).expanduser().resolve()


def run(arguments: argparse.Namespace, directory: Path) -> Report:
    sections = chosen(arguments.only)
    load = LoadGenerator.find(os.environ.get("HELIOGRAPH_BENCH_LOAD"))
    reference = reference_files(os.environ)
    repeat = arguments.repeat or REPEAT
    cores = Cores(None, None) if arguments.no_pin else Cores.choose()
    raise_file_limit()
    report = Report()
    report.facts = {
        "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": describe(),
        "cores": str(cores),
        "load": "our own generator, in Python: its own work shows in latencies" if load.own else load.command[0],
        "runs": f"{repeat} of {arguments.seconds:g} s for each line, the line is their median",
    }
    say(f"{report.facts['machine']}; {cores}")
    with Rig(directory, cores, say) as rig:
        sides: list[Side] = [Heliograph(rig, with_router=not arguments.without_router)]
        if reference is not None:
            sides.append(Reference(rig, *reference))
        else:
            report.notes.append("no reference is given, so nothing is gated against one (docs/benchmarks.md)")
        live = LiveBench(rig, report, load, sides, arguments.seconds, repeat, arguments.edge_cpu_ratio)
        known: dict[str, Callable[[], None]] = {
            "session": live.session,
            "rooms": live.rooms,
            "fanout": live.fanout,
            "connect": live.connect,
            "serving": ServingBench(rig, report, repeat).serving,
            "router": RouterBench(rig, report, repeat).router,
            "replay": HistoryBench(rig, report, repeat).replay,
        }
        scene = Scene(rig, report, Options(arguments.repeat or STORM_REPEAT, arguments.scale))
        known |= {f"storms.{name}": partial(storm, scene) for name, storm in STORMS.items()}
        for name in sections:
            say(f"== {name}")
            known[name]()
    if report.disturbance() > QUIET_CORES:
        report.notes.append(
            f"the machine was not quiet: others kept {report.disturbance():.1f} cores busy, so latencies are theirs as"
            " much as ours; ratios of neighbouring runs hold better"
        )
    report.notes += report.behind()
    return report


def main() -> int:
    arguments = parser().parse_args()
    directory = Path(mkdtemp(prefix="heliograph-bench-"))
    try:
        report = run(arguments, directory)
    except LocalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what was started is ended", file=sys.stderr)
        return 130
    finally:
        if arguments.keep:
            say(f"logs are kept in {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    text = report.markdown()
    LATEST.parent.mkdir(parents=True, exist_ok=True)
    LATEST.write_text(text, encoding="utf-8")
    if arguments.json is not None:
        arguments.json.write_text(report.json(), encoding="utf-8")
    print(text)
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
