"""Role by operation by whose session it is by how the session is spelled, on every surface.

What is allowed is what `rules` says, and nothing else; what is refused is counted, and logged without the token; and of
another tenant no answer tells whether it exists, has the session, or has anybody in it.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.services.access.conftest import Installation
from tests.services.access.rules import (
    ALIKE,
    FOREIGN,
    NO_SCOPES,
    NO_SESSIONS,
    OWN,
    OWNER,
    ROLES,
    TARGETS,
    Target,
)
from tests.services.access.surfaces import (
    NOT_ABOUT_SESSIONS,
    OPERATIONS,
    POSITION,
    PRESENCE,
    Answer,
    Operation,
    Session,
)

from heliograph.protocol.frames import CLIENT_TYPES

NAMES_NOTHING = {"session_invalid", "value_invalid", "not_found", "method_not_allowed", "malformed"}
"""Codes of a name that is none: about the text alone, never about what there is."""

LINES = {"refused", "bad_frame", "request_refused", "token_refused"}
"""Events of the log that say that a request was refused."""


class Cells:
    """What was asked, and what came out wrong."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._wrong: list[str] = []
        self._refused: Counter[tuple[str, str]] = Counter()
        """Refusals by service and code."""
        self.asked = 0

    async def ask(self, operation: Operation, session: Session, name: str, cell: str) -> Answer:
        """Ask, and see that a refusal is said in the log."""
        mark = len(self._installation.logs.lines)
        self.asked += 1
        try:
            answer = await operation.ask(session, name)
        except Exception as error:  # noqa: BLE001 - a cell that fails must not hide the others
            self.wrong(cell, f"{type(error).__name__}: {error}"[:300])
            return Answer("failed", "")
        if answer.code is not None:
            self._refused[operation.service, answer.code] += 1
            said = [line for line in self._installation.logs.since(mark) if line["event"] in LINES]
            if answer.code not in {line["code"] for line in said}:
                self.wrong(cell, f"{answer.code} was not logged")
        return answer

    @property
    def refused(self) -> int:
        return self._refused.total()

    def wrong(self, cell: str, what: str) -> None:
        self._wrong.append(f"{cell}: {what}")

    def check(self) -> None:
        for (service, code), answers in self._refused.items():
            counted = self._installation.refusals(service, code)
            if counted != answers:
                self.wrong(f"{service} × {code}", f"{answers} answers, {counted:g} counted")
        assert not self._wrong, f"{len(self._wrong)} of {self.asked} cells:\n" + "\n".join(self._wrong)
        secrets = [part for token in self._installation.tokens for part in token.split(".")[1:]]
        everything = "\n".join(self._installation.logs.lines)
        answers_had = "\n".join(body for session in self._installation.sessions for body in session.bodies)
        for secret in secrets:
            assert secret not in everything
            assert secret not in answers_had


@pytest.fixture
def cells(installation: Installation) -> Iterator[Cells]:
    made = Cells(installation)
    yield made
    made.check()


@pytest.fixture
async def used(installation: Installation) -> None:
    """`trip-42` of both tenants has messages, a subscriber, and an expiry that is far away."""
    for tenant in (OWN, FOREIGN):
        scopes = tuple(f"{operation}:*:*" for operation in ("publish", "subscribe", "admin"))
        session = installation.session(installation.token(tenant, "resident", scopes))
        socket = await session.socket()
        for name in (f"{tenant}:planner:trip-42", f"{tenant}:coder:trip-42"):
            assert (await socket.publish(name, "there before"))["type"] == "published"
            assert (await socket.subscribe(name, "earliest"))["type"] == "subscribed"


async def test_a_role_may_do_what_its_scopes_say_and_no_more(
    installation: Installation, used: None, cells: Cells
) -> None:
    foreign_log = installation.dev.memory.log.records(f"heliograph.{FOREIGN}.log")
    before = len(foreign_log)
    for role in ROLES:
        session = installation.of_role(role)
        for operation in OPERATIONS:
            answers: dict[str, Answer] = {}
            for target in TARGETS:
                cell = f"{role.name} × {operation.name} × {target.what}"
                answer = await cells.ask(operation, session, target.session, cell)
                answers[target.what] = answer.about(target)
                wanted = None if operation.allowed(role, target) else "forbidden"
                if answer.code != wanted:
                    cells.wrong(cell, f"{answer.code or 'done'}; must be {wanted or 'done'}")
            for one, other in ALIKE:
                if answers[one] != answers[other] and None not in (answers[one].code, answers[other].code):
                    cells.wrong(
                        f"{role.name} × {operation.name}",
                        f"{one} and {other} can be told apart:\n  {answers[one].text}\n  {answers[other].text}",
                    )
    assert len(installation.dev.memory.log.records(f"heliograph.{FOREIGN}.log")) == before
    assert cells.refused > cells.asked / 2


async def test_a_name_that_is_none_is_refused_alike_whoever_asks(
    installation: Installation, used: None, cells: Cells
) -> None:
    sessions: dict[str, Session] = {role.name: installation.of_role(role) for role in (OWNER, NO_SCOPES)}
    for operation in OPERATIONS:
        if operation.whole != "session":
            continue
        for what, name in NO_SESSIONS.items():
            if operation.path == PRESENCE and name.count(":") < 2:
                continue  # that is the address of a tenant or an agent type
            answers = {}
            for role, session in sessions.items():
                cell = f"{role} × {operation.name} × {what}"
                answer = await cells.ask(operation, session, name, cell)
                answers[role] = answer
                if answer.code not in NAMES_NOTHING:
                    cells.wrong(cell, f"{answer.code or 'done'}; must be one of {sorted(NAMES_NOTHING)}")
            if answers[OWNER.name] != answers[NO_SCOPES.name]:
                cells.wrong(f"{operation.name} × {what}", f"differs by who asks: {answers}")


NO_AGENT_TYPES = (
    "",
    "*",
    "Planner",
    "planner:*",
    "planner:trip-42",
    "../planner",
    "pl\u0430nner",
    "planner ",
    "x" * 64,
)


async def test_an_agent_type_that_is_none_is_refused_alike_whoever_asks(
    installation: Installation, cells: Cells
) -> None:
    for what in NO_AGENT_TYPES:

        async def serve(session: Session, name: str) -> Answer:
            return await session.frame("serve", agent_type=name, capacity=0)

        row = Operation("serve", "edge", ("serve",), serve)
        answers = set()
        for role in (OWNER, NO_SCOPES):
            answer = await cells.ask(row, installation.of_role(role), what, f"{role.name} × serve × {what!r}")
            answers.add(answer)
            if answer.code not in NAMES_NOTHING:
                cells.wrong(f"{role.name} × serve × {what!r}", f"{answer.code}")
        if len(answers) != 1:
            cells.wrong(f"serve × {what!r}", f"differs by who asks: {answers}")


async def test_who_has_no_lease_acknowledges_nothing_and_learns_nothing(
    installation: Installation, used: None, cells: Cells
) -> None:
    async def ack(session: Session, name: str) -> Answer:
        return await session.frame("ack", session=name, position=POSITION, lease="1764000000042", done=True)

    row = Operation("ack with a lease", "edge", ("serve",), ack)
    for role in ROLES:
        session = installation.of_role(role)
        answers = {
            (await cells.ask(row, session, target.session, f"{role.name} × {target.what}")).about(target)
            for target in TARGETS
        }
        if {answer.code for answer in answers} != {"lease_lost"} or len(answers) != 1:
            cells.wrong(f"{role.name} × ack with a lease", f"not alike: {answers}")


async def test_no_frame_and_no_route_is_without_a_row(installation: Installation) -> None:
    """What is added later has to be added here."""
    rows = {covered for operation in OPERATIONS for covered in operation.covers}
    found = set(CLIENT_TYPES) - set(NOT_ABOUT_SESSIONS)
    async with httpx.AsyncClient(trust_env=False) as http:
        for url in installation.urls.values():
            described = (await http.get(f"{url}/openapi.json")).json()
            found |= {f"{method} {path}" for path, methods in described["paths"].items() for method in methods}
    assert found == rows


RAW: dict[str, tuple[str, str | None]] = {
    "percent-encoded letter": ("acme/planner/%74rip-42", "acme:planner:trip-42"),
    "percent-encoded hyphen": ("acme/planner/trip%2D42", "acme:planner:trip-42"),
    "percent-encoded tenant": ("%61cme/planner/trip-42", "acme:planner:trip-42"),
    "percent-encoded foreign tenant": ("%67lobex/planner/trip-42", "globex:planner:trip-42"),
    "percent-encoded slash": ("acme/planner%2Ftrip-42", "acme:planner:trip-42"),
    "percent-encoded twice": ("acme/planner/%2574rip-42", None),
    "two dots": ("acme/planner/..", None),
    "two dots, encoded": ("acme/planner/%2e%2e", None),
    "up to another tenant": ("acme/planner/../../globex/planner/trip-42", None),
    "up to another tenant, encoded": ("acme/planner/%2e%2e/%2e%2e/globex/planner/trip-42", None),
    "up to another tenant, slashes encoded": ("acme/planner/..%2f..%2fglobex/planner/trip-42", None),
    "empty agent type": ("acme//trip-42", None),
    "empty tenant": ("/planner/trip-42", None),
    "slash behind": ("acme/planner/trip-42/", None),
    "colons": ("acme:planner:trip-42", None),
    "null": ("acme/planner/trip-42%00", None),
    "line break": ("acme/planner/trip-42%0d%0aX-Tenant:%20globex", None),
    "parameter": ("acme/planner/trip-42;tenant=globex", None),
    "plus": ("acme/planner/trip+42", None),
    "upper case": ("ACME/planner/trip-42", None),
    "not UTF-8": ("acme/planner/trip-42%ff", None),
    "overlong dots": ("acme/planner/%c0%ae%c0%ae", None),
    "cyrillic a": ("%D0%B0cme/planner/trip-42", None),
}
"""Ends of an address → the session that they are, by RFC 3986 or by what the server makes of them; None: none."""


async def test_an_address_is_judged_by_what_it_decodes_to(installation: Installation, used: None, cells: Cells) -> None:
    roles = [role for role in ROLES if role.name in ("owner", "one session", "another session", "no scopes")]
    for role in roles:
        session = installation.of_role(role)
        for operation in OPERATIONS:
            if not operation.path or operation.whole != "session":
                continue
            for what, (end, name) in RAW.items():
                cell = f"{role.name} × {operation.name} × {what}"
                answer = await cells.ask(_at(operation, end), session, "", cell)
                wanted: set[str | None]
                if name is None:
                    wanted = {*NAMES_NOTHING, "forbidden"}
                elif operation.allowed(role, Target("", *name.split(":"))):
                    wanted = {None}
                else:
                    wanted = {"forbidden"}
                if answer.code not in wanted:
                    cells.wrong(cell, f"{answer.code or 'done'}; must be one of {wanted}")


def _at(operation: Operation, end: str) -> Operation:
    """The operation at an address as it is written."""
    method, after, body = _REQUESTS[operation.name]

    async def ask(session: Session, _name: str) -> Answer:
        return await session.request(method, operation.service, operation.path + end + after, body)

    return Operation(operation.name, operation.service, operation.needs, ask, operation.whole, operation.path)


_REQUESTS: dict[str, tuple[str, str, Any]] = {
    "POST a message": ("POST", "/messages", {"payload": 1}),
    "POST a batch": ("POST", "/messages", {"messages": [{"payload": 1}]}),
    "PUT an expiry": ("PUT", "/expiry", {"expires_at_ms": 4_000_000_000_000}),
    "GET history": ("GET", "", None),
    "stream history": ("GET", "?format=ndjson", None),
    "GET presence": ("GET", "", None),
}
