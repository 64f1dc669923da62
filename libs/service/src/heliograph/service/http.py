"""What every HTTP API of Heliograph has in common: one shape of errors, bounded requests, safe headers, tokens.

An error body is a problem document (RFC 9457, `application/problem+json`) with two members of ours: `code`, the stable
code of `heliograph.protocol.codes` that programs match on, and `error`, which repeats it with a message for people and
whatever else belongs to that code (`retry_after_ms`, `errors`, …). Payloads and tokens are never echoed.
"""

import http
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from heliograph.core.errors import HeliographError
from heliograph.core.scopes import Operation
from heliograph.core.sessions import SessionKey
from heliograph.protocol.codes import CODES
from heliograph.service.health import Liveness, Readiness, health_router
from heliograph.service.logs import get_logger
from heliograph.service.metrics import Metrics
from heliograph.service.refusals import Refusals
from heliograph.service.tokens import Identity, TokenError, TokenVerifier

PROBLEM = "application/problem+json"

MAX_REQUEST_BYTES = 1024 * 1024
"""Default bound on a request's body: a page of parameters is far below; the edge sets its own for batches."""

SECURITY_HEADERS: Sequence[tuple[bytes, bytes]] = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
"""Added where the answer doesn't set them: this is an API, nothing of it is to be framed, sniffed or kept by caches."""

PROBLEM_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "code", "error"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "description": "Stable; programs match on it."},
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string", "description": "For people; may change."},
                "retry_after_ms": {"type": "integer", "description": "When the same request may succeed."},
            },
        },
    },
}

_CODES_BY_STATUS = {
    400: "malformed",
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "request_too_large",
    422: "value_invalid",
    429: "rate_limited",
    503: "unavailable",
}
"""For errors that a library raises with a status alone."""

log = get_logger(__name__)


class HttpError(HTTPException):
    """An error answer by its code, whose status the table of codes gives. Raise it anywhere below a route."""

    def __init__(
        self,
        code: str,
        message: str | None = None,
        *,
        retry_after_ms: int | None = None,
        headers: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> None:
        known = CODES[code]
        self.code = code
        self.message = message or known.meaning
        self.fields = fields
        sent = dict(headers or {})
        if retry_after_ms is not None:
            self.fields["retry_after_ms"] = retry_after_ms
            sent.setdefault("retry-after", str(math.ceil(retry_after_ms / 1000)))  # RFC 9110, 10.2.3: whole seconds
        if known.http == 401:
            sent.setdefault("www-authenticate", 'Bearer realm="heliograph"')  # RFC 9110, 15.5.2: it must be there
        super().__init__(known.http, self.message, sent)


def problem(status: int, code: str, message: str, fields: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The body of an error answer."""
    return {
        "type": "about:blank",
        "title": http.HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "error": {"code": code, "message": message, **(fields or {})},
    }


def problem_response(error: HttpError) -> JSONResponse:
    """The answer to an error."""
    body = problem(error.status_code, error.code, error.message, error.fields)
    return JSONResponse(body, error.status_code, dict(error.headers or {}), PROBLEM)


def create_app(
    *,
    title: str,
    version: str,
    metrics: Metrics,
    readiness: Readiness,
    liveness: Liveness,
    max_request_bytes: int = MAX_REQUEST_BYTES,
    refusals: Refusals | None = None,
) -> FastAPI:
    """A FastAPI application with probes, metrics, errors, limits and headers as every service has them."""
    refuse = HttpRefusals(metrics, refusals or Refusals())
    app = FastAPI(
        title=title,
        version=version,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a name has one spelling: another one is not found, not corrected
        responses={"default": {"description": "An error", "content": {PROBLEM: {"schema": dict(PROBLEM_SCHEMA)}}}},
    )
    install_errors(app, refuse)
    app.include_router(health_router(readiness, liveness, metrics))
    app.add_middleware(RequestSizeLimit, max_bytes=max_request_bytes, refused=refuse)
    app.add_middleware(ErrorBoundary, metrics=metrics)
    app.add_middleware(SecurityHeaders)  # the last added is the outermost
    return app


class HttpRefusals:
    """Counts error answers by code and says so in the log, by the route's template: an address may hold anything."""

    def __init__(self, metrics: Metrics, refusals: Refusals) -> None:
        self._counts = metrics.tick_family("http_refused_total", "HTTP requests answered with an error.", ["code"])
        self._refusals = refusals

    def __call__(self, scope: Scope, code: str) -> None:
        self._counts.labels(code).n += 1
        identity = scope.get("state", {}).get("identity")
        route = getattr(scope.get("route"), "path", None)
        tenant, subject = (identity.tenant, identity.subject) if identity is not None else (None, None)
        self._refusals.say("request_refused", code, tenant, subject=subject, method=scope["method"], route=route)


def install_errors(app: FastAPI, refused: HttpRefusals) -> None:
    """Give every error that FastAPI or a handler raises the shape of `problem`."""

    def answer(request: Request, error: HttpError) -> JSONResponse:
        refused(request.scope, error.code)
        return problem_response(error)

    async def http_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        if isinstance(error, HttpError):
            return answer(request, error)
        code = _CODES_BY_STATUS.get(error.status_code, "internal" if error.status_code >= 500 else "malformed")
        refused(request.scope, code)
        body = problem(error.status_code, code, CODES[code].meaning)
        return JSONResponse(body, error.status_code, dict(error.headers or {}), PROBLEM)

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        problems = error.errors()
        code = "malformed" if any(found["type"] == "json_invalid" for found in problems) else "value_invalid"
        found = [{"where": ".".join(map(str, found["loc"])), "problem": found["msg"]} for found in problems]
        message = "; ".join(f"{one['where']}: {one['problem']}" for one in found[:5])
        return answer(request, HttpError(code, message, errors=found))

    async def coded(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HeliographError)
        if error.code not in CODES:
            raise error
        # What a store says about itself is for us; what it means is for the caller.
        message = error.message if CODES[error.code].http < 500 else CODES[error.code].meaning
        return answer(request, HttpError(error.code, message))

    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HeliographError, coded)


class SecurityHeaders:
    """Pure ASGI: SECURITY_HEADERS on every HTTP answer that has not set them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                there = {name.lower() for name, _ in headers}
                headers += [header for header in SECURITY_HEADERS if header[0] not in there]
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, with_headers)


class ErrorBoundary:
    """Pure ASGI: an exception nobody handled becomes a 500 without details, logged and counted.

    Where the answer has begun already, the connection is broken off: an end that looks regular would be a lie.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._errors = metrics.counter("http_errors_total", "Requests that ended by an unexpected error.")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except ClientDisconnect:
            log.debug("client_gone", method=scope["method"], answered=begun)
        except Exception:
            self._errors.inc()
            log.exception("request_failed", method=scope["method"], path=scope["path"], answered=begun)
            if begun:
                raise
            await problem_response(HttpError("internal"))(scope, receive, send)


class RequestSizeLimit:
    """Pure ASGI: 413 for a body above `max_bytes`, whether it says so (Content-Length) or not (chunked).

    A body is never read beyond the bound. The connection is closed: what is left of it would be read as a request.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, refused: Callable[[Scope, str], None]) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value[:30]) > self._max_bytes:
                await self._refuse(scope, receive, send)
                return
        received, too_large, begun, refused = 0, False, False, False

        async def counted() -> Message:
            nonlocal received, too_large
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                too_large = True
                raise self._error()
            return message

        async def guarded(message: Message) -> None:
            # Whatever a framework makes of the error raised while it read the body, the answer is 413.
            nonlocal begun, refused
            if too_large and not begun:
                if not refused:
                    refused = True
                    await self._refuse(scope, receive, send)
                return
            begun = True
            await send(message)

        try:
            await self._app(scope, counted, guarded)
        except HttpError:
            if not too_large or begun:
                raise
            if not refused:
                await self._refuse(scope, receive, send)

    def _error(self) -> HttpError:
        message = f"the request's body is above {self._max_bytes} bytes"
        return HttpError("request_too_large", message, headers={"connection": "close"}, max_bytes=self._max_bytes)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = self._error()
        self._refused(scope, error.code)
        await problem_response(error)(scope, receive, send)


def bearer(verifier: TokenVerifier) -> Callable[..., Awaitable[Identity]]:
    """A FastAPI dependency: the identity of the request's `Authorization: Bearer` token, or 401 (403 if suspended)."""
    scheme = HTTPBearer(
        auto_error=False, bearerFormat="JWT", description="A token signed with one of the tenant's keys"
    )

    async def identity(
        request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(scheme)]
    ) -> Identity:
        try:
            found = verifier.verify(given.credentials if given is not None else "")
        except TokenError as error:
            raise token_http_error(error) from None
        request.state.identity = found  # for the log, where it is refused something
        return found

    return identity


def token_http_error(error: TokenError) -> HttpError:
    """The answer to a token that is not accepted (RFC 6750, section 3)."""
    headers = {}
    if CODES[error.code].http == 401:
        detail = "" if error.reason == "token_missing" else ', error="invalid_token"'
        headers["www-authenticate"] = f'Bearer realm="heliograph"{detail}'
    return HttpError(error.code, error.message, headers=headers)


def require(identity: Identity, operation: Operation, session: SessionKey) -> None:
    """Raise 403 unless the token allows `operation` with `session`."""
    if not identity.scopes.allows(operation, session):
        raise HttpError("forbidden", f"the token has no scope {operation}:{session.agent_type}:{session.session_id}")


def require_every(identity: Identity, operation: Operation, tenant: str, agent_type: str | None = None) -> None:
    """Raise 403 unless the token allows `operation` with every session of the agent type, or of the tenant (None)."""
    if not identity.scopes.allows_every(operation, tenant, agent_type):
        raise HttpError("forbidden", f"the token has no scope {operation}:{agent_type or '*'}:* of this tenant")
