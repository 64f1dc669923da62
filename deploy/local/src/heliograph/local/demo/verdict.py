"""Whether the demo kept what Heliograph promises, judged from what was noted. Pure: evidence in, result out.

Every rule that is broken becomes one sentence in `Result.problems`; none means that all was well.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from heliograph.core.positions import Position

SHOWN_PER_RULE = 3
"""Examples named of one broken rule; the rest are counted."""


@dataclass(frozen=True, slots=True)
class Published:
    """One call of `publish`, answered or failed."""

    client: str
    session: str
    class_: str
    began_s: float
    message_id: str | None = None
    position: str | None = None
    duplicate: bool = False
    durable: bool = False
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Delivered:
    """One message that a reader was given. `frame` is the message as on the wire; no position: telemetry."""

    message_id: str
    class_: str
    position: str | None
    frame: bytes
    at_s: float


@dataclass(slots=True)
class Reading:
    """What one reader was given of one session, in its order."""

    reader: str
    session: str
    after: str | None = None
    """The position it asked to go on from."""
    messages: list[Delivered] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    complete: bool = False
    """It stayed until everything had come."""
    live: bool = True
    """It was there when its messages were published, so how long they took means something."""

    @property
    def placed(self) -> list[tuple[str, bytes]]:
        """Position and frame of what has a place in the session."""
        return [(message.position, message.frame) for message in self.messages if message.position is not None]


Recorded = Sequence[tuple[str, bytes]]
"""Position and frame of each message of a session, as a log has them."""


@dataclass(frozen=True, slots=True)
class ClientCounters:
    """The SDK's own count of what happened to a client."""

    connections: int
    resends: int
    duplicates: int
    holes: int


@dataclass(slots=True)
class Evidence:
    """All that was noted."""

    published: list[Published] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    auditor: str = "auditor"
    """The reader who was there from beginning to end, in every session."""
    kafka: Mapping[str, Recorded] = field(default_factory=dict)
    """As they stand in the log: nearly in order, a message may be there twice."""
    replay: Mapping[str, Recorded] = field(default_factory=dict)
    clients: Mapping[str, ClientCounters] = field(default_factory=dict)
    killed: str | None = None
    moved: Sequence[str] = ()
    """Clients that were on the killed edge and are on another."""
    repeats: int = 0
    """Messages that were published a second time on purpose."""
    questions: int = 0
    answers: Sequence[tuple[str, str]] = ()
    """(question's id, answer) of each answer."""
    expected: Mapping[str, str] = field(default_factory=dict)
    """Question's id → the answer that is right."""
    rewritten: int = 0
    """Messages the router wrote to the log because the killed edge could not."""
    resumed_from: str | None = None
    """Where the reader that was away went on from."""
    missed: int = 0
    """Messages published while it was away."""
    away_s: float = 0.0
    took_s: float = 0.0


@dataclass(slots=True)
class Result:
    """What came out, as `--json` prints it."""

    problems: list[str]
    messages: dict[str, dict[str, int]]
    """By class: `published` and `delivered`, each message once; `durable`: of these, read back from Kafka."""
    duplicates: dict[str, int]
    """`on_purpose`, `resent` by the SDK, `collapsed`: answered with the first one's position, `left`: in the log."""
    gaps: int
    killed: str | None
    moved: list[str]
    reconnects: int
    latency_ms: dict[str, float]
    """From the call of `publish` to a subscriber's hands: `p50`, `p99`, `longest`."""
    read_back: dict[str, int]
    """Messages found equal to what was delivered, by where they were read: `kafka`, `replay`."""
    resumed: dict[str, Any]
    questions: int
    answers: int
    rewritten: int
    took_s: float

    @property
    def ok(self) -> bool:
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        return {"ok": self.ok, **asdict(self)}


def judge(evidence: Evidence) -> Result:
    """Hold the evidence to the rules, and count."""
    problems = _Problems()
    audited = {reading.session: reading for reading in evidence.readings if reading.reader == evidence.auditor}
    _check_readings(problems, evidence, audited)
    _check_promises(problems, evidence, audited)
    equal_in_kafka = sum(_check_kafka(problems, reading, evidence.kafka) for reading in audited.values())
    equal_in_replay = sum(_check_replay(problems, reading, evidence.replay) for reading in audited.values())
    for session in sorted(set(evidence.kafka) - set(audited)):
        problems.add("in Kafka, but nobody published to", session)
    _check_plot(problems, evidence)
    left = _check_repeats(problems, evidence, audited)
    return Result(
        problems=problems.sentences(),
        messages=_by_class(evidence, audited),
        duplicates={
            "on_purpose": evidence.repeats,
            "resent": sum(client.resends for client in evidence.clients.values()),
            "collapsed": sum(client.duplicates for client in evidence.clients.values()),
            "left": left,
        },
        gaps=sum(len(reading.gaps) for reading in evidence.readings),
        killed=evidence.killed,
        moved=sorted(evidence.moved),
        reconnects=sum(max(client.connections - 1, 0) for client in evidence.clients.values()),
        latency_ms=_latency_ms(evidence),
        read_back={"kafka": equal_in_kafka, "replay": equal_in_replay},
        resumed={"from": evidence.resumed_from, "away_s": round(evidence.away_s, 1), "missed": evidence.missed},
        questions=evidence.questions,
        answers=len(evidence.answers),
        rewritten=evidence.rewritten,
        took_s=round(evidence.took_s, 1),
    )


class _Problems:
    """Sentences by rule: a few examples of each, the rest counted."""

    def __init__(self) -> None:
        self._found: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, rule: str, example: str) -> None:
        self._found[rule].append(example)

    def sentences(self) -> list[str]:
        made = []
        for rule, examples in self._found.items():
            more = len(examples) - SHOWN_PER_RULE
            rest = f" and {more} more" if more > 0 else ""
            made.append(f"{rule}: {', '.join(examples[:SHOWN_PER_RULE])}{rest}")
        return made


def _check_readings(problems: _Problems, evidence: Evidence, audited: Mapping[str, Reading]) -> None:
    """Every reader got rising, contiguous positions; all readers of a session got the same bytes."""
    if not audited:
        problems.add("the auditor was given", "nothing")
    for reading in evidence.readings:
        who = f"{reading.reader} of {reading.session}"
        for gap in reading.gaps:
            problems.add("a gap was told", f"{who}: {gap}")
        _check_contiguous(problems, who, reading)
        whole = audited.get(reading.session)
        if whole is not None and whole is not reading:
            _check_equal(problems, who, reading, whole)
    for name, client in evidence.clients.items():
        if client.holes:
            problems.add("positions were left out without a word", f"{client.holes} for {name}")


def _check_contiguous(problems: _Problems, who: str, reading: Reading) -> None:
    last = Position.parse(reading.after) if reading.after is not None else None
    for text, _ in reading.placed:
        position = Position.parse(text)
        if last is None and reading.complete and position.seq != 1 and reading.live:
            problems.add("the first message was not delivered", f"{who} begins at {text}")
        if last is not None and position != last.next:
            problems.add("out of order, or a silent hole", f"{who}: {text} after {last}")
        last = position


def _check_equal(problems: _Problems, who: str, reading: Reading, whole: Reading) -> None:
    """The reading is a part of the auditor's, and the rest of it where the reader stayed."""
    known = dict(whole.placed)
    for position, frame in reading.placed:
        if known.get(position) != frame:
            problems.add("two readers were given different messages", f"{who} at {position}")
    if reading.complete and whole.placed:
        last = reading.placed[-1][0] if reading.placed else reading.after
        if last != whole.placed[-1][0]:
            problems.add("not everything was delivered", f"{who} ends at {last}, the session at {whole.placed[-1][0]}")


def _check_promises(problems: _Problems, evidence: Evidence, audited: Mapping[str, Reading]) -> None:
    """What a publisher was told is true."""
    delivered = {
        (session, message.position): message.message_id
        for session, reading in audited.items()
        for message in reading.messages
    }
    for call in evidence.published:
        where = f"{call.client} to {call.session}"
        if call.error is not None:
            problems.add("a publish failed", f"{where}: {call.error}")
        elif call.position is not None:
            if not call.durable:
                problems.add("never became durable", f"{where} at {call.position}")
            if delivered.get((call.session, call.position)) != call.message_id:
                problems.add("published, but not delivered at its position", f"{where} at {call.position}")


def _check_kafka(problems: _Problems, reading: Reading, kafka: Mapping[str, Recorded]) -> int:
    """The log has what was delivered, byte for byte, and nothing else. Returns how many messages were equal."""
    delivered = dict(reading.placed)
    equal = set()
    for position, frame in kafka.get(reading.session, ()):
        if position not in delivered:
            problems.add("in Kafka, but never delivered", f"{reading.session} at {position}")
        elif delivered[position] != frame:
            problems.add("not in Kafka as it was delivered", f"{reading.session} at {position}")
        else:
            equal.add(position)
    found = {position for position, _ in kafka.get(reading.session, ())}
    for position in delivered:
        if position not in found:
            problems.add("delivered, but not in Kafka", f"{reading.session} at {position}")
    return len(equal)


def _check_replay(problems: _Problems, reading: Reading, replay: Mapping[str, Recorded]) -> int:
    """Replay gives what was delivered, in the same order, each once. Returns how many messages were equal."""
    given = list(replay.get(reading.session, ()))
    if given == reading.placed:
        return len(given)
    delivered = dict(reading.placed)
    equal = {position for position, frame in given if delivered.get(position) == frame}
    for position, frame in given:
        if delivered.get(position) != frame:
            problems.add("replay gives what was not delivered", f"{reading.session} at {position}")
    for position in delivered:
        if position not in equal:
            problems.add("delivered, but not in replay", f"{reading.session} at {position}")
    if [position for position, _ in given] != sorted({position for position, _ in given}):
        problems.add("replay is out of order or repeats itself", reading.session)
    return len(equal)


def _check_repeats(problems: _Problems, evidence: Evidence, audited: Mapping[str, Reading]) -> int:
    """However often a message was sent, it is one message. Returns how many are there more than once."""
    left = 0
    for session, reading in audited.items():
        seen = Counter(message.message_id for message in reading.messages)
        for message_id, times in seen.items():
            if times > 1:
                left += 1
                problems.add("a repeated message was delivered as another one", f"{message_id} in {session}")
    positions: dict[tuple[str, str], str] = {}
    collapsed = 0
    for call in evidence.published:
        if call.message_id is not None and call.position is not None:
            first = positions.setdefault((call.session, call.message_id), call.position)
            collapsed += call.duplicate
            if first != call.position:
                problems.add("a repeat was given a position of its own", f"{call.message_id} at {call.position}")
    if collapsed < evidence.repeats:
        problems.add("repeats were not recognised", f"{evidence.repeats - collapsed} of {evidence.repeats}")
    return left


def _check_plot(problems: _Problems, evidence: Evidence) -> None:
    """What the demo is there to show has taken place."""
    if evidence.killed is None:
        problems.add("no edge was", "killed")
    if not evidence.moved:
        problems.add("no client", "moved to the other edge")
    if evidence.resumed_from is None or not evidence.missed:
        problems.add("nobody came back", "and caught up with what it had missed")
    if not evidence.questions:
        problems.add("nothing was", "asked")
    answers = Counter(question for question, _ in evidence.answers)
    for question, right in evidence.expected.items():
        if answers[question] != 1:
            problems.add("not answered exactly once", f"{question} ({answers[question]} times)")
        elif (question, right) not in evidence.answers:
            problems.add("answered wrongly", question)


def _by_class(evidence: Evidence, audited: Mapping[str, Reading]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for class_ in ("control", "event", "telemetry"):
        published = {
            (call.session, call.message_id)
            for call in evidence.published
            if call.class_ == class_ and call.error is None and call.message_id is not None
        }
        delivered = {
            (session, message.message_id)
            for session, reading in audited.items()
            for message in reading.messages
            if message.class_ == class_
        }
        durable = sum(
            len(
                {message.position for message in reading.messages if message.class_ == class_}
                & {position for position, _ in evidence.kafka.get(session, ())}
            )
            for session, reading in audited.items()
        )
        counts[class_] = {"published": len(published), "delivered": len(delivered), "durable": durable}
    return counts


def _latency_ms(evidence: Evidence) -> dict[str, float]:
    """Over every delivery to a reader who was there: from the first call that published the message."""
    began: dict[tuple[str, str], float] = {}
    for call in evidence.published:
        if call.message_id is not None:
            key = (call.session, call.message_id)
            began[key] = min(began.get(key, call.began_s), call.began_s)
    took = sorted(
        (message.at_s - began[reading.session, message.message_id]) * 1000
        for reading in evidence.readings
        if reading.live
        for message in reading.messages
        if (reading.session, message.message_id) in began
    )
    return {"p50": _percentile(took, 0.5), "p99": _percentile(took, 0.99), "longest": _percentile(took, 1.0)}


def _percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank percentile; 0 of nothing."""
    if not ordered:
        return 0.0
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1)


def contents(records: Iterable[tuple[str, str, bytes]]) -> dict[str, list[tuple[str, bytes]]]:
    """(session, position, frame) by session."""
    by_session: dict[str, list[tuple[str, bytes]]] = {}
    for session, position, frame in records:
        by_session.setdefault(session, []).append((position, frame))
    return by_session
