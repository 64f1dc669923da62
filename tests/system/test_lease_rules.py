"""The judge of leases finds what is wrong, and nothing where nothing is."""

from tests.system.lease_rules import Event, repeats, violations

SESSION = "acme:planner:1"
POSITIONS = [f"1764000000000-1a2b3c4d-{seq:016d}" for seq in range(1, 6)]


def handled(*told: tuple[float, str, int, int]) -> list[Event]:
    """(time, worker, lease, number of the message)."""
    return [Event(at_s, worker, "handled", SESSION, lease, POSITIONS[number]) for at_s, worker, lease, number in told]


GOOD = handled((1, "a", 10, 0), (2, "a", 10, 1), (3, "b", 20, 1), (4, "b", 20, 2), (5, "a", 30, 3), (6, "a", 30, 4))


def judged(events: list[Event], **options: object) -> list[str]:
    return violations({SESSION: POSITIONS}, events, **options)  # type: ignore[arg-type]


def test_a_hand_over_that_repeats_a_message_is_fine() -> None:
    assert judged(GOOD) == []
    assert repeats(GOOD) == 1


def test_a_message_that_nobody_handled_is_found() -> None:
    assert any("the last 1 were not handled" in what for what in judged(GOOD[:-1]))
    assert any("messages the last 5" in what for what in judged([]))


def test_a_skipped_message_is_found_between_leases_and_within_one() -> None:
    between = [*GOOD[:2], *handled((3, "b", 20, 3), (4, "b", 20, 4))]
    assert any("began at number 3, 2 was not" in what for what in judged(between))
    within = [*GOOD[:2], *handled((3, "b", 20, 2), (4, "b", 20, 4))]
    assert any("handled number 4 after number 2" in what for what in judged(within))


def test_a_wrong_order_is_found() -> None:
    assert any("number 0 after number 1" in what for what in judged(handled((1, "a", 10, 1), (2, "a", 10, 0))))


def test_a_worker_that_goes_on_after_the_next_one_began_is_found_unless_it_could_not_know() -> None:
    events = [*GOOD, *handled((3.5, "a", 10, 2))]
    assert any("1 handled by a under lease 10 after b began under 20" in what for what in judged(events))
    assert judged(events, out_of_touch={"a"}) == []


def test_a_lease_of_two_workers_is_found() -> None:
    assert any("lease 10 was held by a, b" in what for what in judged([*GOOD, *handled((2.5, "b", 10, 2))]))


def test_what_nobody_published_is_found() -> None:
    events = [*GOOD, Event(7, "a", "handled", SESSION, 30, "1764000000000-1a2b3c4d-0000000000000009")]
    assert any("what nobody published" in what for what in judged(events))
