"""What of a topic's settings weakens the promises: advice for who runs the brokers, nothing is changed by it."""

from dataclasses import dataclass

from heliograph.stores.ports import TopicInfo

RECOMMENDED: tuple[tuple[str, str, str], ...] = (
    ("unclean.leader.election.enable", "false", "a replica that lags could become leader and lose durable messages"),
    ("message.timestamp.type", "LogAppendTime", "history by time and retention would go by the edges' clocks"),
    ("cleanup.policy", "delete", "compaction keeps one record a session"),
)


@dataclass(frozen=True, slots=True)
class Advice:
    """A topic's setting that weakens what Heliograph promises."""

    topic: str
    setting: str
    value: str
    recommended: str
    reason: str

    def __str__(self) -> str:
        return f"{self.topic}: {self.setting} is {self.value}, recommended is {self.recommended}: {self.reason}"


def advise(topic: TopicInfo) -> list[Advice]:
    """Advice on one topic, as it is; empty where there is none."""
    advice = []
    replicas, in_sync = topic.replication_factor, int(topic.config.get("min.insync.replicas", "1"))
    if replicas < 3:
        advice.append(Advice(topic.name, "replication factor", str(replicas), "3", "one broker's disk holds it all"))
    if in_sync < 2 and replicas > 1:
        reason = "`durable` means one disk as soon as the other replicas lag"
        advice.append(Advice(topic.name, "min.insync.replicas", str(in_sync), "2", reason))
    for setting, wanted, reason in RECOMMENDED:
        value = topic.config.get(setting, wanted)
        if value != wanted:
            advice.append(Advice(topic.name, setting, value, wanted, reason))
    return advice
