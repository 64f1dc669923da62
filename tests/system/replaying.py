"""Reads sessions over replay's HTTP and records what it gives as one more view, judged like any other."""

import asyncio
import json
import time

import httpx
from tests.system.history import Delivered, EpochTold, GapTold, History, Subscribed
from tests.system.views import BEFORE_ALL

from heliograph.protocol.frames import EARLIEST, Epoch, Gap, MessageFrame, decode_server_frame

BEGINNING = f"{BEFORE_ALL}-00000000-{0:016d}"
TIMEOUT_S = 30.0


def client() -> httpx.AsyncClient:
    return httpx.AsyncClient(trust_env=False, timeout=20.0)


def path(session: str) -> str:
    return f"/v1/history/{session.replace(':', '/')}"


async def replay(record: History, name: str, url: str, token: str, session: str) -> None:
    """The whole session as an NDJSON stream, put into the view `name`."""
    view = record.view(name, session)
    view.from_log = True
    view.sights.append(Subscribed(record.now(), name, EARLIEST, BEGINNING, recovered=True))
    deadline = time.monotonic() + TIMEOUT_S
    parameters, headers = {"format": "ndjson"}, {"Authorization": f"Bearer {token}"}
    async with client() as http:
        while True:
            answer = await http.get(url + path(session), params=parameters, headers=headers)
            assert answer.status_code == 200, answer.text[:300]
            *lines, last = answer.content.splitlines()
            for line in lines:
                _saw(record, name, session, line)
            end = json.loads(last)
            assert end["type"] == "end", last
            if end["complete"]:
                return
            assert time.monotonic() < deadline, f"the history of {session} is not complete: {last!r}"
            await asyncio.sleep(0 if lines else 0.1)  # the next message is not in the log yet, or an epoch settles
            parameters |= {name: end[field] for name, field in (("after", "next"), ("resume", "resume")) if end[field]}


def _saw(record: History, name: str, session: str, line: bytes) -> None:
    frame, now, sights = decode_server_frame(line), record.now(), record.view(name, session).sights
    if isinstance(frame, MessageFrame):
        sights.append(Delivered(now, frame.position, frame.message_id, bytes(frame.payload), line))
    elif isinstance(frame, Gap):
        sights.append(GapTold(now, frame.first, frame.last, frame.reason))
    elif isinstance(frame, Epoch):
        sights.append(EpochTold(now, frame.start, frame.last, frame.certain))
    else:
        raise AssertionError(line)
