"""The operator as a whole, on the fake API server: changes reach reconcilers, what is stuck is found."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from tests.services.operator.fake_kube import FakeKube, FakeWatcher

from heliograph.operator.bootstrap import compose
from heliograph.operator.kube import CONFIG_MAPS, TENANTS, Kind, KubeError, Object
from heliograph.operator.reconciler import Key, Requeue, Watch, own_key
from heliograph.operator.settings import OperatorSettings
from heliograph.service.health import Liveness, Readiness
from heliograph.service.lifecycle import Service, serve
from heliograph.service.metrics import Metrics

LABEL = "heliograph.dev/watched"


class Seen:
    """A reconciler that only notes what it is to look at."""

    kind: Kind = TENANTS

    def __init__(self) -> None:
        self.looks: list[Key] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.stubborn = False

    @property
    def watches(self) -> Sequence[Watch]:
        def of_map(body: Object, gone: bool) -> list[Key]:
            return [Key("Tenant", body["metadata"]["namespace"], "by-map")]

        return [Watch(TENANTS, own_key(TENANTS)), Watch(CONFIG_MAPS, of_map, LABEL)]

    async def start(self) -> None:
        pass

    async def reconcile(self, key: Key) -> Requeue | None:
        self.looks.append(key)
        while not self.gate.is_set():
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                if not self.stubborn:
                    raise
        return None


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def running(kube: FakeKube, watcher: FakeWatcher, seen: Seen, **changed: object) -> AsyncIterator[Service]:
    settings = OperatorSettings(
        port=0,
        **{
            "drain_timeout_s": 1.0,
            "watch_check_interval_s": 0.05,
            "watch_stuck_s": 0.2,
            "resync_interval_s": 3_600.0,
            **changed,
        },  # type: ignore[arg-type]
    )

    async def nothing() -> None:
        pass

    readiness, liveness = Readiness(), Liveness()
    service = compose(
        settings, kube, watcher, [seen], Metrics("operator", process=False), readiness, liveness, nothing, nothing
    )
    stop = asyncio.Event()
    serving = asyncio.create_task(serve(service, stop=stop))
    async with asyncio.timeout(20):
        await readiness.wait_ready()
    try:
        yield service
    finally:
        seen.gate.set()
        stop.set()
        await serving


async def test_what_exists_and_what_changes_is_looked_at() -> None:
    kube, seen = FakeKube(), Seen()
    await kube.create(TENANTS, "a", {"metadata": {"name": "there"}})
    async with running(kube, FakeWatcher(kube), seen):
        await until(lambda: Key("Tenant", "a", "there") in seen.looks)
        await kube.create(TENANTS, "b", {"metadata": {"name": "new"}})
        await until(lambda: Key("Tenant", "b", "new") in seen.looks)
        seen.looks.clear()
        await kube.delete(TENANTS, "b", "new")
        await until(lambda: seen.looks == [Key("Tenant", "b", "new")])


async def test_other_kinds_are_heard_of_by_their_label() -> None:
    kube, seen = FakeKube(), Seen()
    async with running(kube, FakeWatcher(kube), seen):
        await kube.create(CONFIG_MAPS, "a", {"metadata": {"name": "other"}})
        await kube.create(CONFIG_MAPS, "b", {"metadata": {"name": "ours", "labels": {LABEL: "true"}}})
        await until(lambda: seen.looks == [Key("Tenant", "b", "by-map")])


async def test_a_resync_looks_at_everything_again() -> None:
    kube, seen = FakeKube(), Seen()
    await kube.create(TENANTS, "a", {"metadata": {"name": "one"}})
    async with running(kube, FakeWatcher(kube), seen, resync_interval_s=0.1):
        await until(lambda: len(seen.looks) >= 3)


async def test_a_resync_does_not_wait_for_the_next_check_of_the_watch() -> None:
    kube, seen = FakeKube(), Seen()
    await kube.create(TENANTS, "a", {"metadata": {"name": "one"}})
    async with running(kube, FakeWatcher(kube), seen, resync_interval_s=0.1, watch_check_interval_s=3_600.0):
        await until(lambda: len(seen.looks) >= 3)


async def test_a_watch_that_is_stuck_ends_the_process() -> None:
    kube, seen = FakeKube(), Seen()
    watcher = FakeWatcher(kube)
    async with running(kube, watcher, seen) as service:
        watcher.stalled = True
        await kube.create(TENANTS, "a", {"metadata": {"name": "unheard"}})
        await until(lambda: service.liveness.failure is not None)
        assert service.liveness.failure is not None
        assert "unheard" in service.liveness.failure.text


async def test_an_api_server_that_is_away_does_not_end_the_process_and_is_shown() -> None:
    kube, seen = FakeKube(), Seen()

    def away(verb: str, kind: Kind, name: str) -> None:
        raise KubeError("kube_unavailable", "no route")

    async with running(kube, FakeWatcher(kube), seen) as service:
        kube.before = away
        await until(lambda: service.readiness.degraded() == ["lists"])
        assert service.liveness.failure is None
        kube.before = lambda verb, kind, name: None
        await until(lambda: service.readiness.degraded() == [])


async def test_a_namespace_whose_rights_are_gone_is_shown_and_keeps_no_other_one_waiting() -> None:
    kube, seen = FakeKube(), Seen()
    for namespace in ("a", "b"):
        await kube.create(TENANTS, namespace, {"metadata": {"name": "one"}})
    options = {"watch_namespaces": ("a", "b"), "resync_interval_s": 0.1}
    async with running(kube, FakeWatcher(kube, ("a", "b")), seen, **options) as service:
        kube.closed.add("a")
        await until(lambda: service.readiness.degraded() == ["lists"])
        seen.looks.clear()
        await until(lambda: len(seen.looks) >= 3)
        assert set(seen.looks[1:]) == {Key("Tenant", "b", "one")}, "but for one that was due already"
        assert service.readiness.ready
        assert service.liveness.failure is None
        kube.closed.clear()
        await until(lambda: service.readiness.degraded() == [])
        await until(lambda: Key("Tenant", "a", "one") in seen.looks[1:])


async def test_a_watch_that_is_stuck_is_found_while_another_namespace_has_no_rights() -> None:
    kube, seen = FakeKube(), Seen()
    watcher = FakeWatcher(kube, ("a", "b"))
    kube.closed.add("a")
    async with running(kube, watcher, seen, watch_namespaces=("a", "b")) as service:
        watcher.stalled = True
        await kube.create(TENANTS, "b", {"metadata": {"name": "unheard"}})
        await until(lambda: service.liveness.failure is not None)


async def test_a_look_that_can_not_be_ended_ends_the_process() -> None:
    kube, seen = FakeKube(), Seen()
    seen.gate.clear()
    seen.stubborn = True
    await kube.create(TENANTS, "a", {"metadata": {"name": "hangs"}})
    async with running(kube, FakeWatcher(kube), seen, reconcile_timeout_s=0.05) as service:
        await until(lambda: service.liveness.failure is not None)
        seen.stubborn = False
