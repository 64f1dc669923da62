"""Rules of telemetry: it may be lost, and whatever is lost was counted where it was dropped.

What is due to a subscriber is decided by cause, never by a clock: a message that was sent after another message of its
kind had come over a connection, and answered before an event was published that then came over the same connection.
Live frames of a session keep their order, so by then it had come, or never would. Whatever else was sent may have been
on its way when a connection, an edge or the live path broke: it may be missing, and need not be.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.system.evidence import Evidence, Rule, Violation
from tests.system.history import Attempt, Delivered, History, Outcome, Parted, Subscribed, Tally, View

from heliograph.core.messages import MessageClass
from heliograph.stores.redis.connection import ConnectionSettings

LIVE_DEADLINE_S = ConnectionSettings().deadline_s
"""An edge takes a command to the live store for lost when it has had no answer for so long."""


def telemetry_is_what_was_sent(evidence: Evidence) -> Iterator[Violation]:
    """Nobody gets telemetry that nobody sent, or one more often than it was sent."""
    sent = Counter((one.session, one.content) for one in _attempts(evidence.history))
    for view in evidence.history.views.values():
        got = Counter(sight.content for sight in _delivered(view))
        for content, times in got.items():
            if times > sent[view.session, content]:
                what = f"{content[:60]!r} came {times} times and was sent {sent[view.session, content]} times"
                yield Violation("telemetry", view.session, what, who=view.subscriber)


def taken_telemetry_is_counted(evidence: Evidence) -> Iterator[Violation]:
    """Each that was answered as taken is in one edge's count of what was published or dropped, once."""
    history = evidence.history
    if not history.tallies:
        return
    published = sum(tally.published for tally in history.tallies)
    dropped = sum(tally.dropped for tally in history.tallies)
    outcomes = Counter(_outcome(attempt) for attempt in _attempts(history))
    taken, refused, unknown = outcomes[Outcome.ACCEPTED], outcomes[Outcome.REFUSED], outcomes[None]
    died_with = sum(_uncounted(history, tally) for tally in history.tallies)
    if published + dropped < taken - died_with:
        what = f"{taken} were taken, edges counted {published} as published and {dropped} as dropped"
        yield Violation("telemetry", "all", f"{what}; {died_with} were in flight where one died")
    if published > taken + unknown or published + dropped > taken + refused + unknown:
        what = f"edges counted {published} as published and {dropped} as dropped, {taken} were taken"
        yield Violation("telemetry", "all", f"{what}, {refused} refused, {unknown} not answered")


def missing_telemetry_is_counted(evidence: Evidence) -> Iterator[Violation]:
    """What subscribers lack is what edges counted as shed or dropped, to the last one."""
    history = evidence.history
    if not history.tallies:
        return
    missing = missing_of(history)
    shed = sum(tally.shed for tally in history.tallies)
    dropped = sum(tally.dropped for tally in history.tallies)
    audience = max(missing.audience.values(), default=0)
    least = min(missing.audience.values(), default=0)
    certainly = dropped - sum(tally.unanswered for tally in history.tallies)
    counted = f"edges counted {shed} as shed and {dropped} as dropped before they reached {audience} subscribers"
    if missing.certain > shed + dropped * audience:
        what = f"{missing.certain} are missing at subscribers that were there, {counted}: {missing.shown}"
        yield Violation("telemetry", "all", what)
    if shed + certainly * least > missing.certain + missing.possible + missing.came_all_the_same:
        what = f"{counted}, and only {missing.certain} are missing, at most {missing.possible} more"
        yield Violation("telemetry", "all", what)


TELEMETRY_RULES: tuple[Rule, ...] = (
    telemetry_is_what_was_sent,
    taken_telemetry_is_counted,
    missing_telemetry_is_counted,
)


# ---- what is missing ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Missing:
    """Deliveries that did not happen, over all views."""

    certain: int = 0
    """To subscribers that were there, of messages that came to an end."""
    possible: int = 0
    """Of messages that may have been on their way when something broke, or that were never taken."""
    came_all_the_same: int = 0
    """Deliveries of what was on its way when the live path broke: an edge that had no answer counted it as dropped."""
    audience: Counter[str] = field(default_factory=Counter)
    """Subscribers by session."""
    shown: str = ""
    """Some of the certain ones."""


def missing_of(history: History) -> Missing:
    """Judge each message for each view of its session."""
    found = Missing()
    by_session: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in _attempts(history):
        by_session[attempt.session].append(attempt)
    sent_s: dict[tuple[str, bytes], float] = {}
    for one in history.attempts:
        sent_s.setdefault((one.session, one.content), one.at_s)  # taken at its first attempt, or later
    shown: list[str] = []
    for view in history.views.values():
        attempts = by_session.get(view.session)
        if not attempts or view.from_log or view.silent_epochs:  # an SDK does not show its connections
            continue
        found.audience[view.session] += 1
        got = {sight.content for sight in _delivered(view)}
        spans = _spans(view, sent_s)
        for attempt in attempts:
            if attempt.content in got:
                found.came_all_the_same += _troubled(history, attempt)
                continue
            if _due(history, attempt, spans):
                found.certain += 1
                shown.append(f"{attempt.key} at {view.subscriber}")
            else:
                found.possible += 1
    found.shown = ", ".join(shown[:5])
    return found


def _spans(view: View, sent_s: dict[tuple[str, bytes], float]) -> list[tuple[float, float]]:
    """For each connection: when the first telemetry came, and when the last event that came was published."""
    spans: list[tuple[float, float]] = []
    begin_s: float | None = None
    seal_s = 0.0
    for sight in view.sights:
        if isinstance(sight, Delivered):
            if sight.position is None:
                begin_s = sight.at_s if begin_s is None else begin_s
            elif begin_s is not None:
                seal_s = max(seal_s, sent_s.get((view.session, sight.content), 0.0))
        elif isinstance(sight, Parted | Subscribed):
            if begin_s is not None:
                spans.append((begin_s, seal_s))
            begin_s, seal_s = None, 0.0
    if begin_s is not None:
        spans.append((begin_s, seal_s))
    return spans


def _due(history: History, attempt: Attempt, spans: list[tuple[float, float]]) -> bool:
    if _outcome(attempt) is not Outcome.ACCEPTED:
        return False
    end_s = attempt.answers[-1].at_s
    if _troubled(history, attempt):
        return False
    if any(
        tally.died_s is not None and tally.read_s <= end_s and attempt.at_s <= tally.died_s for tally in history.tallies
    ):
        return False
    return any(begin_s < attempt.at_s and end_s < seal_s for begin_s, seal_s in spans)


def _troubled(history: History, attempt: Attempt) -> bool:
    """Whether it may have been on its way when the live path broke."""
    end_s = attempt.answers[-1].at_s if attempt.answers else float("inf")
    return any(trouble.from_s <= end_s and attempt.at_s <= trouble.to_s for trouble in history.troubles)


def _uncounted(history: History, tally: Tally) -> int:
    """How much telemetry a life of an edge that died may have answered as taken without our knowing its count.

    That is what it answered since it was last asked, and what it had answered by then and not counted: it answers
    before the live store does, and counts when that has, or when it gives up to wait for it.
    """
    if tally.died_s is None:
        return 0
    died_s = tally.died_s
    before = (one.died_s for one in history.tallies if one.url == tally.url and one.died_s is not None)
    began_s = max((at_s for at_s in before if at_s < died_s), default=0.0)
    answered = [
        attempt.answers[-1].at_s
        for attempt in _attempts(history)
        if history.edges.get(attempt.connection) == tally.url
        and began_s < attempt.at_s <= died_s
        and _outcome(attempt) is Outcome.ACCEPTED
    ]
    since = sum(at_s >= tally.read_s for at_s in answered)
    on_the_way = sum(tally.read_s - LIVE_DEADLINE_S <= at_s < tally.read_s for at_s in answered)
    return since + max(0, min(on_the_way, len(answered) - since - tally.published))


def _attempts(history: History) -> Iterator[Attempt]:
    return (attempt for attempt in history.attempts if attempt.class_ is MessageClass.TELEMETRY)


def _delivered(view: View) -> Iterator[Delivered]:
    return (sight for sight in view.delivered if sight.position is None)


def _outcome(attempt: Attempt) -> Outcome | None:
    return attempt.answers[-1].outcome if attempt.answers else None
