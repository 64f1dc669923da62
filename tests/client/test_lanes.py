"""The publishing window against a server that judges as the real one does, over a line that breaks anywhere."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from heliograph.client.errors import ClosedError, PublishUncertain
from heliograph.client.lane import Answer, LaneKey, Outgoing
from heliograph.client.lanes import STALLS_BEFORE_ROTATION, Lanes
from heliograph.client.settings import ClientSettings
from heliograph.client.stats import ClientStats
from heliograph.core.limits import PRODUCER_RING
from heliograph.core.messages import MessageClass
from heliograph.core.positions import Position
from heliograph.core.producers import Accept, Claim, Duplicate, OutOfOrder, ProducerLedger
from heliograph.protocol.frames import Publish, Published, Refused
from heliograph.protocol.message_ids import derived_message_id

EVENT, CONTROL = MessageClass.EVENT, MessageClass.CONTROL
EPOCH = "1764000000000-1a2b3c4d"


@dataclass
class Server:
    """Judges by the reference; `refuse` are answers given to the next publishes before they are judged."""

    ledger: ProducerLedger = field(default_factory=lambda: ProducerLedger(lambda _: True))
    log: list[tuple[LaneKey, bytes, str]] = field(default_factory=list)
    refuse: deque[str | None] = field(default_factory=deque)

    def take(self, frame: Publish, incarnation: str) -> Published | Refused:
        code = self.refuse.popleft() if self.refuse else None
        if code is not None:
            return Refused(code, "as told", id=frame.id, retry_after_ms=10 if code != "forbidden" else None)
        assert frame.seq is not None
        producer = f"{frame.class_}|p|{incarnation}|{frame.session}".encode()
        payload = bytes(frame.payload)
        claim = Claim(payload[:8].ljust(8), producer, frame.seq, frame.message_id or "")
        match self.ledger.judge(claim, 0):
            case Accept():
                message_id = frame.message_id or derived_message_id(incarnation, frame.class_, frame.seq)
                self.log.append(((frame.session, frame.class_), payload, message_id))
                position = Position(EPOCH, len(self.log))
                self.ledger.record(claim, position, 0)
                return Published(True, id=frame.id, position=str(position), message_id=message_id)
            case Duplicate() as known:
                if known.consumes:
                    self.ledger.record(claim, known.position, 0)
                return Published(True, id=frame.id, position=str(known.position), duplicate=True)
            case OutOfOrder() as skipped:
                return Refused("out_of_order", "", id=frame.id, expected=skipped.expected)
            case other:
                return Refused(other.code, "", id=frame.id)

    def forget(self) -> None:
        self.ledger = ProducerLedger(lambda _: True)


class Line:
    """A publisher, a server and two queues between them, in virtual time."""

    def __init__(self, max_payload_bytes: int = 65_536) -> None:
        self.now = 1_000.0
        self.server = Server()
        self.stats = ClientStats()
        self.room: list[LaneKey] = []
        self.incarnations = 0
        self._last_id = 0
        self.lanes = Lanes(
            ClientSettings(),
            self.stats,
            incarnation=self._incarnation,
            request_id=self._request_id,
            uniform=lambda: 0.5,
            room=self.room.append,
        )
        self.max_payload_bytes = max_payload_bytes
        self.to_server: deque[Publish] = deque()
        self.to_client: deque[Published | Refused] = deque()
        self.incarnation = ""
        self.up = False
        self.handed_in: list[tuple[LaneKey, bytes]] = []
        self.answers: dict[bytes, Answer] = {}

    def _incarnation(self) -> str:
        self.incarnations += 1
        return f"incarnation-{self.incarnations}"

    def _request_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def connect(self) -> None:
        self.up = True
        self.incarnation = self.lanes.connecting()
        self.lanes.connected(PRODUCER_RING, self.max_payload_bytes)

    def drop(self) -> None:
        """The connection breaks: what was not yet read by the server is gone, and so are answers under way."""
        self.up = False
        self.to_server.clear()
        self.to_client.clear()
        self.lanes.disconnected()

    def hand_in(self, key: LaneKey = ("a:b:c", EVENT), *, id_: str | None = None, deadline_s: float = 1e9) -> Outgoing:
        payload = b"%d" % len(self.handed_in)

        def done(answer: Answer) -> None:
            assert payload not in self.answers, "answered twice"
            self.answers[payload] = answer

        item = Outgoing(Publish(key[0], Raw(payload), class_=key[1], message_id=id_), deadline_s, done)
        self.lanes.add(key, item)
        self.handed_in.append((key, payload))
        return item

    def send(self, limit: int = 100) -> list[Publish]:
        if not self.up:
            return []
        frames = [copy_of(frame) for frame in self.lanes.take(self.now, limit)]
        self.to_server.extend(frames)
        if self.lanes.rotating and (self.lanes.rotation_due or self.lanes.force_rotation(self.now)):
            self.drop()
            self.connect()
        return frames

    def serve(self, count: int = 10**6) -> None:
        for _ in range(min(count, len(self.to_server))):
            self.to_client.append(self.server.take(self.to_server.popleft(), self.incarnation))

    def deliver(self, count: int = 10**6) -> None:
        for _ in range(min(count, len(self.to_client))):
            answer = self.to_client.popleft()
            if isinstance(answer, Published):
                self.lanes.published(answer)
            else:
                self.lanes.refused(answer)

    def settle(self) -> None:
        """Until everything is answered."""
        self.server.refuse.clear()
        for _ in range(500):
            if not self.lanes.unanswered:
                return
            if not self.up:
                self.connect()
            self.send()
            self.serve()
            self.deliver()
            self.now += 0.1
        raise AssertionError(f"{self.lanes.unanswered} never answered")

    def logged(self, key: LaneKey = ("a:b:c", EVENT)) -> list[bytes]:
        return [payload for lane, payload, _ in self.server.log if lane == key]


def copy_of(frame: Publish) -> Publish:
    """What went over the line: a later send changes the frame's numbers."""
    return Publish(frame.session, frame.payload, frame.id, frame.class_, frame.ack, frame.seq, frame.message_id)


def test_messages_of_a_lane_are_sent_in_order_with_seqs_from_one() -> None:
    line = Line()
    line.connect()
    for _ in range(3):
        line.hand_in()
    assert [frame.seq for frame in line.send()] == [1, 2, 3]
    line.settle()
    assert line.logged() == [b"0", b"1", b"2"]
    assert line.stats.resends == 0


def test_a_lane_has_room_for_as_many_as_the_server_can_judge() -> None:
    line = Line()
    line.connect()
    key = ("a:b:c", EVENT)
    for _ in range(PRODUCER_RING):
        assert line.lanes.has_room(key)
        line.hand_in(key)
    assert not line.lanes.has_room(key)
    assert line.lanes.has_room(("a:b:c", CONTROL))
    line.send()
    line.serve(1)
    line.deliver()
    assert line.lanes.has_room(key)
    assert line.room == [key]


def test_a_refused_event_never_blocks_control() -> None:
    line = Line()
    line.connect()
    line.hand_in(("a:b:c", EVENT))
    line.server.refuse.extend(["backlog"])
    line.send()
    line.serve()
    line.deliver()
    line.hand_in(("a:b:c", CONTROL))
    assert [frame.class_ for frame in line.send()] == [CONTROL]


def test_control_is_sent_before_events() -> None:
    line = Line()
    line.connect()
    line.hand_in(("a:b:c", EVENT))
    line.hand_in(("a:b:d", CONTROL))
    assert [frame.class_ for frame in line.send(1)] == [CONTROL]


def test_after_a_refusal_the_pipeline_goes_on_from_the_refused_one() -> None:
    line = Line()
    line.connect()
    for _ in range(4):
        line.hand_in()
    line.server.refuse.extend([None, "rate_limited"])
    line.send()
    line.serve()
    line.deliver()
    assert line.send() == []  # its retry time is not over
    line.settle()
    assert line.logged() == [b"0", b"1", b"2", b"3"]
    assert line.incarnations == 1


def test_nothing_is_sent_again_before_the_pipeline_is_answered() -> None:
    line = Line()
    line.connect()
    for _ in range(3):
        line.hand_in()
    line.server.refuse.extend(["rate_limited"])
    line.send()
    line.serve()
    line.deliver(2)
    for _ in range(3):
        assert line.send() == []
        line.now += 60
    line.deliver()
    line.send()
    line.now += 60
    assert [frame.seq for frame in line.send()] == [1, 2, 3]


def test_a_message_refused_for_good_gives_its_seq_to_the_next() -> None:
    line = Line()
    line.connect()
    for _ in range(3):
        line.hand_in()
    line.server.refuse.extend(["forbidden"])
    line.send()
    line.serve()
    line.deliver()
    line.settle()
    assert line.logged() == [b"1", b"2"]
    assert isinstance(line.answers[b"0"], Refused)
    assert line.incarnations == 1


def test_an_event_is_given_up_at_its_deadline_and_control_is_not() -> None:
    line = Line()
    line.connect()
    line.hand_in(("a:b:c", EVENT), deadline_s=line.now)
    line.hand_in(("a:b:c", CONTROL))
    line.server.refuse.extend(["backlog", "backlog"])
    line.send()
    line.serve()
    line.deliver()
    line.settle()
    answer = line.answers[b"0"]
    assert isinstance(answer, Refused)
    assert (answer.code, answer.retry_after_ms) == ("backlog", 10)
    assert isinstance(line.answers[b"1"], Published)


def test_what_is_unanswered_is_sent_again_with_the_same_seq_after_a_reconnect() -> None:
    line = Line()
    line.connect()
    for _ in range(3):
        line.hand_in()
    line.send()
    line.serve(2)
    line.deliver(1)
    line.drop()
    line.connect()
    assert [frame.seq for frame in line.send()] == [2, 3]
    line.settle()
    assert line.logged() == [b"0", b"1", b"2"]
    second = line.answers[b"1"]
    assert isinstance(second, Published)
    assert second.duplicate


def test_a_forgotten_counter_begins_anew_in_order_and_without_loss() -> None:
    line = Line()
    line.connect()
    line.hand_in()
    line.settle()
    line.server.forget()
    for _ in range(5):
        line.hand_in()
    line.settle()
    assert line.logged() == [b"0", b"1", b"2", b"3", b"4", b"5"]
    assert line.incarnations == 2
    assert line.stats.rotations == 1


def test_a_repeat_under_a_new_incarnation_carries_the_first_ones_id() -> None:
    line = Line()
    line.connect()
    line.hand_in()
    line.settle()
    line.hand_in()
    line.send()
    line.serve()
    line.drop()  # in, but its answer is lost
    line.server.forget()
    line.settle()
    ids = [message_id for _, _, message_id in line.server.log]
    assert line.logged() == [b"0", b"1", b"1"]
    assert ids[1] == ids[2]


def test_a_callers_id_is_judged_across_incarnations() -> None:
    line = Line()
    line.connect()
    line.hand_in()
    line.settle()
    line.hand_in(id_="mine")
    line.send()
    line.serve()
    line.drop()
    line.server.ledger._rings.clear()  # the producers are forgotten, the ids are not
    line.settle()
    assert line.logged() == [b"0", b"1"]


def test_an_expected_seq_below_what_was_answered_begins_a_new_incarnation() -> None:
    line = Line()
    line.connect()
    for _ in range(3):
        line.hand_in()
    line.settle()
    line.server.forget()
    producer = f"{EVENT}|p|{line.incarnation}|a:b:c".encode()
    line.server.ledger.record(Claim(b"0".ljust(8), producer, 1), Position(EPOCH, 1), 0)
    line.hand_in()
    line.settle()
    assert line.logged() == [b"0", b"1", b"2", b"3"]
    assert line.incarnations == 2


def test_other_lanes_are_settled_under_the_old_incarnation_first() -> None:
    line = Line()
    other = ("a:b:d", EVENT)
    line.connect()
    line.hand_in()
    line.settle()
    line.server.forget()
    line.hand_in(other)
    line.send()
    line.serve()
    line.drop()  # the other lane's message is in, its answer lost
    line.hand_in()
    line.settle()
    assert line.logged(other) == [b"1"]
    assert line.incarnations == 2


def test_a_message_that_was_given_up_in_doubt_never_lends_its_seq_to_another() -> None:
    line = Line()
    line.connect()
    line.hand_in(deadline_s=line.now)
    line.hand_in()
    line.send()
    line.serve(1)  # the first is in …
    line.drop()  # … nobody knows …
    line.connect()
    line.server.refuse.extend(["live_unavailable", "live_unavailable"])
    line.send()
    line.serve()
    line.deliver()  # … and it is given up
    line.settle()
    assert isinstance(line.answers[b"0"], Refused)
    assert line.logged() == [b"0", b"1"]
    assert len({message_id for _, _, message_id in line.server.log}) == 2


def test_rounds_of_nothing_but_out_of_order_end_in_a_new_incarnation() -> None:
    line = Line()
    line.connect()
    line.hand_in()
    for _ in range(STALLS_BEFORE_ROTATION + 1):
        for frame in line.send():
            line.lanes.refused(Refused("out_of_order", "", id=frame.id, expected=1))
    line.to_server.clear()
    line.settle()
    assert line.incarnations == 2
    assert line.logged() == [b"0"]


def test_a_payload_above_the_limit_is_never_sent() -> None:
    line = Line(max_payload_bytes=1)
    line.connect()
    for _ in range(12):
        line.hand_in()
    line.settle()
    answer = line.answers[b"10"]
    assert isinstance(answer, Refused)
    assert answer.code == "payload_too_large"
    assert line.logged() == [b"%d" % number for number in range(10)]


def test_what_was_never_sent_can_be_withdrawn() -> None:
    line = Line()
    key = ("a:b:c", EVENT)
    first, second = line.hand_in(key), line.hand_in(key)
    assert line.lanes.withdraw(key, first)
    line.connect()
    assert [bytes(frame.payload) for frame in line.send()] == [b"1"]
    assert not line.lanes.withdraw(key, second)


def test_at_the_end_only_what_was_sent_is_uncertain() -> None:
    line = Line()
    line.connect()
    line.hand_in()
    line.send()
    line.hand_in()
    line.lanes.end(ClosedError("closed", "over"))
    assert isinstance(line.answers[b"0"], PublishUncertain)
    assert isinstance(line.answers[b"1"], ClosedError)
    assert line.lanes.unanswered == 0


def test_rotation_waits_for_answers_only_so_long() -> None:
    line = Line()
    other = ("a:b:d", EVENT)
    line.connect()
    line.hand_in()
    line.settle()
    line.server.forget()
    line.hand_in()
    line.hand_in(other)
    line.send()
    line.serve(1)
    line.to_server.clear()  # the other's is never answered, the connection lives
    line.deliver()
    line.send()
    assert line.incarnations == 1
    assert line.lanes.due_s() == pytest.approx(line.now + ClientSettings().rotation_patience_s)
    line.now += ClientSettings().rotation_patience_s
    line.send()
    assert line.incarnations == 2
    line.settle()
    assert line.logged(other) == [b"2"]


ACTIONS = st.one_of(
    st.tuples(st.just("hand_in"), st.sampled_from([("a:b:c", EVENT), ("a:b:c", CONTROL), ("a:b:d", EVENT)])),
    st.tuples(st.just("send"), st.integers(1, 5)),
    st.tuples(st.just("serve"), st.integers(1, 5)),
    st.tuples(st.just("deliver"), st.integers(1, 5)),
    st.tuples(st.just("refuse"), st.sampled_from(["backlog", "rate_limited", "live_unavailable", "forbidden", None])),
    st.tuples(st.just("drop"), st.none()),
    st.tuples(st.just("connect"), st.none()),
    st.tuples(st.just("forget"), st.none()),
    st.tuples(st.just("wait"), st.floats(0, 3)),
)


def run(line: Line, actions: list[tuple[str, Any]], *, forgets: bool) -> None:
    for action, argument in actions:
        if action == "hand_in":
            if line.lanes.has_room(argument):
                line.hand_in(argument)
        elif action in ("send", "serve", "deliver"):
            getattr(line, action)(argument)
        elif action == "refuse":
            line.server.refuse.append(argument)
        elif action == "drop" and line.up:
            line.drop()
        elif action == "connect" and not line.up:
            line.connect()
        elif action == "forget" and forgets:
            line.server.forget()
        elif action == "wait":
            line.now += argument
    line.settle()


def refused(line: Line) -> set[bytes]:
    return {payload for payload, answer in line.answers.items() if isinstance(answer, Refused)}


@settings(max_examples=200, deadline=None)
@given(st.lists(ACTIONS, max_size=60))
def test_whatever_the_line_does_each_message_is_in_once_and_in_order(actions: list[tuple[str, Any]]) -> None:
    line = Line()
    run(line, actions, forgets=False)
    assert len(line.answers) == len(line.handed_in)
    given_up = refused(line)
    for key in {key for key, _ in line.handed_in}:
        wanted = [payload for lane, payload in line.handed_in if lane == key and payload not in given_up]
        assert [payload for payload in line.logged(key) if payload not in given_up] == wanted
        assert len(set(line.logged(key))) == len(line.logged(key))
    if not given_up:
        assert line.incarnations == 1


@settings(max_examples=200, deadline=None)
@given(st.lists(ACTIONS, max_size=60))
def test_with_a_forgetful_server_nothing_is_lost_and_repeats_carry_the_same_id(actions: list[tuple[str, Any]]) -> None:
    line = Line()
    run(line, actions, forgets=True)
    assert len(line.answers) == len(line.handed_in)
    ids: dict[bytes, set[tuple[str, str]]] = {}
    for (session, _), payload, message_id in line.server.log:
        ids.setdefault(payload, set()).add((session, message_id))
    assert all(len(each) == 1 for each in ids.values())
    assert len({source for each in ids.values() for source in each}) == len(ids), "two messages share an id"
    for key in {key for key, _ in line.handed_in}:
        first_times = list(dict.fromkeys(line.logged(key)))
        wanted = [payload for lane, payload in line.handed_in if lane == key]
        assert [payload for payload in wanted if payload not in refused(line)] == [
            payload for payload in first_times if payload not in refused(line)
        ]
