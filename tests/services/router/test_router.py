"""What a router does with the log, in memory and on real stores."""

from tests.services.router.helpers import World, now_ms, until

from heliograph.core.positions import Position
from heliograph.protocol.codes import GapReason
from heliograph.protocol.gaps import gap_message, gap_reason
from heliograph.protocol.messages import record_headers, record_value


async def test_what_the_log_has_is_confirmed(world: World) -> None:
    await world.router()
    session = world.session()
    await world.publish(session, 20)
    await world.until_confirmed(session, 20)


async def test_records_written_before_the_router_came_are_confirmed(world: World) -> None:
    sessions = [world.session() for _ in range(5)]
    for session in sessions:
        await world.publish(session, 3)
    await world.router()
    for session in sessions:
        await world.until_confirmed(session, 3)


async def test_a_restart_continues_without_loss(world: World) -> None:
    session = world.session()
    router = await world.router()
    await world.publish(session, 5)
    await world.until_confirmed(session, 5)
    await router.stop()
    await world.publish(session, 5, first=6)
    await world.router()
    await world.until_confirmed(session, 10)


async def test_a_router_restarted_with_a_gap_open_goes_on_where_the_hole_is_filled(world: World) -> None:
    session = world.session()
    router = await world.router(log_delivery_timeout_s=1_000)
    messages = await world.publish(session, 6, logged=False)
    for message in messages[:2] + messages[3:]:
        await world.log(message)
    await world.until_confirmed(session, 2)
    await until(lambda: router.value("confirmed_total") == 5)
    await router.kill()
    await world.router(log_delivery_timeout_s=1_000)
    assert await world.confirmed(session) == 2
    await world.log(messages[2])
    await world.until_confirmed(session, 6)


async def test_a_message_whose_edge_died_is_written_from_the_hot_window(world: World) -> None:
    router = await world.router()
    session = world.session()
    messages = await world.publish(session, 3)
    messages += await world.publish(session, 2, first=4, logged=False)
    messages += await world.publish(session, 1, first=6)
    await world.until_confirmed(session, 6)
    assert router.value("reconciled_total") == 2
    written = await world.messages(session)
    assert len(written) == 6
    assert sorted(written, key=lambda message: message.position or "") == messages


async def test_a_gap_record_confirms_its_position(world: World) -> None:
    router = await world.router(log_delivery_timeout_s=1_000)
    session = world.session()
    (lost,) = await world.publish(session, 1, logged=False)
    assert lost.position is not None
    gap = gap_message(session, Position.parse(lost.position), GapReason.NEVER_WRITTEN, now_ms())
    await world.log(gap)
    await world.until_confirmed(session, 1)
    # Counted when the answer to that has come.
    await until(lambda: router.value("gaps_total", reason=GapReason.NEVER_WRITTEN) == 1, "the gap is counted")


async def test_a_poison_record_goes_to_the_dead_letters_with_the_reason_and_others_go_on(world: World) -> None:
    router = await world.router()
    session = world.session()
    before = await world.publish(session, 1)
    partition = (await world.live.partition_of(session)) or 0
    headers = [(name, value) for name, value in record_headers(before[0]) if name != "ce_time"]
    await world.write(b"not a session", b"\xff\x00", [("h", b"\xfe")], topic=world.topic, partition=partition)
    await world.write(session.encode(), b"{}", headers, topic=world.topic, partition=partition)
    await world.publish(session, 3, first=2)
    await world.until_confirmed(session, 4)

    async def both_dead() -> bool:
        return len(await world.records(world.names.dead)) == 2

    await until(both_dead)
    first, second = await world.records(world.names.dead)
    assert (first.key, first.value) == (b"not a session", b"\xff\x00")
    found = dict(first.headers)
    assert found["h"] == b"\xfe"
    assert found["heliograph_dead_topic"] == world.topic.encode()
    assert found["heliograph_dead_partition"] == b"%d" % partition
    assert found["heliograph_dead_offset"] == b"1"
    assert found["heliograph_dead_reason"] == b"header_not_utf8"
    assert dict(second.headers)["heliograph_dead_reason"] == b"header_missing"
    assert router.value("dead_letters_total", reason="header_missing") == 1

    async def all_committed() -> bool:
        return router.value("lag_records", partition=f"{world.topic}/{partition}") == 0

    await until(all_committed)


async def test_a_poison_record_that_names_a_position_confirms_it(world: World) -> None:
    await world.router(log_delivery_timeout_s=1_000)
    session = world.session()
    (message,) = await world.publish(session, 1, logged=False)
    headers = [(name, value) for name, value in record_headers(message) if name != "ce_id"]
    partition = (await world.live.partition_of(session)) or 0
    await world.write(session.encode(), record_value(message), headers, topic=world.topic, partition=partition)
    await world.until_confirmed(session, 1)


async def test_positions_are_indexed_sparsely(world: World) -> None:
    router = await world.router(index_positions=10, index_interval_s=0)
    session = world.session()
    messages = await world.publish(session, 35)
    await world.until_confirmed(session, 35)
    await until(lambda: router.value("indexed_total") >= 1)
    first, last = await world.index.first(session), await world.index.last(session)
    assert first is not None
    assert last is not None
    assert first.position == messages[0].position
    assert 2 <= router.value("indexed_total") <= 4
    at = await world.index.at_or_before(session, messages[-1].position or "")
    assert at is not None
    record = (await world.records())[0]
    info = await world.reader.partitions(record.topic)
    assert info is not None
    assert at.topic_id == info.topic_id


async def test_a_session_that_is_quick_is_indexed_no_oftener_than_every_interval_or_eight_times_so_many_positions(
    world: World,
) -> None:
    router = await world.router(index_positions=10, index_interval_s=3_600)
    session = world.session()
    messages = await world.publish(session, 200)
    await world.until_confirmed(session, 200)
    await until(lambda: router.value("indexed_total") >= 3)
    found = [await world.index.at_or_before(session, message.position or "") for message in messages]
    assert [entry.position for entry in dict.fromkeys(found) if entry is not None] == [
        messages[at].position for at in (0, 80, 160)
    ]


async def test_a_new_tenant_is_read_at_once(world: World) -> None:
    await world.router()
    world.tenant += "-two"
    world.topic = world.names.log(world.tenant)
    begin = now_ms()
    await world.set_up_tenant()
    session = world.session()
    await world.publish(session, 1)
    await world.until_confirmed(session, 1)
    assert now_ms() - begin < 5_000


async def test_probes_and_metrics_are_served(world: World) -> None:
    router = await world.router()
    session = world.session()
    await world.publish(session, 2)
    await world.until_confirmed(session, 2)
    assert (await router.get("/livez")).status_code == 200
    ready = await router.get("/readyz")
    assert ready.status_code == 200
    assert {condition["name"] for condition in ready.json()["conditions"]} >= {"live", "log", "tenants", "group"}
    text = (await router.get("/metrics")).text
    assert "heliograph_router_records_total 2.0" in text
    assert "heliograph_router_confirm_seconds_count" in text
    assert gap_reason((await world.messages(session))[0]) is None
