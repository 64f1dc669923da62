"""Everything that a client can ask of a session, over each surface: what is asked, and what came of it.

An operation answers with the code of its refusal, or None where it was done. Refusals that are no matter of access (a
position that is ahead) count as done.
"""

import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
from tests.services.access.rules import FOREIGN, MISSING, OWN, Role, Target
from tests.services.edge.client import Client

BEFORE_ALL = "0000000000000-00000000-0000000000000000"
POSITION = "1764000000000-1a2b3c4d-0000000000000001"


@dataclass(frozen=True)
class Answer:
    """What came of it. `text`: all of it that could tell something, without what differs by nature."""

    code: str | None
    text: str

    def about(self, target: Target) -> "Answer":
        """The same, with the names that were asked about taken out."""
        text = self.text
        for name in {target.session_id, "trip-42", "trip-99", "TRIP-42"}:
            text = text.replace(name, "SESSION")
        text = re.sub(r"\b(planner|coder)\b", "TYPE", text)
        return Answer(self.code, re.sub(rf"\b({OWN}|{FOREIGN}|{MISSING})\b", "TENANT", text))


@dataclass(frozen=True)
class Operation:
    """Something to ask. `needs`: scopes of which one is enough, `whole`: what they must cover."""

    name: str
    service: str
    needs: tuple[str, ...]
    ask: Callable[["Session", str], Awaitable[Answer]]
    whole: str = "session"
    path: str = ""
    """Of HTTP: what stands before the names."""
    also: tuple[str, ...] = ()
    """Scopes that are needed besides."""
    covers: tuple[str, ...] = ()
    """Types of frames, or methods and templates of routes, that this is a row for."""

    @property
    def http(self) -> bool:
        return bool(self.path)

    def allowed(self, role: Role, target: Target) -> bool:
        """By the rules as they are written down in `rules`."""
        parts = {
            "session": (target.tenant, target.agent_type, target.session_id),
            "agent type": (target.tenant, target.agent_type),
            "own agent type": (OWN, target.agent_type),
            "tenant": (target.tenant,),
        }[self.whole]
        return any(role.may(needed, *parts) for needed in self.needs) and all(
            role.may(needed, *parts) for needed in self.also
        )


class Session:
    """One client with one token: a connection where a WebSocket is needed, HTTP else."""

    def __init__(self, urls: dict[str, str], http: httpx.AsyncClient, token: str | None) -> None:
        self._urls = urls
        self._http = http
        self.token = token
        self._socket: Client | None = None
        self.bodies: list[str] = []
        """Of every frame and every error that came back."""

    # ---- WebSocket

    async def socket(self) -> Client:
        """A welcomed connection: the one there is, unless it was closed."""
        if self._socket is None or self._socket.is_closed:
            await self.close()
            address = self._urls["edge"].replace("http", "ws") + "/v1/connect"
            self._socket = await Client.connect(address, token=self.token)
            await self._socket.hello(consumer="matrix", producer="matrix", incarnation="4fGh0pQ2xY7a")
        return self._socket

    async def frame(self, type_: str, **fields: Any) -> Answer:
        socket = await self.socket()
        answer = await socket.ask(type_, **fields)
        answer.pop("id")
        return self._answer(answer)

    async def first_frames(self, hello: dict[str, Any]) -> Answer:
        """A connection of its own: what answers `hello` and the subscription that it brings."""
        socket = await Client.connect(self._urls["edge"].replace("http", "ws") + "/v1/connect", token=self.token)
        try:
            await socket.send({"type": "hello", **({"token": self.token} if self.token is not None else {}), **hello})
            answer = await socket.next()
            if answer["type"] == "welcome" and hello.get("subscriptions"):
                answer = await socket.next()
            return self._answer(answer)
        except AssertionError:
            if not socket.is_closed:
                raise
            return Answer(socket.close_reason, "")  # the tenant changed between two frames
        finally:
            await socket.close()

    def _answer(self, answer: dict[str, Any]) -> Answer:
        text = json.dumps({**answer, "position": None}, sort_keys=True)
        self.bodies.append(text)
        refused = answer["type"] in ("refused", "error")
        return Answer(answer["code"] if refused else None, text)

    # ---- HTTP

    async def request(self, method: str, service: str, target: str, body: Any = None) -> Answer:
        """`target` is sent as it is: no client makes it well-behaved."""
        headers = {} if self.token is None else {"authorization": f"Bearer {self.token}"}
        answer = await self._http.request(
            method, self._urls[service], headers=headers, json=body, extensions={"target": target.encode("latin-1")}
        )
        kept = {name: value for name, value in answer.headers.items() if name not in ("date", "content-length")}
        if answer.status_code < 300:
            return Answer(None, "")
        self.bodies.append(answer.text + json.dumps(kept))
        code = answer.json()["code"]
        return Answer(code, f"{answer.status_code} {sorted(kept.items())} {answer.text}")

    async def close(self) -> None:
        if self._socket is not None:
            await self._socket.close()


# ---- over the WebSocket


async def _subscribe(session: Session, name: str) -> Answer:
    answer = await session.frame("subscribe", session=name, **{"from": "latest"})
    if answer.code is None:
        await session.frame("unsubscribe", session=name)
    return answer


async def _hello(session: Session, name: str) -> Answer:
    return await session.first_frames({"subscriptions": [{"session": name}]})


async def _publish(session: Session, name: str) -> Answer:
    return await session.frame("publish", session=name, payload=1, ack="accepted")


async def _publish_control(session: Session, name: str) -> Answer:
    return await session.frame("publish", session=name, payload=1, **{"class": "control"})


async def _publish_telemetry(session: Session, name: str) -> Answer:
    return await session.frame("publish", session=name, payload=1, ack="accepted", **{"class": "telemetry"})


async def _status(session: Session, name: str) -> Answer:
    return await session.frame("status", session=name, position=POSITION)


async def _subscribe_with_presence(session: Session, name: str) -> Answer:
    answer = await session.frame("subscribe", session=name, presence=True)
    if answer.code is None:
        await session.frame("unsubscribe", session=name)
    return answer


async def _hello_with_presence(session: Session, name: str) -> Answer:
    return await session.first_frames({"subscriptions": [{"session": name, "presence": True}]})


async def _subscribe_from_cursor(session: Session, name: str) -> Answer:
    answer = await session.frame("subscribe", session=name, **{"from": "cursor"})
    if answer.code is None:
        await session.frame("unsubscribe", session=name)
    return answer


async def _serve(session: Session, name: str) -> Answer:
    """With room for none, so that no session is taken away from the other rows."""
    return await session.frame("serve", agent_type=name.split(":")[1], capacity=0)


async def _ack(session: Session, name: str) -> Answer:
    answer = await session.frame("ack", session=name, position=POSITION)
    return Answer(None, "") if answer.code == "position_ahead" else answer


# ---- over HTTP


def path_of(name: str) -> str:
    """A session's text as the end of a path, in which each part is one segment whatever it holds."""
    return "/".join(quote(part, safe="") for part in name.split(":"))


def _http(
    method: str, service: str, before: str, after: str = "", body: Any = None
) -> Callable[..., Awaitable[Answer]]:
    async def ask(session: Session, name: str) -> Answer:
        return await session.request(method, service, before + path_of(name) + after, body)

    return ask


def _of_tenant(service: str, before: str, after: str = "") -> Callable[..., Awaitable[Answer]]:
    async def ask(session: Session, name: str) -> Answer:
        return await session.request("GET", service, before + path_of(name.split(":", maxsplit=1)[0]) + after)

    return ask


def _of_agent_type(service: str, before: str) -> Callable[..., Awaitable[Answer]]:
    async def ask(session: Session, name: str) -> Answer:
        return await session.request("GET", service, before + path_of(":".join(name.split(":")[:2])))

    return ask


SESSIONS, HISTORY, PRESENCE, EXPORT = "/v1/sessions/", "/v1/history/", "/v1/presence/", "/v1/export/"

_SESSION = "{tenant}/{agent_type}/{session_id}"

OPERATIONS = (
    Operation("subscribe", "edge", ("subscribe",), _subscribe, covers=("subscribe",)),
    Operation("subscribe in hello", "edge", ("subscribe",), _hello, covers=("hello",)),
    Operation("subscribe from a cursor", "edge", ("subscribe",), _subscribe_from_cursor),
    Operation("subscribe with presence", "edge", ("subscribe",), _subscribe_with_presence, also=("presence",)),
    Operation("subscribe with presence in hello", "edge", ("subscribe",), _hello_with_presence, also=("presence",)),
    Operation("publish", "edge", ("publish",), _publish, covers=("publish",)),
    Operation("publish control, durably", "edge", ("publish",), _publish_control),
    Operation("publish telemetry", "edge", ("publish",), _publish_telemetry),
    Operation("status", "edge", ("publish", "subscribe"), _status, covers=("status",)),
    Operation("ack", "edge", ("subscribe",), _ack, covers=("ack",)),
    Operation("serve", "edge", ("serve",), _serve, "own agent type", covers=("serve",)),
    Operation(
        "POST a message", "edge", ("publish",), _http("POST", "edge", SESSIONS, "/messages", {"payload": 1}),
        path=SESSIONS, covers=(f"post {SESSIONS}{_SESSION}/messages",),
    ),
    Operation(
        "POST a batch", "edge", ("publish",),
        _http("POST", "edge", SESSIONS, "/messages", {"messages": [{"payload": 1}, {"payload": 2}]}), path=SESSIONS,
    ),
    Operation(
        "PUT an expiry", "edge", ("admin",),
        _http("PUT", "edge", SESSIONS, "/expiry", {"expires_at_ms": 4_000_000_000_000}), path=SESSIONS,
        covers=(f"put {SESSIONS}{_SESSION}/expiry",),
    ),
    Operation(
        "GET history", "replay", ("history",), _http("GET", "replay", HISTORY), path=HISTORY,
        covers=(f"get {HISTORY}{_SESSION}",),
    ),
    Operation(
        "stream history", "replay", ("history",), _http("GET", "replay", HISTORY, "?format=ndjson"), path=HISTORY
    ),
    Operation(
        "GET presence", "registry", ("presence",), _http("GET", "registry", PRESENCE), path=PRESENCE,
        covers=(f"get {PRESENCE}{_SESSION}",),
    ),
    Operation(
        "GET presence of an agent type", "registry", ("presence",), _of_agent_type("registry", PRESENCE),
        "agent type", PRESENCE, covers=(f"get {PRESENCE}{{tenant}}/{{agent_type}}",),
    ),
    Operation(
        "GET presence of a tenant", "registry", ("presence",), _of_tenant("registry", PRESENCE), "tenant", PRESENCE,
        covers=(f"get {PRESENCE}{{tenant}}",),
    ),
    Operation(
        "export a tenant", "replay", ("history",), _of_tenant("replay", EXPORT), "tenant", EXPORT,
        covers=(f"get {EXPORT}{{tenant}}",),
    ),
    Operation(
        "export a tenant's partitions", "replay", ("history",), _of_tenant("replay", EXPORT, "/partitions"), "tenant",
        EXPORT, covers=(f"get {EXPORT}{{tenant}}/partitions",),
    ),
)  # fmt: skip
"""A row of the matrix each; a test sees that no frame and no route is without one."""

NOT_ABOUT_SESSIONS = ("unsubscribe", "refresh", "pong")
"""Frames that ask for nothing but what the connection has: `unsubscribe` ends what was allowed, tests of tokens have
`refresh`.
"""
