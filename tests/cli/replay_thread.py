"""Replay on memory stores, on a loop of its own, for commands that run in this one."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from tests.services.replay.rig import World

T = TypeVar("T")


class ReplayThread:
    """`world` belongs to the thread's loop; `call` runs something there."""

    def __init__(self, directory: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

        async def make() -> World:
            world = World(directory)
            await world.put_tenant("acme")
            await world.put_tenant("other")
            return world

        self.world: World = self.call(make)

    def call(self, function: Callable[..., Coroutine[Any, Any, T]], *arguments: Any, **options: Any) -> T:
        return asyncio.run_coroutine_threadsafe(function(*arguments, **options), self.loop).result(30)

    @property
    def url(self) -> str:
        return str(self.world.client.base_url)

    def token(self, tenant: str = "acme", scope: str = "history:*:*") -> str:
        return self.world.headers(tenant, scope)["authorization"].removeprefix("Bearer ")

    def close(self) -> None:
        self.call(self.world.close)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5)
        self.loop.close()
