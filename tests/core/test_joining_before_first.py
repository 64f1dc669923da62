"""joining: who stood before a session's first message gets all of it, or is told."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.test_joining import FRAME, LIMITS, World, asked, at, join

from heliograph.core.contiguity import Contiguity, Hole
from heliograph.core.history import Gap, Page, Source, Start, Why
from heliograph.core.joining import Ask, EpochBegins, Join, JoinLimits, Live, Send
from heliograph.core.positions import Position

RUN, OTHER_RUN = "1a2b3c4d", "00000000"


def epoch(ms: int, run: str = RUN) -> str:
    return f"{1764000000000 + ms:013d}-{run}"


STOOD, A, B = epoch(1), epoch(5), epoch(9)


def of(name: str, first: int, last: int) -> list[tuple[Position, bytes]]:
    return [(at(seq, name), FRAME) for seq in range(first, last + 1)]


def test_who_comes_to_a_session_without_messages_is_told_its_place() -> None:
    for start, source in ((Start.LATEST, Source.WINDOW), (Start.EARLIEST, Source.LOG)):
        joining = join(start)
        request = asked(joining, start, source)
        if start is Start.EARLIEST:
            joining.page(request, Page([], more=False))
            request = asked(joining, start)
        page: Page[bytes] = Page([], more=False, before_first=at(0, STOOD))
        assert joining.page(request, page) == [Live(at(0, STOOD), recovered=True)]


def test_who_comes_back_to_a_session_without_messages_needs_no_log() -> None:
    joining = join(at(0, STOOD))
    page: Page[bytes] = Page([], more=False, complete=True, before_first=at(0, A))
    assert joining.page(asked(joining, at(0, STOOD)), page) == [Live(at(0, STOOD), recovered=True)]


def test_the_first_messages_need_no_log_and_no_word() -> None:
    joining = join(at(0, STOOD))
    request = asked(joining, at(0, STOOD))
    joining.live(at(3, A), FRAME)
    page = Page(of(A, 1, 2), more=False, complete=True, head=at(2, A))
    assert joining.page(request, page) == [Send(of(A, 1, 3)), Live(at(3, A), recovered=True)]


def test_a_first_message_that_came_while_the_page_was_read_goes_on_from_it() -> None:
    joining = join(Start.LATEST)
    request = asked(joining, Start.LATEST)
    joining.live(at(1, A), FRAME)
    page: Page[bytes] = Page([], more=False, before_first=at(0, STOOD))
    assert joining.page(request, page) == [Send(of(A, 1, 1)), Live(at(1, A), recovered=True)]


def test_a_message_that_is_not_the_first_goes_back_to_the_window() -> None:
    joining = join(Start.LATEST)
    request = asked(joining, Start.LATEST)
    joining.live(at(2, A), FRAME)
    page: Page[bytes] = Page([], more=False, before_first=at(0, STOOD))
    assert joining.page(request, page) == [Ask()]


def test_a_first_message_of_another_process_goes_back_to_history() -> None:
    """What the process before was given may not have come by pub/sub."""
    joining = join(at(0, STOOD))
    request = asked(joining, at(0, STOOD))
    other = epoch(9, OTHER_RUN)
    joining.live(at(1, other), FRAME)
    assert joining.page(request, Page([], more=False, complete=True, before_first=at(0, A))) == [Ask()]
    window = Page(of(other, 1, 1), more=False, complete=False, head=at(1, other))
    assert joining.page(asked(joining, at(0, STOOD)), window) == [Ask()]
    log = Page(of(A, 1, 2), more=False)
    assert joining.page(asked(joining, at(0, STOOD), Source.LOG), log) == [Send(of(A, 1, 2)), Ask()]


def test_a_life_that_was_forgotten_comes_from_the_log() -> None:
    joining = join(at(0, STOOD))
    forgotten: Page[bytes] = Page([], more=False, complete=False, before_first=at(0, B))
    assert joining.page(asked(joining, at(0, STOOD)), forgotten) == [Ask()]
    log = Page(of(A, 1, 2), more=False)
    assert joining.page(asked(joining, at(0, STOOD), Source.LOG), log) == [Send(of(A, 1, 2)), Ask()]


def test_without_the_log_it_is_told_that_an_epoch_may_lie_between() -> None:
    joining = join(at(0, STOOD))
    window = Page(of(B, 1, 2), more=False, complete=False, head=at(2, B))
    joining.page(asked(joining, at(0, STOOD)), window)
    joining.unavailable(asked(joining, at(0, STOOD), Source.LOG))
    assert joining.page(asked(joining, at(0, STOOD)), window) == [
        EpochBegins(at(0, STOOD), B),
        Send(of(B, 1, 2)),
        Live(at(2, B), recovered=False),
    ]


def test_what_is_missing_of_the_first_messages_is_named() -> None:
    joining = join(at(0, STOOD))
    window = Page(of(A, 3, 4), more=False, complete=False, head=at(4, A))
    joining.page(asked(joining, at(0, STOOD)), window)
    log = Page(of(A, 2, 2), more=False, complete=False)
    assert joining.page(asked(joining, at(0, STOOD), Source.LOG), log) == [
        EpochBegins(at(0, STOOD), A),
        Gap(Hole(A, 1, 1), Why.RETENTION),
        Send(of(A, 2, 2)),
        Ask(),
    ]
    window = Page(of(A, 3, 4), more=False, head=at(4, A))
    assert joining.page(asked(joining, at(2, A)), window) == [
        Send(of(A, 3, 4)),
        Live(at(4, A), recovered=False),
    ]


class Young(World):
    """A session that may have no keys, begin, be forgotten, and lose the process that gives its positions.

    Its window answers as the contract of the live store says (tests/stores/live/test_before_first.py); its log has all
    that the window has lost.
    """

    def __init__(self, start: Start | None, limits: JoinLimits, *, log: bool, page_messages: int) -> None:
        """`start` None: one that has stood there before."""
        self.ms, self.gone_ms, self.run, self.runs = 1, 0, RUN, 0
        self.lives: list[str] = []
        """Epochs of its present life."""
        super().__init__(start or at(0, epoch(1)), limits, log=log, page_messages=page_messages)
        self.given, self.window_from, self.log_to, self.begins_at = [], 0, 0, 0

    def begin_anew(self, limits: JoinLimits) -> None:
        """Whatever there was until now: the subscriber comes now."""
        self.join = Join(self.start, limits)
        self.request, self.answer, self.heard = self.join.request(), None, 0

    @property
    def next(self) -> Position:
        return Position(epoch(self.ms, self.run), 0)

    def append(self, count: int, *, lost: bool) -> None:
        for _ in range(count):
            if not self.lives or self.lives[-1][14:] != self.run:
                self.lives.append(self.next.epoch)
                self.ms += 1
            last = self.given[-1] if self.given and self.given[-1].epoch == self.lives[-1] else at(0, self.lives[-1])
            self.given.append(last.next)
            self._publish(lost=lost)

    def forget(self) -> None:
        """Idle for a day and wholly confirmed."""
        if self.lives:
            self.gone_ms, self.lives = self.ms, []
            self.ms += 1
        self.window_from = self.log_to = len(self.given)

    def restart(self, *, keep: bool) -> None:
        self.runs += 1
        self.run = f"{self.runs:08x}"
        self.ms += 1
        if not keep:
            self.gone_ms, self.lives = 0, []
            self.window_from = self.log_to = len(self.given)

    def beside(self) -> None:
        """Another session of the shard begins."""
        self.ms += 1

    def read(self) -> None:
        if self.request is None or self.answer is not None:
            return
        after, source = self.request.after, self.request.source
        if source is Source.LOG:
            super().read()
            if self.answer is not None:
                self.answer = Page(self.answer.entries, more=self.answer.more)
            return
        self.known_at_read = len(self.given)
        head = self.given[-1] if self.lives else None
        before_first = None if self.lives else self.next
        if after is Start.LATEST:
            self.begins_at = len(self.given)
            self.stream = Contiguity(head or before_first)
            self.answer = Page([], more=False, head=head, before_first=before_first)
            return
        stored = self.given[self.window_from :]
        wanted = stored if isinstance(after, Start) else [position for position in stored if position > after]
        entries = [(position, FRAME) for position in wanted[: self.page_messages]]
        complete = isinstance(after, Start) or self._is_complete(after, stored, wanted)
        self.answer = Page(
            entries, more=len(wanted) > len(entries), complete=complete, head=head, before_first=before_first
        )

    def _is_complete(self, after: Position, stored: list[Position], wanted: list[Position]) -> bool:
        if self.lives and after.epoch == self.lives[-1]:
            return not wanted or wanted[0] == after.next
        stood = after.seq == 0 and after.epoch[14:] == self.run and epoch(self.gone_ms) < after.epoch <= self.next.epoch
        if not self.lives:
            return stood
        one = len(self.lives) == 1 and self.lives[0][14:] == self.run and after.epoch < self.lives[0]
        return stood and one and bool(stored) and stored[0].seq == 1

    def check_joined(self) -> None:
        assert self.live is not None
        reached = 0
        if self.live.at is not None and self.live.at.seq > 0:
            reached = self.given.index(self.live.at) + 1
        elif self.live.at is not None:
            reached = sum(position <= self.live.at for position in self.given)
        assert reached >= max(self.known_at_read, self.heard)


@dataclass(frozen=True)
class Do:
    """A step of a script: a method of the world. In a form that can be read where a test fails."""

    what: str
    args: dict[str, Any] = field(default_factory=dict)

    def __call__(self, world: World) -> None:
        getattr(world, self.what)(**self.args)


happens = [
    st.builds(lambda n, lost: Do("append", {"count": n, "lost": lost}), st.integers(1, 9), st.booleans()),
    st.just(Do("restart", {"keep": True})),
    st.just(Do("beside")),
]
slow = [
    st.builds(lambda keep: Do("trim", {"keep": keep}), st.integers(1, 12)),
    st.just(Do("forget")),
    st.just(Do("restart", {"keep": False})),
]
"""What takes from the window all that the log did not have when a join asked it: that is not done in a join's time."""
away = st.lists(st.one_of(*happens, *slow), max_size=20)
during = st.lists(st.one_of(*happens, *(st.just(Do(what)) for what in ("read", "arrive", "arrive"))), max_size=40)
begins = st.sampled_from([None, None, Start.LATEST])
sizes = st.builds(JoinLimits, st.integers(0, 6), st.integers(1, 8), st.integers(1, 60), st.just(1_000))


@given(begins, sizes, st.integers(1, 7), away, during, st.booleans())
@settings(max_examples=1_000, deadline=None)
def test_whatever_became_of_the_session_meanwhile_nothing_is_passed_over(
    start: Start | None, limits: JoinLimits, page_messages: int, before: list[Do], script: list[Do], has_log: bool
) -> None:
    """`before` is what happened while the subscriber was away."""
    world = Young(start, limits, log=has_log, page_messages=page_messages)
    for step in before:
        step(world)
    world.begin_anew(limits)
    world.play(script)
    assert world.live is not None
    assert world.live.recovered or not has_log
    if world.live.recovered:
        world.check_joined()
        assert not world.gaps
        begin = world.begins_at if start is Start.LATEST else 0
        assert world.sent == world.given[begin : begin + len(world.sent)]


def test_the_checker_of_these_tests_is_not_blind() -> None:
    """A window that believes whoever says that it stood there before the first message passes over a life."""
    world = Young(None, LIMITS, log=True, page_messages=3)
    world.append(2, lost=True)
    world.forget()
    world.gone_ms = 0
    world.begin_anew(LIMITS)
    world.play([])
    with pytest.raises(AssertionError):
        world.check_joined()
