"""heartbeat: which connection is due for a ping, and which is dead."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliograph.core.heartbeat import Beat, Heartbeat, HeartbeatPolicy

POLICY = HeartbeatPolicy(interval_s=10, jitter=0.2, patience=2)


def steady() -> float:
    return 0.0


def test_a_silent_connection_gets_two_pings_and_is_dead() -> None:
    heartbeat = Heartbeat(POLICY, steady, now=0)
    assert [heartbeat.look(now, moved_bytes=7) for now in (0, 5, 10, 15, 20)] == [
        Beat.PING,
        Beat.WAIT,
        Beat.PING,
        Beat.WAIT,
        Beat.DEAD,
    ]


def test_any_byte_begins_the_count_anew() -> None:
    heartbeat = Heartbeat(POLICY, steady, now=0)
    assert [heartbeat.look(10.0 * at, moved) for at, moved in enumerate([0, 0, 1, 1, 2, 2, 2])] == [
        Beat.PING,
        Beat.PING,
        Beat.PING,
        Beat.PING,
        Beat.PING,
        Beat.PING,
        Beat.DEAD,
    ]


def test_a_count_that_falls_and_rises_back_is_no_byte() -> None:
    """A ping of ours that the peer's end never acknowledges makes it fall."""
    heartbeat = Heartbeat(POLICY, steady, now=0)
    assert [heartbeat.look(now, moved) for now, moved in ((0, 7), (10, 1), (20, 7))] == [
        Beat.PING,
        Beat.PING,
        Beat.DEAD,
    ]


def test_who_is_catching_up_is_neither_pinged_nor_judged() -> None:
    heartbeat = Heartbeat(POLICY, steady, now=0)
    heartbeat.look(0, 0)
    heartbeat.look(10, 0)
    assert {heartbeat.look(now, 0, catching_up=True) for now in range(20, 120)} == {Beat.WAIT}
    assert [heartbeat.look(now, 0) for now in (120, 130, 140)] == [Beat.PING, Beat.PING, Beat.DEAD]


def test_a_catch_up_between_two_pings_counts_too() -> None:
    heartbeat = Heartbeat(POLICY, steady, now=0)
    assert [heartbeat.look(now, 0) for now in (0, 10)] == [Beat.PING, Beat.PING]
    assert heartbeat.look(15, 0, catching_up=True) is Beat.WAIT
    assert [heartbeat.look(now, 0) for now in (20, 30, 40)] == [Beat.PING, Beat.PING, Beat.DEAD]


def test_our_own_stall_kills_nobody() -> None:
    heartbeat = Heartbeat(POLICY, steady, now=0)
    heartbeat.look(0, 0)
    heartbeat.look(10, 0)
    assert heartbeat.look(75, 0) is Beat.PING  # due at 20: the answers lie in the socket
    assert heartbeat.look(85, 30) is Beat.PING
    assert heartbeat.look(95, 30) is Beat.PING


def test_pings_of_one_wave_are_spread() -> None:
    random = Random(1)
    wave = [Heartbeat(POLICY, random.random, now=0) for _ in range(1_000)]
    per_second = [sum(beat.look(float(second), second) is Beat.PING for beat in wave) for second in range(1, 61)]
    assert sum(per_second) == pytest.approx(6_400, rel=0.15)
    assert max(per_second) < 180


@pytest.mark.parametrize("wrong", [{"interval_s": 0}, {"jitter": 1}, {"jitter": -0.1}, {"patience": 0}])
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        HeartbeatPolicy(**wrong)  # type: ignore[arg-type]


@given(st.integers(), st.lists(st.tuples(st.floats(0, 40), st.booleans(), st.booleans()), max_size=150))
@settings(deadline=None)
def test_dead_only_after_two_pings_and_two_intervals_without_a_byte(
    seed: int, looks: list[tuple[float, bool, bool]]
) -> None:
    now, moved = 100.0, 0
    heartbeat = Heartbeat(POLICY, Random(seed).random, now)
    silent_since, pings = now, 0
    for wait_s, moves, catching_up in looks:
        now += wait_s
        if moves or catching_up:
            moved, silent_since, pings = moved + moves, now, 0
        beat = heartbeat.look(now, moved, catching_up=catching_up)
        if beat is Beat.PING:
            assert not catching_up
            pings += 1
        if beat is Beat.DEAD:
            assert pings >= POLICY.patience
            assert now - silent_since >= POLICY.patience * POLICY.interval_s * (1 - POLICY.jitter) - 1e-6
            break


@given(st.integers(), st.floats(0.05, 2))
@settings(deadline=None)
def test_the_dead_are_found_in_a_bounded_time(seed: int, pass_every_s: float) -> None:
    heartbeat, now = Heartbeat(POLICY, Random(seed).random, 0.0), 0.0
    while heartbeat.look(now, 0) is not Beat.DEAD:
        now += pass_every_s
        assert now <= 3 * (POLICY.interval_s + pass_every_s)


def test_pings_of_ten_thousand_that_came_in_one_wave_are_no_burst() -> None:
    """Looked at in twenty parts a second, as the edge does."""
    random, slices = Random(11), 20
    beats = [Heartbeat(HeartbeatPolicy(), random.random, 0.0) for _ in range(10_000)]
    pinged: list[int] = []
    for tick in range(30 * slices):
        now = tick / slices
        looked = beats[tick % slices :: slices]
        pinged.append(sum(beat.look(now, tick) is Beat.PING for beat in looked))
    mean = sum(pinged) / len(pinged)
    assert 50 <= mean <= 60, "each every 8 to 10 s"
    assert max(pinged[slices:]) < 2 * mean
