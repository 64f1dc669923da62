"""The topics of all tenants' logs and of what was deferred: which there should be, whose each is, and which one of its
name it is.

Names follow from the tenants' records; ids come from the cluster and are looked at from time to time.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

from heliograph.core.errors import HeliographError
from heliograph.protocol.tenants import RETENTION_CLASSES, Tenant, retention_class
from heliograph.service.health import describe_error
from heliograph.service.logs import get_logger
from heliograph.service.tenants import TenantDirectory
from heliograph.service.topic_watch import TopicWatch
from heliograph.stores.keys import Topics

log = get_logger(__name__)

DEFAULT_RETENTION_S = 7 * 24 * 3600.0
"""Of index entries of a topic that has just left the directory."""


@dataclass(frozen=True, slots=True)
class LogTopic:
    """One log topic."""

    tenants: frozenset[str]
    """Whose sessions may be in it."""
    shared: bool
    retention_s: float
    deferred: bool = False
    """It holds what the live path could not take, without positions."""


class TopicTable:
    """All log topics."""

    def __init__(self, directory: TenantDirectory, names: Topics, watch: TopicWatch) -> None:
        self._directory = directory
        self._names = names
        self._watch = watch
        self._topics: dict[str, LogTopic] = {}

    def refresh(self) -> list[str]:
        """Take up the tenants as they are; the names of all topics, sorted."""
        tenants: dict[str, set[str]] = {}
        found: dict[str, LogTopic] = {}
        for name, entry in self._directory.all().items():
            for topic, retention_s, deferred in log_topics(self._names, entry.record):
                tenants.setdefault(topic, set()).add(name)
                found[topic] = LogTopic(frozenset(), entry.record.shared, retention_s, deferred)
        self._topics = {topic: replace(found[topic], tenants=frozenset(names)) for topic, names in tenants.items()}
        return sorted(self._topics)

    async def identify(self) -> None:
        """Ask the cluster which topics these are. Raises StoreError."""
        await self._watch.look(self._topics)

    @property
    def missing(self) -> frozenset[str]:
        """Topics that a tenant should have and the cluster has not."""
        return self._watch.missing

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
        return self._watch.topic_id(topic)

    def retention_s(self, topic: str) -> float:
        found = self._topics.get(topic)
        return DEFAULT_RETENTION_S if found is None else found.retention_s


def log_topics(names: Topics, tenant: Tenant) -> list[tuple[str, float, bool]]:
    """Each topic with a tenant's messages, how long (s) Kafka keeps them there, and whether they are deferred ones."""

    def kept_s(retention_s: int) -> float:
        return float(RETENTION_CLASSES[retention_class(retention_s)] if tenant.shared else retention_s)

    topics = {
        names.log_for(tenant, agent_type): (kept_s(tenant.log_settings(agent_type).retention_s), False)
        for agent_type in ("", *tenant.agent_types)
    }
    topics[names.deferred_of(tenant)] = (kept_s(tenant.topics.deferred.retention_s), True)
    return [(topic, *about) for topic, about in topics.items()]
