"""Probes: `/livez`, `/readyz`, `/metrics`, and what they answer from.

Ready means: can serve now. It is made of named conditions, each with since when and the last error, so that an operator
reads from one answer what a service waits for. A condition is `waiting` (not ready), `ok`, or `degraded`: something is
wrong that a probe must not make worse (the log is away, the live path still works: taking the edge out of service would
turn half an outage into a whole one).

Alive means: restarting would not help. Only what never heals by itself ends it.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from heliograph.service.logs import Logger, get_logger
from heliograph.service.metrics import Metrics
from heliograph.service.redaction import redact_text

MAX_ERROR_CHARS = 300
"""Of an error in a probe's answer."""


class State(StrEnum):
    """Of one condition."""

    WAITING = "waiting"
    OK = "ok"
    DEGRADED = "degraded"


@dataclass(frozen=True)
class Failure:
    """The last thing that went wrong with a condition."""

    text: str
    at: float
    """Unix time, s."""


class Condition:
    """One thing that a service needs. Code says how it is; a change is logged once."""

    def __init__(self, name: str, clock: Callable[[], float], logger: Logger, changed: Callable[[], None]) -> None:
        self.name = name
        self.state = State.WAITING
        self.since = clock()
        self.last_error: Failure | None = None
        self._clock = clock
        self._log = logger
        self._changed = changed

    def ok(self) -> None:
        """It is there."""
        self._become(State.OK, None)

    def waiting(self, error: object = None) -> None:
        """It is not there, and without it nothing can be served."""
        self._become(State.WAITING, error)

    def degraded(self, error: object = None) -> None:
        """It is not there, and something can be served without it."""
        self._become(State.DEGRADED, error)

    def as_json(self) -> dict[str, Any]:
        """The condition in `/readyz`."""
        shown: dict[str, Any] = {"name": self.name, "state": self.state.value, "since": _iso(self.since)}
        if self.last_error is not None:
            shown["last_error"] = self.last_error.text
            shown["last_error_at"] = _iso(self.last_error.at)
        return shown

    def _become(self, state: State, error: object) -> None:
        now = self._clock()
        if error is not None:
            self.last_error = Failure(describe_error(error), now)
        if state is self.state:
            return
        before, lasted_s = self.state, now - self.since
        self.state, self.since = state, now
        fields = {"condition": self.name, "state": state.value, "before": before.value, "after_s": round(lasted_s, 3)}
        if state is State.OK:
            self._log.info("condition_changed", **fields)
        else:
            self._log.warning("condition_changed", error=self.last_error.text if self.last_error else None, **fields)
        self._changed()


class Readiness:
    """The conditions of a service. Not ready before `started()`, never again after `drain()`."""

    def __init__(self, *, clock: Callable[[], float] = time.time, logger: Logger | None = None) -> None:
        self._clock = clock
        self._log = logger or get_logger(__name__)
        self._conditions: dict[str, Condition] = {}
        self._started = False
        self._waiters: list[asyncio.Event] = []
        self.draining = False
        self.notes: dict[str, str] = {}
        """What whoever asks should know besides, by what it is about: no condition, since nothing is wrong."""

    def condition(self, name: str) -> Condition:
        """The condition of that name; made, and waiting, when it is new."""
        found = self._conditions.get(name)
        if found is None:
            found = self._conditions[name] = Condition(name, self._clock, self._log, self._notify)
        return found

    def started(self) -> None:
        """Every condition is known now. Before, a service with none yet would look ready."""
        self._started = True
        self._notify()

    def drain(self) -> None:
        """The service is going away: not ready from now on, whatever the conditions say."""
        self.draining = True
        self._notify()

    @property
    def ready(self) -> bool:
        """Whether the service can serve now."""
        return self._started and not self.draining and not self.waiting_for()

    def waiting_for(self) -> list[str]:
        """Names of the conditions that keep it from being ready."""
        return [name for name, condition in self._conditions.items() if condition.state is State.WAITING]

    def degraded(self) -> list[str]:
        """Names of the conditions that are bad without keeping it from being ready."""
        return [name for name, condition in self._conditions.items() if condition.state is State.DEGRADED]

    async def wait_ready(self) -> None:
        """Return once it is ready."""
        changed = asyncio.Event()
        self._waiters.append(changed)
        try:
            while not self.ready:
                changed.clear()
                await changed.wait()
        finally:
            self._waiters.remove(changed)

    def as_json(self) -> dict[str, Any]:
        """The answer of `/readyz`."""
        shown = {
            "ready": self.ready,
            "starting": not self._started,
            "draining": self.draining,
            "waiting_for": self.waiting_for(),
            "degraded": self.degraded(),
            "conditions": [condition.as_json() for condition in self._conditions.values()],
        }
        return {**shown, "notes": self.notes} if self.notes else shown

    def _notify(self) -> None:
        for waiter in self._waiters:
            waiter.set()


class Liveness:
    """Whether restarting would help. `fail` is for what never heals by itself; it can't be taken back."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.failure: Failure | None = None
        self.on_fail: Callable[[], None] | None = None

    def fail(self, error: object) -> None:
        """Ask to be restarted; the first reason is kept."""
        if self.failure is None:
            self.failure = Failure(describe_error(error), self._clock())
            if self.on_fail is not None:
                self.on_fail()

    def as_json(self) -> dict[str, Any]:
        """The answer of `/livez`."""
        if self.failure is None:
            return {"alive": True}
        return {"alive": False, "error": self.failure.text, "since": _iso(self.failure.at)}


def health_router(readiness: Readiness, liveness: Liveness, metrics: Metrics) -> APIRouter:
    """`/livez`, `/readyz` and `/metrics`, to mount in any service. They are not part of the documented API."""
    router = APIRouter(include_in_schema=False)
    scrape_seconds = metrics.gauge("scrape_seconds", "Time the last scrape took on the event loop.")
    metrics.sampled_gauge("ready", "1 while /readyz says so.", lambda: float(readiness.ready))
    metrics.sampled_gauge(
        "condition_ok",
        "1 for each condition of readiness that is met.",
        lambda: {
            condition["name"]: float(condition["state"] == State.OK) for condition in readiness.as_json()["conditions"]
        },
        label="condition",
    )

    @router.get("/livez")
    async def livez() -> JSONResponse:
        return JSONResponse(liveness.as_json(), 200 if liveness.failure is None else 503)

    @router.get("/readyz")
    async def readyz() -> JSONResponse:
        return JSONResponse(readiness.as_json(), 200 if readiness.ready else 503)

    @router.get("/metrics")
    async def scrape(request: Request) -> Response:
        begin = time.perf_counter()
        body, content_type = metrics.render(request.headers.get("accept", ""))
        scrape_seconds.set(time.perf_counter() - begin)
        return Response(body, headers={"content-type": content_type})

    return router


def describe_error(error: object) -> str:
    """One line that names an error, without secrets: its type and text, or the text it is."""
    text = f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else str(error)
    text = redact_text(" ".join(text.split()))
    return text if len(text) <= MAX_ERROR_CHARS else text[:MAX_ERROR_CHARS] + "…"


def _iso(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
