"""What subscriptions promise, and what they can't."""

from tests.stores.live.helpers import (
    DUPLICATE,
    Listener,
    Live,
    ask,
    message,
    new_session,
    put,
    put_many,
    status,
    subscribed,
    until,
)

from heliograph.stores.ports import LiveStore


async def test_a_subscriber_gets_the_frames_that_are_in_the_window_in_order(
    store: LiveStore, listener: Listener
) -> None:
    session = new_session()
    await subscribed(store, listener, session)
    await put_many(store, session, [b"%d" % number for number in range(50)])
    await until(lambda: len(listener.of(session)) == 50)
    assert listener.of(session) == (await store.page(session, None)).frames


async def test_every_store_that_is_subscribed_gets_a_frame_and_no_other(live: Live) -> None:
    listeners = [Listener() for _ in range(3)]
    stores = [await live.store(listener) for listener in listeners]
    session, other = new_session(), new_session()
    await subscribed(stores[0], listeners[0], session)
    await subscribed(stores[1], listeners[1], session)
    await subscribed(stores[2], listeners[2], other)
    await put(stores[2], message(session))
    await put(stores[2], message(other))
    await until(lambda: all(listener.frames for listener in listeners))
    assert [[name for name, _ in listener.frames] for listener in listeners] == [[session], [session], [other]]


async def test_a_repeat_is_not_published_again(store: LiveStore, listener: Listener) -> None:
    session = new_session()
    await subscribed(store, listener, session)
    one = message(session, b"1", seq=1)
    await put(store, one)
    assert status(await ask(store, one)) is DUPLICATE
    await put(store, message(session, b"2", seq=2))
    await until(lambda: len(listener.of(session)) == 2)
    assert len(set(listener.of(session))) == 2


async def test_after_unsubscribe_nothing_of_the_session_comes(store: LiveStore, listener: Listener) -> None:
    session, other = new_session(), new_session()
    await subscribed(store, listener, session)
    await subscribed(store, listener, other)
    store.unsubscribe(session)
    await put(store, message(session))
    await put(store, message(other))
    await until(lambda: listener.of(other))
    assert listener.of(session) == []


async def test_subscribing_again_in_the_same_tick_stays_subscribed(store: LiveStore, listener: Listener) -> None:
    session = new_session()
    await subscribed(store, listener, session)
    store.unsubscribe(session)
    store.subscribe(session)
    await until(lambda: len(listener.subscribed) == 2)
    await put(store, message(session))
    await until(lambda: listener.of(session))


async def test_many_subscriptions_of_one_tick_are_all_told(store: LiveStore, listener: Listener) -> None:
    sessions = [new_session() for _ in range(1_203)]
    for session in sessions:
        store.subscribe(session)
    assert not listener.subscribed, "never inside the call"
    await until(lambda: len(listener.subscribed) == len(sessions))
    assert set(listener.subscribed) == set(sessions)


async def test_telemetry_reaches_who_is_subscribed_and_is_kept_nowhere(store: LiveStore, listener: Listener) -> None:
    session = new_session()
    await subscribed(store, listener, session)
    told: list[bool] = []
    store.publish_unsequenced(session, b'{"type":"message","class":"telemetry"}', told.append)
    assert not told, "callbacks never run inside the call"
    await until(lambda: listener.of(session) and told == [True])
    assert listener.of(session) == [b'{"type":"message","class":"telemetry"}']
    assert (await store.heads([session]))[0].epoch == ""
