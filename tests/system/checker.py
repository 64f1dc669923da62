"""Judges a history: were promises kept, was order kept, is anything missing, doubled or changed?

Each rule is a function of the evidence that yields violations, so that one more rule is one more function in `RULES`.
The rules know the guarantees, not the code that keeps them. What the design lets a system lose is written into each
rule as an excuse, and into nothing else: messages that were only accepted by a live store that is gone with its data,
answers on connections that ended, history that a subscriber was told it would not get.

A history is judged at rest: publishers have stopped, the router is through, subscribers have caught up.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from tests.system.cursor_rules import CURSOR_RULES
from tests.system.evidence import Evidence, Rule, Violation
from tests.system.history import AckSent, CursorFound, History, Kind, Outcome
from tests.system.telemetry_rules import TELEMETRY_RULES, missing_of
from tests.system.views import walk

from heliograph.core.limits import UNCONFIRMED_MESSAGES
from heliograph.core.messages import AckMode, MessageClass
from heliograph.core.positions import Position
from heliograph.protocol.codes import GapReason

SAYS_NOWHERE = frozenset({GapReason.NEVER_WRITTEN, GapReason.RETENTION, GapReason.CORRUPT})
"""Reasons that say that the log does not have it (any more)."""


# ---- promises -------------------------------------------------------------------------------------------------------


def durable_is_in_the_log(evidence: Evidence) -> Iterator[Violation]:
    """`durable` is a promise without an excuse, whoever gives it: the answer, `confirmed` or `status`."""
    told = [
        (attempt.session, answer.position, answer.at_s, attempt.connection, "answered durable")
        for attempt, answer in evidence.answers(Outcome.DURABLE)
    ]
    told += [(one.session, one.position, one.at_s, one.connection, "confirmed") for one in evidence.history.confirmed]
    for session, position, at_s, connection, how in told:
        if position is None:
            yield Violation("durable", session, f"{how} without a position", (), at_s, connection)
        elif (session, position) not in evidence.messages:
            holds = "a gap record" if (session, position) in evidence.entries else "nothing"
            yield Violation("durable", session, f"{how}, the log holds {holds}", (position,), at_s, connection)


def accepted_is_in_the_log(evidence: Evidence) -> Iterator[Violation]:
    """What the live store took reaches the log, unless the live store is gone with its data."""
    for attempt, answer in evidence.answers(Outcome.ACCEPTED, Outcome.PENDING):
        position = answer.position
        if position is None or evidence.is_lost(position):
            continue
        if (attempt.session, position) not in evidence.messages:
            what = f"answered {answer.outcome}, and the log never got it"
            yield Violation("accepted", attempt.session, what, (position,), answer.at_s, attempt.connection)


def deferred_is_put_in_its_place(evidence: Evidence) -> Iterator[Violation]:
    """What was deferred has a position in the end, without an excuse: only the log had it, and the log is not lost."""
    there = {(session, entry.content) for (session, _), entry in evidence.messages.items()}
    for attempt, answer in evidence.answers(Outcome.DEFERRED):
        if attempt.class_ is not MessageClass.CONTROL:
            what = f"{attempt.key} was deferred, and is no control message"
            yield Violation("deferred", attempt.session, what, (), answer.at_s, attempt.connection)
        if answer.position is not None:
            what = f"{attempt.key} was answered as deferred with a position"
            yield Violation("deferred", attempt.session, what, (answer.position,), answer.at_s, attempt.connection)
        if (attempt.session, attempt.content) not in there:
            what = f"{attempt.key} was deferred, and never put in its place"
            yield Violation("deferred", attempt.session, what, (), answer.at_s, attempt.connection)


def delivered_is_in_the_log(evidence: Evidence) -> Iterator[Violation]:
    """A message that somebody acted on is in the audit record, with the same excuse."""
    for view in evidence.history.views.values():
        for sight in view.delivered:
            position = sight.position
            if position is None or evidence.is_lost(position):
                continue
            if (view.session, position) not in evidence.messages:
                what = "delivered, and the log never got it"
                yield Violation("delivered", view.session, what, (position,), sight.at_s, view.subscriber)


def every_publish_has_one_answer(evidence: Evidence) -> Iterator[Violation]:
    """Exactly one, and none for `ack: none` but a refusal. Missing only where the connection ended."""
    for attempt in evidence.history.attempts:
        count = len(attempt.answers)
        silent = attempt.ack is AckMode.NONE or attempt.connection in evidence.history.ended
        told = [answer for answer in attempt.answers if answer.outcome is not Outcome.REFUSED]
        if count > 1 or (attempt.ack is AckMode.NONE and told):
            what = f"{attempt.key} was answered {count} times: {', '.join(one.outcome for one in attempt.answers)}"
        elif count == 0 and not silent:
            what = f"{attempt.key} was not answered, and its connection lived on"
        else:
            continue
        positions = tuple(answer.position for answer in attempt.answers if answer.position)
        yield Violation("answers", attempt.session, what, positions, attempt.at_s, attempt.connection)


def pending_is_confirmed(evidence: Evidence) -> Iterator[Violation]:
    """`pending` is followed by one `confirmed` (on its connection, or by `status` on a later one)."""
    known = {(one.session, one.position) for one in evidence.history.confirmed}
    known |= {(attempt.session, answer.position or "") for attempt, answer in evidence.answers(Outcome.DURABLE)}
    for attempt, answer in evidence.answers(Outcome.PENDING):
        position = answer.position
        if position is None:
            yield Violation("pending", attempt.session, "pending without a position", (), answer.at_s)
        elif (attempt.session, position) not in known and not evidence.is_lost(position):
            what = "answered pending, never confirmed"
            yield Violation("pending", attempt.session, what, (position,), answer.at_s, attempt.connection)


# ---- content --------------------------------------------------------------------------------------------------------


def a_position_has_one_content(evidence: Evidence) -> Iterator[Violation]:
    """The same in the log (however often written), at every subscriber, and what the publisher sent."""
    contents: dict[tuple[str, str], dict[bytes, str]] = defaultdict(dict)
    for place, entries in evidence.entries.items():
        for entry in entries:
            if entry.kind is Kind.MESSAGE:
                contents[place].setdefault(entry.content, entry.place)
    for view in evidence.history.views.values():
        for sight in view.delivered:
            if sight.position is not None:
                contents[view.session, sight.position].setdefault(sight.content, view.subscriber)
    for attempt in evidence.history.attempts:
        for answer in attempt.answers:
            if answer.position is not None:
                contents[attempt.session, answer.position].setdefault(attempt.content, attempt.connection)
    for (session, position), found in contents.items():
        if len(found) > 1:
            yield Violation("content", session, f"different content: {', '.join(found.values())}", (position,))


def a_frame_is_rebuilt_from_its_record(evidence: Evidence) -> Iterator[Violation]:
    """Byte for byte what was delivered; a record written twice is the same record."""
    for place, entries in evidence.entries.items():
        frames = {entry.frame: entry.place for entry in entries if entry.kind is Kind.MESSAGE}
        if len(frames) > 1:
            what = f"records that give different frames: {', '.join(frames.values())}"
            yield Violation("frame", place[0], what, (place[1],))
    for view in evidence.history.views.values():
        for sight in view.delivered:
            if sight.position is None or sight.frame is None:
                continue
            entry = evidence.messages.get((view.session, sight.position))
            if entry is not None and entry.frame != sight.frame:
                what = f"the frame delivered is not the one of the record {entry.place}"
                yield Violation("frame", view.session, what, (sight.position,), sight.at_s, view.subscriber)


def duplicates_are_marked(evidence: Evidence) -> Iterator[Violation]:
    """One message has one position, or says of itself that it had another.

    Excused: what the dedupe memory that would have caught it is gone for.
    """
    by_id: dict[tuple[str, str], list[str]] = defaultdict(list)
    by_content: dict[tuple[str, bytes], list[str]] = defaultdict(list)
    for (session, position), entry in sorted(evidence.messages.items()):
        if not entry.marked:
            by_id[session, entry.message_id].append(position)
            by_content[session, entry.content].append(position)
    keys = {(attempt.session, attempt.content): attempt.key for attempt in evidence.history.attempts}
    for (session, message_id), positions in by_id.items():
        if _repeats(evidence, positions):
            yield Violation("duplicate", session, f"message id {message_id} has two positions", tuple(positions))
    for (session, content), positions in by_content.items():
        key = keys.get((session, content))
        if key is not None and _repeats(evidence, positions):
            yield Violation("duplicate", session, f"message {key} has two positions", tuple(positions))


def _repeats(evidence: Evidence, positions: Sequence[str]) -> bool:
    return len([position for position in positions if not evidence.is_lost(position)]) > 1


# ---- order and wholeness --------------------------------------------------------------------------------------------


def subscribers_see_order(evidence: Evidence) -> Iterator[Violation]:
    """Rising, contiguous positions per subscriber, over connections; nothing left out without a word."""
    for view in evidence.history.views.values():
        for fault in walk(view):
            yield Violation("order", view.session, fault.what, fault.positions, fault.at_s, view.subscriber)


def subscribers_miss_nothing(evidence: Evidence) -> Iterator[Violation]:
    """At rest a subscriber has everything that the log has from where it began; and was told no gap that is none."""
    for seen in evidence.seen:
        last_s = seen.view.sights[-1].at_s if seen.view.sights else None
        missed = []
        for position in evidence.by_session.get(seen.view.session, []):
            at = Position.parse(position)
            if position in seen.positions or not seen.after(at):
                continue
            reason = seen.why_not(at)
            if reason is None and (seen.view.to_the_end or (seen.last is not None and at < seen.last)):
                missed.append(position)
            elif reason in SAYS_NOWHERE:
                what = f"was told a gap ({reason}), and the log has it"
                yield Violation("missed", seen.view.session, what, (position,), last_s, seen.view.subscriber)
        if missed:
            what = f"{len(missed)} messages that the log has were never delivered"
            shown = (missed[0], missed[-1])
            yield Violation("missed", seen.view.session, what, shown, last_s, seen.view.subscriber)


def producers_keep_their_order(evidence: Evidence) -> Iterator[Violation]:
    """Within one incarnation and class, a higher producer seq has a higher position; a repeat is another rule's.

    Excused: what was deferred, and comes behind what a live store had that is gone with its data: it knew who was next.
    """
    deferred = {(attempt.session, attempt.content) for attempt, _ in evidence.answers(Outcome.DEFERRED)}
    last: dict[tuple[str, str, str, MessageClass], tuple[int, str]] = {}
    seen: set[tuple[str, str, str, MessageClass, int]] = set()
    for (session, position), entry in sorted(evidence.messages.items()):
        if entry.incarnation is None or entry.producer_seq is None or entry.marked:
            continue
        key = (session, entry.producer, entry.incarnation, entry.class_)
        if (*key, entry.producer_seq) in seen:
            continue
        seen.add((*key, entry.producer_seq))
        before = last.get(key)
        if before is not None and entry.producer_seq <= before[0]:
            if (session, entry.content) in deferred and evidence.is_lost(before[1]):
                continue
            what = f"{entry.producer} {entry.class_} seq {entry.producer_seq} comes after seq {before[0]}"
            yield Violation("producer order", session, what, (before[1], position))
        last[key] = (entry.producer_seq, position)


def nothing_is_written_again_too_soon(evidence: Evidence) -> Iterator[Violation]:
    """A position is written again only when its first write can't be under way any more."""
    patience_ms = evidence.history.patience_s * 1000
    for (session, position), entries in evidence.entries.items():
        if len(entries) > 1:
            last = max(entries, key=lambda entry: entry.written_ms)
            after_ms = last.written_ms - last.accepted_ms
            if after_ms < patience_ms:
                what = f"{last.place} is a second copy, written {after_ms} ms after the message was accepted"
                yield Violation("hasty", session, what, (position,))


def the_log_is_whole(evidence: Evidence) -> Iterator[Violation]:
    """Positions of an epoch are 1, 2, 3 … or have a gap record; a session stays in its partition, nearly in order, for
    as long as the live store knows it.
    """
    for session, epochs in _epochs(evidence).items():
        for epoch, seqs in epochs.items():
            holes = sorted(set(range(1, max(seqs) + 1)) - seqs)
            if holes and not evidence.is_lost(epoch):
                shown = tuple(str(Position(epoch, seq)) for seq in (holes[0], holes[-1]))
                yield Violation("log", session, f"{len(holes)} positions are nowhere in the log", shown)
    tops: dict[tuple[str, str], int] = defaultdict(int)
    homes: dict[tuple[str, bool], str] = {}
    met: set[tuple[str, str]] = set()
    for entry in evidence.history.log:
        if entry.position is None or entry.kind not in (Kind.MESSAGE, Kind.GAP):
            continue
        home = f"{entry.topic}[{entry.partition}]"
        life = (entry.session, entry.position > evidence.history.forgotten.get(entry.session, ""))
        if homes.setdefault(life, home) != home:
            what = f"is in {homes[life]} and in {home}"
            yield Violation("log", entry.session, what, (entry.position,))
        epoch, seq = Position.parse(entry.position)
        first = (entry.session, entry.position) not in met
        met.add((entry.session, entry.position))
        if first and tops[entry.session, epoch] >= seq + UNCONFIRMED_MESSAGES:
            what = f"comes behind {UNCONFIRMED_MESSAGES} later ones: readers have called it a gap"
            yield Violation("log", entry.session, what, (entry.position,))
        tops[entry.session, epoch] = max(tops[entry.session, epoch], seq)


def _epochs(evidence: Evidence) -> dict[str, dict[str, set[int]]]:
    found: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for session, position in evidence.entries:
        epoch, seq = Position.parse(position)
        found[session][epoch].add(seq)
    return found


RULES: tuple[Rule, ...] = (
    durable_is_in_the_log,
    accepted_is_in_the_log,
    deferred_is_put_in_its_place,
    delivered_is_in_the_log,
    every_publish_has_one_answer,
    pending_is_confirmed,
    a_position_has_one_content,
    a_frame_is_rebuilt_from_its_record,
    duplicates_are_marked,
    subscribers_see_order,
    subscribers_miss_nothing,
    producers_keep_their_order,
    nothing_is_written_again_too_soon,
    the_log_is_whole,
    *CURSOR_RULES,
    *TELEMETRY_RULES,
)


def check(history: History, rules: Sequence[Rule] = RULES) -> list[Violation]:
    """Everything that is wrong."""
    evidence = Evidence(history)
    return [violation for rule in rules for violation in rule(evidence)]


def summary(history: History) -> dict[str, int]:
    """What a run amounted to, in numbers: a run that proves nothing shows it here."""
    evidence = Evidence(history)
    counts = Counter(answer.outcome.value for attempt in history.attempts for answer in attempt.answers)
    unique = {(attempt.session, attempt.key) for attempt in history.attempts}
    missing = missing_of(history)
    return {
        "messages": len(unique),
        "attempts": len(history.attempts),
        **{outcome.value: counts[outcome.value] for outcome in Outcome},
        "collapsed": sum(answer.duplicate for attempt in history.attempts for answer in attempt.answers),
        "confirmed": len(history.confirmed),
        "unanswered": sum(not attempt.answers for attempt in history.attempts),
        "connections ended": len(history.ended),
        "log records": len(history.log),
        "written twice": sum(len(entries) - 1 for entries in evidence.entries.values()),
        "deliveries": sum(len(view.delivered) for view in history.views.values()),
        "gaps told": sum(len(seen.gaps) for seen in evidence.seen),
        "epochs told": sum(seen.epochs for seen in evidence.seen),
        "acks": sum(isinstance(one, AckSent) for one in history.cursors),
        "cursors found": sum(isinstance(one, CursorFound) for one in history.cursors),
        "telemetry": sum(attempt.class_ is MessageClass.TELEMETRY for attempt in history.attempts),
        "telemetry shed": sum(tally.shed for tally in history.tallies),
        "telemetry dropped": sum(tally.dropped for tally in history.tallies),
        "telemetry missing": missing.certain,
        "telemetry in flight": missing.possible,
    }
