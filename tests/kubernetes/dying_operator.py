"""An operator that is killed, by SIGKILL from its own hand, right after its write number DIES_AFTER_WRITE.

Writes are what changes something outside: requests to the API server, topics, records, owners. Everything else
is the real thing; nothing of it knows.
"""

import os
import signal
from collections.abc import Callable
from typing import Any

from heliograph.operator.__main__ import main
from heliograph.operator.kube_http import HttpKube
from heliograph.stores.kafka import KafkaLogAdmin
from heliograph.stores.redis.live import RedisLiveStore
from heliograph.stores.redis.metadata import RedisServeStore, RedisTenantStore

WRITES: dict[type, tuple[str, ...]] = {
    HttpKube: ("create", "patch", "delete"),
    KafkaLogAdmin: ("create", "grow", "alter", "delete"),
    RedisTenantStore: ("put", "replace", "own", "delete"),
    RedisLiveStore: ("forget",),
    RedisServeStore: ("forget",),
}


def dies_after(number: int) -> None:
    """Count writes, and end with the one of this number."""
    done = 0

    def counted(write: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*arguments: Any, **options: Any) -> Any:
            nonlocal done
            answer = await write(*arguments, **options)
            done += 1
            if done == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return answer

        return call

    for cls, names in WRITES.items():
        for name in names:
            setattr(cls, name, counted(getattr(cls, name)))


if __name__ == "__main__":
    dies_after(int(os.environ["DIES_AFTER_WRITE"]))
    main()
