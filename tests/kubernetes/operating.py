"""The operator as a process of this machine, on a real API server, with Kafka and Redis of the tests: quick to start,
to kill, and to look into. It sees its own namespaces only, so that tests side by side don't meet.
"""

import asyncio
import http.client
import json
import os
import secrets
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.kubernetes.cluster import ROOT

from heliograph.local.services import ServiceProcess
from heliograph.operator.kube import TENANTS, Kube, KubeError, Object

DEADLINE_S = 120.0
"""For a state to be reached on a machine with two busy cores."""
POLL_S = 0.2
PUBLIC_KEY = {
    "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": "k1", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
}  # fmt: skip


def new_name(stem: str = "t") -> str:
    """Of a tenant, or a topic prefix, that nobody else has."""
    return f"{stem}-{secrets.token_hex(4)}"


class Operator:
    """One operator process."""

    def __init__(
        self,
        directory: Path,
        kubeconfig: str,
        namespaces: Sequence[str],
        *,
        kafka: str,
        redis_url: str,
        prefix: str,
        settings: Mapping[str, object] | None = None,
        command: Sequence[str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.prefix = prefix
        values: dict[str, object] = {
            "watch_namespaces": ",".join(namespaces),
            "kafka_bootstrap_servers": kafka,
            "redis_url": redis_url,
            "topic_prefix": prefix,
            "resync_interval_s": 5,
            "watch_check_interval_s": 2.5,
            "retry_cap_s": 3,
            "log_level": "info",
            **(settings or {}),
        }
        self.process = ServiceProcess(
            "operator",
            directory,
            {name: str(value) for name, value in values.items()},
            name=f"operator-{secrets.token_hex(2)}",
            command=command,
            environment={"KUBECONFIG": kubeconfig, "PYTHONPATH": str(ROOT), **(environment or {})},
        )

    def __enter__(self) -> "Operator":
        self.process.launch()  # whoever waits for what it does waits for it
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()

    def metrics(self) -> dict[str, float]:
        """Every sample, by name with labels; empty while it doesn't answer."""
        try:
            with urllib.request.urlopen(f"{self.process.url}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except (urllib.error.URLError, OSError, http.client.HTTPException):
            return {}
        samples = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in samples}

    def alive(self) -> bool | None:
        """What `/livez` says; None while it doesn't answer."""
        try:
            with urllib.request.urlopen(f"{self.process.url}/livez", timeout=5):
                return True
        except urllib.error.HTTPError:
            return False
        except (OSError, http.client.HTTPException):
            return None

    def degraded(self) -> list[str]:
        """Conditions that `/readyz` shows as bad; empty while it doesn't answer."""
        try:
            with urllib.request.urlopen(f"{self.process.url}/readyz", timeout=5) as answer:
                found: list[str] = json.load(answer)["degraded"]
        except (urllib.error.URLError, OSError, http.client.HTTPException):
            return []
        return found

    def writes(self) -> float:
        """Requests to the API server that change something, so far."""
        return sum(
            value
            for name, value in self.metrics().items()
            if name.startswith("heliograph_operator_kube_requests_total")
            and any(f'verb="{verb}"' in name for verb in ("create", "patch", "delete"))
        )

    def reconciles(self) -> float:
        """Looks that ended well, so far."""
        return sum(
            value
            for name, value in self.metrics().items()
            if name.startswith("heliograph_operator_reconciles_total") and 'result="ok"' in name
        )


def dying(number: int) -> dict[str, Any]:
    """Options of an Operator that kills itself (SIGKILL) right after its write of this number."""
    return {
        "command": [sys.executable, str(Path(__file__).with_name("dying_operator.py"))],
        "environment": {"DIES_AFTER_WRITE": str(number)},
    }


def tenant_spec(tenant: str, **more: Any) -> dict[str, Any]:
    topics = {"log": {"partitions": 1}, "deferred": {"partitions": 1}, **more.pop("topics", {})}
    return {"tenant": tenant, "auth": {"jwks": {"keys": [PUBLIC_KEY]}}, "topics": topics, **more}


def tenant(name: str, tenant_name: str | None = None, **more: Any) -> dict[str, Any]:
    annotations = more.pop("annotations", {})
    return {
        "apiVersion": TENANTS.api_version,
        "kind": TENANTS.kind,
        "metadata": {"name": name, "annotations": annotations},
        "spec": tenant_spec(tenant_name or name, **more),
    }


def condition(body: Object | None, kind: str = "Ready") -> tuple[str, str]:
    """Status and reason; only of the present generation."""
    if body is None or body.get("status", {}).get("observedGeneration") != body["metadata"]["generation"]:
        return "", ""
    for one in body["status"].get("conditions", ()):
        if one["type"] == kind:
            return one["status"], one["reason"]
    return "", ""


async def until(holds: Callable[[], Any], deadline_s: float = DEADLINE_S, what: str = "") -> Any:
    """Wait for a state; `holds` may be a coroutine function. Answers what it answered."""
    async with asyncio.timeout(deadline_s):
        while True:
            held = holds()
            if asyncio.iscoroutine(held):
                held = await held
            if held:
                return held
            await asyncio.sleep(POLL_S)


async def until_condition(
    kube: Kube, namespace: str, name: str, wanted: tuple[str, str], kind: str = "Ready", deadline_s: float = DEADLINE_S
) -> Object:
    """Wait until a Tenant says so."""
    last: Object | None = None
    try:
        async with asyncio.timeout(deadline_s):
            while True:
                last = await kube.get(TENANTS, namespace, name)
                if condition(last, kind) == wanted:
                    assert last is not None
                    return last
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise AssertionError(f"{name}: {kind} is not {wanted}: {json.dumps((last or {}).get('status'))}") from None


async def until_gone(kube: Kube, namespace: str, name: str) -> None:
    async def gone() -> bool:
        return await kube.get(TENANTS, namespace, name) is None

    await until(gone)


async def patch(kube: Kube, namespace: str, name: str, change: Mapping[str, Any]) -> Object:
    """By hand: tried again where the operator wrote meanwhile."""
    while True:
        try:
            return await kube.patch(TENANTS, namespace, name, change)
        except KubeError as error:
            if error.code != "kube_conflict":
                raise


def kubeconfig_environment(kubeconfig: str) -> None:
    """For this process' own client."""
    os.environ["KUBECONFIG"] = kubeconfig
