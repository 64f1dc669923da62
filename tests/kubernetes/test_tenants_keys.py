"""Where a Tenant's keys come from, on a real API server: a Secret, a ConfigMap, an https address."""

import base64
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.certificates import certificate, server_side
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.operating import PUBLIC_KEY, Operator, new_name, tenant, until, until_condition

from heliograph.operator.kube import CONFIG_MAPS, SECRETS, TENANTS
from heliograph.operator.kube_http import HttpKube

READY = ("True", "Ready")
LABELS = {"heliograph.dev/watched": "true"}


class Issuer:
    """Serves a key set by https, on loopback."""

    def __init__(self) -> None:
        self.ids = ["k1"]
        self.port = 0

    async def answer(self, _: web.Request) -> web.StreamResponse:
        return web.json_response(key_set(*self.ids))

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}/jwks"


def key_set(*ids: str) -> dict[str, Any]:
    return {"keys": [{**PUBLIC_KEY, "kid": kid} for kid in ids]}


def base64_of(document: object) -> str:
    return base64.b64encode(json.dumps(document).encode()).decode()


@pytest.fixture
async def issuer(tmp_path: Path) -> AsyncIterator[Issuer]:
    certificate(tmp_path)
    made, app = Issuer(), web.Application()
    app.router.add_get("/jwks", made.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_side(tmp_path))
    await site.start()
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


@pytest.fixture
def operator(
    cluster: Cluster,
    crds: None,
    made_namespace: str,
    kafka_bootstrap: str,
    redis_url: str,
    issuer: Issuer,
    tmp_path: Path,
) -> Iterator[Operator]:
    with Operator(
        tmp_path,
        cluster.kubeconfig,
        [made_namespace],
        kafka=kafka_bootstrap,
        redis_url=redis_url,
        prefix=new_name("hg"),
        settings={"jwks_hosts": "localhost", "jwks_private_hosts": "localhost", "jwks_refresh_s": 1},
        environment={"SSL_CERT_FILE": str(tmp_path / "cert.pem")},
    ) as running:
        yield running


async def keyed(api: HttpKube, namespace: str, place: dict[str, Any]) -> str:
    """The name of a Tenant whose keys are there."""
    name = new_name()
    body = tenant(name)
    body["spec"]["auth"] = {"jwksFrom": place}
    await api.create(TENANTS, namespace, body)
    return name


async def until_keys(api: HttpKube, namespace: str, name: str, ids: list[str]) -> None:
    async def taken_up() -> bool:
        found = await api.get(TENANTS, namespace, name)
        return found is not None and found["status"].get("keys") == ids

    await until(taken_up)


async def test_a_change_of_a_secret_or_config_map_is_taken_up_and_only_those_with_the_label_are_watched(
    api: HttpKube, made_namespace: str, operator: Operator
) -> None:
    before, after = key_set("k1"), key_set("k1", "k2")
    metadata = {"name": "keys", "labels": LABELS}
    await api.create(SECRETS, made_namespace, {"metadata": metadata, "data": {"jwks": base64_of(before)}})
    await api.create(CONFIG_MAPS, made_namespace, {"metadata": metadata, "data": {"jwks": json.dumps(before)}})
    bare = {"metadata": {"name": "bare"}, "data": {"jwks": base64_of(before)}}
    await api.create(SECRETS, made_namespace, bare)
    by_secret = await keyed(api, made_namespace, {"secretKeyRef": {"name": "keys", "key": "jwks"}})
    by_map = await keyed(api, made_namespace, {"configMapKeyRef": {"name": "keys", "key": "jwks"}})
    by_bare = await keyed(api, made_namespace, {"secretKeyRef": {"name": "bare", "key": "jwks"}})
    for name in (by_secret, by_map):
        await until_condition(api, made_namespace, name, READY)
    await until_condition(api, made_namespace, by_bare, ("False", "NotLabelled"), "KeysReady")
    await api.patch(SECRETS, made_namespace, "keys", {"data": {"jwks": base64_of(after)}})
    await api.patch(CONFIG_MAPS, made_namespace, "keys", {"data": {"jwks": json.dumps(after)}})
    for name in (by_secret, by_map):
        await until_keys(api, made_namespace, name, ["k1", "k2"])
    told = operator.metrics()['heliograph_operator_watch_changes_total{kind="Secret"}']
    assert told == 2, "the one with the label, made and changed"


async def test_keys_at_a_url_are_fetched_and_fetched_again_and_hosts_that_are_not_listed_are_not_asked(
    api: HttpKube, made_namespace: str, operator: Operator, issuer: Issuer
) -> None:
    name = await keyed(api, made_namespace, {"url": issuer.url})
    other = await keyed(api, made_namespace, {"url": issuer.url.replace("localhost", "127.0.0.1")})
    await until_condition(api, made_namespace, name, READY)
    body = await until_condition(api, made_namespace, other, ("False", "FetchFailed"), "KeysReady")
    said = next(one["message"] for one in body["status"]["conditions"] if one["type"] == "KeysReady")
    assert "127.0.0.1" in said
    issuer.ids = ["k1", "k2"]
    await until_keys(api, made_namespace, name, ["k1", "k2"])
