"""The Kubernetes API over HTTP, by aiohttp, which kopf brings.

The plainest client that does it: seven verbs on JSON need no generated one. Requests are not repeated here, with one
exception (credentials that ran out): the work queue does that, with backoff.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp

from heliograph.operator.kube import Kind, KubeError, Object
from heliograph.operator.login import Login
from heliograph.operator.metrics import KubeMetrics

PAGE_OBJECTS = 500
"""Of one page of a list: as kubectl asks for."""

LOGIN_FOR_S = 60.0
"""Credentials are read again after this: the kubelet replaces tokens when four fifths of their hour are over."""

CODES = {401: "kube_forbidden", 403: "kube_forbidden", 404: "kube_not_found", 409: "kube_conflict", 422: "kube_invalid"}
"""HTTP status → code; 400 is `kube_invalid`, all else `kube_unavailable`."""


class HttpKube:
    """`heliograph.operator.kube.Kube`."""

    def __init__(self, login: Login, metrics: KubeMetrics, *, timeout_s: float) -> None:
        """`timeout_s` of one request."""
        self._login = login
        self._metrics = metrics
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None
        self._server = ""
        self._headers: dict[str, str] = {}
        self._logged_in_at = float("-inf")
        self._logging_in = asyncio.Lock()

    async def start(self, *kinds: Kind) -> None:
        """Raise KubeError unless the server answers and serves these kinds."""
        await self._log_in()
        for kind in kinds:
            try:
                await self._request("GET", kind.path(None), kind, "list", params={"limit": "1"})
            except KubeError as error:
                if error.status == 404:
                    message = f"the API server has no {kind.plural}.{kind.group}: install charts/heliograph/crds first"
                    raise KubeError("kube_not_found", message, 404) from None
                if error.status != 403:  # works in some namespaces only
                    raise

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        try:
            return await self._request("GET", kind.path(namespace, name), kind, "get")
        except KubeError as error:
            if error.code == "kube_not_found":
                return None
            raise

    async def all_of(self, kind: Kind, namespace: str | None = None, *, labels: str = "") -> list[Object]:
        params = {"limit": str(PAGE_OBJECTS)}
        if labels:
            params["labelSelector"] = labels
        items: list[Object] = []
        while True:
            page = await self._request("GET", kind.path(namespace), kind, "list", params=params)
            # Items of a list say neither what they are, alone they do.
            items += [{"apiVersion": kind.api_version, "kind": kind.kind, **item} for item in page.get("items") or []]
            token = page["metadata"].get("continue")
            if not token:
                return items
            params["continue"] = token

    async def create(self, kind: Kind, namespace: str, body: Mapping[str, Any]) -> Object:
        return await self._request("POST", kind.path(namespace), kind, "create", body=body)

    async def patch(
        self, kind: Kind, namespace: str, name: str, patch: Mapping[str, Any], *, subresource: str = ""
    ) -> Object:
        path = kind.path(namespace, name, subresource)
        headers = {"Content-Type": "application/merge-patch+json"}
        return await self._request("PATCH", path, kind, "patch", body=patch, headers=headers)

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str = "") -> None:
        body = {"apiVersion": "v1", "kind": "DeleteOptions", **({"preconditions": {"uid": uid}} if uid else {})}
        with contextlib.suppress(_GoneError):
            await self._request("DELETE", kind.path(namespace, name), kind, "delete", body=body)

    async def _request(
        self,
        method: str,
        path: str,
        kind: Kind,
        verb: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Object:
        if time.monotonic() - self._logged_in_at >= LOGIN_FOR_S:
            await self._log_in()
        data = None if body is None else json.dumps(body).encode()
        sent = {"Accept": "application/json", "Content-Type": "application/json", **(headers or {})}
        for attempt in (1, 2):
            async with self._answer(method, path, params, data, sent, kind, verb) as answer:
                if answer.status == 401 and attempt == 1:
                    await self._log_in()
                    continue
                text = await answer.read()
                if answer.status < 400:
                    found: Object = json.loads(text)
                    return found
                raise _error(f"{verb} {path}", answer, text)
        raise AssertionError("unreachable")

    @contextlib.asynccontextmanager
    async def _answer(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        data: bytes | None,
        headers: Mapping[str, str],
        kind: Kind,
        verb: str,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            raise KubeError("kube_unavailable", "the client is closed")
        status = 0
        try:
            async with self._session.request(
                method,
                self._server + path,
                params=params,
                data=data,
                headers={**headers, **self._headers},
                timeout=self._timeout,
            ) as answer:
                status = answer.status
                yield answer
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            text = str(error) or type(error).__name__
            raise KubeError("kube_unavailable", f"{verb} {path}: {text}") from error
        finally:
            self._metrics.request(verb, kind.plural, status)

    async def _log_in(self) -> None:
        async with self._logging_in:
            info = await asyncio.get_running_loop().run_in_executor(None, self._login)
            self._headers = info.as_http_headers()
            if self._session is None:
                # The CA and a client's certificate stay for a process's life; tokens are what changes.
                self._server = info.server.rstrip("/")
                connector = aiohttp.TCPConnector(ssl=info.as_ssl_context())
                agent = {"User-Agent": "heliograph-operator"}
                self._session = aiohttp.ClientSession(connector=connector, headers=agent, trust_env=info.trust_env)
            self._logged_in_at = time.monotonic()


class _GoneError(KubeError):
    """404 of a delete."""


def _error(what: str, answer: aiohttp.ClientResponse, text: bytes) -> KubeError:
    """The server's `Status` as an error. Its message names fields, never their values where those are secret."""
    try:
        said = json.loads(text)
        message, reason = str(said.get("message", "")), str(said.get("reason", ""))
    except (ValueError, AttributeError):
        message, reason = text[:200].decode(errors="replace"), ""
    code = CODES.get(answer.status, "kube_invalid" if answer.status == 400 else "kube_unavailable")
    if reason == "AlreadyExists":
        code = "kube_exists"
    asked = answer.headers.get("Retry-After", "")
    after_s = float(asked) if asked.isdecimal() else None
    cls = _GoneError if answer.status == 404 and answer.method == "DELETE" else KubeError
    return cls(code, f"{what}: {message or answer.reason}", answer.status, after_s)
