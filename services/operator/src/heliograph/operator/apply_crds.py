"""`python -m heliograph.operator.apply_crds`: bring the custom resource definitions to what this image's code says.

Helm installs `crds/` once and never touches them again; the chart's job runs this before every upgrade instead.
Server-side apply, so that what others have set (a conversion's CA, labels) stays. Never deletes one, which would delete
every Tenant with it, and never takes a stored version away: the API server refuses that.
"""

import asyncio
import json
import sys
from math import ceil

import aiohttp

from heliograph.operator.crds import CRDS
from heliograph.operator.kube import KubeError
from heliograph.operator.login import login
from heliograph.operator.schema import Schema

PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
PARAMETERS = {"fieldManager": "heliograph-crds", "force": "true"}
"""`force`: fields that Helm's install owns are ours."""
TIMEOUT_S = 30.0
"""Of one request; the job is tried again."""
POLL_S = 0.2
ESTABLISHED_S = 60.0
"""Until the API server serves what was applied."""


class NotAppliedError(Exception):
    """The API server did not take a definition; the text says why."""


async def apply_all(session: aiohttp.ClientSession, server: str) -> list[str]:
    """Every definition applied and served; their names. Raises NotAppliedError."""
    return [await _apply(session, server, make()) for make in CRDS.values()]


async def _apply(session: aiohttp.ClientSession, server: str, definition: Schema) -> str:
    name = str(definition["metadata"]["name"])
    headers = {"Content-Type": "application/apply-patch+yaml"}  # JSON is YAML too
    url, body = f"{server}{PATH}/{name}", json.dumps(definition)
    async with session.patch(url, params=PARAMETERS, data=body, headers=headers) as answer:
        if answer.status >= 400:
            raise NotAppliedError(f"{name}: {answer.status}: {(await answer.text())[:1_000]}")
    for _ in range(ceil(ESTABLISHED_S / POLL_S)):
        if await _established(session, url):
            return name
        await asyncio.sleep(POLL_S)
    raise NotAppliedError(f"{name}: applied, but not served after {ESTABLISHED_S:g} s")


async def _established(session: aiohttp.ClientSession, url: str) -> bool:
    async with session.get(url) as answer:
        conditions = (await answer.json()).get("status", {}).get("conditions") or []
    return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)


async def main() -> int:
    """0: applied. 1: not; why is on stderr."""
    try:
        info = login()
        connector = aiohttp.TCPConnector(ssl=info.as_ssl_context())
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        headers = info.as_http_headers()
        async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as session:
            for name in await apply_all(session, info.server.rstrip("/")):
                sys.stdout.write(f"applied {name}\n")
    except (KubeError, NotAppliedError, aiohttp.ClientError, TimeoutError, OSError) as error:
        sys.stderr.write(f"heliograph-apply-crds: {error or type(error).__name__}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
