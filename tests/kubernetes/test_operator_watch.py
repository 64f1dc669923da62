"""A watch that goes silent: the operator talks to the real API server through a proxy that stops passing bytes.

Connections are not closed: neither side is told, as where a middlebox forgot them, or a cable is pulled.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from tests.faults.links import Link, running_links
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.operating import Operator, condition, new_name, patch, tenant, until, until_condition

from heliograph.operator.kube import TENANTS
from heliograph.operator.kube_http import HttpKube

READY = ("True", "Ready")
NEVER_S = 3_600
"""A time-out that is not what ends it here."""
QUICK = {"kube_timeout_s": 2, "retry_cap_s": 1, "resync_interval_s": NEVER_S, "watch_check_interval_s": NEVER_S}
"""Only the watch says what is to be looked at."""
SILENT_S = 3
STUCK_S = 3
CHECK_S = 0.5
SLACK_S = 20.0
"""For a process to notice, to tell and to end, beside others on two cores."""


@dataclass(frozen=True)
class Way:
    """To the API server, past the proxy."""

    link: Link
    kubeconfig: str


@pytest.fixture(scope="module")
def way(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    directory = tmp_path_factory.mktemp("way")
    config = yaml.safe_load(Path(cluster.kubeconfig).read_text(encoding="utf-8"))
    context = next(one["context"] for one in config["contexts"] if one["name"] == config["current-context"])
    server = next(one["cluster"] for one in config["clusters"] if one["name"] == context["cluster"])
    url = urlsplit(server["server"])
    if url.hostname not in ("127.0.0.1", "localhost"):
        pytest.skip(f"the proxy is for API servers at this machine's loopback, this one is at {url.netloc}")
    with running_links(directory) as links:
        link = links.add("operator>api", url.port or 443)
        server["server"] = f"https://{url.hostname}:{link.port}"
        path = directory / "kubeconfig"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        yield Way(link, str(path))


Start = Callable[..., Operator]


@pytest.fixture
def start(
    way: Way, crds: None, made_namespace: str, kafka_bootstrap: str, redis_url: str, tmp_path: Path
) -> Iterator[Start]:
    """Makes operators behind the proxy, which is as it should be before and after."""
    prefix, made = new_name("hg"), []

    def make(**settings: float) -> Operator:
        made.append(
            Operator(
                tmp_path,
                way.kubeconfig,
                [made_namespace],
                kafka=kafka_bootstrap,
                redis_url=redis_url,
                prefix=prefix,
                settings={**QUICK, **settings},
            )
        )
        return made[-1]

    way.link.heal()
    yield make
    for one in made:
        one.process.kill()
    way.link.heal()


@pytest.mark.parametrize(
    "times",
    [
        {"watch_inactivity_timeout_s": SILENT_S},
        {"watch_inactivity_timeout_s": NEVER_S, "watch_client_timeout_s": SILENT_S},
    ],
    ids=["nothing-was-heard", "it-lasted-too-long"],
)
async def test_a_watch_whose_connection_is_dead_begins_anew_and_misses_nothing(
    api: HttpKube, way: Way, made_namespace: str, start: Start, times: dict[str, float]
) -> None:
    with start(**times) as operator:
        name = new_name()
        await api.create(TENANTS, made_namespace, tenant(name))
        await until_condition(api, made_namespace, name, READY)
        way.link.freeze()
        made = way.link.told()["made"]
        await patch(api, made_namespace, name, {"spec": {"topics": {"log": {"partitions": 2}}}})
        another = new_name()
        await api.create(TENANTS, made_namespace, tenant(another))
        for one in (name, another):
            await until_condition(api, made_namespace, one, READY)
        assert way.link.told()["made"] > made
        assert operator.alive()
        assert operator.metrics()["heliograph_operator_watch_restarts_total"] == 0, "it is not begun from nothing"


async def test_while_the_api_server_is_silent_the_operator_lives_says_so_and_sees_afterwards_what_was_changed(
    api: HttpKube, way: Way, made_namespace: str, start: Start
) -> None:
    times = {"watch_inactivity_timeout_s": SILENT_S, "watch_check_interval_s": CHECK_S, "watch_stuck_s": STUCK_S}
    with start(**times) as operator:
        name = new_name()
        await api.create(TENANTS, made_namespace, tenant(name))
        await until_condition(api, made_namespace, name, READY)
        way.link.hold()
        await patch(api, made_namespace, name, {"spec": {"topics": {"log": {"partitions": 2}}}})
        await until(lambda: "lists" in operator.degraded())
        silent_at = time.monotonic()
        while time.monotonic() < silent_at + 2 * STUCK_S:  # longer than a watch may be stuck
            assert operator.alive() is not False
            await asyncio.sleep(CHECK_S)
        assert condition(await api.get(TENANTS, made_namespace, name)) == ("", "")
        way.link.heal()
        await until_condition(api, made_namespace, name, READY)
        await until(lambda: operator.degraded() == [])
        assert operator.alive()


async def test_a_watch_that_stays_stuck_ends_the_process_in_time_and_the_next_one_sees_what_it_kept_back(
    api: HttpKube, way: Way, made_namespace: str, start: Start
) -> None:
    """A kubelet makes it again."""
    stuck = {"watch_inactivity_timeout_s": NEVER_S, "watch_client_timeout_s": NEVER_S}
    bounds = {"watch_check_interval_s": CHECK_S, "watch_stuck_s": STUCK_S}
    with start(**stuck, **bounds) as operator:
        name = new_name()
        await api.create(TENANTS, made_namespace, tenant(name))
        await until_condition(api, made_namespace, name, READY)
        way.link.freeze()
        await patch(api, made_namespace, name, {"spec": {"topics": {"log": {"partitions": 2}}}})
        begun = time.monotonic()
        await until(lambda: not operator.process.running)
        took_s = time.monotonic() - begun
        assert STUCK_S <= took_s <= STUCK_S + 2 * CHECK_S + SLACK_S
        assert operator.process.returncode, "/livez fails for the moment until then"
        assert f"the watch has not told of ('Tenant', '{made_namespace}', '{name}')" in operator.process.log.read_text()
    with start(**stuck, **bounds) as again:
        await until_condition(api, made_namespace, name, READY)
        assert again.alive()
