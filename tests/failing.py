"""What the services of a test that failed have to say: warnings since it began, and the metrics that count trouble."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime

from heliograph.local.services import ServiceProcess
from heliograph.local.stack import Stack

MOST_LINES = 25
MOST_CHARS = 300

TROUBLE = re.compile(
    r"^heliograph_\w*(?:failures|refused|retries|errors|shed|dropped|dead|given_up|blocked|lag_records|held_up|waiting|"
    r"reconciled|crashes|pressure|backlog|queue|presence|announced)\w*"
    r"(?<!_created)(?<!_waiting_most)(?:\{[^}]*\})? (?!0(?:\.0)?$)\S+$"
)


def services_say(stack: Stack, began_s: float) -> str:
    """`began_s`: Unix time."""
    since = datetime.fromtimestamp(began_s, UTC).isoformat()
    return "\n".join(line for service in stack.services for line in _of(service, since))


def _of(service: ServiceProcess, since: str) -> Iterator[str]:
    yield f"{service.name}: {'runs' if service.running else f'ended ({service.returncode})'}"
    said = _warnings(service, since)
    if len(said) > MOST_LINES:
        yield f"  … {len(said) - MOST_LINES} lines before"
    yield from (f"  {line[:MOST_CHARS]}" for line in said[-MOST_LINES:])
    try:
        samples = service.metrics().splitlines()
    except Exception as error:  # noqa: BLE001 - it may be what the test hurt; the test's own failure is what counts
        yield f"  no metrics: {error}"[:MOST_CHARS]
    else:
        yield from (f"  {sample[:MOST_CHARS]}" for sample in samples if TROUBLE.match(sample))


def _warnings(service: ServiceProcess, since: str) -> list[str]:
    found = []
    for line in service.log.read_text(errors="replace").splitlines():
        try:
            told = json.loads(line)
        except ValueError:
            found.append(line)  # a traceback, or what a library printed
            continue
        if told.get("level") != "info" and told.get("time", since) >= since and told.get("event") != "setting_unknown":
            found.append(line)
    return found
