"""Show a kept history: `python -m tests.faults.show .local/faults/SEED [--session S] [--who NAME] [--from S] [--to S]`.

Without options: what was done, what it amounted to and what is wrong. With a session: its timeline, everything that
publishers tried and were told, what subscribers saw, and what the log holds.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from tests.faults.keeping import load_history
from tests.system.checker import check, summary
from tests.system.history import Delivered, EpochTold, GapTold, History, Subscribed

Event = tuple[float, str, str]


def overview(history: History) -> Iterator[str]:
    """Notes, numbers and violations."""
    yield from (f"{at_s:9.3f} s  {what}" for at_s, what in history.notes)
    yield ", ".join(f"{name} {count}" for name, count in summary(history).items())
    yield from (f"{tally}" for tally in history.tallies)
    violations = check(history)
    yield f"{len(violations)} violations"
    yield from (f"  {violation}" for violation in violations)


def timeline(history: History, session: str, who: str = "") -> list[Event]:
    """Everything about a session, in order of time: when, who, what."""
    events: list[Event] = [(at_s, "", what) for at_s, what in history.notes]
    for one in history.attempts:
        if one.session == session and one.connection.startswith(who):
            events.append((one.at_s, one.connection, f"publishes {one.key} seq {one.producer_seq}"))
            events += [
                (answer.at_s, one.connection, f"{one.key}: {answer.outcome} {answer.position or answer.code or ''}")
                for answer in one.answers
            ]
    for view in history.views.values():
        if view.session != session or not view.subscriber.startswith(who):
            continue
        for sight in view.sights:
            match sight:
                case Delivered():
                    what = f"got {sight.position or 'telemetry'} {sight.content[:60].decode(errors='replace')}"
                case Subscribed():
                    what = f"subscribed from {sight.asked}: at {sight.position}, recovered {sight.recovered}"
                case GapTold():
                    what = f"gap {sight.first} to {sight.last}: {sight.reason}"
                case EpochTold():
                    what = f"epoch {sight.epoch}, last {sight.last}, certain {sight.certain}"
                case _:
                    what = "connection ended"
            events.append((sight.at_s, view.subscriber, what))
    return sorted(events, key=lambda event: event[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--session", help="show this session's timeline; `all`: name them")
    parser.add_argument("--who", default="", help="only connections and subscribers whose names begin so")
    parser.add_argument("--from", dest="from_s", type=float, default=0.0, metavar="S")
    parser.add_argument("--to", dest="to_s", type=float, default=float("inf"), metavar="S")
    given = parser.parse_args()
    history = load_history(given.path)
    if given.session is None:
        print(*overview(history), sep="\n")
    elif given.session == "all":
        print(*sorted(history.sessions()), sep="\n")
    else:
        for at_s, who, what in timeline(history, given.session, given.who):
            if given.from_s <= at_s <= given.to_s:
                print(f"{at_s:9.3f} s  {who:14} {what}")
        for entry in history.log:
            if entry.session == given.session and not given.who:
                print(f"log  {entry.place} {entry.kind} {entry.position} {entry.content[:60].decode(errors='replace')}")


if __name__ == "__main__":
    main()
