"""The topics of all tenants' logs: which there should be, whose each is, and which one of its name it is.

Names follow from the tenants' records; ids come from the cluster and are looked at from time to time.
"""

from dataclasses import dataclass

from heliograph.protocol.tenants import Tenant
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

    tenant: str
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
        topics = {}
        for name, entry in self._directory.all().items():
            for topic, retention_s in log_topics(self._names, entry.record):
                topics[topic] = LogTopic(name, retention_s)
        self._topics = topics
        return sorted(topics)

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

    def tenant(self, topic: str) -> str | None:
        """Whose log it is."""
        found = self._topics.get(topic)
        return None if found is None else found.tenant

    def topic_id(self, topic: str) -> str | None:
        return self._ids.get(topic)

    def retention_s(self, topic: str) -> float:
        found = self._topics.get(topic)
        return DEFAULT_RETENTION_S if found is None else found.retention_s


def log_topics(names: Topics, tenant: Tenant) -> list[tuple[str, float]]:
    """Each log topic of a tenant and its retention (s)."""
    topics = [(names.log(tenant.tenant), float(tenant.topics.log.retention_s))]
    for agent_type, settings in tenant.agent_types.items():
        topics.append((names.agent_type_log(tenant.tenant, agent_type), float(settings.log.retention_s)))
    return topics
