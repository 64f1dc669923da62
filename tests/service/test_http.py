"""HTTP: one shape of errors, bounded requests, safe headers, tokens."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from heliograph.core.scopes import Operation
from heliograph.core.sessions import SessionKey
from heliograph.protocol.codes import CODES
from heliograph.service.health import Liveness, Readiness
from heliograph.service.http import PROBLEM, HttpError, RequestSizeLimit, bearer, create_app, require, require_every
from heliograph.service.metrics import Metrics
from heliograph.service.tokens import Identity, TokenVerifier
from heliograph.stores.ports import StoreError

MAX_BYTES = 1_000


class Body(BaseModel):
    count: int


@pytest.fixture
def app(metrics: Metrics, tenants: Any, now: float) -> FastAPI:
    app = create_app(
        title="Test",
        version="1",
        metrics=metrics,
        readiness=Readiness(),
        liveness=Liveness(),
        max_request_bytes=MAX_BYTES,
    )
    verifier = TokenVerifier(tenants.find, metrics, audience="heliograph", clock=lambda: now)
    Who = Annotated[Identity, Depends(bearer(verifier))]  # noqa: N806 - a type

    @app.get("/items")
    async def items(limit: Annotated[int, Query(ge=1, le=10)] = 1) -> dict[str, int]:
        return {"limit": limit}

    @app.post("/items")
    async def add(body: Body) -> dict[str, int]:
        return {"count": body.count}

    @app.post("/raw")
    async def raw(request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    @app.post("/unread")
    async def unread() -> dict[str, bool]:
        return {"read": False}

    @app.get("/refused")
    async def refused() -> None:
        raise HttpError("backlog", retry_after_ms=1_200, tenant="acme")

    @app.get("/store")
    async def store() -> None:
        raise StoreError("live_unavailable", "redis at 10.0.0.7:6379 refused")

    @app.get("/bad-session")
    async def bad_session(key: str) -> str:
        return str(SessionKey.parse(key))

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("with a secret: hunter2")

    @app.get("/breaks-off")
    async def breaks_off() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"first"
            raise RuntimeError("then nothing")

        return StreamingResponse(body())

    @app.get("/v1/history/{key}")
    async def history(key: str, who: Who) -> dict[str, str]:
        require(who, Operation.SUBSCRIBE, SessionKey.parse(key))
        return {"subject": who.subject}

    @app.get("/v1/export/{tenant}")
    async def export(tenant: str, who: Who) -> dict[str, str]:
        require_every(who, Operation.HISTORY, tenant)
        return {"subject": who.subject}

    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as made:
        yield made


def problem_of(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status
    assert answer.headers["content-type"] == PROBLEM
    body = answer.json()
    assert (body["status"], body["code"], body["error"]["code"]) == (status, code, code)
    assert body["title"]
    assert body["error"]["message"]
    error: dict[str, Any] = body["error"]
    return error


async def test_an_unknown_address_has_the_shape(client: httpx.AsyncClient) -> None:
    problem_of(await client.get("/nothing"), 404, "not_found")


async def test_an_unknown_method_has_the_shape_and_says_what_is_allowed(client: httpx.AsyncClient) -> None:
    answer = await client.delete("/items")
    problem_of(answer, 405, "method_not_allowed")
    assert "GET" in answer.headers["allow"]


async def test_a_wrong_parameter_is_named_and_not_echoed(client: httpx.AsyncClient) -> None:
    error = problem_of(await client.get("/items", params={"limit": "hunter2"}), 400, "value_invalid")
    assert error["errors"][0]["where"] == "query.limit"
    assert "hunter2" not in str(error)
    error = problem_of(await client.post("/items", json={"count": "hunter2"}), 400, "value_invalid")
    assert error["errors"][0]["where"] == "body.count"
    assert "hunter2" not in str(error)


@pytest.mark.parametrize("body", [b"{", b"hunter2", b"\xff", b""])
async def test_a_body_that_is_no_json_is_malformed_and_not_echoed(client: httpx.AsyncClient, body: bytes) -> None:
    answer = await client.post("/items", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.headers["content-type"] == PROBLEM
    assert "hunter2" not in answer.text


async def test_a_body_nested_without_end_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post("/items", content=b"[" * 900, headers={"content-type": "application/json"})
    assert answer.status_code == 400


async def test_a_refusal_has_code_fields_and_a_retry_time(client: httpx.AsyncClient) -> None:
    answer = await client.get("/refused")
    error = problem_of(answer, 503, "backlog")
    assert (error["retry_after_ms"], error["tenant"]) == (1_200, "acme")
    assert answer.headers["retry-after"] == "2"


async def test_a_coded_error_of_a_store_gets_its_status_and_keeps_its_details(client: httpx.AsyncClient) -> None:
    error = problem_of(await client.get("/store"), 503, "live_unavailable")
    assert error["message"] == CODES["live_unavailable"].meaning
    assert "10.0.0.7" not in str(error)


async def test_an_invalid_value_is_the_callers_fault(client: httpx.AsyncClient) -> None:
    error = problem_of(await client.get("/bad-session", params={"key": "a:b"}), 400, "session_invalid")
    assert "tenant:agent-type:session-id" in error["message"]


async def test_an_unexpected_error_is_a_500_without_details_logged_and_counted(
    client: httpx.AsyncClient, metrics: Metrics, log_lines: Callable[[], list[dict[str, Any]]]
) -> None:
    answer = await client.get("/broken?token=hunter2")
    problem_of(answer, 500, "internal")
    assert "hunter2" not in answer.text
    assert metrics.value("http_errors_total") == 1
    line = next(line for line in log_lines() if line["event"] == "request_failed")
    assert (line["path"], line["method"]) == ("/broken", "GET")
    assert "RuntimeError" in line["exception"]


async def test_an_answer_that_breaks_off_does_not_look_complete(app: FastAPI, metrics: Metrics) -> None:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        with pytest.raises(RuntimeError, match="then nothing"):
            await client.get("/breaks-off")
    assert metrics.value("http_errors_total") == 1


@pytest.mark.parametrize("path", ["/items", "/nothing", "/broken", "/livez", "/metrics"])
async def test_every_answer_has_safe_headers(client: httpx.AsyncClient, path: str) -> None:
    headers = (await client.get(path)).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert "default-src 'none'" in headers["content-security-policy"]


# ---- size


@pytest.mark.parametrize("path", ["/raw", "/unread"])
async def test_a_body_that_says_it_is_too_large_is_refused(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.post(path, content=b"x" * (MAX_BYTES + 1))
    error = problem_of(answer, 413, "request_too_large")
    assert error["max_bytes"] == MAX_BYTES
    assert answer.headers["connection"] == "close"
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_a_body_of_just_the_bound_passes(client: httpx.AsyncClient) -> None:
    assert (await client.post("/raw", content=b"x" * MAX_BYTES)).json() == {"bytes": MAX_BYTES}


@pytest.mark.parametrize("path", ["/raw", "/items"])
async def test_a_body_in_chunks_is_refused_where_it_passes_the_bound_and_not_read_on(
    client: httpx.AsyncClient, path: str
) -> None:
    read = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(1_000):
            read += 100
            yield b"x" * 100

    answer = await client.post(path, content=chunks(), headers={"content-type": "application/json"})
    problem_of(answer, 413, "request_too_large")
    assert read <= MAX_BYTES + 200


async def test_an_application_that_makes_something_else_of_it_still_answers_413() -> None:
    async def hides_it(scope: Any, receive: Any, send: Any) -> None:
        try:
            while True:
                await receive()
        except HttpError:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"fine"})

    counted: list[str] = []
    limited = RequestSizeLimit(hides_it, max_bytes=10, refused=lambda _scope, code: counted.append(code))
    transport = httpx.ASGITransport(limited)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:

        async def chunks() -> AsyncIterator[bytes]:
            yield b"x" * 11

        problem_of(await client.post("/", content=chunks()), 413, "request_too_large")
    assert counted == ["request_too_large"]


async def test_websockets_pass_untouched(app: FastAPI) -> None:
    seen: list[str] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    limited = RequestSizeLimit(inner, 1, lambda _scope, _code: None)
    await limited({"type": "websocket"}, asyncio.Event().wait, asyncio.Event().wait)  # type: ignore[arg-type]
    assert seen == ["websocket"]


# ---- tokens


async def test_a_request_without_a_token_is_asked_for_one(client: httpx.AsyncClient) -> None:
    for headers in ({}, {"authorization": "Basic eDp5"}, {"authorization": "Bearer"}, {"authorization": "Bearer "}):
        answer = await client.get("/v1/history/acme:planner:42", headers=headers)
        problem_of(answer, 401, "unauthenticated")
        assert answer.headers["www-authenticate"] == 'Bearer realm="heliograph"'


async def test_a_bad_token_is_refused_as_rfc_6750_says(client: httpx.AsyncClient, signers: Any, now: float) -> None:
    for token, code in (("x.y.z", "unauthenticated"), (signers["EdDSA"].sign({"exp": now - 99}), "token_expired")):
        answer = await client.get("/v1/history/acme:planner:42", headers={"authorization": f"Bearer {token}"})
        error = problem_of(answer, 401, code)
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]
        assert "reason" not in error


async def test_a_good_token_gets_in_where_its_scopes_allow(client: httpx.AsyncClient, signers: Any) -> None:
    headers = {"authorization": f"Bearer {signers['EdDSA'].sign()}"}
    answer = await client.get("/v1/history/acme:planner:42", headers=headers)
    assert answer.json() == {"subject": "planner-1"}
    for path in ("/v1/history/acme:planner:43", "/v1/history/other:planner:42", "/v1/export/acme", "/v1/export/other"):
        problem_of(await client.get(path, headers=headers), 403, "forbidden")


async def test_a_token_for_every_session_may_export_its_tenant_alone(client: httpx.AsyncClient, signers: Any) -> None:
    headers = {"authorization": f"Bearer {signers['EdDSA'].sign({'scope': 'history:*:*'})}"}
    assert (await client.get("/v1/export/acme", headers=headers)).status_code == 200
    problem_of(await client.get("/v1/export/other", headers=headers), 403, "forbidden")


async def test_a_suspended_tenant_is_403(client: httpx.AsyncClient, tenants: Any, signers: Any) -> None:
    tenants.put("acme", [signers["EdDSA"].jwk], suspended=True)
    headers = {"authorization": f"Bearer {signers['EdDSA'].sign()}"}
    answer = await client.get("/v1/history/acme:planner:42", headers=headers)
    problem_of(answer, 403, "tenant_suspended")


# ---- what is refused is counted and said

CANARY = "the-canary-sings"
"""Not like a token, so that nothing recognises and removes it: it must not get there."""


async def test_every_refusal_is_counted_and_logged_by_route_code_and_tenant(
    client: httpx.AsyncClient, metrics: Metrics, signers: Any, log_lines: Callable[[], list[dict[str, Any]]]
) -> None:
    good = {"authorization": f"Bearer {signers['EdDSA'].sign()}"}
    canary = {"authorization": f"Bearer {CANARY}"}
    requests: list[tuple[str, str, dict[str, Any], str, str | None, str | None]] = [
        ("GET", f"/{CANARY}?token={CANARY}", {}, "not_found", None, None),
        ("POST", "/store", {}, "method_not_allowed", "/store", None),
        ("GET", "/v1/history/acme:planner:42", {"headers": canary}, "unauthenticated", "/v1/history/{key}", None),
        ("GET", f"/v1/history/{CANARY}", {"headers": good}, "session_invalid", "/v1/history/{key}", "acme"),
        ("GET", "/v1/export/acme", {"headers": good}, "forbidden", "/v1/export/{tenant}", "acme"),
        ("GET", f"/items?limit={CANARY}", {}, "value_invalid", "/items", None),
        (
            "POST",
            "/items",
            {"content": CANARY, "headers": {"content-type": "application/json"}},
            "malformed",
            "/items",
            None,
        ),
        ("GET", "/refused", {}, "backlog", "/refused", None),
        ("GET", "/store", {}, "live_unavailable", "/store", None),
        ("POST", "/raw", {"content": b"x" * 2_000}, "request_too_large", None, None),
    ]
    for method, path, options, code, route, tenant in requests:
        known = len(log_lines())
        before = metrics.value("http_refused_total", {"code": code})
        await client.request(method, path, **options)
        assert metrics.value("http_refused_total", {"code": code}) == before + 1, path
        said = [line for line in log_lines()[known:] if line["event"] == "request_refused"]
        assert [(line["code"], line.get("route"), line["tenant"]) for line in said] == [(code, route, tenant)], path
        ours = [line for line in log_lines() if line.get("logger") != "httpx"]
        assert CANARY not in json.dumps(ours), path


# ---- the description


async def test_openapi_describes_errors_and_hides_probes(client: httpx.AsyncClient) -> None:
    described = (await client.get("/openapi.json")).json()
    assert "/livez" not in described["paths"]
    responses = described["paths"]["/items"]["post"]["responses"]
    assert PROBLEM in responses["default"]["content"]
    assert "422" not in responses
    assert described["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
