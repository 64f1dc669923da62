"""Reading what lies in topics that tenants share, and in partitions that a topic has grown by."""

import time

from tests.services.replay.rig import E1, E2, PARTITIONS, SESSION, World, frames_of, message
from tests.services.replay.test_export import Answer

from heliograph.core.partitions import partition_of
from heliograph.core.positions import Position
from heliograph.protocol.messages import Message, record_headers, record_value
from heliograph.stores.ports import LogRecord, TopicSpec

POOL = "heliograph._shared.7d.log"
DAY_MS = 86_400_000


def at(seq: int, epoch: str = E1) -> str:
    return str(Position(epoch, seq))


async def share(world: World, *tenants: str, retention_s: int = 7 * 86_400) -> None:
    world.log.create(TopicSpec(POOL, PARTITIONS, 1, {}))
    for name in tenants:
        topics = {"log": {"partitions": PARTITIONS, "retention_s": retention_s}}
        await world.put_tenant(name, isolation="shared", topics=topics)


def write(world: World, *messages: Message) -> None:
    for one in messages:
        key = one.session.encode()
        place = (POOL, partition_of(key, PARTITIONS))
        world.log.append(LogRecord(*place, -1, 0, key, record_value(one), list(record_headers(one))))


async def test_a_session_in_a_shared_topic_is_read_and_nobody_elses(world: World) -> None:
    world.now_ms = time.time_ns() // 1_000_000
    await share(world, "acme", "beta")
    theirs = [message(seq, session="beta:planner:trip-42") for seq in range(1, 6)]
    mine = [message(seq) for seq in range(1, 6)]
    for pair in zip(mine, theirs, strict=True):
        write(world, *pair)
    await world.start()
    assert (await world.page()).frames == frames_of(*mine)
    beta = world.headers("beta")
    assert (await world.page("beta:planner:trip-42", token=beta)).frames == frames_of(*theirs)
    assert (await world.get("beta:planner:trip-42")).status_code == 403


async def test_a_tenants_own_retention_holds_where_the_topic_is_kept_longer(world: World) -> None:
    now = time.time_ns() // 1_000_000
    await share(world, "acme", retention_s=2 * 86_400)
    for age_days, seqs in ((3, (1, 2)), (1, (3, 4))):
        world.now_ms = now - age_days * DAY_MS
        write(world, *(message(seq) for seq in seqs))
    await world.start()
    page = await world.page()
    assert page.frames == frames_of(message(3), message(4))
    assert [(gap["from"], gap["to"], gap["reason"]) for gap in page.gaps] == [(at(1), at(2), "retention")]
    page = await world.page(after=at(1))
    assert page.frames == frames_of(message(3), message(4))
    assert [gap["reason"] for gap in page.gaps] == ["retention"]
    page = await world.page(after=at(2))
    assert (page.frames, page.gaps) == (frames_of(message(3), message(4)), [])


async def test_an_export_of_a_shared_tenant_holds_nothing_of_others(world: World) -> None:
    world.now_ms = time.time_ns() // 1_000_000
    await share(world, "acme", "beta", "acme-2")
    for tenant in ("acme", "beta", "acme-2"):
        write(world, message(1, session=f"{tenant}:planner:trip-42"))
    world.log.append(LogRecord(POOL, 0, -1, 0, None, b"nobody's", []))
    await world.start()
    answer = await world.client.get("/v1/export/acme", headers=world.headers())
    assert answer.status_code == 200
    assert [record.session for record in Answer(answer.content).records] == [SESSION]


async def test_a_session_that_began_anew_after_its_topic_grew_is_read_whole(world: World) -> None:
    """Whatever the index knows: the tenant's record says how many partitions there were."""
    sessions = [f"acme:planner:{n}" for n in range(40)]
    moved = next(one for one in sessions if partition_of(one.encode(), 2) != partition_of(one.encode(), PARTITIONS))
    await world.put_tenant("acme", topics={"log": {"partitions": PARTITIONS, "earlier_partitions": [2]}})
    before = [message(seq, session=moved) for seq in range(1, 6)]
    after = [message(seq, E2, session=moved) for seq in range(1, 6)]
    world.write(*before, partition=partition_of(moved.encode(), 2))
    world.write(*after)
    await world.start()
    assert (await world.page(moved)).frames == frames_of(*before, *after)
    assert (await world.page(moved, after=at(3))).frames == frames_of(*before[3:], *after)
    page = await world.page(moved, limit=7)
    page = await world.page(moved, after=page.next or "", resume=page.resume or "")
    assert page.frames == frames_of(*after[2:])


async def test_who_is_in_the_present_epoch_costs_no_look_at_other_partitions(world: World) -> None:
    await world.put_tenant("acme", topics={"log": {"partitions": PARTITIONS, "earlier_partitions": [1, 2]}})
    sent = await world.append(3)
    world.write(*sent, partition=0)
    for partition in (1, 2):
        world.write(*(message(n, session="acme:planner:noise") for n in range(1, 30)), partition=partition)
    await world.start()
    page = await world.page(after=sent[0].position or "")
    assert page.frames == frames_of(*sent[1:])
    assert world.value("records_scanned_total") <= 3
