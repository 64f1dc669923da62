"""What every admin of topics promises: each call may be repeated."""

import pytest
from tests.stores.log.helpers import Stores, write

from heliograph.stores.ports import StoreError, TopicSpec


async def test_a_created_topic_is_described_as_it_was_wanted(stores: Stores) -> None:
    admin, topic = await stores.admin(), await stores.topic(partitions=3, retention_ms="3600000")
    found = await admin.describe([topic, "missing"])
    assert list(found) == [topic]
    assert (found[topic].partitions, found[topic].replication_factor) == (3, 1)
    assert found[topic].config["retention.ms"] == "3600000"


async def test_nothing_is_described_where_nothing_is_asked(stores: Stores) -> None:
    assert await (await stores.admin()).describe([]) == {}


async def test_creating_an_existing_topic_leaves_it_as_it_is(stores: Stores) -> None:
    admin, topic = await stores.admin(), await stores.topic(partitions=2)
    before = await admin.describe([topic])
    await admin.create(TopicSpec(topic, 5, None, {"retention.ms": "1000"}))
    assert await admin.describe([topic]) == before


async def test_a_created_topic_can_be_written_to_at_once(stores: Stores) -> None:
    writer = await stores.writer()
    for _ in range(3):
        await write(writer, await stores.topic(), b"v")


async def test_a_topic_grows_and_never_shrinks(stores: Stores) -> None:
    admin, topic = await stores.admin(), await stores.topic(partitions=2)
    for wanted, partitions in ((4, 4), (4, 4), (3, 4)):
        await admin.grow(topic, wanted)
        assert (await admin.describe([topic]))[topic].partitions == partitions


async def test_alter_sets_the_keys_it_names_and_leaves_others(stores: Stores) -> None:
    admin, topic = await stores.admin(), await stores.topic(retention_ms="3600000", cleanup_policy="delete")
    await admin.alter(topic, {"retention.ms": "7200000", "max.message.bytes": "2000000"})
    await admin.alter(topic, {})
    config = (await admin.describe([topic]))[topic].config
    assert (config["retention.ms"], config["max.message.bytes"]) == ("7200000", "2000000")
    assert config["cleanup.policy"] == "delete"


async def test_a_setting_that_is_taken_away_goes_back_to_the_default(stores: Stores) -> None:
    admin, topic = await stores.admin(), await stores.topic(retention_ms="3600000")
    await admin.alter(topic, {"compression.type": "zstd"})
    await admin.alter(topic, {"compression.type": None, "retention.ms": "7200000"})
    config = (await admin.describe([topic]))[topic].config
    assert config.get("compression.type", "producer") == "producer"
    assert config["retention.ms"] == "7200000"


async def test_a_deleted_topic_is_gone_and_deleting_it_again_is_no_error(stores: Stores) -> None:
    admin, topic = await stores.admin(), await stores.topic()
    await admin.delete(topic)
    assert await admin.describe([topic]) == {}
    await admin.delete(topic)


async def test_a_topic_made_again_has_another_id(stores: Stores) -> None:
    admin, topic = await stores.admin(), await stores.topic()
    before = (await admin.describe([topic]))[topic].topic_id
    await admin.delete(topic)
    await admin.create(TopicSpec(topic, 1, None, {}))
    assert (await admin.describe([topic]))[topic].topic_id != before


async def test_changing_a_missing_topic_is_an_error_that_names_it(stores: Stores) -> None:
    admin = await stores.admin()
    with pytest.raises(StoreError, match="missing-topic") as error:
        await admin.grow("missing-topic", 3)
    assert error.value.code == "unavailable"
    with pytest.raises(StoreError, match="missing-topic"):
        await admin.alter("missing-topic", {"retention.ms": "1000"})


async def test_messages_of_a_topic_are_counted(stores: Stores) -> None:
    admin, topic = await stores.admin(), await stores.topic(partitions=2)
    assert await admin.messages({topic: 2}) == {topic: 0}
    writer = await stores.writer()
    for number in range(5):
        await write(writer, topic, b"{}", partition=number % 2)
    assert await admin.messages({topic: 2, "missing-topic": 1}) == {topic: 5}
    assert await admin.messages({}) == {}
