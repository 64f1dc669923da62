"""The operator's loop: changes come in from the watch, keys go into the queue, reconcilers do the work.

Everything is looked at again each `resync_interval_s`, spread over it. A list of everything, compared with what the
watch told, finds a watch that is stuck; `/livez` then asks for a restart, as it does for a look that does not end.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence

from heliograph.operator.kube import FORBIDDEN, Kind, Kube, KubeError, Object
from heliograph.operator.queue import Work, WorkQueue
from heliograph.operator.reconciler import Key, Reconciler, Requeue
from heliograph.operator.staleness import ObjectKey, Staleness
from heliograph.operator.watching import Watcher
from heliograph.service.health import Condition, Liveness
from heliograph.service.logs import get_logger

HELD_UP_FACTOR = 3.0
"""A look that takes so many times its time-out was told to end and did not: its worker is lost."""

CHECKS_PER_INTERVAL = 10.0
"""Of what was held up, within `watch_check_interval_s`."""

log = get_logger(__name__)


class Manager:
    """Of any number of reconcilers, one a kind."""

    def __init__(
        self,
        kube: Kube,
        watcher: Watcher,
        reconcilers: Sequence[Reconciler],
        make_queue: Callable[[Work], WorkQueue],
        condition: Condition,
        liveness: Liveness,
        *,
        namespaces: Sequence[str],
        resync_s: float,
        check_s: float,
        stuck_s: float,
        timeout_s: float,
        uniform: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`condition`: of the lists. `timeout_s`: of one look, which the queue enforces."""
        self._kube = kube
        self._watcher = watcher
        self._reconcilers = {one.kind.kind: one for one in reconcilers}
        self._condition = condition
        self._liveness = liveness
        self._namespaces: Sequence[str | None] = tuple(namespaces) or (None,)
        self._resync_s = resync_s
        self._check_s = check_s
        self._stuck_s = stuck_s
        self._timeout_s = timeout_s
        self._uniform = uniform
        self._clock = clock
        self._staleness = Staleness()
        self._watches = [watch for one in reconcilers for watch in one.watches]
        self._watched: dict[Kind, str] = {}
        for watch in self._watches:
            if self._watched.setdefault(watch.kind, watch.labels) != watch.labels:
                raise ValueError(f"{watch.kind.kind} is watched with different labels")
        self.queue = make_queue(self._reconcile)

    @property
    def own_kinds(self) -> list[Kind]:
        """Kinds that are reconciled."""
        return [one.kind for one in self._reconcilers.values()]

    async def start(self) -> None:
        """Begin to watch. Everything that exists is told first."""
        for reconciler in self._reconcilers.values():
            await reconciler.start()
        await self._watcher.start(self._watched, self.changed)

    async def stop(self) -> None:
        await self._watcher.stop()

    def changed(self, kind: Kind, body: Object, gone: bool) -> None:
        """The watch told of an object."""
        metadata = body["metadata"]
        key = (kind.kind, metadata.get("namespace", ""), metadata["name"])
        self._staleness.told(key, str(metadata.get("resourceVersion", "")), gone=gone)
        self._enqueue(kind, body, gone=gone)

    async def resync(self) -> None:
        """For ever: list everything, look at all of ours again, and see whether the watch keeps up."""
        resync_at = self._clock() + self._resync_s
        while True:
            await asyncio.sleep(min(self._check_s, self._resync_s))
            due = self._clock() >= resync_at
            if due:
                resync_at = self._clock() + self._resync_s
            await self._check(resync=due)

    async def watch_over(self) -> None:
        """For ever: whether a look at an object does not end."""
        while True:
            await asyncio.sleep(self._check_s / CHECKS_PER_INTERVAL)
            running_s = self.queue.longest_running_s()
            if running_s > HELD_UP_FACTOR * self._timeout_s:
                self._liveness.fail(f"a look at an object has not ended after {running_s:.0f} s")

    async def _check(self, *, resync: bool) -> None:
        refused: KubeError | None = None
        try:
            for where in self._namespaces:
                for kind, labels in self._watched.items():
                    try:
                        self._listed(kind, where, await self._kube.all_of(kind, where, labels=labels), resync=resync)
                    except KubeError as error:
                        if error.status != FORBIDDEN or where is None:
                            raise
                        refused = error  # the namespace is gone, and the rights there with it: others go on
        except KubeError as error:
            self._condition.degraded(error)
            return
        if refused is not None:
            self._condition.degraded(refused)
        else:
            self._condition.ok()
        behind_s = self._staleness.behind_s(self._clock())
        if behind_s >= self._stuck_s:
            self._liveness.fail(f"the watch has not told of {self._staleness.example()} for {behind_s:.0f} s")

    def _listed(self, kind: Kind, where: str | None, found: Iterable[Object], *, resync: bool) -> None:
        versions: dict[ObjectKey, str] = {}
        for body in found:
            metadata = body["metadata"]
            versions[(kind.kind, metadata.get("namespace", ""), metadata["name"])] = str(metadata["resourceVersion"])
            if resync and kind.kind in self._reconcilers:
                key = Key(kind.kind, metadata["namespace"], metadata["name"])
                self.queue.add(key, self._uniform() * self._resync_s / 2)
        for _, namespace, name in self._staleness.listed(kind.kind, versions, self._clock(), where):
            self._enqueue(kind, {"metadata": {"namespace": namespace, "name": name}}, gone=True)

    def _enqueue(self, kind: Kind, body: Object, *, gone: bool) -> None:
        for watch in self._watches:
            if watch.kind == kind:
                for key in watch.keys(body, gone):
                    self.queue.add(key)

    async def _reconcile(self, key: Key) -> Requeue | None:
        return await self._reconcilers[key.kind].reconcile(key)
