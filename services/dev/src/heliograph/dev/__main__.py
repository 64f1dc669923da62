"""`python -m heliograph.dev`: a development server for the process that started it, which is what the fixture uses.

One JSON object a line: on stdin first `{"tenants": […]}`; on stdout, once everything is ready, where it is, and the
private key that signs for its tenants, or `{"error": …}`. It ends when stdin does, so that it never outlives who
started it, however that one ended.
"""

import asyncio
import sys
from typing import Any

import msgspec

from heliograph.core.errors import HeliographError
from heliograph.dev.options import DevOptions
from heliograph.dev.running import run
from heliograph.dev.server import DevServer


def main() -> int:
    """Serve until stdin ends."""
    asked = msgspec.json.decode(sys.stdin.buffer.readline())

    def started(dev: DevServer) -> None:
        _say({**dev.describe(), "key": dev.key.private_jwk()})

    try:
        run(
            DevOptions(port=0, tenants=asked["tenants"]),
            None,
            started,
            _end_of_stdin,
            log_level=asked.get("log_level", "info"),
            log_form="console",
        )
    except HeliographError as error:
        _say({"error": {"code": error.code, "message": error.message}})
        return 1
    except KeyboardInterrupt:  # a second Ctrl-C of the terminal that both sit at
        return 130
    return 0


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    sys.stdout.buffer.flush()


async def _end_of_stdin() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        while await reader.read(4096):
            pass
    finally:
        transport.close()


if __name__ == "__main__":
    sys.exit(main())
