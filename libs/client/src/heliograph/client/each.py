"""`serve_each`: a handler for each item of each session, sessions beside one another, items of one in turn."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from heliograph.client.errors import ClosedError, LeaseLost
from heliograph.client.feeds import Item
from heliograph.client.work import Work, WorkSession

logger = logging.getLogger("heliograph.client")

FIRST_S = 10.0
"""How long the first message is waited for: there is one, or the session would not have come."""

Handler = Callable[[WorkSession, Item], Coroutine[Any, Any, None]]


async def handle_each(work: Work, handler: Handler, *, idle_s: float, pause_s: float) -> None:
    """Until the work ends. Raises what it ends by."""
    tasks: set[asyncio.Task[None]] = set()
    try:
        async for session in work:
            task = asyncio.create_task(_handle(session, handler, idle_s, pause_s), name=f"serving {session.session}")
            tasks.add(task)
            task.add_done_callback(tasks.discard)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _interruptible(session: WorkSession, work: Coroutine[Any, Any, None]) -> bool:
    """Do it, unless the session is lost meanwhile: what it would do from then on is another worker's to do."""
    task = asyncio.ensure_future(work)
    session.interrupt = task.cancel
    if session.lost_by is not None:
        task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        current = asyncio.current_task()
        if session.lost_by is None or (current is not None and current.cancelling()):
            raise
        logger.info("stopped working on %s: %s", session.session, session.lost_by)
        return False
    finally:
        session.interrupt = None
    return True


async def _handle(session: WorkSession, handler: Handler, idle_s: float, pause_s: float) -> None:
    patience_s = max(idle_s, FIRST_S)
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
            patience_s = idle_s
            if not await _interruptible(session, handler(session, item)):
                return
    except (LeaseLost, ClosedError) as error:
        logger.info("no longer working on %s: %s", session.session, error)
    except Exception:
        # The same message comes again, here or to another worker: it may do better there, but not at once.
        logger.exception("the handler failed in %s", session.session)
        await asyncio.sleep(pause_s)
        await session.give_back()
