"""Tokens and payloads stay where they belong: in no log, metric, trace, probe or error text, however they are shown."""

import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from tests.services.access.conftest import Installation
from tests.services.access.rules import FOREIGN, OWN, OWN_SESSION, OWNER
from tests.services.access.surfaces import OPERATIONS
from tests.services.edge.client import Client
from websockets.exceptions import InvalidStatus

from heliograph.cli.keys import Algorithm, SigningKey

PAYLOAD = "payload-canary-sings"
"""Like nothing that could be recognised and removed: it must not get there."""


class Collector:
    """An OpenTelemetry collector, as far as it takes what is sent (OTLP over HTTP)."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        bodies = self.bodies

        class Take(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                bodies.append(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the base class has it
                """Silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Take)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(autouse=True)
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """Every message is traced."""
    made = Collector()
    monkeypatch.setenv("HELIOGRAPH_OTLP_ENDPOINT", made.url)
    monkeypatch.setenv("HELIOGRAPH_TRACE_SAMPLE_RATIO", "1")
    monkeypatch.setenv("HELIOGRAPH_TRACE_SPANS_PER_S", "100000")
    yield made
    made.close()


async def over_websocket(installation: Installation, good: str, token: str) -> None:
    """`token` where a token goes, and everywhere else that text goes."""
    address = installation.urls["edge"].replace("http", "ws") + "/v1/connect"
    for fields in ({"token": token}, {"token": good, "producer": token}, {"token": good, "incarnation": token}):
        socket = await Client.connect(address)
        await socket.send({"type": "hello", **fields})
        await socket.next()
        await socket.close()
    for header in ({"in_header": True}, {"protocols": ["heliograph.v1", token]}, {"origin": f"https://{token}"}):
        with suppress(InvalidStatus):
            socket = await Client.connect(address, token=token, **header)
            await socket.close()
    socket = await Client.connect(address, token=good)
    await socket.hello(consumer="c", producer="p", incarnation="4fGh0pQ2xY7a")
    session = OWN_SESSION.session
    frames: list[dict[str, Any]] = [
        {"type": "refresh", "token": token},
        {"type": "refresh", "token": [token]},
        {"type": token},
        {"type": "subscribe", "session": token},
        {"type": "subscribe", "session": session, "from": token},
        {"type": "subscribe", "session": f"{FOREIGN}:planner:trip-42"},
        {"type": "ack", "session": session, "position": token},
        {"type": "status", "session": session, "position": token},
        {"type": "publish", "session": session, "payload": {"token": token, "text": PAYLOAD}},
        {"type": "publish", "session": session, "payload": PAYLOAD, "message_id": token[:128], "seq": 1},
        {"type": "publish", "session": session, "payload": PAYLOAD, "content_type": "image/png"},
        {"type": "publish", "session": session, "payload": PAYLOAD, "class": token},
        {"type": "publish", "session": session, "payload": PAYLOAD, "traceparent": token},
        {"type": "publish", "session": f"{FOREIGN}:planner:trip-42", "payload": PAYLOAD},
        {"type": "publish", "session": session, "payload": PAYLOAD + "x" * 70_000},
    ]
    for number, frame in enumerate(frames):
        await socket.send({"id": number, **frame})
        await socket.next(id=number)
    await socket.close()


async def over_http(installation: Installation, http: httpx.AsyncClient, token: str) -> None:
    session = installation.session(token)
    for operation in OPERATIONS:
        if operation.http:
            await operation.ask(session, OWN_SESSION.session)
            await operation.ask(session, f"{FOREIGN}:planner:trip-42")
            await operation.ask(session, f"{OWN}:planner:{token}")
    bearer = {"authorization": f"Bearer {token}"}
    for url in installation.urls.values():
        for path in (f"/{token}", f"/v1/history/{token}", f"/v1?access_token={token}", f"/v1?q={quote(token)}"):
            await http.get(url + path, headers={"cookie": f"session={token}", **bearer})
        for scheme in ("Basic", "Token", "Bearer,", "Bearer Bearer"):
            await http.get(f"{url}/v1/presence/{OWN}", headers={"authorization": f"{scheme} {token}"})
        for method in ("POST", "PUT"):
            for body in ("{", json.dumps(PAYLOAD), json.dumps({"payload": PAYLOAD, "token": token}), PAYLOAD * 400_000):
                path = f"/v1/sessions/{OWN}/planner/trip-42/" + ("messages" if method == "POST" else "expiry")
                with suppress(httpx.ReadError, httpx.WriteError):  # refused before all of it was sent
                    await http.request(method, url + path, content=body, headers=bearer)


@pytest.mark.parametrize("log_level", ["info", "debug"])
async def test_no_token_and_no_payload_gets_out(installation: Installation, collector: Collector) -> None:
    good = installation.token(OWN, "canary", OWNER.scopes, jti="jti-canary")
    forged = installation.token(
        OWN, "canary", OWNER.scopes, signed_by=SigningKey.generate(Algorithm.EDDSA, f"key-of-{OWN}")
    )
    old = installation.token(OWN, "canary", OWNER.scopes, exp=1_700_000_000)
    tokens = (good, forged, old)
    shown: list[str] = []
    async with httpx.AsyncClient(timeout=30.0, trust_env=False) as http:
        for token in tokens:
            await over_websocket(installation, good, token)
            await over_http(installation, http, token)
        for service in installation.dev.services:
            url = installation.dev.url(service.name)
            shown += [(await http.get(url + path)).text for path in ("/metrics", "/readyz", "/livez", "/openapi.json")]
    for session in installation.sessions:
        shown += session.bodies
    await installation.dev.stop()  # what was traced goes out
    assert installation.logs.lines
    assert sum(map(len, collector.bodies)) > 1_000
    everything = "\n".join([*installation.logs.lines, *shown]).encode() + b"".join(collector.bodies)
    for secret in (PAYLOAD, *(part for token in tokens for part in token.split(".")[1:])):
        at = everything.find(secret.encode())
        assert at < 0, everything[max(0, at - 300) : at + 250]
