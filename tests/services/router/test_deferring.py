"""Deferred messages are put in their place: once, in each producer's order, whatever happens on the way."""

import asyncio
from typing import Any

import pytest
from tests.services.router.helpers import PARTITIONS, MemoryWorld, RealWorld, World, now_ms, until

from heliograph.core.deferral import TURN_S
from heliograph.core.limits import PRODUCER_RING
from heliograph.core.messages import MessageClass
from heliograph.core.partitions import partition_of
from heliograph.protocol.messages import Message, record_headers, record_value
from heliograph.stores.ports import StoreError

Fields = Any


def control(session: str, number: int, incarnation: str | None = "abcdefgh", **fields: Fields) -> Message:
    """As an edge has it that could not append it."""
    return Message(
        **{
            "session": session,
            "message_id": f"{incarnation}.c{number}",
            "time_ms": now_ms(),
            "producer": "agent/one",
            "class_": MessageClass.CONTROL,
            "payload": b'{"n":%d}' % number,
            "incarnation": incarnation,
            "producer_seq": number if incarnation else None,
            **fields,
        }
    )


async def defer(world: World, *messages: Message) -> None:
    for message in messages:
        key = message.session.encode()
        await world.write(
            key,
            record_value(message),
            record_headers(message),
            topic=world.names.deferred(world.tenant),
            partition=partition_of(key, PARTITIONS),
        )


async def in_place(world: World, session: str, count: int) -> list[Message]:
    """The session's log once it has so many, in order of position."""
    found: list[Message] = []

    async def there() -> bool:
        nonlocal found
        found = await world.messages(session)
        return len(found) >= count

    await until(there, f"{count} of {session} in the log")
    await world.until_confirmed(session, len({message.position for message in found}))
    return sorted(found, key=lambda message: message.position or "")


async def test_a_deferred_message_is_delivered_with_a_position_and_stands_in_the_log(world: World) -> None:
    router = await world.router()
    session = world.session()
    sent = control(session, 1, correlation_id="c-1", traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01")
    await defer(world, sent)
    (found,) = await in_place(world, session, 1)
    assert found.position is not None
    found.position = None
    assert found == sent
    assert router.value("deferred_delivered_total") == 1
    await until(lambda: router.value("deferred_pending") == 0)


async def test_a_producers_messages_stay_in_order_and_others_do_not_wait(world: World) -> None:
    await world.router()
    sessions = [world.session() for _ in range(5)]
    for number in range(1, 21):
        await defer(world, *(control(session, number, incarnation) for session in sessions for incarnation in "AB"))
    for session in sessions:
        found = await in_place(world, session, 40)
        for incarnation in "AB":
            mine = [message.producer_seq for message in found if message.incarnation == incarnation]
            assert mine == list(range(1, 21))


async def test_one_that_was_refused_first_and_deferred_later_is_put_before_those_behind_it(world: World) -> None:
    await world.router()
    session = world.session()
    await defer(world, control(session, 2), control(session, 3), control(session, 1), control(session, 4))
    assert [message.producer_seq for message in await in_place(world, session, 4)] == [1, 2, 3, 4]


async def test_a_message_deferred_twice_is_delivered_once(world: World) -> None:
    router = await world.router()
    session = world.session()
    await defer(world, control(session, 1), control(session, 2), control(session, 1), control(session, 2))
    assert len(await in_place(world, session, 2)) == 2
    await until(lambda: router.value("deferred_repeats_total") == 2)
    await until(lambda: router.value("deferred_pending") == 0)
    assert len(await world.messages(session)) == 2


async def test_one_that_the_live_path_had_taken_is_written_from_the_stored_frame(world: World) -> None:
    """The edge lost Redis after the append and before its answer: the retry's time differs, the first one's counts."""
    session = world.session()
    first = control(session, 1)
    await append(world, first)
    retry = control(session, 1, time_ms=first.time_ms + 5_000)
    await defer(world, retry)
    router = await world.router()
    (found,) = await in_place(world, session, 1)
    assert (found.position, found.time_ms) == (first.position, first.time_ms)
    await until(lambda: router.value("deferred_pending") == 0)
    assert router.value("deferred_repeats_total") == 1


async def test_one_that_was_sent_again_and_taken_long_ago_is_not_delivered_once_more(world: World) -> None:
    """Its partition of the deferred topic had no leader for a while: its client had no answer, went to another edge."""
    session = world.session()
    count = PRODUCER_RING + 10
    for number in range(1, count + 1):
        await append(world, control(session, number))
    await defer(world, control(session, 3))
    router = await world.router()
    await until(lambda: router.value("deferred_repeats_total") == 1)
    assert len(await in_place(world, session, count)) == count
    await until(lambda: router.value("deferred_pending") == 0)
    assert len({message.message_id for message in await world.messages(session)}) == count
    assert router.value("deferred_delivered_total") == router.value("deferred_by_id_total") == 0


async def test_where_the_producers_memory_is_gone_it_is_judged_by_its_id(world: World) -> None:
    router = await world.router()
    session = world.session()
    await defer(world, control(session, 7), control(session, 8), control(session, 7))
    found = await in_place(world, session, 2)
    assert [message.producer_seq for message in found] == [7, 8]
    await until(lambda: router.value("deferred_pending") == 0)
    assert len(await world.messages(session)) == 2
    assert router.value("deferred_by_id_total") == 1


async def test_an_earlier_one_that_never_comes_is_waited_for_only_so_long(memory: MemoryWorld) -> None:
    router = await memory.router()
    session = memory.session()
    await append(memory, control(session, 1))
    begin = asyncio.get_running_loop().time()
    await defer(memory, control(session, 3))
    await in_place(memory, session, 2)
    assert asyncio.get_running_loop().time() - begin >= TURN_S
    assert router.value("deferred_by_id_total") == 1


async def test_without_a_counter_it_is_judged_by_its_id(world: World) -> None:
    router = await world.router()
    session = world.session()
    sent = [control(session, number, None, message_id=f"job-{number}") for number in (1, 2, 1)]
    await defer(world, *sent)
    await in_place(world, session, 2)
    await until(lambda: router.value("deferred_pending") == 0)
    assert len(await world.messages(session)) == 2


async def test_a_lane_that_is_refused_holds_up_no_other(memory: MemoryWorld) -> None:
    router = await memory.router()
    stuck, free = memory.session(), memory.session()
    await append(memory, control(stuck, 1))
    await defer(memory, control(stuck, 3), control(free, 1))
    await in_place(memory, free, 1)
    assert router.value("deferred_pending") == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"session": "other:planner:1"}, "wrong_topic"),
        ({"position": "1764000000000-1a2b3c4d-0000000000000001"}, "position_unexpected"),
    ],
)
async def test_what_can_not_be_delivered_goes_to_the_dead_letters(
    world: World, change: dict[str, Any], reason: str
) -> None:
    router = await world.router()
    session = world.session()
    message = control(**{"session": session, "number": 1, **change})
    key = message.session.encode()
    topic = world.names.deferred(world.tenant)
    await world.write(key, record_value(message), record_headers(message), topic=topic)
    await defer(world, control(session, 1))
    await in_place(world, session, 1)
    await until(lambda: router.value("dead_letters_total", reason=reason) == 1)

    async def written() -> bool:
        return len(await world.records(world.names.dead)) == 1

    await until(written, "the dead letter")


async def test_an_id_that_is_another_messages_goes_to_the_dead_letters(world: World) -> None:
    router = await world.router()
    session = world.session()
    one = control(session, 1, None, message_id="job-1")
    other = control(session, 2, None, message_id="job-1")
    await defer(world, one, other)
    await until(lambda: router.value("dead_letters_total", reason="message_id_reused") == 1)
    assert [message.payload for message in await world.messages(session)] == [one.payload]


async def test_while_the_live_path_is_away_it_waits_and_a_router_that_dies_loses_nothing(memory: MemoryWorld) -> None:
    first = await memory.router()
    session = memory.session()
    memory.server.stop()
    await defer(memory, *(control(session, number) for number in range(1, 11)))
    await until(lambda: first.value("deferred_pending") == 10)
    await first.kill()
    memory.server.restart(keep=True)
    await memory.router()
    assert [message.producer_seq for message in await in_place(memory, session, 10)] == list(range(1, 11))


async def test_a_log_that_is_away_after_the_append_is_written_by_reconciling(memory: MemoryWorld) -> None:
    router = await memory.router()
    session = memory.session()

    def refuse(*_: object) -> None:
        raise StoreError("log_unavailable", "away")

    write, router.stores.writer.write = router.stores.writer.write, refuse  # type: ignore[method-assign, assignment]
    await defer(memory, control(session, 1))
    await until(lambda: router.value("deferred_delivered_total") == 1)
    assert router.value("deferred_pending") == 1
    router.stores.writer.write = write  # type: ignore[method-assign]
    await in_place(memory, session, 1)
    await until(lambda: router.value("deferred_pending") == 0)


async def test_what_the_live_path_had_taken_and_lost_before_the_log_had_it_is_delivered_anew_in_order(
    memory: MemoryWorld,
) -> None:
    router = await memory.router(log_delivery_timeout_s=1_000)  # reconciling would come too late
    session = memory.session()
    for number in (1, 2):
        await append(memory, control(session, number))
    await defer(memory, control(session, 1), control(session, 2), control(session, 1))
    await until(lambda: router.value("deferred_repeats_total") == 3)
    assert router.value("deferred_pending") == 3
    memory.server.restart(keep=False)
    await defer(memory, control(session, 3))
    assert [message.producer_seq for message in await in_place(memory, session, 3)] == [1, 2, 3]
    await until(lambda: router.value("deferred_pending") == 0)
    assert router.value("deferred_again_total") == 3


async def test_one_that_was_taken_and_deferred_twice_is_followed_to_its_end_twice(memory: MemoryWorld) -> None:
    session = memory.session()
    await append(memory, control(session, 1))
    await defer(memory, control(session, 1), control(session, 1))
    router = await memory.router()
    await in_place(memory, session, 1)
    await until(lambda: router.value("deferred_repeats_total") == 2)
    await until(lambda: router.value("deferred_pending") == 0)
    await until(lambda: sum(router.lag().values()) == 0)


async def test_two_routers_deliver_each_message_once(real: RealWorld) -> None:
    routers = [await real.router() for _ in range(2)]
    sessions = [real.session() for _ in range(20)]
    for number in range(1, 11):
        await defer(real, *(control(session, number) for session in sessions))
    await routers[0].kill()
    for session in sessions:
        found = await in_place(real, session, 10)
        assert [message.producer_seq for message in found] == list(range(1, 11))
        assert len({message.position for message in found}) == 10


async def append(world: World, message: Message) -> None:
    """As an edge that did reach the live path."""
    await world.append(message)
