"""Key sets from URLs: fetched by the operator, so that edges need no way out of the cluster.

What may be fetched is decided by `addresses.py`, for the URL, for every redirect, and for the addresses that the
connection is really made to: a name that resolves to another address a moment later gains nothing.
"""

import asyncio
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from heliograph.operator.tenants.addresses import address_problem, url_problem

MAX_REDIRECTS = 3
REDIRECTS = frozenset({301, 302, 303, 307, 308})
KEPT_URLS = 2_000
"""Of key sets remembered: one a tenant; who has more fetches more often."""


class FetchError(Exception):
    """Why keys could not be fetched. Says nothing of the answer's content."""


class Fetch(Protocol):
    """Gives the key set at a URL. Raises FetchError."""

    async def __call__(self, url: str) -> Any: ...


class JwksFetcher:
    """`Fetch`, with what was fetched lately remembered."""

    def __init__(
        self,
        *,
        hosts: Iterable[str],
        private_hosts: Iterable[str],
        refresh_s: float,
        timeout_s: float,
        max_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)
        self._private = frozenset(host.lower() for host in private_hosts)
        self._refresh_s = refresh_s
        self._timeout_s = timeout_s
        self._max_bytes = max_bytes
        self._clock = clock
        self._fetched: dict[str, tuple[float, Any]] = {}
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, url: str) -> Any:
        at, found = self._fetched.get(url, (float("-inf"), None))
        if self._clock() - at < self._refresh_s:
            return found
        try:
            async with asyncio.timeout(self._timeout_s):
                found = await self._follow(url)
        except TimeoutError:
            raise FetchError(f"no answer within {self._timeout_s:g} s") from None
        if len(self._fetched) >= KEPT_URLS:
            self._fetched.clear()
        self._fetched[url] = (self._clock(), found)
        return found

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _follow(self, url: str) -> Any:
        for _ in range(1 + MAX_REDIRECTS):
            problem = url_problem(url, self._hosts)
            if problem is None:
                problem = self._literal_problem(url)
            if problem is not None:
                raise FetchError(f"the URL may not be fetched: {problem}")
            try:
                async with self._open().get(url, allow_redirects=False) as answer:
                    if answer.status not in REDIRECTS:
                        return await self._read(answer)
                    url = urljoin(url, answer.headers.get("Location", ""))
            except (aiohttp.ClientError, OSError, ValueError) as error:
                text = str(error.__cause__ if isinstance(error.__cause__, FetchError) else error)
                raise FetchError(f"{urlsplit(url).hostname}: {text or type(error).__name__}") from None
        raise FetchError(f"more than {MAX_REDIRECTS} redirects")

    async def _read(self, answer: aiohttp.ClientResponse) -> Any:
        if answer.status != 200:
            raise FetchError(f"the answer's status is {answer.status}")
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise FetchError("the answer is compressed, which was not asked for")
        data = bytearray()
        async for chunk in answer.content.iter_any():
            data += chunk
            if len(data) > self._max_bytes:
                raise FetchError(f"the answer is above {self._max_bytes} bytes")
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise FetchError("the answer is no JSON") from None

    def _literal_problem(self, url: str) -> str | None:
        """An address in the place of a name is never resolved, so it is looked at here."""
        host = (urlsplit(url).hostname or "").lower()
        problem = address_problem(host, private=host in self._private)
        return None if problem in (None, "is no address") else f"its address {problem}"

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                resolver=_CheckedResolver(self._private),
                use_dns_cache=False,
                force_close=True,  # the next fetch resolves anew
                ssl=ssl.create_default_context(),
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                auto_decompress=False,
                trust_env=False,  # a proxy would resolve names for us, unchecked
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            )
        return self._session


class _CheckedResolver(AbstractResolver):
    """Gives addresses only where each of a name's may be connected to."""

    def __init__(self, private: frozenset[str]) -> None:
        self._private = private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
        results: list[ResolveResult] = []
        for one, _, protocol, _, address in found:
            problem = address_problem(str(address[0]), private=host.lower().rstrip(".") in self._private)
            if problem is not None:
                raise OSError(None, f"its address {problem}") from FetchError(f"its address {problem}")
            results.append(
                ResolveResult(
                    hostname=host,
                    host=str(address[0]),
                    port=port,
                    family=one,
                    proto=protocol,
                    flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
                )
            )
        return results

    async def close(self) -> None:
        pass
