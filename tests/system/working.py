"""Workers as processes of their own, and the nursery they are forked from: a start costs milliseconds, a kill is real.

Run by `tests.system.serving`, not by pytest. Each worker appends what happens to it to a file, a line an event, written
before it goes on: what a killed worker did is known.
"""

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from heliograph.client import Client, ClientSettings, Gap, LeaseLost, Message, WorkSession
from heliograph.core.backoff import BackoffPolicy


class Worker:
    """Serves an agent type until it is killed."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._out = os.open(options["out"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def _say(self, what: str, session: WorkSession, position: str | None = None, reason: str | None = None) -> None:
        line = [time.monotonic(), what, session.session, int(session.lease), position, reason]
        os.write(self._out, json.dumps(line).encode() + b"\n")

    async def run(self) -> None:
        options = self._options
        settings = ClientSettings(
            connect_timeout_s=None,
            reconnect=BackoffPolicy(base_s=0.05, cap_s=0.5, healthy_s=1.0),
            silent_heartbeats=options["silent_heartbeats"],
            ack_interval_s=0.1,
        )
        tasks: set[asyncio.Task[None]] = set()
        async with Client(options["edges"], token=options["token"], settings=settings, proxy=None) as client:
            work = client.serve(options["agent_type"], capacity=options["capacity"])
            async for session in work:
                task = asyncio.create_task(self._serve(session))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

    async def _serve(self, session: WorkSession) -> None:
        self._say("assigned", session, session.position)
        patience_s = 30.0
        try:
            while True:
                try:
                    async with asyncio.timeout(patience_s):
                        item = await anext(session, None)
                except TimeoutError:
                    await session.done()
                    return
                if item is None:
                    return
                if isinstance(item, Message):
                    self._say("handled", session, item.position)
                elif isinstance(item, Gap):
                    self._say("gap", session, item.last, item.reason)
                patience_s = self._options["idle_s"]
                await asyncio.sleep(self._options["work_s"])
        except LeaseLost as lost:
            self._say("lost", session, None, lost.reason)


def main() -> None:
    """The nursery: a line of options in, the pid of a new worker out."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 0)
            os.dup2(null, 1)
            options = json.loads(line)
            log = os.open(str(Path(options["out"]).with_suffix(".log")), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 2)
            asyncio.run(Worker(options).run())
            os._exit(0)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
