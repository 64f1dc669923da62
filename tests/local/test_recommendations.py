"""What is recommended is what the services check, and what the local stack has where it can."""

import re

import pytest
import yaml
from tests.local.papers import ROOT

from heliograph.service.kafka_properties import parse_kafka_properties
from heliograph.stores.ports import TopicInfo
from heliograph.stores.redis.server_checks import NEEDED
from heliograph.stores.topic_advice import RECOMMENDED, advise

PAGE = ROOT / "docs" / "recommendations.md"
TEXT = PAGE.read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((ROOT / "deploy" / "docker-compose.yaml").read_text(encoding="utf-8"))
FOR_ONE_BROKER = {"replication factor", "min.insync.replicas"}


def kafka() -> dict[str, str]:
    """Setting → what is recommended, of those whose value is spelled out."""
    section = TEXT.partition("## Kafka\n")[2].partition("## Redis\n")[0]
    return dict(re.findall(r"^\| `([a-z. ]+)` \| `(\S+)` \|", section, re.MULTILINE))


def test_what_tenant_apply_advises_is_what_the_page_says() -> None:
    poor = TopicInfo("t", "id", 1, 2, {"min.insync.replicas": "1"} | {name: "other" for name, _, _ in RECOMMENDED})
    advised = {advice.setting: advice.recommended for advice in advise(poor)}
    assert advised.keys() >= FOR_ONE_BROKER
    assert {name: kafka()[name] for name in advised} == advised


def test_the_local_stack_is_as_recommended_where_one_broker_can_be() -> None:
    environment = COMPOSE["services"]["kafka"]["environment"]
    for name, value in kafka().items():
        variable = f"KAFKA_{name.upper().replace('.', '_')}".replace(
            "KAFKA_MESSAGE_TIMESTAMP", "KAFKA_LOG_MESSAGE_TIMESTAMP"
        )
        if name not in FOR_ONE_BROKER and variable in environment and "TIMEOUT" not in variable:
            assert environment[variable] == value, name


def test_what_a_live_redis_is_refused_for_is_said() -> None:
    assert f"{NEEDED[0]}.{NEEDED[1]} or newer" in TEXT
    assert re.search(r"^\| `maxmemory-policy` \| `noeviction` \| `noeviction` \| `noeviction` \|", TEXT, re.MULTILINE)
    assert "--maxmemory-policy noeviction" in COMPOSE["services"]["redis"]["command"]


def test_what_is_said_not_to_be_settable_is_not() -> None:
    for name in ("acks", "enable.idempotence"):
        with pytest.raises(ValueError, match=name):
            parse_kafka_properties({name: "1"})
