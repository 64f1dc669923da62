"""What tests of the development server do again and again."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import msgspec

from heliograph.client import Message, Subscription
from heliograph.dev.process import HeliographDev

DEADLINE_S = 30.0


async def until(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not await holds():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.02)


async def take(subscription: Subscription, count: int) -> list[Message]:
    found: list[Message] = []
    async with asyncio.timeout(DEADLINE_S):
        async for item in subscription:
            assert isinstance(item, Message), item
            found.append(item)
            if len(found) == count:
                break
    return found


async def get(dev: HeliographDev, url: str, scope: str, **params: Any) -> Any:
    headers = {"authorization": f"Bearer {dev.token(scopes=[scope])}"}
    async with httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S) as http:
        answer = await http.get(url, params=params, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


def heliograph(dev: HeliographDev, *arguments: str) -> list[Any]:
    """The command, as a person has it in a shell; what it printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HELIOGRAPH_")}
    done = subprocess.run(
        [sys.executable, "-m", "heliograph.cli", *arguments, "--json"],
        env={
            **environment,
            "NO_PROXY": "127.0.0.1",
            "HELIOGRAPH_URL": dev.url,
            "HELIOGRAPH_REPLAY_URL": dev.replay_url,
            "HELIOGRAPH_TOKEN": dev.token(),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return [msgspec.json.decode(line) for line in done.stdout.splitlines()]
