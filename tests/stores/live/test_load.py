"""What a live store tells of how it fares: what it waits for, how full it is, and that a full one takes nothing."""

from dataclasses import replace

from tests.stores.live.helpers import (
    ROOMY,
    Live,
    ask,
    message,
    new_session,
    put,
    until,
)

from heliograph.stores.ports import Appended, LiveMemory, LiveStore, StoreError


async def test_what_is_not_answered_is_in_flight(store: LiveStore) -> None:
    assert store.load.in_flight == 0
    answers: list[Appended | StoreError] = []
    session = new_session()
    for _ in range(10):
        store.append(message(session), ROOMY, answers.append)
    load = store.load
    assert (load.in_flight, len(answers)) == (10, 0)
    assert load.capacity >= 1_000
    await until(lambda: len(answers) == 10)
    assert store.load == replace(load, in_flight=0)


async def test_its_memory_is_told_and_a_limit_only_where_there_is_one(mortal: Live) -> None:
    store = await mortal.store()
    await put(store, message(new_session()))
    memory = await store.memory()
    assert (memory.used_bytes > 0, memory.max_bytes, memory.share) == (True, 0, 0.0)
    mortal.limit_memory(full=True)
    assert (await store.memory()).share > 1


async def test_a_full_one_refuses_as_overloaded_writes_nothing_and_goes_on_when_there_is_room(mortal: Live) -> None:
    store = await mortal.store()
    session = new_session()
    first = await put(store, message(session, b"1", seq=1))
    mortal.limit_memory(full=True)
    answer = await ask(store, message(session, b"2", seq=2))
    assert isinstance(answer, StoreError)
    assert (answer.code, answer.maybe_done) == ("overloaded", False)
    assert store.available
    assert (await store.heads([session]))[0].seq == first.seq
    mortal.limit_memory(full=False)
    assert (await put(store, message(session, b"2", seq=2))).seq == 2


async def test_one_that_is_away_can_not_be_asked(mortal: Live) -> None:
    store = await mortal.store()
    await mortal.stop()
    for question in (store.memory(), store.placed(new_session(), ["job-1"])):
        try:
            await question
        except StoreError as error:
            assert error.code == "live_unavailable"  # noqa: PT017 - both in turn
        else:
            raise AssertionError("it answered")
    assert store.load.in_flight == 0


async def test_a_message_is_placed_once_it_was_appended_under_its_id(store: LiveStore) -> None:
    session, other = new_session(), new_session()
    assert await store.placed(session, ["job-1"]) == [False]
    await put(store, message(session, message_id="job-1"))
    await put(store, message(session, b"2", seq=1))
    assert await store.placed(session, ["job-1", "m-1", "job-2"]) == [True, False, False]
    assert await store.placed(other, ["job-1"]) == [False]
    assert await store.placed(session, []) == []


def test_a_share_is_of_the_limit() -> None:
    assert LiveMemory(90, 100).share == 0.9
    assert LiveMemory(90, 0).share == 0.0
