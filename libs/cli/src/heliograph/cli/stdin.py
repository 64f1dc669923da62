"""Standard input that can be left: a read that waits for a person must not hold up Ctrl-C, nor stall a connection.

The thread is a daemon and reads the descriptor itself: one that held the lock of `sys.stdin` when the process ends
would take the interpreter down with it.
"""

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable

CHUNK_BYTES = 64 * 1024
CHUNKS_AHEAD = 4
"""Read, and not yet taken: bounds what a fast writer can make us hold."""


async def chunks() -> AsyncIterator[bytes]:
    """What comes, until its end."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[bytes] = asyncio.Queue(CHUNKS_AHEAD)
    read = _reader()

    def pump() -> None:
        data = b"?"
        while data:
            try:
                data = read()
                asyncio.run_coroutine_threadsafe(queue.put(data), loop).result()
            except (OSError, RuntimeError, asyncio.CancelledError):  # the loop is gone: nobody wants it any more
                return

    threading.Thread(target=pump, name="stdin", daemon=True).start()
    while chunk := await queue.get():
        yield chunk


async def everything() -> bytes:
    return b"".join([chunk async for chunk in chunks()])


async def lines() -> AsyncIterator[bytes]:
    """Lines without their ends; the last one may lack its own."""
    rest = b""
    async for chunk in chunks():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.rstrip(b"\r")
    if rest:
        yield rest


def _reader() -> Callable[[], bytes]:
    try:
        descriptor = sys.stdin.fileno()
    except (OSError, ValueError):  # replaced by something without one
        stream = sys.stdin.buffer
        return lambda: stream.read(CHUNK_BYTES)
    return lambda: os.read(descriptor, CHUNK_BYTES)
