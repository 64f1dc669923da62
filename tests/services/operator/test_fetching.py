"""Key sets are fetched by https from hosts on the list, at addresses that were checked, bounded in size and time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web
from tests.certificates import certificate, server_side

from heliograph.operator.tenants.fetching import FetchError, JwksFetcher

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
KEYS = {"keys": [{"kid": "k1", "kty": "OKP"}]}


def moved(target: str) -> web.Response:
    return web.Response(status=302, headers={"Location": target})


class Site:
    """An https server on loopback; `answer` is what it does."""

    def __init__(self) -> None:
        self.answer: Handler = self._keys
        self.asked: list[str] = []
        self.port = 0

    async def _keys(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(KEYS)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        return await self.answer(request)

    def url(self, path: str = "/jwks") -> str:
        return f"https://localhost:{self.port}{path}"


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate(tmp_path)))
    site = Site()
    app = web.Application()
    app.router.add_get("/{path:.*}", site.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    tcp = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_side(tmp_path))
    await tcp.start()
    assert tcp._server is not None
    site.port = tcp._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    yield site
    await runner.cleanup()


@pytest.fixture
async def fetcher() -> AsyncIterator[Callable[..., JwksFetcher]]:
    made: list[JwksFetcher] = []

    def make(**options: object) -> JwksFetcher:
        defaults: dict[str, object] = {
            "hosts": ["localhost"],
            "private_hosts": ["localhost"],
            "refresh_s": 60.0,
            "timeout_s": 5.0,
            "max_bytes": 1_000,
        }
        made.append(JwksFetcher(**{**defaults, **options}))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        await one.close()


Make = Callable[..., JwksFetcher]


async def refused(fetcher: JwksFetcher, url: str) -> str:
    with pytest.raises(FetchError) as caught:
        await fetcher(url)
    return str(caught.value)


async def test_keys_are_fetched_and_remembered_for_a_while(site: Site, fetcher: Make) -> None:
    now = 0.0
    fetch = fetcher(clock=lambda: now)
    assert await fetch(site.url()) == KEYS
    now = 59.0
    await fetch(site.url())
    assert len(site.asked) == 1
    now = 61.0
    await fetch(site.url())
    assert len(site.asked) == 2


async def test_a_host_at_a_private_address_is_not_connected_to_unless_it_may_be_there(
    site: Site, fetcher: Make
) -> None:
    assert "is not public" in await refused(fetcher(private_hosts=[]), site.url())
    assert "not among" in await refused(fetcher(hosts=[]), site.url())
    literal = fetcher(hosts=["127.0.0.1"], private_hosts=[])
    assert "is not public" in await refused(literal, f"https://127.0.0.1:{site.port}/")
    assert site.asked == []


async def test_redirects_are_followed_where_the_url_itself_might_be_fetched(site: Site, fetcher: Make) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response(KEYS) if request.path == "/there" else moved("/there")

    site.answer = answer
    assert await fetcher()(site.url()) == KEYS
    assert site.asked == ["/jwks", "/there"]


@pytest.mark.parametrize("target", ["http://localhost/", "https://evil.example/", "https://169.254.169.254/latest"])
async def test_redirects_to_anywhere_else_are_not(site: Site, fetcher: Make, target: str) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return moved(target)

    site.answer = answer
    assert "may not be fetched" in await refused(fetcher(), site.url())
    assert len(site.asked) == 1


async def test_redirects_in_a_circle_end(site: Site, fetcher: Make) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return moved("/jwks")

    site.answer = answer
    assert "redirects" in await refused(fetcher(), site.url())
    assert len(site.asked) == 4


async def test_an_answer_without_an_end_is_cut(site: Site, fetcher: Make) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse()
        await stream.prepare(request)
        while True:
            await stream.write(b" " * 500)
            await asyncio.sleep(0)

    site.answer = answer
    assert "above 1000 bytes" in await refused(fetcher(), site.url())


async def test_an_answer_that_does_not_come_is_given_up_on(site: Site, fetcher: Make) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    site.answer = answer
    assert "within" in await refused(fetcher(timeout_s=0.3), site.url())


@pytest.mark.parametrize(
    ("response", "said"),
    [
        (lambda: web.Response(status=500), "status is 500"),
        (lambda: web.Response(text="hunter2"), "no JSON"),
        (lambda: web.Response(body=b"x", headers={"Content-Encoding": "gzip"}), "compressed"),
    ],
)
async def test_what_is_no_key_set_is_refused_and_not_quoted(
    site: Site, fetcher: Make, response: Callable[[], web.Response], said: str
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return response()

    site.answer = answer
    message = await refused(fetcher(), site.url())
    assert said in message
    assert "hunter2" not in message


async def test_a_server_that_is_not_who_it_says_is_refused(
    site: Site, fetcher: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    assert "certificate" in (await refused(fetcher(), site.url())).lower()
