"""Definitions are applied server-side and waited for, against a small API server that speaks real HTTP."""

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from heliograph.operator.apply_crds import PATH, NotAppliedError, apply_all
from heliograph.operator.crds import CRDS


class ApiServer:
    """Takes definitions as the real one does; serves each from the second look on."""

    def __init__(self) -> None:
        self.applied: dict[str, Any] = {}
        self.queries: list[dict[str, str]] = []
        self.looks: dict[str, int] = {}
        self.refuse = ""

    async def patch(self, request: web.Request) -> web.Response:
        if self.refuse:
            return web.json_response({"message": self.refuse}, status=422)
        assert request.content_type == "application/apply-patch+yaml"
        self.queries.append(dict(request.query))
        self.applied[request.match_info["name"]] = json.loads(await request.text())
        return web.json_response({})

    async def get(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        self.looks[name] = self.looks.get(name, 0) + 1
        established = [{"type": "Established", "status": "True" if self.looks[name] > 1 else "False"}]
        return web.json_response({"status": {"conditions": established}})


@pytest.fixture
async def served() -> AsyncIterator[tuple[ApiServer, str]]:
    server = ApiServer()
    app = web.Application()
    app.router.add_patch(f"{PATH}/{{name}}", server.patch)
    app.router.add_get(f"{PATH}/{{name}}", server.get)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield server, f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_every_definition_is_applied_over_what_helm_installed_and_waited_for(
    served: tuple[ApiServer, str],
) -> None:
    server, url = served
    async with aiohttp.ClientSession() as session:
        names = await apply_all(session, url)
    assert [f"{name}.yaml" for name in names] == list(CRDS)
    assert server.applied == {name: CRDS[f"{name}.yaml"]() for name in names}
    assert {(query["force"], query["fieldManager"]) for query in server.queries} == {("true", "heliograph-crds")}
    assert set(server.looks.values()) == {2}


async def test_a_definition_that_the_server_refuses_is_an_error_with_its_words(served: tuple[ApiServer, str]) -> None:
    server, url = served
    server.refuse = "status.storedVersions: must not be missing v1alpha1"
    async with aiohttp.ClientSession() as session:
        with pytest.raises(NotAppliedError, match=r"422: .*storedVersions"):
            await apply_all(session, url)
