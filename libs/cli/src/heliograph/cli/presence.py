"""`heliograph presence`: who is connected, from the registry; and who comes and goes, from an edge.

A session's joins and leaves are told by the edge as they happen, with their reasons. For a tenant or an agent type
there is no such stream: the registry is asked again and again, and what differs is shown.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any

import httpx
import msgspec
import typer

from heliograph.cli.history import refused_answer
from heliograph.cli.options import DEFAULT_URL, ConnectTimeout, Json, TokenOption, Url, make_client, usage
from heliograph.cli.output import note, print_json, print_table, printable, run, stdout
from heliograph.client import AuthenticationError, ClientState, ConnectError, Presence, RefusedError
from heliograph.core.errors import InvalidValueError
from heliograph.core.sessions import SessionKey, check_label
from heliograph.protocol.frames import PresenceEvent

DEFAULT_REGISTRY_URL = "http://127.0.0.1:8082"
READ_TIMEOUT_S = 30.0
POLL_S = 2.0
"""Between two questions about a tenant or agent type that is watched."""
COLOURS = {PresenceEvent.JOIN: "green", PresenceEvent.LEAVE: "yellow"}

Scope = Annotated[
    str,
    typer.Argument(
        metavar="SCOPE", help="A tenant, tenant:agent-type, or a session tenant:agent-type:id.", show_default=False
    ),
]
RegistryUrl = Annotated[
    str, typer.Option("--registry-url", envvar="HELIOGRAPH_REGISTRY_URL", help="The registry service.")
]


class Connected(msgspec.Struct):
    """A connection, as the registry shows it."""

    connection: str
    subject: str
    since_ms: int
    sessions: list[str]
    edge: str
    agent: str | None = None
    draining: bool = False


class Page(msgspec.Struct):
    """One answer of the registry."""

    connections: list[Connected]
    next: str | None = None


_page = msgspec.json.Decoder(Page)


def presence(
    scope: Scope,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Then show who comes and goes, until Ctrl-C.")] = False,
    registry_url: RegistryUrl = DEFAULT_REGISTRY_URL,
    url: Url = DEFAULT_URL,
    token: TokenOption = None,
    connect_timeout: ConnectTimeout = 10.0,
    json: Json = False,
) -> None:
    """Show who is connected: to a session, to sessions of an agent type, or at all to a tenant.

    With --watch a session's joins and leaves follow as its edge tells them, with the reason (closed, drained, lost). Of
    a tenant or agent type the registry is asked every 2 s, and what changed is shown. Takes a token with the scope
    presence, and for a session that is watched also subscribe.
    """

    async def work() -> None:
        path = registry_url.rstrip("/") + path_of(scope)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        timeout = httpx.Timeout(READ_TIMEOUT_S, connect=connect_timeout)
        async with httpx.AsyncClient(headers=headers, timeout=timeout) as http:
            if not watch:
                _show([one async for one in connected(http, path)], json=json)
            elif scope.count(":") == 2:
                await _watch_session(http, path, scope, url, token, connect_timeout, json=json)
            else:
                await _watch_registry(http, path, json=json)

    run(work(), json=json)


def path_of(scope: str) -> str:
    """Where the registry answers about a scope. Raises a usage error for what is none."""
    parts = scope.split(":")
    try:
        if len(parts) == 3:
            key = SessionKey.parse(scope)
            return f"/v1/presence/{key.tenant}/{key.agent_type}/{key.session_id}"
        if len(parts) <= 2:
            check_label("tenant", parts[0])
            for agent_type in parts[1:]:
                check_label("agent_type", agent_type)
            return "/v1/presence/" + "/".join(parts)
    except InvalidValueError as error:
        raise usage(error.message, "Write acme, acme:planner or acme:planner:42.") from None
    raise usage(f"{scope!r} is no scope", "Write acme, acme:planner or acme:planner:42.")


async def connected(http: httpx.AsyncClient, path: str) -> AsyncIterator[Connected]:
    """All connections of a scope, over as many pages as it takes.

    Raises ConnectError, AuthenticationError, RefusedError.
    """
    after = ""
    while True:
        try:
            response = await http.get(path, params={"after": after} if after else {})
        except httpx.TransportError as error:
            message = f"{path}: {str(error) or type(error).__name__}"
            raise ConnectError("unreachable", message, (path,), error) from None
        if response.status_code != httpx.codes.OK:
            raise refused_answer(path, response, response.content, "registry")
        try:
            page = _page.decode(response.content)
        except msgspec.MsgspecError:
            raise ConnectError("malformed", f"{path}: no answer of a registry") from None
        for one in page.connections:
            yield one
        if page.next is None:
            return
        after = page.next


def _show(found: list[Connected], *, json: bool) -> None:
    if json:
        for one in found:
            shown = msgspec.to_builtins(one)
            print_json({key: value for key, value in shown.items() if value not in (None, False)})
        return
    if not found:
        note("nobody is connected")
        return
    rows = [
        (
            printable(one.agent or ""),
            printable(one.subject),
            _at(one.since_ms, "%Y-%m-%d %H:%M:%S"),
            ", ".join(sorted(one.sessions)),
            f"{one.edge} (drains)" if one.draining else one.edge,
            one.connection,
        )
        for one in found
    ]
    print_table("", ("AGENT", "SUBJECT", "SINCE", "SESSIONS", "EDGE", "CONNECTION"), rows)


def _at(time_ms: int, shown: str = "%H:%M:%S") -> str:
    return datetime.fromtimestamp(time_ms / 1000).astimezone().strftime(shown)


def _show_event(event: Presence, *, json: bool) -> None:
    if json:
        shown: dict[str, Any] = {
            "type": "presence",
            "session": event.session,
            "event": event.event,
            "reason": event.reason,
            "agent": event.agent,
            "subject": event.subject,
            "connection": event.connection,
            "time": event.time_ms,
            "id": event.id or None,
        }
        print_json({key: value for key, value in shown.items() if value is not None})
        return
    who = f"{event.agent} ({event.subject})" if event.agent else event.subject
    why = f" {event.reason}" if event.reason else ""
    line = f"{_at(event.time_ms)} {event.event:5}{why}  {printable(who)}  {event.session}"
    stdout().print(line, style=COLOURS.get(event.event), markup=False)


async def _watch_session(
    http: httpx.AsyncClient,
    path: str,
    session: str,
    url: str,
    token: str | None,
    connect_timeout_s: float,
    *,
    json: bool,
) -> None:
    """Subscribed first, asked then: nobody who comes meanwhile is missed."""

    def on_state(state: ClientState, why: str) -> None:
        if state is ClientState.WAITING and not json:
            note(f"the connection is lost, what happens until it is back is not shown: {why}")

    client = make_client(url, token, connect_timeout_s, on_state=on_state)
    async with client, client.subscribe(session, presence=True) as subscription:
        await subscription.ready()
        _show([one async for one in connected(http, path)], json=json)
        async for item in subscription:
            if isinstance(item, Presence):
                _show_event(item, json=json)


async def _watch_registry(http: httpx.AsyncClient, path: str, *, json: bool) -> None:
    found = [one async for one in connected(http, path)]
    _show(found, json=json)
    before = _places(found)
    while True:
        await asyncio.sleep(POLL_S)
        try:
            now = _places([one async for one in connected(http, path)])
        except (ConnectError, RefusedError) as error:
            final = isinstance(error, AuthenticationError) or (isinstance(error, RefusedError) and not error.retry)
            if final:
                raise
            if not json:
                note(f"{error.code}: {error.message}; asked again")
            continue
        at_ms = int(time.time() * 1000)
        for changed, event in ((before.keys() - now.keys(), "leave"), (now.keys() - before.keys(), "join")):
            for key in sorted(changed):
                one = (before if event == "leave" else now)[key]
                shown = Presence(key[1], event, one.subject, one.agent, one.connection, None, at_ms, "")
                _show_event(shown, json=json)
        before = now


def _places(found: list[Connected]) -> dict[tuple[str, str], Connected]:
    """Connection and session → the connection; one without a session is nowhere to be seen joining."""
    return {(one.connection, session): one for one in found for session in one.sessions}
