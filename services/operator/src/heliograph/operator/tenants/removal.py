"""What goes when a Tenant resource goes, and what stays. Every step may be repeated; a restart goes on with the next.

The record goes first, so that services refuse its clients before its topics are gone; who owns it goes last, so that
nobody has the name while something of it is left.
"""

import functools
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from heliograph.operator.tenants.access import Access
from heliograph.operator.tenants.stores import TenantStores
from heliograph.protocol.tenants import Tenant
from heliograph.service.applying import wait_in_force
from heliograph.service.topics import wanted_topics
from heliograph.stores.ports import Owner, StoreError

FOR_EVER_MS = 1 << 60
"""After any time."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that goes."""

    what: str
    take: Callable[[], Awaitable[None]]
    """Raises StoreError."""
    of_log: bool = False
    """Kafka is asked."""


class Removal:
    """Of one tenant's things."""

    def __init__(self, stores: TenantStores, access: Access) -> None:
        self._stores = stores
        self._access = access

    def steps(
        self, owner: Owner, spec: Mapping[str, Any], record: Tenant | None, status: Mapping[str, Any]
    ) -> tuple[list[Step], list[str]]:
        """What to do, in order, each with what it is; and the topics that go or stay.

        `record`: what the spec comes to, where that can be said.
        """
        name, delete = spec["tenant"], spec.get("reclaimPolicy") == "Delete"
        topics = self._own_topics(record, spec, status)
        steps = [Step("its record", lambda: self._drop_record(name))]
        if status.get("access") or delete:
            steps.append(Step("the access of its consumers", lambda: self._drop_access(name, status), of_log=True))
        if delete:
            steps += [
                Step(f"topic {topic}", functools.partial(self._drop_topic, topic), of_log=True) for topic in topics
            ]
            steps += [
                Step("its hot windows", lambda: self._drop_windows(name)),
                Step("its sessions' expiries", lambda: self._drop_expiries(name)),
                Step("what its workers held", lambda: self._drop_serving(name)),
            ]
        after = None if delete else retaining(owner)
        steps.append(Step("whose it is", lambda: self._disown(name, owner, after)))
        return steps, topics

    def _own_topics(self, record: Tenant | None, spec: Mapping[str, Any], status: Mapping[str, Any]) -> list[str]:
        """Topics that nobody else has messages in: those of its spec, and those that its status tells of."""
        topics, name = self._stores.topics, spec["tenant"]
        own = f"{topics.prefix}.{name}."
        named = [one["name"] for one in status.get("topics", ())]
        if record is not None:
            named += [topic.name for topic in wanted_topics(record, topics)]
            if not record.shared and (spec.get("topics") or {}).get("telemetry") is not None:
                named.append(topics.telemetry(name))  # also where it is no longer logged
        return sorted({topic for topic in named if topic.startswith(own)})

    async def _drop_record(self, name: str) -> None:
        if await self._stores.tenants.get(name) is not None:
            await self._stores.tenants.delete(name)
            await wait_in_force(self._stores.tenants)

    async def _drop_topic(self, topic: str) -> None:
        if await self._stores.admin.describe([topic]):
            await self._stores.admin.delete(topic)

    async def _drop_access(self, name: str, status: Mapping[str, Any]) -> None:
        try:
            await self._access.take_away(name)
        except StoreError as error:
            if status.get("access") or error.code == "log_unavailable":
                raise  # brokers without an authorizer have nothing to take away

    async def _drop_windows(self, name: str) -> None:
        live = self._stores.live
        for shard in range(self._stores.virtual_shards):
            cursor = 0
            while True:
                cursor, sessions = await live.sessions(shard, f"{name}:", cursor)
                if sessions:
                    await live.forget(sessions)
                if not cursor:
                    break

    async def _drop_expiries(self, name: str) -> None:
        await self._stores.expiries.forget(name, FOR_EVER_MS)

    async def _drop_serving(self, name: str) -> None:
        for kind in await self._stores.serving.kinds():
            if kind.startswith(f"{name}:"):
                await self._stores.serving.forget(kind)

    async def _disown(self, name: str, owner: Owner, after: Owner | None) -> None:
        await self._stores.tenants.own(name, owner, after)


def retaining(owner: Owner) -> Owner:
    """The same, whose resource is gone and whose data is kept."""
    return Owner(owner.namespace, owner.name, owner.uid, retained=True)
