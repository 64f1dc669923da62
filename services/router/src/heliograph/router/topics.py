"""The topics of all tenants' logs: which there should be, whose each is, and which one of its name it is.

Names follow from the tenants' records; ids come from the cluster and are looked at from time to time.
"""

from collections.abc import Collection
from dataclasses import dataclass

from heliograph.core.errors import HeliographError
from heliograph.protocol.tenants import RETENTION_CLASSES, Tenant, retention_class
from heliograph.service.health import describe_error
from heliograph.service.logs import get_logger
from heliograph.service.tenants import TenantDirectory
from heliograph.stores.keys import Topics
from heliograph.stores.ports import LogAdmin

log = get_logger(__name__)

AGAIN_AT_ONCE = 50
"""Known topics looked at again at a time: with thousands, all at once would hold up the event loop."""

DEFAULT_RETENTION_S = 7 * 24 * 3600.0
"""Of index entries of a topic that has just left the directory."""


@dataclass(frozen=True, slots=True)
class LogTopic:
    """One log topic."""

    tenants: frozenset[str]
    """Whose sessions may be in it."""
    shared: bool
    retention_s: float


class TopicTable:
    """All log topics."""

    def __init__(self, directory: TenantDirectory, names: Topics, admin: LogAdmin) -> None:
        self._directory = directory
        self._names = names
        self._admin = admin
        self._topics: dict[str, LogTopic] = {}
        self._ids: dict[str, str] = {}
        self._turn: list[str] = []
        """Known topics that are still to be looked at in this round."""
        self.missing: frozenset[str] = frozenset()
        """Topics that a tenant should have and the cluster has not."""

    def refresh(self) -> list[str]:
        """Take up the tenants as they are; the names of all topics, sorted."""
        own: dict[str, LogTopic] = {}
        shared: dict[str, set[str]] = {}
        for name, entry in self._directory.all().items():
            for topic, retention_s in log_topics(self._names, entry.record):
                if entry.record.shared:
                    shared.setdefault(topic, set()).add(name)
                    own[topic] = LogTopic(frozenset(), True, retention_s)
                else:
                    own[topic] = LogTopic(frozenset((name,)), False, retention_s)
        for topic, names in shared.items():
            own[topic] = LogTopic(frozenset(names), True, own[topic].retention_s)
        self._topics = own
        return sorted(own)

    async def identify(self) -> None:
        """Ask the cluster which topics these are: all that are not known, some of the others. Raises StoreError."""
        self._turn = [topic for topic in self._turn if topic in self._ids] or sorted(self._ids)
        again, self._turn = self._turn[:AGAIN_AT_ONCE], self._turn[AGAIN_AT_ONCE:]
        unknown = [topic for topic in self._topics if topic not in self._ids]
        found = await self._admin.describe([*unknown, *(topic for topic in again if topic in self._topics)])
        for name, info in found.items():
            before = self._ids.get(name)
            if before is not None and before != info.topic_id:
                log.warning("topic_recreated", topic=name, topic_id=info.topic_id, before=before)
        gone = [topic for topic in again if topic not in found]
        self._ids = {name: topic_id for name, topic_id in self._ids.items() if name not in gone}
        self._ids.update({name: info.topic_id for name, info in found.items()})
        missing = frozenset(topic for topic in self._topics if topic not in self._ids)
        if missing - self.missing:
            log.warning("topics_missing", topics=sorted(missing)[:20], count=len(missing))
        self.missing = missing

    def of(self, topic: str) -> LogTopic | None:
        """What is known of a topic; None where it is no tenant's (any more)."""
        return self._topics.get(topic)

    async def now_share(self, tenants: Collection[str]) -> bool:
        """Whether one of these tenants turns out to be new, once its record is looked for: an edge may have heard of it
        before this router did, and written for it.
        """
        try:
            await self._directory.refresh()
        except (HeliographError, OSError, TimeoutError) as error:
            log.warning("tenants_not_looked_for", error=describe_error(error))
            return False
        found = [entry.record for name in tenants if (entry := self._directory.find(name)) is not None]
        self.refresh()
        return any(record.shared for record in found)

    def topic_id(self, topic: str) -> str | None:
        return self._ids.get(topic)

    def retention_s(self, topic: str) -> float:
        found = self._topics.get(topic)
        return DEFAULT_RETENTION_S if found is None else found.retention_s


def log_topics(names: Topics, tenant: Tenant) -> list[tuple[str, float]]:
    """Each log topic with a tenant's sessions, and how long (s) Kafka keeps what is in it."""
    topics: dict[str, float] = {}
    for agent_type in ("", *tenant.agent_types):
        kept_s = tenant.log_settings(agent_type).retention_s
        topics[names.log_for(tenant, agent_type)] = float(
            RETENTION_CLASSES[retention_class(kept_s)] if tenant.shared else kept_s
        )
    return list(topics.items())
