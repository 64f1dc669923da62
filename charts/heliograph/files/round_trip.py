"""`helm test`: a message's whole way, once. Publishes, receives, reads back from the log, compares, says what it saw.

Works as a tenant of its own, made for this and deleted with its topics at the end. Kills nothing, touches nobody else.
"""

import asyncio
import json
import os
import secrets
import subprocess
import time
from collections.abc import Callable
from functools import partial

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

from heliograph.cli.history import NDJSON, read_history
from heliograph.client import Client, Gap, Message

MESSAGES = 100
START_S = 120.0
"""For an installation that has just begun: Kafka and the services may still be starting."""
PATIENCE_S = 60.0
"""For all of it then: an installation that needs longer for a hundred messages has something to be looked at."""
PAUSE_S = 1.0

EDGE, REPLAY, REGISTRY = (os.environ[f"ROUND_TRIP_{name}"] for name in ("EDGE", "REPLAY", "REGISTRY"))
AUDIENCE = os.environ.get("HELIOGRAPH_JWT_AUDIENCE", "heliograph")
TENANT = f"helm-test-{secrets.token_hex(4)}"
KEY = Ed25519PrivateKey.generate()
SESSION = f"{TENANT}:tester:{secrets.token_hex(4)}"


def said(text: str) -> None:
    print(text, flush=True)


def heliograph(*arguments: str, stdin: str | None = None) -> str:
    """The command, with this installation's settings; what it said where it failed."""
    done = subprocess.run(["heliograph", *arguments], input=stdin, text=True, capture_output=True, check=False)
    if done.returncode == 0:
        return ""
    return f"heliograph {' '.join(arguments)}: status {done.returncode}: {done.stdout}{done.stderr}"


def unready(url: str) -> str:
    """Why a service can't be used; only pods that are ready are behind it."""
    try:
        status = httpx.get(f"{url}/readyz", trust_env=False, timeout=5.0).status_code
    except httpx.HTTPError as error:
        return f"{url}: {type(error).__name__}: {error}"
    return "" if status == httpx.codes.OK else f"{url}/readyz: {status}"


def until_done(attempt: Callable[[], str]) -> None:
    """Again and again while it says why not, which is shown once; ends the test where it still does after START_S."""
    end, shown = time.monotonic() + START_S, ""
    while why := attempt():
        if time.monotonic() > end:
            raise SystemExit(f"after {START_S:g} s: {why}")
        if not shown:
            said(f"waiting, since {why.strip()}")
            shown = why
        time.sleep(PAUSE_S)


def tenant() -> str:
    public = OKPAlgorithm.to_jwk(KEY.public_key(), as_dict=True)
    keys = [{**public, "kid": "helm-test", "alg": "EdDSA", "use": "sig"}]
    topics = {"log": {"partitions": 1, "retention_s": 3600}, "deferred": {"partitions": 1, "retention_s": 3600}}
    return json.dumps({"tenant": TENANT, "auth": {"jwks": {"keys": keys}}, "topics": topics})


def token() -> str:
    now = int(time.time())
    scope = " ".join(f"{operation}:*:*" for operation in ("publish", "subscribe", "history", "presence"))
    claims = {"tenant": TENANT, "sub": "helm-test", "aud": AUDIENCE, "iat": now, "exp": now + 600, "scope": scope}
    return jwt.encode(claims, KEY, algorithm="EdDSA", headers={"kid": "helm-test"})


async def live(client: Client) -> tuple[list[tuple[str, int]], float]:
    """What a subscriber got: positions and numbers in order; and the longest way of one message."""
    begun: dict[int, float] = {}
    longest = 0.0
    came: list[tuple[str, int]] = []
    async with client.subscribe(SESSION, "earliest") as subscription:

        async def publish() -> None:
            for number in range(MESSAGES):
                begun[number] = time.monotonic()
                receipt = await client.publish(SESSION, {"number": number})
                await receipt.durable(timeout=PATIENCE_S)

        publishing = asyncio.create_task(publish())
        async for item in subscription:
            if isinstance(item, Gap):
                raise SystemExit(f"a gap instead of messages: {item}")
            longest = max(longest, time.monotonic() - begun[item.data["number"]])
            came.append((item.position or "", item.data["number"]))
            if len(came) == MESSAGES:
                break
        await publishing
    return came, longest


async def log(http: httpx.AsyncClient) -> list[tuple[str, int]]:
    """The session as replay reads it from Kafka."""
    read = [item async for item in read_history(http, f"/v1/history/{SESSION.replace(':', '/')}", {}, None)]
    return [(item.position or "", item.data["number"]) for item in read if isinstance(item, Message)]


async def main() -> None:
    headers = {"Authorization": f"Bearer {token()}"}
    lines = {**headers, "Accept": NDJSON}
    async with asyncio.timeout(PATIENCE_S), Client(EDGE, token=token(), proxy=None) as client:
        said(f"connected to {client.url} as tenant {TENANT}")
        came, longest = await live(client)
        numbers = [number for _, number in came]
        if numbers != list(range(MESSAGES)) or [p for p, _ in came] != sorted(p for p, _ in came):
            raise SystemExit(f"received {numbers}, wanted 0 to {MESSAGES - 1} in order")
        said(f"published {MESSAGES}, each durable in Kafka")
        said(f"received all, in order; the slowest was {longest * 1e3:.0f} ms under way")
        async with httpx.AsyncClient(base_url=REPLAY, headers=lines, trust_env=False, timeout=30.0) as http:
            read = await log(http)
        if read != came:
            raise SystemExit(f"the log has {len(read)} messages, and they are not the {len(came)} that were received")
        said(f"read {len(read)} back from Kafka through replay: the same messages at the same positions")
        async with httpx.AsyncClient(base_url=REGISTRY, headers=headers, trust_env=False, timeout=30.0) as http:
            answer = (await http.get(f"/v1/presence/{TENANT}")).raise_for_status().json()
        said(f"the registry knows {len(answer['connections'])} connection of it")


def run() -> None:
    wanted = tenant()
    for url in (EDGE, REPLAY, REGISTRY):
        until_done(partial(unready, url))
    until_done(partial(heliograph, "tenant", "apply", "-", stdin=wanted))
    try:
        asyncio.run(main())
    except TimeoutError:
        raise SystemExit(f"not through after {PATIENCE_S:g} s") from None
    finally:
        if left := heliograph("tenant", "delete", TENANT, "--topics", "--yes"):
            said(left)
    if left:
        raise SystemExit(f"the tenant {TENANT} is left behind")
    said("all is well")


if __name__ == "__main__":
    run()
