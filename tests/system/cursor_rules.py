"""Rules of cursors: what a consumer acknowledged stays acknowledged, and nothing that it did not handle is left out.

The one excuse is a live store that is gone with its data: its cursors are gone too, and that must be said.
"""

from collections import defaultdict
from collections.abc import Iterator

from tests.system.evidence import Evidence, Rule, Violation
from tests.system.history import LIFE, AckAnswered, AckSent, CursorEvent, CursorFound, CursorRead
from tests.system.views import Seen

from heliograph.core.positions import Position


def by_consumer(evidence: Evidence) -> dict[tuple[str, str], list[CursorEvent]]:
    """Consumer and session → what is known of its cursor."""
    found: dict[tuple[str, str], list[CursorEvent]] = defaultdict(list)
    for event in evidence.history.cursors:
        found[event.consumer, event.session].append(event)
    return found


def cursors_never_move_back(evidence: Evidence) -> Iterator[Violation]:
    """Each answer, each return and each look at the store is at or above the ones before."""
    for (consumer, session), events in by_consumer(evidence).items():
        # What is read from the store may be known later than what was told meanwhile: it is held to itself.
        for told in (
            [one for one in events if isinstance(one, CursorFound | AckAnswered)],
            [one for one in events if isinstance(one, CursorRead)],
        ):
            known = ""
            for event in told:
                if isinstance(event, AckAnswered) and event.position is None:
                    continue
                stands = event.position or ""
                if stands < known and not evidence.is_lost(known):
                    what = f"stands at {stands or 'nothing'}, after {known} was acknowledged"
                    yield Violation("cursor back", session, what, (known,), event.at_s, consumer)
                known = stands


def acks_are_answered_by_what_they_did(evidence: Evidence) -> Iterator[Violation]:
    """One answer each, unless the connection ended: the cursor at or above it, or a refusal that has its reason."""
    answers: dict[tuple[str, int], list[AckAnswered]] = defaultdict(list)
    for event in evidence.history.cursors:
        if isinstance(event, AckAnswered):
            answers[event.connection, event.request].append(event)
    for sent in evidence.history.cursors:
        if not isinstance(sent, AckSent):
            continue
        found = answers[sent.connection, sent.request]
        if len(found) != 1:
            if found or sent.connection not in evidence.history.ended:
                what = f"an ack was answered {len(found)} times"
                yield Violation("ack", sent.session, what, (sent.position,), sent.at_s, sent.consumer)
            continue
        (answer,) = found
        if answer.code is None:
            what = f"answered with {answer.position}" if (answer.position or "") < sent.position else ""
            what = what or ("a position that was never given was taken" if not sent.given else "")
        else:
            ahead = answer.code == "position_ahead"
            excused = not ahead or not sent.given or evidence.is_lost(sent.position)
            what = "" if excused else "refused, though the session gave it"
        if what:
            yield Violation("ack", sent.session, what, (sent.position,), answer.at_s, sent.consumer)


def cursors_come_from_acks(evidence: Evidence) -> Iterator[Violation]:
    """A consumer is never put further than it said, nor told that there is no cursor where one was stored."""
    for (consumer, session), events in by_consumer(evidence).items():
        said, stored = "", ""
        for event in events:
            if isinstance(event, AckSent) and event.given:
                said = max(said, event.position)
            elif isinstance(event, AckAnswered) and event.position is not None:
                stored = event.position
            elif isinstance(event, CursorFound | CursorRead):
                if event.position is not None and event.position > said:
                    what = f"is put at a position that it never acknowledged, the furthest is {said or 'none'}"
                    yield Violation("cursor", session, what, (event.position,), event.at_s, consumer)
                if event.position is None and isinstance(event, CursorFound) and stored:
                    if not evidence.is_lost(stored):
                        what = "is told that it has no cursor"
                        yield Violation("cursor", session, what, (stored,), event.at_s, consumer)
                    stored = ""


def _from_nothing(seen: Seen) -> bool:
    """It began before the session's first message."""
    return seen.start is not None and seen.start.seq == 0


def consumers_skip_nothing(evidence: Evidence) -> Iterator[Violation]:
    """Over all its lives a consumer that began at the earliest was given everything that the log has."""
    lives = defaultdict(list)
    for seen in evidence.seen:
        consumer, life, _ = seen.view.subscriber.partition(LIFE)
        if life:
            lives[consumer, seen.view.session].append(seen)
    for (consumer, session), views in lives.items():
        if not any(view.view.to_the_end for view in views) or not any(map(_from_nothing, views)):
            continue
        had = set().union(*(view.positions for view in views))
        missed = [
            position
            for position in evidence.by_session.get(session, [])
            if position not in had and not any(view.why_not(Position.parse(position)) for view in views)
        ]
        if missed:
            what = f"{len(missed)} messages that the log has were given in no life"
            yield Violation("cursor skips", session, what, (missed[0], missed[-1]), None, consumer)


CURSOR_RULES: tuple[Rule, ...] = (
    cursors_never_move_back,
    acks_are_answered_by_what_they_did,
    cursors_come_from_acks,
    consumers_skip_nothing,
)
