"""One feed on the wire, several inboxes behind it, and a server that loses, repeats and forgets."""

from collections import deque
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from heliograph.client.feeds import HOLES_BEFORE_GAP, Feed, Inbox, InboxState, Wire
from heliograph.client.messages import Gap, Message
from heliograph.client.settings import ClientSettings
from heliograph.core.messages import MessageClass
from heliograph.core.positions import Position
from heliograph.protocol.frames import (
    CURSOR,
    EARLIEST,
    LATEST,
    Epoch,
    MessageFrame,
    Subscribe,
    Subscribed,
    Unsubscribe,
)
from heliograph.protocol.frames import Gap as GapFrame

SESSION = "acme:planner:1"
BEFORE_ALL = "0000000000000-00000000-0000000000000000"
SMALL = ClientSettings(buffered_messages=8)
Frame = Subscribed | MessageFrame | Epoch | GapFrame


def epoch(number: int) -> str:
    return f"{1764000000000 + number:013d}-{number:08x}"


def at(seq: int, number: int = 1) -> str:
    return str(Position(epoch(number), seq))


def before_first(number: int = 1) -> str:
    """What a server tells of a session without messages: before the first one of whichever epoch its process begins."""
    return f"1764000000000-{number:08x}-{0:016d}"


def message(seq: int, number: int = 1) -> MessageFrame:
    data = Raw(msgspec.json.encode([number, seq]))
    return MessageFrame(SESSION, f"{number}.{seq}", 1, "p", data, MessageClass.EVENT, position=at(seq, number))


class Wired:
    """A feed and the server's side of it, with the frames between them queued."""

    def __init__(self, settings: ClientSettings = SMALL) -> None:
        self.settings = settings
        self.feed = Feed(SESSION, settings, lambda: 0.5)
        self.log: list[tuple[int, int]] = []
        self.epochs = [1]
        self.cursor: tuple[int, int] | None = None
        """What this consumer acknowledged, here or in another process."""
        self.to_server: deque[Subscribe | Unsubscribe] = deque()
        self.to_client: deque[Frame] = deque()
        self.subscribed = False
        self.online = True
        self.subscribes: list[str] = []
        self._last_id = 0
        self.taken: dict[Inbox, list[Message | Gap]] = {}

    def _id(self) -> int:
        self._last_id += 1
        return self._last_id

    def reconcile(self) -> None:
        if self.online:
            self.feed.reconcile(self.to_server.append, self._id)

    def attach(self, start: str) -> Inbox:
        inbox = Inbox(SESSION, start, self.settings, lambda: None)
        self.feed.inboxes.append(inbox)
        self.taken[inbox] = []
        self.reconcile()
        return inbox

    def detach(self, inbox: Inbox) -> None:
        self.feed.inboxes.remove(inbox)
        self.reconcile()

    def publish(self, *, lose: bool = False) -> None:
        number = self.epochs[-1]
        seq = 1 + sum(1 for each, _ in self.log if each == number)
        self.log.append((number, seq))
        if self.subscribed and self.online and not lose:
            self.to_client.append(message(seq, number))

    def new_epoch(self) -> None:
        last = self.log[-1] if self.log else None
        self.epochs.append(self.epochs[-1] + 1)
        if self.subscribed and self.online:
            self.to_client.append(Epoch(SESSION, epoch(self.epochs[-1]), True, at(last[1], last[0]) if last else None))

    def ack(self) -> None:
        self.cursor = self.log[-1] if self.log else None

    def after_cursor(self) -> int:
        """How many messages follow the cursor."""
        return sum(one > (self.cursor or (0, 0)) for one in self.log)

    def serve(self) -> None:
        while self.to_server:
            frame = self.to_server.popleft()
            if isinstance(frame, Unsubscribe):
                assert self.subscribed, "unsubscribed twice"
                self.subscribed = False
                continue
            assert not self.subscribed, "subscribed twice"
            self.subscribed = True
            self.subscribes.append(frame.start)
            self._answer(frame)

    def _answer(self, frame: Subscribe) -> None:
        if frame.start == LATEST:
            position = at(self.log[-1][1], self.log[-1][0]) if self.log else before_first(self.epochs[-1])
            self.to_client.append(Subscribed(SESSION, position, id=frame.id))
            return
        start, missing = frame.start, False
        if start == CURSOR:
            start, missing = (EARLIEST, True) if self.cursor is None else (at(self.cursor[1], self.cursor[0]), False)
        after, run = (0, 0), ""
        if start != EARLIEST:
            position_ = Position.parse(start)
            after, run = (position_.epoch_ms - 1764000000000, position_.seq), position_.epoch[-8:]
        told = (BEFORE_ALL if self.log else before_first(self.epochs[-1])) if start == EARLIEST else start
        self.to_client.append(Subscribed(SESSION, told, id=frame.id, cursor_missing=missing))
        last = after
        for number, seq in self.log:
            if (number, seq) > after:
                if number != last[0] and last != (0, 0):
                    self.to_client.append(Epoch(SESSION, epoch(number), True, at(last[1], last[0])))
                elif number != last[0] and run not in ("", epoch(number)[-8:]):
                    self.to_client.append(Epoch(SESSION, epoch(number), True))
                self.to_client.append(message(seq, number))
                last = (number, seq)

    def deliver(self, count: int = 10**6) -> None:
        for _ in range(min(count, len(self.to_client))):
            self.receive(self.to_client.popleft())

    def receive(self, frame: Frame) -> None:
        if isinstance(frame, Subscribed):
            if self.feed.wire is Wire.ASKED and frame.id == self.feed.asked_id:
                self.feed.subscribed(frame)
                self.reconcile()
            return
        if self.feed.wire is not Wire.ON:
            return
        for inbox in self.feed.live():
            match frame:
                case MessageFrame():
                    inbox.message(Message(frame))
                case GapFrame():
                    inbox.gap(frame)
                case Epoch():
                    inbox.epoch(frame)
        self.reconcile()

    def drop(self) -> None:
        self.online = self.subscribed = False
        self.to_server.clear()
        self.to_client.clear()
        self.feed.off()

    def connect(self) -> None:
        self.online = True
        self.reconcile()

    def take(self, count: int = 10**6) -> None:
        for inbox, items in self.taken.items():
            for _ in range(count):
                item, has_room = inbox.take()
                if has_room:
                    self.reconcile()
                if item is None:
                    break
                items.append(item)

    def settle(self) -> None:
        """Until everything that can come has come."""
        if not self.online:
            self.connect()
        for _ in range(200):
            self.serve()
            self.deliver()
            self.take()
            if not self.to_server and not self.to_client and all(i.state is InboxState.LIVE for i in self.feed.inboxes):
                return
        raise AssertionError("never settles")

    def got(self, inbox: Inbox) -> list[Any]:
        return [tuple(item.data) if isinstance(item, Message) else item for item in self.taken[inbox]]


def test_earliest_gets_everything_and_latest_what_comes() -> None:
    wired = Wired()
    wired.publish()
    early, late = wired.attach(EARLIEST), wired.attach(LATEST)
    wired.settle()
    wired.publish()
    wired.settle()
    assert wired.got(early) == [(1, 1), (1, 2)]
    assert wired.got(late) == [(1, 2)]


def test_latest_of_a_session_without_messages_gets_its_first() -> None:
    wired = Wired()
    inbox = wired.attach(LATEST)
    wired.settle()
    wired.drop()
    wired.publish()
    wired.settle()
    assert wired.got(inbox) == [(1, 1)]


def test_a_position_gets_what_comes_after_it() -> None:
    wired = Wired()
    for _ in range(3):
        wired.publish()
    inbox = wired.attach(at(2))
    wired.settle()
    assert wired.got(inbox) == [(1, 3)]


def test_a_cursor_gets_what_comes_after_it_and_goes_on_from_there() -> None:
    wired = Wired()
    for _ in range(3):
        wired.publish()
    wired.cursor = (1, 2)
    inbox = wired.attach(CURSOR)
    wired.settle()
    assert wired.got(inbox) == [(1, 3)]
    assert not inbox.cursor_missing
    wired.drop()
    wired.publish()
    wired.settle()
    assert wired.subscribes == [CURSOR, at(3)]
    assert wired.got(inbox) == [(1, 3), (1, 4)]


def test_a_missing_cursor_is_the_earliest_and_stays_it() -> None:
    wired = Wired()
    inbox = wired.attach(CURSOR)
    wired.settle()
    assert inbox.cursor_missing
    wired.drop()
    wired.publish()
    wired.ack()
    wired.settle()
    assert wired.subscribes == [CURSOR, before_first()]
    assert wired.got(inbox) == [(1, 1)]


def test_after_a_reconnect_it_goes_on_from_the_last_message() -> None:
    wired = Wired()
    inbox = wired.attach(EARLIEST)
    wired.publish()
    wired.settle()
    wired.drop()
    wired.publish()
    wired.settle()
    assert wired.subscribes == [EARLIEST, at(1)]
    assert wired.got(inbox) == [(1, 1), (1, 2)]


def test_a_message_that_was_lost_on_the_way_is_asked_for_again() -> None:
    wired = Wired()
    inbox = wired.attach(EARLIEST)
    wired.settle()
    wired.publish()
    wired.publish(lose=True)
    wired.publish()
    wired.settle()
    assert wired.got(inbox) == [(1, 1), (1, 2), (1, 3)]
    assert inbox.holes == 1


def test_a_hole_that_asking_again_does_not_fill_is_handed_on_as_an_uncertain_gap() -> None:
    inbox = Inbox(SESSION, at(1), SMALL, lambda: None)
    for _ in range(HOLES_BEFORE_GAP):
        inbox.go_live()
        assert inbox.message(Message(message(5)))
        assert inbox.take() == (None, False)
    inbox.go_live()
    assert inbox.message(Message(message(5)))
    assert inbox.take()[0] == Gap(SESSION, "hole", at(2), at(4), certain=False)
    assert inbox.needs == at(4)


def test_a_lost_first_message_is_not_taken_for_one_that_retention_removed() -> None:
    wired = Wired()
    inbox = wired.attach(EARLIEST)
    wired.serve()
    wired.deliver()
    wired.publish(lose=True)
    wired.publish()
    wired.settle()
    assert wired.got(inbox) == [(1, 1), (1, 2)]


def test_earliest_begins_where_retention_ends_once_that_is_certain() -> None:
    inbox = Inbox(SESSION, EARLIEST, SMALL, lambda: None)
    inbox.begin(None)
    inbox.go_live()
    assert inbox.message(Message(message(7)))
    assert inbox.needs == EARLIEST
    inbox.go_live()
    assert not inbox.message(Message(message(7)))
    assert not inbox.message(Message(message(8)))
    assert [item.position for item in inbox.items if isinstance(item, Message)] == [at(7), at(8)]
    assert inbox.holes == 0


def test_a_full_inbox_is_parked_and_the_server_told_to_stop() -> None:
    wired = Wired()
    inbox = wired.attach(EARLIEST)
    wired.settle()
    for _ in range(30):
        wired.publish()
    wired.deliver()
    assert inbox.state is InboxState.PARKED
    assert len(inbox.items) == SMALL.buffered_messages
    wired.serve()
    assert not wired.subscribed
    wired.settle()
    assert wired.got(inbox) == [(1, seq) for seq in range(1, 31)]


def test_bytes_bound_an_inbox_too() -> None:
    inbox = Inbox(SESSION, at(0), replace(SMALL, buffered_bytes=1_000), lambda: None)
    inbox.go_live()
    for seq in range(1, 4):
        inbox.message(Message(message(seq)))
    assert inbox.state is InboxState.PARKED
    assert len(inbox.items) == 2


def test_a_parked_reader_does_not_stop_the_others_of_its_session() -> None:
    wired = Wired()
    slow, quick = wired.attach(EARLIEST), wired.attach(EARLIEST)
    wired.settle()
    for _ in range(30):
        wired.publish()
        wired.deliver()
        while (item := quick.take()[0]) is not None:
            wired.taken[quick].append(item)
        wired.serve()
    wired.deliver()
    assert slow.state is InboxState.PARKED
    assert wired.got(quick) == [(1, seq) for seq in range(1, 31)]
    wired.settle()
    assert wired.got(slow) == wired.got(quick)


def test_telemetry_for_a_full_inbox_is_dropped_and_counted() -> None:
    inbox = Inbox(SESSION, at(0), replace(SMALL, buffered_messages=1), lambda: None)
    inbox.go_live()
    telemetry = message(1)
    telemetry.position = None
    inbox.message(Message(telemetry))
    inbox.message(Message(telemetry))
    assert len(inbox.items) == 1
    assert inbox.dropped_telemetry == 1
    assert inbox.state is InboxState.LIVE


def test_a_gap_with_both_ends_is_one_item_and_moves_on() -> None:
    inbox = Inbox(SESSION, at(1), SMALL, lambda: None)
    inbox.go_live()
    assert not inbox.gap(GapFrame(SESSION, "retention", at(2), at(4)))
    assert not inbox.message(Message(message(5)))
    assert inbox.take()[0] == Gap(SESSION, "retention", at(2), at(4))
    assert inbox.needs == at(5)


def test_a_gap_that_is_partly_known_names_only_the_rest() -> None:
    inbox = Inbox(SESSION, at(3), SMALL, lambda: None)
    inbox.go_live()
    inbox.gap(GapFrame(SESSION, "retention", at(2), at(4)))
    assert inbox.take()[0] == Gap(SESSION, "retention", at(4), at(4))


def test_a_gap_that_is_known_is_dropped() -> None:
    inbox = Inbox(SESSION, at(4), SMALL, lambda: None)
    inbox.go_live()
    assert not inbox.gap(GapFrame(SESSION, "retention", at(2), at(4)))
    assert inbox.take()[0] is None


def test_a_gap_without_an_end_ends_at_the_next_message() -> None:
    inbox = Inbox(SESSION, at(1), SMALL, lambda: None)
    inbox.go_live()
    inbox.gap(GapFrame(SESSION, "history_unavailable"))
    assert not inbox.message(Message(message(1)))
    assert not inbox.message(Message(message(9)))
    assert inbox.message(Message(message(11)))
    gap, nine = inbox.take()[0], inbox.take()[0]
    assert gap == Gap(SESSION, "history_unavailable")
    assert isinstance(nine, Message)
    assert nine.position == at(9)


def test_a_gap_behind_a_hole_asks_again() -> None:
    inbox = Inbox(SESSION, at(1), SMALL, lambda: None)
    inbox.go_live()
    assert inbox.gap(GapFrame(SESSION, "corrupt", at(4), at(4)))
    assert inbox.take()[0] is None


def test_an_epoch_that_lost_nothing_is_silent() -> None:
    inbox = Inbox(SESSION, at(3), SMALL, lambda: None)
    inbox.go_live()
    assert not inbox.epoch(Epoch(SESSION, epoch(2), True, at(3)))
    assert not inbox.message(Message(message(1, 2)))
    item = inbox.take()[0]
    assert isinstance(item, Message)
    assert item.position == at(1, 2)


def test_an_epoch_that_may_have_lost_something_is_an_uncertain_gap() -> None:
    inbox = Inbox(SESSION, at(3), SMALL, lambda: None)
    inbox.go_live()
    inbox.epoch(Epoch(SESSION, epoch(2), False, at(3)))
    assert inbox.take()[0] == Gap(SESSION, "epoch", at(4), None, certain=False)
    assert not inbox.message(Message(message(1, 2)))


def test_what_an_epoch_is_known_to_have_lost_is_a_certain_gap() -> None:
    inbox = Inbox(SESSION, at(3), SMALL, lambda: None)
    inbox.go_live()
    inbox.epoch(Epoch(SESSION, epoch(2), True, at(3), [[at(4), at(6)]]))
    assert inbox.take()[0] == Gap(SESSION, "never_written", at(4), at(6))


def test_a_certain_epoch_whose_last_message_did_not_come_asks_again() -> None:
    inbox = Inbox(SESSION, at(3), SMALL, lambda: None)
    inbox.go_live()
    assert inbox.epoch(Epoch(SESSION, epoch(2), True, at(4)))


def test_an_epoch_without_a_word_asks_again() -> None:
    inbox = Inbox(SESSION, at(3), SMALL, lambda: None)
    inbox.go_live()
    assert inbox.message(Message(message(1, 2)))


@pytest.mark.parametrize("start", ["", "newest", "1764000000000-1a2b3c4d", "12"])
def test_a_start_that_is_no_place_is_refused(start: str) -> None:
    with pytest.raises(ValueError, match="position"):
        Inbox(SESSION, start, SMALL, lambda: None)


ACTIONS = st.one_of(
    st.tuples(st.sampled_from(["publish", "lose", "new_epoch", "drop", "connect", "serve", "ack"]), st.none()),
    st.tuples(st.sampled_from(["deliver", "take"]), st.integers(1, 12)),
    st.tuples(st.just("attach"), st.sampled_from([EARLIEST, LATEST, CURSOR, "now"])),
    st.tuples(st.just("detach"), st.integers(0, 5)),
    st.tuples(st.just("burst"), st.integers(5, 20)),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(ACTIONS, max_size=50))
def test_whatever_happens_each_inbox_gets_one_unbroken_run_to_the_end(actions: list[tuple[str, Any]]) -> None:
    wired = Wired()
    starts: dict[Inbox, str] = {}
    cursors: dict[Inbox, tuple[int, int]] = {}
    for action, argument in actions:
        match action:
            case "lose":
                wired.publish(lose=True)
            case "burst":
                for _ in range(argument):
                    wired.publish()
            case "attach":
                start = argument
                if start == "now":
                    start = at(wired.log[-1][1], wired.log[-1][0]) if wired.log else EARLIEST
                inbox = wired.attach(start)
                starts[inbox] = argument
                cursors[inbox] = wired.cursor or (0, 0)
                wired.taken[inbox] = []
            case "detach":
                if argument < len(wired.feed.inboxes):
                    wired.detach(wired.feed.inboxes[argument])
            case "drop":
                if wired.online:
                    wired.drop()
            case "connect":
                if not wired.online:
                    wired.connect()
            case "deliver" | "take":
                getattr(wired, action)(argument)
            case _:
                getattr(wired, action)()
    wired.publish()
    wired.settle()
    wired.publish()
    wired.settle()
    for inbox in wired.feed.inboxes:
        got = wired.got(inbox)
        assert got == wired.log[len(wired.log) - len(got) :]
        assert got[-1] == wired.log[-1]
        if starts[inbox] == EARLIEST:
            assert got == wired.log
        if starts[inbox] == CURSOR:
            assert len(got) >= wired.after_cursor()
            assert got[0] > cursors[inbox]
    if not wired.feed.inboxes:
        assert not wired.subscribed


# ---- sessions without messages --------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [LATEST, EARLIEST, CURSOR])
def test_the_place_before_a_sessions_first_message_is_kept(start: str) -> None:
    wired = Wired()
    inbox = wired.attach(start)
    wired.serve()
    wired.deliver()
    assert inbox.needs == before_first()
    assert inbox.cursor_missing is (start == CURSOR)
    assert not inbox.message(Message(message(1))), "no word is needed before its first message"
    assert inbox.needs == at(1)


def test_a_message_that_is_not_the_first_is_not_taken_for_it() -> None:
    inbox = Inbox(SESSION, before_first(), SMALL, lambda: None)
    inbox.go_live()
    assert inbox.message(Message(message(2)))
    assert inbox.needs == before_first()
