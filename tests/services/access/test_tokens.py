"""Tokens that are not accepted, on every surface: from the beginning, and from one moment to the next."""

import asyncio
import base64
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.services.access.conftest import Installation
from tests.services.access.rules import FOREIGN, MISSING, OWN, OWN_SESSION, OWNER, ROLES, TARGETS
from tests.services.access.surfaces import OPERATIONS, Answer
from tests.services.edge.client import Client
from websockets.exceptions import InvalidStatus

from heliograph.cli.keys import Algorithm, SigningKey

NOTICED_S = 1.0 + 4.0
"""The second within which a change holds, and what a busy machine adds."""

OVER_HTTP = [operation for operation in OPERATIONS if operation.http]
IN_HELLO = next(operation for operation in OPERATIONS if operation.name == "subscribe in hello")
ONE_OF_EACH = [IN_HELLO, *(one for one in OVER_HTTP if one.name in ("POST a message", "GET history", "GET presence"))]
"""One on each surface."""


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def bad_tokens(installation: Installation) -> dict[str, tuple[str | None, str]]:
    """What it is → the token, and the code that all surfaces answer."""
    scopes, refused = OWNER.scopes, "unauthenticated"

    def token(tenant: str = OWN, subject: str = "owner", **given: Any) -> str:
        return installation.token(tenant, subject, scopes, **given)

    head, claims, signature = token().split(".")
    others = {"tenant": OWN, "sub": "x", "exp": int(time.time()) + 99}
    stranger = SigningKey.generate(Algorithm.EDDSA, f"key-of-{OWN}")
    return {
        "none": (None, refused),
        "no JWT": ("not-a-token", refused),
        "without its signature": (f"{head}.{claims}.", refused),
        "not signed": (f"{part({'alg': 'none'})}.{claims}.", refused),
        "signed with a secret": (f"{part({'alg': 'HS256', 'kid': f'key-of-{OWN}'})}.{claims}.{signature}", refused),
        "with other claims": (f"{head}.{part(others)}.{signature}", refused),
        "of a stranger's key": (token(signed_by=stranger), refused),
        "of another tenant's key": (token(signed_by=installation.keys[FOREIGN]), refused),
        "of no tenant": (token(MISSING, signed_by=installation.keys[OWN]), refused),
        "for another audience": (token(aud="others"), refused),
        "with a scope that is none": (token(scope="publish:*"), refused),
        "run out": (token(exp=int(time.time()) - 60), "token_expired"),
        "revoked": (token(subject="revoked-one"), "token_revoked"),
        "of a suspended tenant": (token(FOREIGN), "tenant_suspended"),
    }


async def in_force(ask: Callable[[], Awaitable[Answer]], code: str | None) -> None:
    """Wait until the answer has this code, at most as long as a change may take."""
    deadline = time.monotonic() + NOTICED_S
    while (answer := await ask()).code != code:
        assert time.monotonic() < deadline, f"{answer.code}; must be {code} within a second"
        await asyncio.sleep(0.02)


async def test_a_token_that_is_not_accepted_gets_nothing_and_learns_nothing(installation: Installation) -> None:
    tokens = bad_tokens(installation)
    await installation.change_tenant(OWN, revoked=[{"subject": "revoked-one"}])
    await installation.change_tenant(FOREIGN, suspended=True)
    for operation in ONE_OF_EACH:
        for what in ("revoked", "of a suspended tenant"):
            token, code = tokens[what]
            session = installation.session(token)
            await in_force(lambda one=operation, by=session: one.ask(by, OWN_SESSION.session), code)  # type: ignore[misc]
    wrong: list[str] = []
    for what, (token, wanted) in tokens.items():
        session = installation.session(token)
        for operation in (IN_HELLO, *OVER_HTTP):
            answers = {}
            for target in TARGETS:
                mark = len(installation.logs.lines)
                answers[target.what] = answer = await operation.ask(session, target.session)
                cell = f"{what} × {operation.name} × {target.what}"
                if answer.code != wanted:
                    wrong.append(f"{cell}: {answer.code or 'done'}; must be {wanted}")
                if "token_refused" not in {line["event"] for line in installation.logs.since(mark)}:
                    wrong.append(f"{cell}: not logged")
            if len(set(answers.values())) != 1:
                wrong.append(f"{what} × {operation.name}: differs by what is asked about: {answers}")
    assert not wrong, "\n".join(wrong)
    everything = "\n".join(installation.logs.lines)
    for token, _ in tokens.values():
        for piece in filter(None, (token or "").split(".")[1:]):
            assert piece not in everything
    refused = sum(
        next(one for one in installation.dev.services if one.name == "edge").metrics.value(
            "tokens_refused_total", {"reason": reason}
        )
        for reason in ("token_revoked", "tenant_suspended", "token_expired", "token_signature_invalid")
    )
    assert refused > 0


async def test_a_handshake_with_a_token_that_is_not_accepted_is_refused(installation: Installation) -> None:
    address = installation.urls["edge"].replace("http", "ws") + "/v1/connect"
    await installation.change_tenant(OWN, revoked=[{"subject": "revoked-one"}])
    session = installation.session(bad_tokens(installation)["revoked"][0])
    await in_force(lambda: IN_HELLO.ask(session, OWN_SESSION.session), "token_revoked")
    for what in ("of a stranger's key", "run out", "revoked"):
        token, code = bad_tokens(installation)[what]
        counted = installation.refusals("edge", code)
        with pytest.raises(InvalidStatus) as refused:
            await Client.connect(address, token=token, in_header=True)
        body = json.loads(refused.value.response.body or b"")
        assert (refused.value.response.status_code, body["code"]) == (401, code)
        assert installation.refusals("edge", code) == counted + 1
        assert any(line["event"] == "handshake_refused" and line["code"] == code for line in installation.logs.since(0))
    assert all(
        (token or "x.y.z").split(".")[2] not in "".join(installation.logs.lines) for token in installation.tokens
    )


CHANGES: dict[str, tuple[dict[str, Any], str, tuple[int, str]]] = {
    "revoked": ({"revoked": [{"subject": "worker"}]}, "token_revoked", (4505, "token_revoked")),
    "revoked by time": ({"revoked": [{"before": 4_000_000_000}]}, "token_revoked", (4505, "token_revoked")),
    "suspended": ({"suspended": True}, "tenant_suspended", (4502, "tenant_suspended")),
    "without the key": ({"keys": []}, "unauthenticated", (4007, "keys_changed")),
}


@pytest.mark.parametrize("what", CHANGES)
async def test_within_a_second_no_surface_takes_a_token_that_was_taken_back(
    installation: Installation, what: str
) -> None:
    change, code, close = CHANGES[what]
    session = installation.session(installation.token(OWN, "worker", OWNER.scopes))
    bystander = installation.session(installation.token(FOREIGN, "bystander", OWNER.scopes))
    socket, untouched = await session.socket(), await bystander.socket()
    await socket.subscribe(OWN_SESSION.session)
    for operation in ONE_OF_EACH:
        assert (await operation.ask(session, OWN_SESSION.session)).code is None, operation.name
    changed = time.monotonic()
    await installation.change_tenant(OWN, **change)
    assert (await socket.closed(NOTICED_S), socket.close_reason) == close
    for operation in ONE_OF_EACH:
        await in_force(lambda one=operation: one.ask(session, OWN_SESSION.session), code)  # type: ignore[misc]
    assert time.monotonic() - changed < NOTICED_S
    assert any(
        line["event"] == "connection_refused" and line["code"] == close[1] for line in installation.logs.since(0)
    )
    assert not untouched.is_closed
    for operation in ONE_OF_EACH:
        assert (await operation.ask(bystander, f"{FOREIGN}:planner:trip-42")).code is None, operation.name


async def test_keys_are_rotated_while_everybody_goes_on(installation: Installation) -> None:
    """The new key is added, clients bring tokens of it, the old one is removed: nobody notices, on any surface."""
    old, new = installation.keys[OWN], SigningKey.generate(Algorithm.EDDSA, "successor")
    before = installation.token(OWN, "worker", OWNER.scopes)
    after = installation.token(OWN, "worker", OWNER.scopes, signed_by=new)
    session, fresh = installation.session(before), installation.session(after)
    socket = await session.socket()
    await socket.subscribe(OWN_SESSION.session)
    await installation.change_tenant(OWN, keys=old.jwks()["keys"] + new.jwks()["keys"])
    for operation in ONE_OF_EACH:
        await in_force(lambda one=operation: one.ask(fresh, OWN_SESSION.session), None)  # type: ignore[misc]
        assert (await operation.ask(session, OWN_SESSION.session)).code is None, operation.name
    assert (await socket.ask("refresh", token=after))["type"] == "refreshed"
    await installation.change_tenant(OWN, keys=new.jwks()["keys"])
    for operation in ONE_OF_EACH:
        await in_force(lambda one=operation: one.ask(session, OWN_SESSION.session), "unauthenticated")  # type: ignore[misc]
        assert (await operation.ask(fresh, OWN_SESSION.session)).code is None, operation.name
    assert (await socket.publish(OWN_SESSION.session, "still here"))["type"] == "published"
    assert not socket.is_closed


async def test_what_a_refreshed_token_allows_is_judged_as_any_other(installation: Installation) -> None:
    """A connection that changes its token is, from there on, one with that token: cell by cell."""
    socket_operations = [one for one in OPERATIONS if not one.http and "in hello" not in one.name]
    session = installation.session(installation.token(OWN, "somebody", ()))
    socket = await session.socket()
    wrong: list[str] = []
    for role in ROLES:
        token = installation.token(OWN, "somebody", role.scopes)
        while (answer := await socket.ask("refresh", token=token)).get("code") == "rate_limited":
            await asyncio.sleep(answer["retry_after_ms"] / 1000)
        assert answer["type"] == "refreshed", answer
        for operation in socket_operations:
            for target in TARGETS:
                got = (await operation.ask(session, target.session)).code
                wanted = None if operation.allowed(role, target) else "forbidden"
                if got != wanted:
                    wrong.append(f"{role.name} × {operation.name} × {target.what}: {got or 'done'}; must be {wanted}")
    assert not wrong, "\n".join(wrong)
    assert (await session.socket()) is socket
