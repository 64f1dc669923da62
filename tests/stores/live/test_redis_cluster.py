"""The live store on a Redis Cluster whose nodes die, and whose slots move under load."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import redis as redis_client
from tests.stores.live.helpers import (
    OK,
    ROOMY,
    Listener,
    ask,
    ask_all,
    in_shard_of,
    message,
    new_session,
    put,
    put_many,
    redis_store,
    shard_of,
    status,
    subscribed,
    until,
)

from heliograph.core.positions import Position
from heliograph.local import RedisServer
from heliograph.local.redis_cluster import RedisCluster
from heliograph.stores.events import StoreEvent
from heliograph.stores.keys import CONFIG
from heliograph.stores.ports import Appended, AppendStatus, Head, StoreError
from heliograph.stores.redis.cluster import ClusterSettings
from heliograph.stores.redis.connection import ConnectionSettings
from heliograph.stores.redis.live import RedisLiveStore
from heliograph.stores.redis.topology import slot_of_virtual_shard

QUICK = ConnectionSettings(deadline_s=2.0, ping_idle_s=0.2)
LOOKING = ClusterSettings(look_s=0.2)
"""Finds by itself what moved."""
BLIND = ClusterSettings(look_s=3_600.0)
"""Learns from answers only."""

Store = Callable[..., "AsyncIterator[RedisLiveStore]"]


@pytest.fixture
def cluster(redis_cluster: Callable[..., RedisCluster]) -> RedisCluster:
    return redis_cluster()


@pytest.fixture
async def store(cluster: RedisCluster, listener: Listener) -> AsyncIterator[RedisLiveStore]:
    store = await redis_store(cluster, listener, QUICK)
    yield store
    await store.close()


def slot(session: str) -> int:
    return slot_of_virtual_shard(shard_of(session))


def owner(cluster: RedisCluster, session: str) -> RedisServer:
    return cluster.owner_of_slot(slot(session))


def elsewhere(cluster: RedisCluster, session: str) -> str:
    """A session of another primary."""
    while True:
        other = new_session()
        if owner(cluster, other) is not owner(cluster, session):
            return other


def another(cluster: RedisCluster, node: RedisServer) -> RedisServer:
    return next(other for other in cluster.primaries if other is not node)


class Publisher:
    """Publishes to a session all the time, with a counter, and remembers what was answered, in order."""

    def __init__(self, store: RedisLiveStore, session: str) -> None:
        self._store = store
        self._session = session
        self._stop = False
        self.sent = 0
        self.answers: list[tuple[int, Appended | StoreError]] = []

    async def __aenter__(self) -> "Publisher":
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop = True
        await self._task
        await until(lambda: len(self.answers) == self.sent)

    async def _run(self) -> None:
        while not self._stop:
            for _ in range(5):
                self.sent += 1
                number = self.sent
                self._store.append(
                    message(self._session, b"%d" % number, seq=number),
                    ROOMY,
                    lambda answer, number=number: self.answers.append((number, answer)),  # type: ignore[misc]
                )
            await asyncio.sleep(0.005)

    @property
    def positions(self) -> list[Position]:
        return [Position(one.epoch, one.seq) for _, one in self.answers if isinstance(one, Appended) and one.epoch]


# ---- what one primary's loss costs ----------------------------------------------------------------------------------


async def test_a_primary_that_is_away_costs_its_own_sessions_only(
    cluster: RedisCluster, store: RedisLiveStore, listener: Listener
) -> None:
    session = new_session()
    other = elsewhere(cluster, session)
    for one in (session, other):
        await put(store, message(one))
        await subscribed(store, listener, one)
    victim = owner(cluster, session)
    victim.kill()
    await until(lambda: store.load.shards_away == 1 and listener.lost == 1)
    assert listener.lost_sessions == [session]
    assert store.available
    assert store.load.shards == 3
    answer = await ask(store, message(session))
    assert isinstance(answer, StoreError)
    assert (answer.code, answer.maybe_done) == ("live_unavailable", False)
    assert (await put(store, message(other))).seq == 2
    await until(lambda: len(listener.of(other)) == 1)
    lost, there = await store.heads_many([session, other])
    assert isinstance(lost, StoreError)
    assert isinstance(there, Head)
    with pytest.raises(StoreError):
        await store.heads([session, other])
    epoch = (await store.heads([other]))[0].epoch
    failed, confirmed = await store.confirm_many([(session, epoch, [(1, 513)]), (other, epoch, [(1, 513)])])
    assert isinstance(failed, StoreError)
    assert isinstance(confirmed, Head)
    assert (await store.memory()).used_bytes > 0
    told: list[bool] = []
    store.publish_unsequenced(session, b"{}", told.append)
    await until(lambda: told == [False])
    victim.restart()
    await until(lambda: store.load.shards_away == 0)
    await until(lambda: listener.subscribed.count(session) == 2)
    await until_taken(store, session)
    await until(lambda: listener.of(session))
    assert store.load.moves == 0


async def until_taken(store: RedisLiveStore, session: str) -> Position:
    """The position of the first message that is taken."""
    async with asyncio.timeout(20.0):
        while True:
            answer = await ask(store, message(session, b'"again"'))
            if isinstance(answer, Appended):
                assert answer.status is OK
                return Position(answer.epoch, answer.seq)
            assert answer.code == "live_unavailable"
            await asyncio.sleep(0.02)


async def test_a_promoted_replica_is_followed_gives_a_new_epoch_and_is_listened_to(
    redis_cluster: Callable[..., RedisCluster], listener: Listener
) -> None:
    cluster = redis_cluster(replicas=1)
    store = await redis_store(cluster, listener, QUICK)
    session = new_session()
    other = elsewhere(cluster, session)
    await subscribed(store, listener, session)
    before = (await put_many(store, session, [b"1", b"2", b"3"]))[-1]
    victim = owner(cluster, session)
    with redis_client.Redis.from_url(victim.url) as client:
        client.wait(1, 5_000)
    victim.kill()
    await until(lambda: not store.connections["commands-0"].available or store.load.shards_away)
    await put(store, message(other))
    after = await until_taken(store, session)
    assert after > before
    assert after.epoch != before.epoch
    assert after.seq == 1
    assert store.load.moves > 0
    await until(lambda: listener.subscribed.count(session) == 2)
    await until_taken(store, session)
    await until(lambda: listener.of(session)[3:])
    assert [one.position.epoch for one in await store.unconfirmed(session, 3)] == [before.epoch] * 3
    await until(lambda: store.load.shards == 3)
    victim.restart()
    await put(store, message(session))
    await store.close()


async def test_an_epoch_that_follows_two_with_unconfirmed_messages_waits_for_the_log(
    cluster: RedisCluster, store: RedisLiveStore
) -> None:
    """`recovering` until the router has confirmed what the epoch before the last one left."""
    session = new_session()
    first = await put(store, message(session, b"1"))
    home = owner(cluster, session)
    cluster.move_slot(slot(session), another(cluster, home))
    second = await put(store, message(session, b"2"))
    assert (second.epoch > first.epoch, second.seq) == (True, 1)
    cluster.move_slot(slot(session), home)
    assert status(await ask(store, message(session, b"3"))) is AppendStatus.RECOVERING
    assert [one.position for one in await store.unconfirmed(session, 9)] == [first, second]
    await store.confirm(session, first.epoch, [(1, 513)])
    third = await put(store, message(session, b"3"))
    assert third.epoch > second.epoch


async def test_a_cluster_that_is_down_as_a_whole_counts_as_away_and_comes_back(
    redis_cluster: Callable[..., RedisCluster],
) -> None:
    cluster = redis_cluster(settings={"cluster-require-full-coverage": "yes"})
    store = await redis_store(cluster, settings=QUICK)
    session = new_session()
    other = elsewhere(cluster, session)
    await put(store, message(other))
    victim = owner(cluster, session)
    victim.kill()
    async with asyncio.timeout(20.0):
        while isinstance(answer := await ask(store, message(other)), Appended):
            await asyncio.sleep(0.05)
    assert (answer.code, answer.maybe_done) == ("live_unavailable", False)
    assert "CLUSTERDOWN" in answer.message
    assert store.load.shards_away == 1
    victim.restart()
    await until_taken(store, other)
    await until_taken(store, session)
    await store.close()


# ---- slots that move ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [LOOKING, BLIND], ids=["looking", "blind"])
async def test_a_slot_that_moves_under_load_loses_nothing_repeats_nothing_and_keeps_the_order(
    cluster: RedisCluster, listener: Listener, settings: ClusterSettings
) -> None:
    store = await redis_store(cluster, listener, QUICK, settings)
    session = new_session()
    neighbours = [in_shard_of(session, "other") for _ in range(30)]
    for neighbour in neighbours:
        await put(store, message(neighbour))
    await subscribed(store, listener, session)
    source = owner(cluster, session)
    target = another(cluster, source)
    async with Publisher(store, session) as publisher:
        await until(lambda: len(publisher.answers) > 50)
        await asyncio.to_thread(cluster.begin_move, slot(session), source, target)
        while await asyncio.to_thread(cluster.move_keys, slot(session), source, target, 3):
            pass
        await asyncio.to_thread(cluster.end_move, slot(session), source, target)
        count = publisher.sent
        await until(lambda: len(publisher.answers) > count + 50)
    assert [number for number, _ in publisher.answers] == list(range(1, publisher.sent + 1))
    assert {status(answer) for _, answer in publisher.answers} == {OK}
    positions = publisher.positions
    assert positions == sorted(set(positions)), "each has a position of its own, in the order they were sent"
    assert len({position.epoch for position in positions}) == 2
    await until(lambda: listener.subscribed.count(session) >= 2)
    assert (await store.heads([session]))[0].seq == positions[-1].seq
    assert store.load.moves == 1
    assert store.load.moving
    assert store.stats[StoreEvent.APPEND_GIVEN_UP] == 0
    for neighbour in neighbours:
        await put(store, message(neighbour))
    await store.close()


async def test_a_move_that_does_not_end_counts_as_the_live_path_being_away_for_its_virtual_shard(
    cluster: RedisCluster, listener: Listener
) -> None:
    store = await redis_store(cluster, listener, ConnectionSettings(deadline_s=0.5, ping_idle_s=0.2))
    session, beside = new_session(), new_session()
    while owner(cluster, beside) is not owner(cluster, session) or slot(beside) == slot(session):
        beside = new_session()
    await put(store, message(session, b"1", seq=1))
    source = owner(cluster, session)
    target = another(cluster, source)
    cluster.begin_move(slot(session), source, target)
    answers = await ask_all(store, [message(session, b"%d" % seq, seq=seq) for seq in range(2, 12)])
    assert {getattr(answer, "code", answer) for answer in answers} == {"live_unavailable"}
    assert not any(answer.maybe_done for answer in answers if isinstance(answer, StoreError))
    assert store.stats[StoreEvent.APPEND_GIVEN_UP] == 10
    await put(store, message(beside))
    with pytest.raises(StoreError) as caught:
        await store.heads([session, new_session_in(session)])
    assert caught.value.code == "live_unavailable"
    while cluster.move_keys(slot(session), source, target):
        pass
    cluster.end_move(slot(session), source, target)
    answers = await ask_all(store, [message(session, b"%d" % seq, seq=seq) for seq in range(2, 12)])
    assert [status(answer) for answer in answers] == [OK] * 10
    await store.close()


def new_session_in(session: str) -> str:
    return in_shard_of(session, "other")


async def test_what_has_gone_to_the_target_of_a_move_is_asked_for_there(
    cluster: RedisCluster, store: RedisLiveStore
) -> None:
    session = new_session()
    await put_many(store, session, [b"1", b"2"])
    (head,) = await store.heads([session])
    source = owner(cluster, session)
    cluster.begin_move(slot(session), source, another(cluster, source))
    while cluster.move_keys(slot(session), source, another(cluster, source)):
        pass
    assert await store.sessions(shard_of(session), session) == (0, [session])
    assert await store.beginnings([session]) == [Position(head.epoch, 1)]
    assert (await store.heads([session]))[0].seq == 2
    assert (await store.dirty(shard_of(session), 2**53, 10))[0][0] == session
    assert store.load.redirects > 0
    cluster.end_move(slot(session), source, another(cluster, source))


async def test_who_only_listens_follows_a_slot_and_is_told(cluster: RedisCluster, listener: Listener) -> None:
    """Another store publishes: nothing that this one sends shows the move."""
    store = await redis_store(cluster, listener, QUICK, BLIND)
    publisher = await redis_store(cluster, settings=QUICK)
    sessions = [new_session()]
    sessions += [in_shard_of(sessions[0], "other") for _ in range(20)]
    for session in sessions:
        await subscribed(store, listener, session)
    source = owner(cluster, sessions[0])
    cluster.move_slot(slot(sessions[0]), another(cluster, source))
    await until(lambda: len(listener.subscribed) == 2 * len(sessions))
    assert listener.lost == 0
    for session in sessions:
        await put(publisher, message(session))
    await until(lambda: len(listener.frames) == len(sessions))
    store.unsubscribe(sessions[1])
    await put(publisher, message(sessions[1]))
    await put(publisher, message(sessions[0]))
    await until(lambda: len(listener.of(sessions[0])) == 2)
    assert len(listener.of(sessions[1])) == 1
    await store.close()
    await publisher.close()


async def test_a_primary_that_has_nothing_any_more_is_left_and_one_that_comes_is_found(
    cluster: RedisCluster,
) -> None:
    """All virtual shards of one go to another, unnoticed by any command."""
    settings = ClusterSettings(look_s=0.2, leave_s=0.2)
    store = await redis_store(cluster, settings=QUICK, cluster=settings)
    sessions = [new_session() for _ in range(40)]
    for session in sessions:
        await put(store, message(session))
    source = cluster.nodes[2]
    target = cluster.nodes[0]
    config = cluster.owner(CONFIG)
    slots = {slot_of_virtual_shard(number) for number in range(256)}
    mine = [number for number in slots if cluster.owner_of_slot(number) is source]
    for number in mine:
        await asyncio.to_thread(cluster.move_slot, number, target)
    if config is not source:
        await until(lambda: store.load.shards == 2)
        assert len(store.connections) == 4
    for session in sessions:
        await put(store, message(session))
    back = new_session()
    while slot(back) not in mine:
        back = new_session()
    async with Publisher(store, back) as publisher:
        await until(lambda: len(publisher.answers) > 20)
        await asyncio.to_thread(cluster.move_slot, slot(back), source)
        count = publisher.sent
        await until(lambda: len(publisher.answers) > count + 20)
    assert {status(answer) for _, answer in publisher.answers} == {OK}
    for number in mine[:3]:
        await asyncio.to_thread(cluster.move_slot, number, source)
    await until(lambda: store.load.shards == 3 and store.load.shards_away == 0)
    for session in sessions:
        assert not isinstance(await ask(store, message(session)), StoreError)
    await store.close()


async def test_functions_that_one_primary_lost_are_loaded_there_again(
    cluster: RedisCluster, store: RedisLiveStore
) -> None:
    session = new_session()
    await put(store, message(session, b"1", seq=1))
    with redis_client.Redis.from_url(owner(cluster, session).url) as client:
        client.function_flush()
    answers = await ask_all(store, [message(session, b"%d" % seq, seq=seq) for seq in range(2, 50)])
    assert [status(answer) for answer in answers] == [OK] * 48
    assert store.stats[StoreEvent.LIBRARY_LOADED] == 4


# ---- start ----------------------------------------------------------------------------------------------------------


async def test_every_primary_is_checked_at_the_start(cluster: RedisCluster) -> None:
    for setting, wrong, right in (("maxmemory-policy", "allkeys-lru", "noeviction"),):
        with redis_client.Redis.from_url(cluster.nodes[1].url) as client:
            client.config_set(setting, wrong)
            with pytest.raises(StoreError) as caught:
                await redis_store(cluster)
            assert wrong in caught.value.message
            client.config_set(setting, right)
    store = await redis_store(cluster)
    await store.close()
    second = RedisLiveStore(cluster.url, uniform=lambda: 0.5, virtual_shards=128)
    with pytest.raises(StoreError) as caught:
        await second.start()
    assert "256" in caught.value.message
    assert not second.available


async def test_one_seed_is_enough_and_one_that_is_away_is_passed_over(cluster: RedisCluster) -> None:
    port = cluster.nodes[1].port
    store = await redis_store(f"redis+cluster://127.0.0.1:1,127.0.0.1:{port}")
    assert store.load.shards == 3
    await store.close()
    with pytest.raises(StoreError) as caught:
        await redis_store("redis+cluster://user:s3cret@127.0.0.1:1,127.0.0.1:2")
    assert caught.value.code == "live_unavailable"
    assert "127.0.0.1:2" in caught.value.message
    assert "s3cret" not in caught.value.message


async def test_slots_without_a_primary_are_told_at_the_start(cluster: RedisCluster) -> None:
    with redis_client.Redis.from_url(cluster.nodes[0].url) as client:
        client.execute_command("CLUSTER DELSLOTS", slot_of_virtual_shard(0))
    with pytest.raises(StoreError) as caught:
        await redis_store(f"redis+cluster://127.0.0.1:{cluster.nodes[0].port}")
    assert "without a primary" in caught.value.message


async def test_the_wrong_kind_of_url_is_told_the_right_one(
    cluster: RedisCluster, redis_server: Callable[..., RedisServer]
) -> None:
    with pytest.raises(StoreError) as caught:
        await redis_store(cluster.nodes[0].url)
    assert "redis+cluster://" in caught.value.message
    server = redis_server()
    with pytest.raises(StoreError) as caught:
        await redis_store(f"redis+cluster://127.0.0.1:{server.port}")
    assert "redis://" in caught.value.message


async def test_appends_that_are_held_when_the_store_is_closed_are_told(cluster: RedisCluster) -> None:
    store = await redis_store(cluster, settings=QUICK)
    session = new_session()
    await put(store, message(session, b"1"))
    source = owner(cluster, session)
    cluster.begin_move(slot(session), source, another(cluster, source))
    answers: list[Appended | StoreError] = []
    for number in range(5):
        store.append(message(session, b"%d" % number), ROOMY, answers.append)
    await until(lambda: store.stats[StoreEvent.REDIRECTED] > 0)
    assert store.load.in_flight == 5
    await store.close()
    await until(lambda: len(answers) == 5)
    assert {getattr(answer, "code", answer) for answer in answers} == {"live_unavailable"}
