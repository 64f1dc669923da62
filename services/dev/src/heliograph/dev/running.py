"""A process that is a development server: its event loop, its logs, its end.

Stopped by SIGINT or SIGTERM, once: the services end in order. A second Ctrl-C ends the process where it stands.
"""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any, Literal

import uvloop

from heliograph.cli.keys import SigningKey
from heliograph.dev.options import DevOptions, DevServerError
from heliograph.dev.server import DevServer
from heliograph.service.logs import configure_logs

LogLevel = Literal["debug", "info", "warning", "error"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run(
    options: DevOptions,
    key: SigningKey | None,
    started: Callable[[DevServer], None],
    until: Callable[[], Awaitable[None]] | None = None,
    *,
    log_level: LogLevel,
    log_form: Literal["json", "console"],
) -> None:
    """Run until a signal comes, or `until` returns. `started` is called when every service is ready.

    Raises DevServerError where it can't start, or a service ended that nobody stopped; InvalidValueError for options
    that are none.
    """
    configure_logs(service="dev", version=version("heliograph-dev"), level=log_level, form=log_form)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(DevServer(options, key), started, until))


async def _run(
    dev: DevServer, started: Callable[[DevServer], None], until: Callable[[], Awaitable[None]] | None
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def signalled() -> None:
        for number in SIGNALS:
            loop.remove_signal_handler(number)  # the next one does what signals do
        stop.set()

    for number in SIGNALS:
        loop.add_signal_handler(number, signalled)
    waits: list[asyncio.Future[Any]] = [asyncio.create_task(stop.wait())]
    try:
        async with dev:
            started(dev)
            failed = asyncio.create_task(dev.failed())
            waits += [failed, *([asyncio.ensure_future(until())] if until is not None else [])]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if failed.done():
                raise DevServerError("internal", f"{failed.result()} ended by itself; the log says why")
    finally:
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
