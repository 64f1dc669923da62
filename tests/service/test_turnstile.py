"""Of what a crowd asks for in one moment, each turn of the event loop does a little."""

import asyncio

from heliograph.service.turnstile import Turnstile


async def test_a_turn_takes_so_many_and_others_get_theirs_in_between() -> None:
    turnstile, done = Turnstile(2), list[str]()
    for name in "abcde":
        turnstile.enter(lambda name=name: done.append(name))  # type: ignore[misc]
    seen = ["".join(done)]
    for _ in range(3):
        await asyncio.sleep(0)
        seen.append("".join(done))
    assert seen == ["ab", "abcd", "abcde", "abcde"]
    assert len(turnstile) == 0


async def test_who_comes_while_others_go_through_is_the_last() -> None:
    turnstile, done = Turnstile(1), list[str]()

    def second() -> None:
        done.append("second")
        turnstile.enter(lambda: done.append("fourth"))

    turnstile.enter(lambda: done.append("first"))
    turnstile.enter(second)
    turnstile.enter(lambda: done.append("third"))
    for _ in range(4):
        await asyncio.sleep(0)
    assert done == ["first", "second", "third", "fourth"]


async def test_who_waits_is_not_lost_because_somebody_before_it_failed() -> None:
    turnstile, done, told = Turnstile(2), list[str](), list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
    failure = LookupError("a bug")

    def fails() -> None:
        raise failure

    for name in "abcde":
        turnstile.enter(fails)
        turnstile.enter(lambda name=name: done.append(name))  # type: ignore[misc]
    for _ in range(5):
        await asyncio.sleep(0)
    assert "".join(done) == "abcde"
    assert told == [failure] * 5


async def test_one_that_stood_still_goes_on() -> None:
    turnstile, done = Turnstile(1), list[str]()
    for name in "ab":
        turnstile.enter(lambda name=name: done.append(name))  # type: ignore[misc]
        await asyncio.sleep(0)
    assert done == ["a", "b"]


async def test_there_is_room_again_in_the_next_turn() -> None:
    turnstile, done = Turnstile(2), list[int]()
    for turn in range(5):
        for _ in range(2):
            turnstile.enter(lambda turn=turn: done.append(turn))  # type: ignore[misc]
        assert done.count(turn) == 2, "nobody waits where there is room"
        await asyncio.sleep(0)


async def test_who_lines_up_is_never_taken_at_once_and_nobody_goes_before_it() -> None:
    turnstile, done = Turnstile(2), list[str]()
    turnstile.line_up(lambda: done.append("first"))
    turnstile.enter(lambda: done.append("second"))
    turnstile.enter(lambda: done.append("third"))
    seen = ["".join(done)]
    for _ in range(2):
        await asyncio.sleep(0)
        seen.append(" ".join(done))
    assert seen == ["", "first second", "first second third"]


async def test_one_that_lines_up_again_and_again_lets_others_go_in_between() -> None:
    turnstile, done = Turnstile(1), list[str]()

    def again() -> None:
        done.append("again")
        if len(done) < 6:
            turnstile.line_up(again)

    turnstile.line_up(again)
    turnstile.enter(lambda: done.append("other"))
    while len(done) < 6:
        await asyncio.sleep(0)
    assert done[:3] == ["again", "other", "again"]
