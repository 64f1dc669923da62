"""An answer that is streamed while it is read, and whose read stops when its reader goes away."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send


class StreamedRead(Response):
    """Sends what `body` yields. The generator is closed however the answer ends.

    The server makes `send` wait while the reader is slow, so nothing piles up; when the reader is gone it says so on
    `receive` only, and `send` swallows what it is given: whoever streams must listen.
    """

    def __init__(self, body: AsyncGenerator[bytes, None], media_type: str, gone: Callable[[], None]) -> None:
        super().__init__(media_type=media_type)
        del self.headers["content-length"]
        self._body = body
        self._gone = gone

    @classmethod
    async def begun(
        cls, body: AsyncGenerator[bytes, None], media_type: str, gone: Callable[[], None]
    ) -> "StreamedRead":
        """The answer once `body` has yielded: what is raised before that is an answer of its own."""
        first = await anext(body)

        async def whole() -> AsyncGenerator[bytes, None]:
            async with aclosing(body):
                yield first
                async for chunk in body:
                    yield chunk

        return cls(whole(), media_type, gone)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        streaming = asyncio.create_task(self._stream(send))
        listening = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait({streaming, listening}, return_when=asyncio.FIRST_COMPLETED)
            if not streaming.done():
                self._gone()
        finally:
            listening.cancel()
            while not streaming.done():  # a store's client may swallow a cancellation
                streaming.cancel()
                await asyncio.wait({streaming}, timeout=0.1)
        if not streaming.cancelled():
            streaming.result()

    async def _stream(self, send: Send) -> None:
        async with aclosing(self._body) as body:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for chunk in body:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
