"""Kubernetes Events: what the operator did to an object, for `kubectl describe`.

An event's name is made of what it says, so that the same said twice (by a restarted operator, or by two) is one event,
last seen later. An event that can't be written is counted and logged: it must never fail the work that it tells of.
"""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from heliograph.operator.kube import EVENTS, Kube, KubeError, Object
from heliograph.service.logs import get_logger
from heliograph.service.metrics import Metrics

COMPONENT = "heliograph.dev/operator"
MAX_MESSAGE_CHARS = 1_024
"""The API refuses longer ones."""

log = get_logger(__name__)


class Severity(StrEnum):
    """Of an event."""

    NORMAL = "Normal"
    WARNING = "Warning"


class Recorder:
    """Writes events."""

    def __init__(self, kube: Kube, metrics: Metrics, clock: Callable[[], float]) -> None:
        """`clock`: Unix time in s."""
        self._kube = kube
        self._clock = clock
        self._count = metrics.counter("events_total", "Events written, by reason.", ["reason"])
        self._failures = metrics.counter("event_failures_total", "Events that could not be written.", ["code"])

    async def record(self, about: Object, severity: Severity, reason: str, message: str) -> None:
        """`reason`: a CamelCase word."""
        message = message if len(message) <= MAX_MESSAGE_CHARS else message[: MAX_MESSAGE_CHARS - 1] + "…"
        metadata = about["metadata"]
        namespace, now = metadata["namespace"], rfc3339(self._clock())
        said = "\0".join((metadata["uid"], str(metadata.get("generation", "")), severity, reason, message))
        name = f"{metadata['name'][:200]}.{hashlib.sha256(said.encode()).hexdigest()[:16]}"
        body: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": {
                "apiVersion": about["apiVersion"],
                "kind": about["kind"],
                "namespace": namespace,
                "name": metadata["name"],
                "uid": metadata["uid"],
                "resourceVersion": metadata.get("resourceVersion", ""),
            },
            "type": severity.value,
            "reason": reason,
            "message": message,
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "source": {"component": COMPONENT},
            "reportingComponent": COMPONENT,
            "reportingInstance": "",
        }
        try:
            try:
                await self._kube.create(EVENTS, namespace, body)
            except KubeError as error:
                if error.code != "kube_exists":
                    raise
                await self._kube.patch(EVENTS, namespace, name, {"lastTimestamp": now})
        except KubeError as error:
            self._failures.labels(error.code).inc()
            log.warning("event_not_written", reason=reason, namespace=namespace, error=str(error))
        else:
            self._count.labels(reason).inc()


def rfc3339(unix_s: float) -> str:
    """A time as Kubernetes writes it, in whole seconds."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
