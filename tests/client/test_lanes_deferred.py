"""The publishing window while the live path is away: control is deferred, and keeps its order when that is back."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.client.test_lanes import CONTROL, EVENT, Line, Server

from heliograph.client.lane import LaneKey
from heliograph.protocol.frames import Publish, Published, Refused

KEY: LaneKey = ("a:b:c", CONTROL)


@dataclass
class Deferring(Server):
    """While the live path is `away` it puts control messages on a stream, from which `place` takes them later."""

    away: bool = False
    stream: deque[tuple[Publish, str]] = field(default_factory=deque)

    def take(self, frame: Publish, incarnation: str) -> Published | Refused:
        if not self.away:
            return super().take(frame, incarnation)
        if frame.class_ is CONTROL:
            self.stream.append((frame, incarnation))
            return Published(True, id=frame.id, deferred=True)
        return Refused("live_unavailable", "", id=frame.id, retry_after_ms=10)

    def place(self, count: int = 10**6) -> None:
        """What a router does: in each producer's order, what is not its turn waits."""
        if self.away:
            return
        for frame, incarnation in sorted(self.stream, key=lambda one: one[0].seq or 0)[:count]:
            answer = super().take(frame, incarnation)
            if isinstance(answer, Published):
                self.stream.remove((frame, incarnation))


class DeferringLine(Line):
    def __init__(self) -> None:
        super().__init__()
        self.server: Deferring = Deferring()

    def settle(self) -> None:
        self.server.away = False
        for _ in range(20):
            self.server.place(2)
            if self.up:
                self.send()
                self.serve()
                self.deliver()
            self.now += 0.1
        self.server.place()
        super().settle()
        self.server.place()


def test_a_deferred_message_is_answered_and_the_next_waits_until_it_is_in_its_place() -> None:
    line = DeferringLine()
    line.connect()
    line.hand_in(KEY)
    line.server.away = True
    line.send()
    line.serve()
    line.deliver()
    assert line.answers[b"0"] == Published(True, id=1, deferred=True)
    line.server.away = False
    line.hand_in(KEY)
    for _ in range(20):
        line.send()
        line.serve()
        line.deliver()
        line.now += 0.1
    assert b"1" not in line.answers
    line.server.place()
    line.settle()
    assert line.logged(KEY) == [b"0", b"1"]
    assert line.incarnations == 1


def test_waiting_for_what_was_deferred_ends_with_patience() -> None:
    """Its place was lost with the live store: the counter will never get there, a new one does."""
    line = DeferringLine()
    line.connect()
    line.hand_in(KEY)
    line.server.away = True
    line.send()
    line.serve()
    line.deliver()
    line.server.away = False
    line.server.stream.clear()
    line.server.refuse.clear()
    line.hand_in(KEY)
    Line.settle(line)
    assert line.logged(KEY) == [b"1"]
    assert line.incarnations == 2


ACTIONS = st.one_of(
    st.tuples(st.just("hand_in"), st.sampled_from([KEY, ("a:b:d", CONTROL), ("a:b:c", EVENT)])),
    st.tuples(st.just("send"), st.integers(1, 5)),
    st.tuples(st.just("serve"), st.integers(1, 5)),
    st.tuples(st.just("deliver"), st.integers(1, 5)),
    st.tuples(st.just("place"), st.integers(1, 5)),
    st.tuples(st.just("refuse"), st.sampled_from(["backlog", "rate_limited", None])),
    st.tuples(st.just("away"), st.booleans()),
    st.tuples(st.just("drop"), st.none()),
    st.tuples(st.just("connect"), st.none()),
    st.tuples(st.just("wait"), st.floats(0, 3)),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(ACTIONS, max_size=60))
def test_however_often_the_live_path_goes_each_message_is_in_once_and_in_order(actions: list[tuple[str, Any]]) -> None:
    line = DeferringLine()
    for action, argument in actions:
        if action == "hand_in":
            if line.lanes.has_room(argument):
                line.hand_in(argument)
        elif action in ("send", "serve", "deliver"):
            getattr(line, action)(argument)
        elif action == "place":
            line.server.place(argument)
        elif action == "refuse":
            line.server.refuse.append(argument)
        elif action == "away":
            line.server.away = argument
        elif action == "drop" and line.up:
            line.drop()
        elif action == "connect" and not line.up:
            line.connect()
        elif action == "wait":
            line.now += argument
    line.settle()
    for key in {key for key, _ in line.handed_in}:
        assert line.logged(key) == [payload for lane, payload in line.handed_in if lane == key]
    assert line.incarnations == 1
