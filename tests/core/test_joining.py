"""joining: everything, once, in order."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliograph.core.contiguity import NOTHING, Contiguity, EpochChange, Hole, Verdict
from heliograph.core.history import Gap, Page, Request, Source, Start, Why
from heliograph.core.joining import Action, Ask, EpochBegins, Join, JoinLimits, Live, Send
from heliograph.core.positions import Position
from heliograph.protocol.codes import GapReason

A, B = "1764000000000-1a2b3c4d", "1764000000001-00000000"
FRAME = b"frame"
LIMITS = JoinLimits(near_messages=5, kept_messages=8, kept_bytes=1_000, rounds=3)


def at(seq: int, epoch: str = A) -> Position:
    return Position(epoch, seq)


def run(first: int, last: int, epoch: str = A) -> list[tuple[Position, bytes]]:
    return [(at(seq, epoch), FRAME) for seq in range(first, last + 1)]


def join(start: Position | Start, limits: JoinLimits = LIMITS) -> Join[bytes]:
    return Join(start, limits)


def asked(joining: Join[bytes], after: Position | Start, source: Source = Source.WINDOW) -> Request:
    request = joining.request()
    assert (request.after, request.source) == (after, source)
    return request


def test_near_it_attaches_first_and_drops_what_both_have() -> None:
    joining = join(at(2))
    request = asked(joining, at(2))
    joining.live(at(4), FRAME)
    joining.live(at(5), FRAME)
    assert joining.page(request, Page(run(3, 4), more=False, head=at(4))) == [
        Send(run(3, 5)),
        Live(at(5), recovered=True),
    ]
    assert joining.is_live


def test_nothing_missed_is_live_after_one_page() -> None:
    joining = join(at(2))
    assert joining.page(asked(joining, at(2)), Page([], more=False, head=at(2))) == [Live(at(2), recovered=True)]


def test_far_behind_it_discards_live_frames_until_it_is_near() -> None:
    joining = join(at(0))
    assert joining.page(asked(joining, at(0)), Page(run(1, 10), more=True, head=at(30))) == [Send(run(1, 10)), Ask()]
    request = asked(joining, at(10))
    joining.live(at(31), FRAME)
    assert joining.discarded == 1
    assert joining.page(request, Page(run(11, 28), more=True, head=at(31))) == [Send(run(11, 28)), Ask()]
    request = asked(joining, at(28))
    joining.live(at(32), FRAME)
    assert joining.page(request, Page(run(29, 31), more=False, head=at(31))) == [
        Send(run(29, 32)),
        Live(at(32), recovered=True),
    ]


def test_a_last_page_read_while_live_was_discarded_is_read_once_more() -> None:
    """The simpler version goes live here, and loses what came between the page's reading and its arrival."""
    joining = join(at(0))
    joining.page(asked(joining, at(0)), Page(run(1, 10), more=True, head=at(30)))
    request = asked(joining, at(10))
    joining.live(at(31), FRAME)
    assert joining.page(request, Page(run(11, 30), more=False, head=at(30))) == [Send(run(11, 30)), Ask()]
    assert joining.page(asked(joining, at(30)), Page(run(31, 31), more=False, head=at(31))) == [
        Send(run(31, 31)),
        Live(at(31), recovered=True),
    ]


def test_a_frame_that_pubsub_lost_is_read_from_the_window() -> None:
    joining = join(at(2))
    request = asked(joining, at(2))
    joining.live(at(5), FRAME)
    assert joining.page(request, Page(run(3, 3), more=False, head=at(3))) == [Send(run(3, 3)), Ask()]
    assert joining.page(asked(joining, at(3)), Page(run(4, 5), more=False, head=at(5))) == [
        Send(run(4, 5)),
        Live(at(5), recovered=True),
    ]


def test_too_many_to_keep_are_a_hole_that_the_window_fills() -> None:
    joining = join(at(0))
    request = asked(joining, at(0))
    for seq in range(1, 21):
        joining.live(at(seq), FRAME)
    assert joining.discarded == 12
    assert joining.page(request, Page([], more=False, head=at(0))) == [Ask()]
    assert joining.page(asked(joining, at(0)), Page(run(1, 20), more=False, head=at(20))) == [
        Send(run(1, 20)),
        Live(at(20), recovered=True),
    ]


def test_what_is_kept_is_bounded_in_bytes_but_never_to_nothing() -> None:
    joining = join(at(0))
    asked(joining, at(0))
    for seq in (1, 2, 3):
        joining.live(at(seq), b"x" * 600)
    assert joining.discarded == 2
    joining.live(at(4), b"x" * 5_000)
    assert joining.discarded == 3


def test_after_its_last_round_it_names_what_is_missing_and_goes_live() -> None:
    joining = join(at(0))
    for _ in range(LIMITS.rounds):
        request = asked(joining, at(0))
        joining.live(at(7), FRAME)
        assert joining.page(request, Page([], more=False, head=at(0))) == [Ask()]
    assert joining.page(asked(joining, at(0)), Page([], more=False, head=at(0))) == [
        Gap(Hole(A, 1, 6), Why.TOO_FAR_BEHIND),
        Send(run(7, 7)),
        Live(at(7), recovered=False),
    ]


def test_pages_that_bring_nothing_are_bounded_too() -> None:
    joining = join(at(0))
    for _ in range(LIMITS.rounds):
        assert joining.page(joining.request(), Page([], more=True, head=at(9))) == [Ask()]
    actions: list[Action[bytes]] = [Ask()]
    while actions == [Ask()]:
        actions = joining.page(joining.request(), Page([], more=True, head=at(9)))
    assert actions == [Gap(Hole(A, 1, 9), Why.TOO_FAR_BEHIND), Live(at(9), recovered=False)]


def test_what_the_window_has_trimmed_comes_from_the_log() -> None:
    joining = join(at(2))
    trimmed = Page(run(10, 12), more=False, complete=False, head=at(12))
    assert joining.page(asked(joining, at(2)), trimmed) == [Ask()]
    request = asked(joining, at(2), Source.LOG)
    joining.live(at(13), FRAME)  # discarded: the log may take long
    assert joining.page(request, Page(run(3, 6), more=True)) == [Send(run(3, 6)), Ask()]
    assert joining.page(asked(joining, at(6), Source.LOG), Page(run(7, 11), more=False)) == [Send(run(7, 11)), Ask()]
    assert joining.page(asked(joining, at(11)), Page(run(12, 13), more=False, head=at(13))) == [
        Send(run(12, 13)),
        Live(at(13), recovered=True),
    ]


def test_what_was_trimmed_while_the_log_was_read_is_no_gap() -> None:
    """The simpler version asks the log once, and calls a gap what only a second look would have found."""
    joining = join(at(2))
    joining.page(asked(joining, at(2)), Page(run(10, 12), more=False, complete=False, head=at(12)))
    joining.page(asked(joining, at(2), Source.LOG), Page(run(3, 12), more=False))
    trimmed = Page(run(20, 22), more=False, complete=False, head=at(22))
    assert joining.page(asked(joining, at(12)), trimmed) == [Ask()]
    assert joining.page(asked(joining, at(12), Source.LOG), Page(run(13, 21), more=False)) == [
        Send(run(13, 21)),
        Ask(),
    ]


def test_what_neither_has_is_a_gap() -> None:
    joining = join(at(2))
    trimmed = Page(run(10, 12), more=False, complete=False, head=at(12))
    joining.page(asked(joining, at(2)), trimmed)
    assert joining.page(asked(joining, at(2), Source.LOG), Page([], more=False)) == [Ask()]
    assert joining.page(asked(joining, at(2)), trimmed) == [
        Gap(Hole(A, 3, 9), Why.RETENTION),
        Send(run(10, 12)),
        Live(at(12), recovered=False),
    ]


def test_what_retention_took_is_a_gap_before_the_logs_first() -> None:
    joining = join(at(2))
    joining.page(asked(joining, at(2)), Page(run(10, 12), more=False, complete=False, head=at(12)))
    assert joining.page(asked(joining, at(2), Source.LOG), Page(run(8, 12), more=False, complete=False)) == [
        Gap(Hole(A, 3, 7), Why.RETENTION),
        Send(run(8, 12)),
        Ask(),
    ]


def test_a_gap_that_the_log_records_keeps_its_reason() -> None:
    joining = join(at(2))
    joining.page(asked(joining, at(2)), Page(run(30, 30), more=False, complete=False, head=at(30)))
    page = Page(
        run(5, 6) + run(9, 9),
        more=False,
        gaps=[Gap(Hole(A, 1, 4), Why.CORRUPT), Gap(Hole(A, 11, 12), Why.NEVER_WRITTEN)],
    )
    assert joining.page(asked(joining, at(2), Source.LOG), page) == [
        Gap(Hole(A, 3, 4), Why.CORRUPT),
        Send(run(5, 6)),
        Gap(Hole(A, 7, 8), Why.NEVER_WRITTEN),
        Send(run(9, 9)),
        Gap(Hole(A, 10, 10), Why.NEVER_WRITTEN),
        Gap(Hole(A, 11, 12), Why.NEVER_WRITTEN),
        Ask(),
    ]


def test_without_the_log_it_goes_on_with_the_window_and_says_so() -> None:
    joining = join(at(2))
    trimmed = Page(run(10, 12), more=False, complete=False, head=at(12))
    joining.page(asked(joining, at(2)), trimmed)
    assert joining.unavailable(asked(joining, at(2), Source.LOG)) == [Ask()]
    assert joining.page(asked(joining, at(2)), trimmed) == [
        Gap(Hole(A, 3, 9), Why.HISTORY_UNAVAILABLE),
        Send(run(10, 12)),
        Live(at(12), recovered=False),
    ]


def test_without_the_window_it_asks_again() -> None:
    joining = join(at(2))
    for _ in range(20):
        assert joining.unavailable(asked(joining, at(2))) == [Ask()]
    assert joining.page(asked(joining, at(2)), Page([], more=False, head=at(2))) == [Live(at(2), recovered=True)]


def test_earliest_begins_with_what_the_log_still_has() -> None:
    joining = join(Start.EARLIEST)
    page = Page(run(4, 6), more=False, complete=False)
    assert joining.page(asked(joining, Start.EARLIEST, Source.LOG), page) == [Send(run(4, 6)), Ask()]
    assert joining.page(asked(joining, at(6)), Page(run(7, 7), more=False, head=at(7))) == [
        Send(run(7, 7)),
        Live(at(7), recovered=True),
    ]


def test_earliest_of_a_session_that_the_log_does_not_have_yet() -> None:
    joining = join(Start.EARLIEST)
    joining.page(asked(joining, Start.EARLIEST, Source.LOG), Page([], more=False))
    assert joining.page(asked(joining, Start.EARLIEST), Page(run(1, 2), more=False, head=at(2))) == [
        Send(run(1, 2)),
        Live(at(2), recovered=True),
    ]


def test_earliest_without_the_log_names_what_is_known_to_be_missing() -> None:
    joining = join(Start.EARLIEST)
    joining.unavailable(asked(joining, Start.EARLIEST, Source.LOG))
    assert joining.page(asked(joining, Start.EARLIEST), Page(run(4, 5), more=False, head=at(5))) == [
        Gap(Hole(A, 1, 3), Why.HISTORY_UNAVAILABLE),
        Send(run(4, 5)),
        Live(at(5), recovered=False),
    ]


def test_earliest_of_a_session_that_does_not_exist_yet() -> None:
    joining = join(Start.EARLIEST)
    joining.page(asked(joining, Start.EARLIEST, Source.LOG), Page([], more=False))
    assert joining.page(asked(joining, Start.EARLIEST), Page([], more=False)) == [Live(None, recovered=True)]


def test_latest_begins_behind_the_head() -> None:
    joining = join(Start.LATEST)
    request = asked(joining, Start.LATEST)
    for seq in (5, 6, 7):
        joining.live(at(seq), FRAME)
    assert joining.page(request, Page([], more=False, head=at(6))) == [Send(run(7, 7)), Live(at(7), recovered=True)]


def test_latest_of_a_new_session_begins_with_its_first_message() -> None:
    joining = join(Start.LATEST)
    request = asked(joining, Start.LATEST)
    joining.live(at(1), FRAME)
    assert joining.page(request, Page([], more=False)) == [Send(run(1, 1)), Live(at(1), recovered=True)]


def test_latest_of_a_new_session_fills_what_pubsub_lost() -> None:
    joining = join(Start.LATEST)
    request = asked(joining, Start.LATEST)
    joining.live(at(2), FRAME)
    assert joining.page(request, Page([], more=False)) == [Ask()]
    assert joining.page(asked(joining, at(0)), Page(run(1, 2), more=False, head=at(2))) == [
        Send(run(1, 2)),
        Live(at(2), recovered=True),
    ]


def test_an_epoch_is_announced_before_its_first_message() -> None:
    joining = join(at(2))
    request = asked(joining, at(2))
    assert joining.page(request, Page(run(3, 3) + run(1, 2, B), more=False, head=at(2, B))) == [
        Send(run(3, 3)),
        EpochBegins(at(3), B),
        Send(run(1, 2, B)),
        Live(at(2, B), recovered=True),
    ]


def test_a_live_frame_of_a_new_epoch_sends_it_back_to_history() -> None:
    """The simpler version takes the new epoch, and with it loses the old one's last message in silence."""
    joining = join(at(2))
    request = asked(joining, at(2))
    joining.live(at(1, B), FRAME)  # pub/sub lost A 3
    assert joining.page(request, Page([], more=False, head=at(2))) == [Ask()]
    assert joining.page(asked(joining, at(2)), Page(run(3, 3) + run(1, 1, B), more=False, head=at(1, B))) == [
        Send(run(3, 3)),
        EpochBegins(at(3), B),
        Send(run(1, 1, B)),
        Live(at(1, B), recovered=True),
    ]


def test_a_window_that_begins_with_another_epoch_is_bridged_by_the_log() -> None:
    joining = join(at(2))
    window = Page(run(1, 1, B), more=False, complete=False, head=at(1, B))
    assert joining.page(asked(joining, at(2)), window) == [Ask()]
    assert joining.page(asked(joining, at(2), Source.LOG), Page(run(3, 4), more=False)) == [Send(run(3, 4)), Ask()]
    assert joining.page(asked(joining, at(4)), window) == [Ask()]
    assert joining.page(asked(joining, at(4), Source.LOG), Page([], more=False)) == [Ask()]
    assert joining.page(asked(joining, at(4)), window) == [
        EpochBegins(at(4), B),
        Send(run(1, 1, B)),
        Live(at(1, B), recovered=True),
    ]


def test_a_position_that_the_session_never_gave_starves_nobody() -> None:
    joining = join(at(1_000))
    request = asked(joining, at(1_000))
    joining.live(at(8), FRAME)
    assert joining.page(request, Page([], more=False, head=at(7))) == [
        Send(run(8, 8)),
        Live(at(8), recovered=False),
    ]


def test_a_page_that_ends_before_the_head_is_not_the_end() -> None:
    joining = join(at(0))
    assert joining.page(asked(joining, at(0)), Page(run(1, 2), more=False, head=at(4))) == [Send(run(1, 2)), Ask()]
    assert joining.page(asked(joining, at(2)), Page(run(3, 4), more=False, head=at(4))) == [
        Send(run(3, 4)),
        Live(at(4), recovered=True),
    ]


def test_a_page_for_an_older_request_is_ignored() -> None:
    joining = join(at(0))
    late = joining.request()
    request = joining.request()
    assert joining.page(late, Page(run(1, 1), more=False, head=at(1))) == []
    assert joining.unavailable(late) == []
    assert joining.page(request, Page(run(1, 1), more=False, head=at(1))) == [Send(run(1, 1)), Live(at(1), True)]
    assert joining.page(request, Page(run(2, 2), more=False, head=at(2))) == []


def test_once_live_it_is_over() -> None:
    joining = join(at(0))
    joining.page(joining.request(), Page([], more=False, head=at(0)))
    for call in (joining.request, lambda: joining.live(at(1), FRAME)):
        with pytest.raises(RuntimeError, match="over"):
            call()


def test_reasons_are_those_of_the_protocol() -> None:
    assert {why.value for why in Why} == set(GapReason.ALL)


class World:
    """A session with its window, its log and its pub/sub, and one subscriber that joins."""

    def __init__(self, start: Position | Start, limits: JoinLimits, *, log: bool, page_messages: int) -> None:
        self.given: list[Position] = [at(seq) for seq in range(1, 31)]
        self.window_from = 12
        self.log_from, self.log_to = 0, 20
        self.heard = 0
        """How many were given when pub/sub last brought one to the join: all of these are its to pass on."""
        self.has_log, self.page_messages = log, page_messages
        self.join: Join[bytes] = Join(start, limits)
        self.start = start
        self.begins_at = len(self.given)
        self.request: Request | None = self.join.request()
        self.answer: Page[bytes] | None = None
        self.stream = Contiguity(start if isinstance(start, Position) else None)
        self.sent: list[Position] = []
        self.gaps: list[Gap] = []
        self.live: Live | None = None
        self.known_at_read = 0

    def append(self, count: int, *, lost: bool) -> None:
        for _ in range(count):
            self.given.append(self.given[-1].next)
            self._publish(lost=lost)

    def new_epoch(self, *, lost: bool) -> None:
        if self.given[-1].epoch == A:
            self.given.append(at(1, B))
            self._publish(lost=lost)

    def _publish(self, *, lost: bool) -> None:
        if lost:
            return
        if self.live is None:
            self.heard = len(self.given)
            self.join.live(self.given[-1], FRAME)

    def trim(self, keep: int) -> None:
        """The window never loses what the log doesn't have."""
        self.log_to = max(self.log_to, len(self.given) - keep // 2)
        self.window_from = max(self.window_from, min(len(self.given) - keep, self.log_to))

    def read(self) -> None:
        """The source reads; the answer is under way. LATEST asks for the head alone."""
        if self.request is None or self.answer is not None:
            return
        self.known_at_read = len(self.given)
        after, source = self.request.after, self.request.source
        head = self.given[-1] if source is Source.WINDOW else None
        if after is Start.LATEST:
            self.begins_at = len(self.given)
            self.stream = Contiguity(head)  # it begins behind the head, so that is what an epoch or a gap is after
            self.answer = Page([], more=False, head=head)
            return
        low, high = (self.window_from, len(self.given)) if source is Source.WINDOW else (self.log_from, self.log_to)
        stored = self.given[low:high]
        if isinstance(after, Start):
            wanted, complete = stored, True
        else:
            wanted = [position for position in stored if position > after]
            passed = sum(position <= after for position in self.given)
            complete = low <= passed
        entries = [(position, FRAME) for position in wanted[: self.page_messages]]
        self.answer = Page(entries, more=len(wanted) > len(entries), complete=complete, head=head)

    def arrive(self) -> None:
        request, answer = self.request, self.answer
        if request is None or answer is None:
            return
        self.request = self.answer = None
        if request.source is Source.LOG and not self.has_log:
            self.obey(self.join.unavailable(request))
        else:
            self.obey(self.join.page(request, answer))

    def obey(self, actions: Sequence[Action[bytes]]) -> None:
        """Carry the actions out as an edge would, and hold them to the rules."""
        assert isinstance(actions[-1], Ask | Live)
        assert not any(isinstance(action, Ask | Live) for action in actions[:-1])
        for action in actions:
            if isinstance(action, Send):
                for position, _ in action.entries:
                    assert self.stream.observe(position) is Verdict.DELIVER, (position, actions)
                    self.sent.append(position)
            elif isinstance(action, Gap):
                assert self.stream.last is None or self.stream.skip(action.hole) is Verdict.DELIVER
                if self.stream.last is None:
                    self.stream = Contiguity(Position(action.hole.epoch, action.hole.to_seq))
                self.gaps.append(action)
            elif isinstance(action, EpochBegins):
                assert action.after == self.stream.last
                assert self.stream.enter(action.epoch) is None
            elif isinstance(action, Ask):
                self.request = self.join.request()
            else:
                self.live = action

    def check_joined(self) -> None:
        """Live goes on with the next frame, so nothing that was read or heard before may lie behind it."""
        assert self.live is not None
        reached = 0 if self.live.at is None else self.given.index(self.live.at) + 1
        assert reached >= max(self.known_at_read, self.heard)

    def play(self, script: "Sequence[Step]") -> None:
        for step in script:
            if self.live is not None:
                return
            step(self)
        self.finish()

    def finish(self) -> None:
        for _ in range(1_000):
            if self.live is not None:
                return
            self.read()
            self.arrive()
        raise AssertionError("it goes round for ever")


Step = Callable[[World], None]


def quick(count: int) -> Step:
    """A page's whole way, with messages given between its reading and its arrival."""

    def step(world: World) -> None:
        world.read()
        world.append(count, lost=False)
        world.arrive()

    return step


steps = st.lists(
    st.one_of(
        st.builds(lambda n, lost: lambda world: world.append(n, lost=lost), st.integers(1, 12), st.booleans()),
        st.builds(quick, st.integers(1, 3)),
        st.builds(lambda lost: lambda world: world.new_epoch(lost=lost), st.booleans()),
        st.builds(lambda keep: lambda world: world.trim(keep), st.integers(1, 12)),
        st.just(World.read),
        st.just(World.arrive),
        st.just(World.arrive),
    ),
    max_size=60,
)
starts = st.one_of(st.sampled_from(Start), st.integers(0, 30).map(at))
sizes = st.builds(JoinLimits, st.integers(0, 6), st.integers(1, 8), st.integers(1, 60), st.just(1_000))


@given(starts, sizes, st.integers(1, 7), steps)
@settings(max_examples=500, deadline=None)
def test_with_all_of_the_log_nothing_is_lost_whatever_happens(
    start: Position | Start, limits: JoinLimits, page_messages: int, script: list[Step]
) -> None:
    world = World(start, limits, log=True, page_messages=page_messages)
    world.play(script)
    assert world.live is not None
    world.check_joined()
    begins = 0 if start is Start.EARLIEST else world.begins_at
    if isinstance(start, Position):
        begins = sum(position <= start for position in world.given)
    assert world.live.recovered
    assert not world.gaps
    assert world.sent == world.given[begins : begins + len(world.sent)]
    reached = begins + len(world.sent)
    assert world.live.at == (world.given[reached - 1] if reached else None)


@given(starts, sizes, st.integers(1, 7), st.integers(0, 3), st.booleans(), st.integers(0, 20), steps)
@settings(max_examples=500, deadline=None)
def test_with_few_rounds_and_a_poor_log_what_is_missing_is_named(
    start: Position | Start,
    sized: JoinLimits,
    page_messages: int,
    rounds: int,
    has_log: bool,
    log_from: int,
    script: list[Step],
) -> None:
    limits = JoinLimits(sized.near_messages, sized.kept_messages, sized.kept_bytes, rounds)
    world = World(start, limits, log=has_log, page_messages=page_messages)
    world.log_from = log_from
    world.play(script)
    assert world.live is not None
    world.check_joined()
    # `obey` has held every step to contiguity; what is left: it lies about nothing.
    assert not (world.live.recovered and world.gaps)
    named = {
        Position(gap.hole.epoch, seq) for gap in world.gaps for seq in range(gap.hole.from_seq, gap.hole.to_seq + 1)
    }
    assert not named & set(world.sent)
    assert named <= set(world.given)
    if world.live.recovered and isinstance(start, Position):
        begins = sum(position <= start for position in world.given)
        assert world.sent == world.given[begins : begins + len(world.sent)]


@given(st.lists(st.integers(1, 20), max_size=40))
@settings(deadline=None)
def test_what_is_kept_stays_within_its_bounds(sizes_bytes: list[int]) -> None:
    joining = join(NOTHING, JoinLimits(5, kept_messages=6, kept_bytes=50))
    joining.request()
    for seq, size_bytes in enumerate(sizes_bytes, 1):
        joining.live(at(seq), b"x" * size_bytes)
        assert joining._kept is not None
        assert len(joining._kept) <= 6
        assert joining._kept_bytes == sum(len(frame) for _, frame in joining._kept) <= 50


def test_the_checker_of_these_tests_is_not_blind() -> None:
    world = World(at(2), LIMITS, log=True, page_messages=3)
    with pytest.raises(AssertionError):
        world.obey([Send(run(4, 4)), Ask()])
    assert isinstance(world.stream.observe(at(1, B)), EpochChange)
