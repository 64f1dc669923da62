"""Sessions and joins alone: a live store that answers when the test says so, in whatever order."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec
import pytest
from tests.services.edge.rig import until

from heliograph.core.history import Start
from heliograph.core.positions import Position
from heliograph.edge.joiner import History
from heliograph.edge.metrics import EdgeMetrics
from heliograph.edge.sessions import Sessions
from heliograph.edge.subscription import Subscription
from heliograph.protocol.messages import FRAME_START
from heliograph.service.metrics import Metrics
from heliograph.stores.ports import CorruptError, Head, Page, RehydratedPage, RehydrationRequest, StoreError

NAME = "acme:planner:1"
EPOCH = "1764000000000-1a2b3c4d"
LATER = "1764000009999-1a2b3c4d"


def at(seq: int, epoch: str = EPOCH) -> Position:
    return Position(epoch, seq)


def message(seq: int, epoch: str = EPOCH) -> bytes:
    return b'%b%b","session":"%b","payload":%d}' % (FRAME_START, str(at(seq, epoch)).encode(), NAME.encode(), seq)


def telemetry() -> bytes:
    return b'{"type":"message","session":"%b","payload":"t"}' % NAME.encode()


def page(*seqs: int, head: int | None = None, epoch: str = EPOCH, more: bool = False, complete: bool = True) -> Page:
    """A page of the window with these messages; `head` as given, or the last of them."""
    stands = head if head is not None else (seqs[-1] if seqs else 0)
    first = seqs[0] if seqs else stands + 1
    return Page([message(seq, epoch) for seq in seqs], Head(epoch, stands, stands, first, epoch), complete, more)


EMPTY = Page([], Head("", 0, 0, 0, EPOCH), complete=True, more=False)


class Store:
    """A live store and a log whose reads wait for `answer`."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, asyncio.Future[Any]]] = []
        self.subscribed: list[str] = []
        self.unsubscribed: list[str] = []
        self.head: Head | StoreError = EMPTY.head

    def subscribe(self, session: str) -> None:
        self.subscribed.append(session)

    def unsubscribe(self, session: str) -> None:
        self.unsubscribed.append(session)

    async def heads(self, sessions: Sequence[str]) -> list[Head]:
        if isinstance(self.head, StoreError):
            raise self.head
        return [self.head for _ in sessions]

    async def page(self, session: str, after: Position | None) -> Page:
        found: Page = await self._ask(after)
        return found

    async def ask(self, request: RehydrationRequest, deadline_s: float) -> RehydratedPage:
        found: RehydratedPage = await self._ask(request)
        return found

    async def _ask(self, what: Any) -> Any:
        future = asyncio.get_running_loop().create_future()
        self.asked.append((what, future))
        return await future

    async def question(self, count: int = 1) -> list[Any]:
        """What is asked, once so many questions wait."""
        await until(lambda: len(self.asked) >= count, f"{count} questions")
        return [what for what, _ in self.asked]

    async def answer(self, given: Any, which: int = 0) -> Any:
        """Answer a waiting question; what it was."""
        await self.question(which + 1)
        what, future = self.asked.pop(which)
        if isinstance(given, Exception):
            future.set_exception(given)
        else:
            future.set_result(given)
        await settle()
        return what


class Reader:
    """Stands for a connection: what it was sent, and whether it has room."""

    def __init__(self) -> None:
        self.out: list[bytes] = []
        self.parked: list[Any] = []
        self.room = True
        self.telemetry = 0

    def post(self, data: bytes) -> None:
        self.out.append(data)

    def post_telemetry(self, data: bytes) -> None:
        self.telemetry += 1

    def send(self, frame: object) -> None:
        self.out.append(b"\x81\x00" + msgspec.json.encode(frame))

    def has_room(self) -> bool:
        return self.room

    @property
    def frames(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(data[data.index(b"{") :]) for data in self.out]

    @property
    def payloads(self) -> list[int]:
        return [frame["payload"] for frame in self.frames if frame["type"] == "message"]

    def kinds(self) -> list[str]:
        return [frame["type"] for frame in self.frames]


class Writer:
    """Stands for the tick's writer: a test reads `out` itself."""

    def schedule(self, _connection: object) -> None:
        """Nothing is written."""


async def settle() -> None:
    """Let what was just answered be acted on."""
    for _ in range(6):
        await asyncio.sleep(0)


class Bench:
    """Sessions with the fakes around them."""

    def __init__(self) -> None:
        self.store = Store()
        self.metrics = EdgeMetrics(Metrics("edge", process=False))
        history = History(self.store, self.store, self.metrics, 1.0)  # type: ignore[arg-type]
        self.sessions = Sessions(self.store, history, Writer(), self.metrics)  # type: ignore[arg-type]

    def subscribe(self, start: Position | Start, *, confirm: bool = True) -> tuple[Reader, Subscription]:
        reader = Reader()
        subscription = Subscription(NAME, start, reader, self.sessions, 7)  # type: ignore[arg-type]
        self.sessions.subscribe(subscription)
        if confirm:
            self.sessions.on_subscribed(NAME)
        return reader, subscription

    async def live_at(self, seq: int) -> tuple[Reader, Subscription]:
        """A subscriber that is live and has everything up to `seq`."""
        reader, subscription = self.subscribe(at(seq))
        await self.store.answer(page(head=seq))
        assert reader.kinds() == ["subscribed"]
        return reader, subscription

    def arrive(self, *seqs: int, epoch: str = EPOCH) -> None:
        for seq in seqs:
            self.sessions.on_frame(NAME, message(seq, epoch))


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr("heliograph.edge.joiner.RETRY_S", (0.0, 0.0))
    found = Bench()
    yield found
    await found.sessions.close()


# ---- joining --------------------------------------------------------------------------------------------------------


async def test_nothing_is_read_before_live_frames_would_arrive(bench: Bench) -> None:
    reader, _ = bench.subscribe(at(1), confirm=False)
    await settle()
    assert bench.store.asked == []
    bench.sessions.on_subscribed(NAME)
    assert await bench.store.answer(page(2)) == at(1)
    assert reader.payloads == [2]


async def test_frames_that_arrive_while_a_page_is_read_come_behind_it_once(bench: Bench) -> None:
    reader, _ = bench.subscribe(at(1))
    await bench.store.question()
    bench.arrive(3, 4)
    await bench.store.answer(page(2, 3))
    bench.arrive(5)
    assert reader.payloads == [2, 3, 4, 5]


async def test_a_subscription_that_ends_while_a_page_is_read_gets_nothing_of_it(bench: Bench) -> None:
    reader, subscription = bench.subscribe(at(1))
    await bench.store.question()
    bench.sessions.unsubscribe(subscription)
    assert bench.store.unsubscribed == [NAME]
    await bench.store.answer(page(2))
    bench.arrive(3)
    assert reader.out == []
    again, _ = bench.subscribe(at(1))
    await bench.store.answer(page(2, 3))
    assert again.payloads == [2, 3]
    assert reader.out == []


@pytest.mark.parametrize(
    "failure",
    [
        StoreError("live_unavailable", "away"),
        CorruptError("key", "no page"),
        Page([b"no message"], page(2).head, complete=True, more=False),
    ],
    ids=["away", "corrupt", "no frame"],
)
async def test_a_page_that_cannot_be_had_is_asked_for_again(bench: Bench, failure: Any) -> None:
    reader, _ = bench.subscribe(at(1))
    for _ in range(3):
        await bench.store.answer(failure)
    assert reader.out == []
    await bench.store.answer(page(2))
    assert reader.payloads == [2]
    assert reader.kinds()[0] == "subscribed"


async def test_a_connection_without_room_is_read_for_once_it_has(bench: Bench) -> None:
    reader, _ = bench.subscribe(at(0))
    reader.room = False
    await bench.store.answer(page(1, 2, head=4, more=True))
    assert reader.payloads == [1, 2]
    assert bench.store.asked == []
    bench.arrive(5)
    reader.room = True
    for joiner in reader.parked:
        joiner.pump()
    assert await bench.store.answer(page(3, 4, 5)) == at(2)
    assert reader.payloads == [1, 2, 3, 4, 5]


async def test_latest_is_answered_with_the_head(bench: Bench) -> None:
    bench.store.head = page(head=9).head
    reader, _ = bench.subscribe(Start.LATEST)
    await settle()
    assert [(frame["type"], frame.get("position")) for frame in reader.frames] == [("subscribed", str(at(9)))]
    bench.arrive(10)
    assert reader.payloads == [10]


async def test_the_log_that_cannot_be_asked_leaves_a_gap_up_to_the_window(bench: Bench) -> None:
    reader, _ = bench.subscribe(at(1))
    await bench.store.answer(page(5, 6, complete=False))
    assert isinstance(await bench.store.answer(StoreError("history_unavailable", "no replay")), RehydrationRequest)
    await bench.store.answer(page(5, 6, complete=False))
    assert reader.kinds() == ["subscribed", "gap", "message", "message"]
    answer, gap = reader.frames[:2]
    assert answer["recovered"] is False
    assert (gap["from"], gap["to"], gap["reason"]) == (str(at(2)), str(at(4)), "history_unavailable")
    assert bench.metrics.history_failures.labels("log").n == 1


async def test_replay_that_answers_with_an_error_is_as_if_it_were_away(bench: Bench) -> None:
    reader, _ = bench.subscribe(at(1))
    await bench.store.answer(page(5, complete=False))
    await bench.store.answer(RehydratedPage([], more=False, code="too_many_requests"))
    await bench.store.answer(page(5, complete=False))
    assert reader.kinds() == ["subscribed", "gap", "message"]


async def test_replay_that_answers_nonsense_is_as_if_it_were_away(bench: Bench) -> None:
    reader, _ = bench.subscribe(at(1))
    await bench.store.answer(page(5, complete=False))
    await bench.store.answer(RehydratedPage([message(2)], more=False, gap_before=["x", "y", "no reason"]))
    await bench.store.answer(page(5, complete=False))
    assert reader.kinds() == ["subscribed", "gap", "message"]


async def test_a_loss_is_told_at_each_return_and_not_only_at_the_first(bench: Bench) -> None:
    """Without the log, and with nothing of it in the window either, there is no gap to name."""
    reader, subscription = bench.subscribe(Start.EARLIEST)
    await bench.store.answer(StoreError("history_unavailable", "no replay"))
    await bench.store.answer(page(3))
    assert reader.kinds() == ["subscribed", "gap", "message"]
    reader.out.clear()
    last = bench.sessions.detach(subscription)
    assert last == at(3)
    bench.sessions.join(subscription, at(9))  # as if it had been told a position that is lost since
    await bench.store.answer(page(head=3))
    assert reader.kinds() == ["gap"]


# ---- live -----------------------------------------------------------------------------------------------------------


async def test_who_is_behind_what_the_others_have_joins_again(bench: Bench) -> None:
    """The page was read before the others' repair; live frames never brought what the repair did."""
    first, _ = await bench.live_at(2)
    second, _ = bench.subscribe(at(1))
    await bench.store.question()
    bench.store.head = page(head=4).head
    checking = asyncio.create_task(bench.sessions.check_heads(0.01))
    await bench.store.question(2)
    checking.cancel()
    await bench.store.answer(page(3, 4), which=1)
    assert first.payloads == [3, 4]
    await bench.store.answer(page(2))
    assert second.payloads == [2]
    assert await bench.store.answer(page(3, 4)) == at(2)
    assert second.payloads == [2, 3, 4]
    bench.arrive(5)
    assert first.payloads == [3, 4, 5]
    assert second.payloads == [2, 3, 4, 5]


async def test_who_is_ahead_of_the_others_gets_nothing_twice(bench: Bench) -> None:
    first, _ = await bench.live_at(2)
    second, _ = bench.subscribe(at(2))
    await bench.store.answer(page(3, 4))
    assert second.payloads == [3, 4]
    bench.arrive(5)
    assert (first.payloads, second.payloads) == ([], [3, 4])
    await bench.store.answer(page(3, 4, 5))
    assert (first.payloads, second.payloads) == ([3, 4, 5], [3, 4, 5])
    bench.arrive(6)
    assert (first.payloads, second.payloads) == ([3, 4, 5, 6], [3, 4, 5, 6])


async def test_who_is_ahead_leaves_with_its_own_position(bench: Bench) -> None:
    await bench.live_at(2)
    _, ahead = bench.subscribe(at(2))
    await bench.store.answer(page(3, 4))
    assert bench.sessions.detach(ahead) == at(4)


async def test_frames_during_a_repair_come_behind_it(bench: Bench) -> None:
    reader, _ = await bench.live_at(1)
    bench.arrive(3)
    await bench.store.question()
    bench.arrive(4, 5)
    assert reader.payloads == []
    await bench.store.answer(page(2, 3))
    bench.arrive(6)
    assert reader.payloads == [2, 3, 4, 5, 6]
    assert bench.metrics.repairs.labels("hole").n == 1


@pytest.mark.parametrize("failure", [StoreError("live_unavailable", "away"), CorruptError("key", "no page")])
async def test_a_repair_that_cannot_be_read_is_tried_again(bench: Bench, failure: StoreError) -> None:
    reader, _ = await bench.live_at(1)
    bench.arrive(3)
    await bench.store.answer(failure)
    await bench.store.answer(failure)
    await bench.store.answer(page(2, 3))
    bench.arrive(4)
    assert reader.payloads == [2, 3, 4]


async def test_a_repair_ends_with_its_last_subscriber(bench: Bench) -> None:
    reader, subscription = await bench.live_at(1)
    bench.arrive(3)
    await bench.store.question()
    bench.sessions.unsubscribe(subscription)
    await bench.store.answer(page(2, 3))
    assert reader.payloads == []
    again, _ = await bench.live_at(3)
    bench.arrive(4)
    assert again.payloads == [4]


async def test_who_joins_during_a_repair_gets_everything_once(bench: Bench) -> None:
    first, _ = await bench.live_at(1)
    bench.arrive(3)
    await bench.store.question()
    second, _ = bench.subscribe(at(0))
    await bench.store.question(2)
    bench.arrive(4)
    await bench.store.answer(page(1, 2, 3, 4), which=1)
    await bench.store.answer(page(2, 3))
    bench.arrive(5)
    assert first.payloads == [2, 3, 4, 5]
    assert second.payloads == [1, 2, 3, 4, 5]


async def test_who_comes_back_in_the_middle_of_a_repair_is_sent_the_rest(bench: Bench) -> None:
    reader, subscription = await bench.live_at(1)
    other, _ = bench.subscribe(at(1))
    await bench.store.answer(page(head=1))
    bench.arrive(3)
    await bench.store.question()
    last = bench.sessions.detach(subscription)
    assert last == at(1)
    await bench.store.answer(page(2, 3))
    assert (reader.payloads, other.payloads) == ([], [2, 3])
    bench.sessions.join(subscription, last)
    await bench.store.answer(page(2, 3))
    bench.arrive(4)
    assert (reader.payloads, other.payloads) == ([2, 3, 4], [2, 3, 4])


async def test_a_hub_stays_for_who_fell_behind(bench: Bench) -> None:
    reader, behind = await bench.live_at(1)
    last = bench.sessions.detach(behind)
    assert last == at(1)
    _, other = bench.subscribe(at(1))
    await bench.store.answer(page(head=1))
    bench.sessions.unsubscribe(other)
    assert bench.store.unsubscribed == []
    bench.sessions.join(behind, last)
    await bench.store.answer(page(2))
    bench.arrive(3)
    assert reader.payloads == [2, 3]
    bench.sessions.unsubscribe(behind)
    assert bench.store.unsubscribed == [NAME]


async def test_after_a_broken_subscription_the_head_tells_what_was_missed(bench: Bench) -> None:
    reader, _ = await bench.live_at(1)
    checking = asyncio.create_task(bench.sessions.check_heads(3_600))
    bench.sessions.on_lost()
    bench.store.head = page(head=3).head
    await settle()
    assert bench.store.asked == []
    bench.sessions.on_subscribed(NAME)
    await bench.store.answer(page(2, 3))
    assert reader.payloads == [2, 3]
    assert bench.metrics.repairs.labels("head").n == 1
    checking.cancel()


async def test_a_repair_waits_while_the_subscription_is_broken(bench: Bench) -> None:
    reader, _ = await bench.live_at(1)
    bench.sessions.on_lost()
    bench.arrive(3)
    await settle()
    assert bench.store.asked == []
    bench.sessions.on_subscribed(NAME)
    await bench.store.answer(page(2, 3))
    assert reader.payloads == [2, 3]


async def test_heads_that_cannot_be_asked_change_nothing(bench: Bench) -> None:
    reader, _ = await bench.live_at(1)
    bench.store.head = StoreError("live_unavailable", "away")
    checking = asyncio.create_task(bench.sessions.check_heads(0.001))
    await asyncio.sleep(0.02)
    bench.store.head = page(head=2).head
    await bench.store.answer(page(2))
    assert reader.payloads == [2]
    checking.cancel()


async def test_an_epoch_is_told_before_its_first_message_and_not_to_who_knows_it(bench: Bench) -> None:
    first, _ = await bench.live_at(2)
    second, _ = bench.subscribe(at(0, LATER))
    await bench.store.answer(page(1, epoch=LATER))
    assert second.kinds() == ["subscribed", "message"]
    bench.arrive(2, epoch=LATER)
    await bench.store.answer(page(1, 2, epoch=LATER))
    assert first.kinds() == ["subscribed", "epoch", "message", "message"]
    assert second.kinds() == ["subscribed", "message", "message"]
    epoch = first.frames[1]
    assert (epoch["last"], epoch["from"], epoch["certain"]) == (str(at(2)), LATER, True)


async def test_telemetry_goes_to_live_subscribers_only(bench: Bench) -> None:
    reader, _ = await bench.live_at(1)
    joining, _ = bench.subscribe(at(0))
    bench.sessions.on_frame(NAME, telemetry())
    assert (reader.telemetry, joining.telemetry) == (1, 0)


async def test_frames_of_a_session_nobody_follows_are_dropped(bench: Bench) -> None:
    bench.sessions.on_frame("acme:planner:2", message(1))
    bench.sessions.on_subscribed("acme:planner:2")
    assert bench.store.asked == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:40],
        lambda data: data.replace(b"0000000000000009", b"000000000000000x"),
        lambda data: data.replace(b"0000000000000009", b"0000000000000000"),
        lambda data: data.replace(EPOCH.encode(), b"\xff" * len(EPOCH)),
        lambda data: data.replace(EPOCH.encode(), b"z" * len(EPOCH)),
        lambda data: data.replace(b"message", b"massage"),
    ],
)
async def test_a_frame_without_a_position_is_counted_and_changes_nothing(
    bench: Bench, spoil: Callable[[bytes], bytes]
) -> None:
    reader, _ = await bench.live_at(1)
    bench.sessions.on_frame(NAME, spoil(message(9)))
    assert bench.metrics.corrupt_frames.n == 1
    assert bench.store.asked == []
    bench.arrive(2)
    assert reader.payloads == [2]


async def test_closing_ends_every_read(bench: Bench) -> None:
    bench.subscribe(at(1))
    await bench.store.question()
    before = len(asyncio.all_tasks())
    await bench.sessions.close()
    assert len(asyncio.all_tasks()) < before
