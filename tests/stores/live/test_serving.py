"""What dispatchers ask the live store: which sessions there are, and what of one a worker has not seen."""

import msgspec
from tests.stores.live.helpers import in_shard_of, message, new_session, put, shard_of

from heliograph.core.positions import Position
from heliograph.stores.ports import Bounds, LiveStore

SMALL = Bounds(
    unconfirmed_messages=1_000,
    unconfirmed_bytes=1 << 30,
    tenant_shard_bytes=1 << 30,
    window_messages=8,
    window_bytes=8 << 20,
)


async def publish(store: LiveStore, session: str, by_worker: str, bounds: Bounds | None = None) -> list[Position]:
    """A message for each character; `w`: a worker's own."""
    positions = []
    for number, by in enumerate(by_worker):
        built = message(session, b"%d" % number, seq=number + 1)
        if by == "w":
            built = msgspec.structs.replace(built, extras=built.extras + b" w")
        answer = await (put(store, built, bounds) if bounds else put(store, built))
        positions.append(Position(answer.epoch, answer.seq))
        if bounds:
            await store.confirm(session, answer.epoch, [(answer.seq, built.size_bytes)])
    return positions


async def test_the_sessions_of_a_shard_are_found_by_how_they_begin(store: LiveStore) -> None:
    session = new_session()
    tenant = session.partition(":")[0]
    others = [in_shard_of(session, tenant) for _ in range(20)]
    for one in (session, *others, in_shard_of(session, "elsewhere")):
        await put(store, message(one))
    found, cursor = list[str](), 0
    while True:
        cursor, some = await store.sessions(shard_of(session), f"{tenant}:planner:", cursor)
        found += some
        if cursor == 0:
            break
    assert set(found) == {session, *others}
    assert await store.sessions(shard_of(session), f"{tenant}:critic:") == (0, [])


async def test_what_a_worker_should_see_is_the_newest_that_no_worker_published(store: LiveStore) -> None:
    session = new_session()
    assert await store.unserved(session, None) is None
    positions = await publish(store, session, "-w-ww")
    assert await store.unserved(session, None) == positions[2]
    assert await store.unserved(session, positions[0]) == positions[2]
    assert await store.unserved(session, positions[2]) is None
    assert await store.unserved(session, positions[4]) is None


async def test_where_the_window_begins_is_told_for_many_sessions(store: LiveStore) -> None:
    short, long, none = new_session(), new_session(), new_session()
    first = (await publish(store, short, "--"))[0]
    positions = await publish(store, long, "-" * 30, SMALL)
    begins = await store.beginnings([long, none, short])
    assert begins[1:] == [None, first]
    assert begins[0] is not None
    assert positions[0] < begins[0] < positions[-1]
    assert await store.beginnings([]) == []


async def test_a_worker_that_talks_a_lot_hides_nothing(store: LiveStore) -> None:
    session = new_session()
    positions = await publish(store, session, "--" + "w" * 40)
    assert await store.unserved(session, positions[0]) == positions[1]
    assert await store.unserved(session, positions[1]) is None


async def test_what_the_window_does_not_reach_back_to_may_be_for_a_worker(store: LiveStore) -> None:
    session = new_session()
    positions = await publish(store, session, "-" + "w" * 30, SMALL)
    assert await store.unserved(session, None) == positions[-1]
    assert await store.unserved(session, positions[0]) == positions[-1]
    assert await store.unserved(session, positions[-2]) is None
