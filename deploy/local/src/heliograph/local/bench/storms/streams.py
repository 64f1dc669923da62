"""What one producer sends to one session, and what one subscriber sees of it: each message has a number, so that what
is lost, repeated or out of order is counted exactly, whatever positions it got.
"""

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from heliograph.core.positions import EPOCH_LENGTH
from heliograph.protocol.messages import FRAME_START

OVERHEAD_BYTES = 40
"""Of a payload besides its padding."""
MOST_UNANSWERED = 60
"""Of a stream: an edge remembers 64."""

_AT = len(FRAME_START)
_POSITION = slice(_AT, _AT + EPOCH_LENGTH + 17)
_PAYLOAD = b'"payload":{"n":'
_TIME = b',"t":'


@dataclass(frozen=True, slots=True)
class Fed:
    """A stream's account: how many messages were given out, and what became of them."""

    session: str
    given: int
    published: int
    """Answered with `published`: what must arrive."""
    durable: int
    """Of these, known to be in the log, by `published` or by `confirmed`."""
    deferred: int
    refusals: int
    unanswered: int
    codes: dict[str, int]


@dataclass(frozen=True, slots=True)
class Read:
    """A subscriber's account."""

    session: str
    last: int
    """Highest number seen; all below it but the missing ones were seen."""
    received: int
    repeated: int
    missing: int
    """Numbers left out."""
    late: int
    """Came after a higher one: out of the producer's order."""
    gaps: int
    """Told by the server."""
    unrecovered: int


class Reading:
    """One subscriber of one session. `seen` is told the intended time (ns, monotonic) of each new message."""

    __slots__ = (
        "_missing",
        "gaps",
        "last",
        "late",
        "position",
        "received",
        "repeated",
        "seen",
        "session",
        "unrecovered",
    )

    def __init__(self, session: str, seen: Callable[[int], None] | None = None) -> None:
        self.session = session
        self.seen = seen
        self.position = ""
        """Of the last message, to go on from."""
        self.last = 0
        self.received = 0
        self.repeated = 0
        self.late = 0
        self.gaps = 0
        self.unrecovered = 0
        self._missing: set[int] = set()

    def message(self, frame: bytes) -> None:
        """One `message` frame."""
        at = frame.find(_PAYLOAD)
        if at < 0:
            return
        at += len(_PAYLOAD)
        end = frame.index(b",", at)
        number = int(frame[at:end])
        if frame.startswith(FRAME_START):
            self.position = frame[_POSITION].decode()
        if number == self.last + 1:
            self.last = number
        elif number > self.last:
            self._missing.update(range(self.last + 1, number))
            self.last = number
        elif number in self._missing:
            self._missing.discard(number)
            self.late += 1
        else:
            self.repeated += 1
            return
        self.received += 1
        if self.seen is not None:
            at = end + len(_TIME)
            self.seen(int(frame[at : frame.index(b",", at)]))

    def account(self) -> Read:
        missing = len(self._missing)
        return Read(
            self.session, self.last, self.received, self.repeated, missing, self.late, self.gaps, self.unrecovered
        )


class Stream:
    """One session's producer. Counted: in order and sent again until it is in, as a careful client does."""

    def __init__(self, session: str, class_: str, payload_bytes: int, *, counted: bool = True) -> None:
        self.session = session
        self.counted = counted
        self._class = class_
        self._padding = "x" * max(0, payload_bytes - OVERHEAD_BYTES)
        self._waiting: deque[int] = deque()
        self._frames: dict[int, bytes] = {}
        """By number: what has no good answer yet."""
        self._again: set[int] = set()
        """Refused, and due again together with all behind them."""
        self._pending: dict[str, int] = {}
        """By position: answered, and not known to be durable."""
        self._codes: dict[str, int] = {}
        self.in_flight = 0
        self.given = 0
        self.published = 0
        self.durable = 0
        self.deferred = 0
        self.refusals = 0

    @property
    def unanswered(self) -> int:
        """How many have no good answer yet."""
        return len(self._frames)

    def give(self, intended_ns: int, request_id: int) -> int:
        """The next message, to be sent by `due`; its number."""
        self.given += 1
        number = self.given
        seq = f'"seq":{number},' if self.counted else ""
        self._frames[number] = (
            f'{{"type":"publish","id":{request_id},"session":"{self.session}","class":"{self._class}",{seq}'
            f'"payload":{{"n":{number},"t":{intended_ns},"p":"{self._padding}"}}}}'
        ).encode()
        self._waiting.append(number)
        return number

    def due(self) -> list[bytes]:
        """Frames to send now; none while a refused one has to come first."""
        frames = []
        while self._waiting and not self._again and (not self.counted or self.in_flight < MOST_UNANSWERED):
            self.in_flight += 1
            frames.append(self._frames[self._waiting.popleft()])
        return frames

    def answered(self, number: int, frame: dict[str, Any]) -> bool:
        """The answer to one; whether it was refused and is due again after a while."""
        self.in_flight -= 1
        if frame["type"] == "published":
            if self._frames.pop(number, None) is None:
                return False
            self.published += 1
            if frame.get("deferred"):
                self.deferred += 1
            if frame["durable"]:
                self.durable += 1
            elif frame.get("pending"):
                self._pending[frame["position"]] = number
            return False
        self.refusals += 1
        code = str(frame.get("code"))
        self._codes[code] = self._codes.get(code, 0) + 1
        if not self.counted:
            self._frames.pop(number, None)
            return False
        if number in self._frames:
            self._again.add(number)
        return True

    def confirmed(self, position: str) -> None:
        if self._pending.pop(position, None) is not None:
            self.durable += 1

    def send_again(self) -> bool:
        """Let what was refused come first, in order; False while answers to what followed it are still due."""
        if self.in_flight > 0:
            return False
        self._waiting.extendleft(sorted(self._again, reverse=True))
        self._again.clear()
        return True

    def connection_lost(self) -> None:
        """What was under way comes first on the next connection, under the same numbers."""
        under_way = sorted(set(self._frames) - set(self._waiting))
        self._waiting.extendleft(reversed(under_way))
        self._again.clear()
        self.in_flight = 0

    def account(self) -> Fed:
        return Fed(
            self.session, self.given, self.published, self.durable, self.deferred, self.refusals,
            len(self._frames), dict(self._codes),
        )  # fmt: skip


def hello(token: str, name: str, incarnation: str, session: str | None, position: str) -> bytes:
    """The first frame, with the subscription where there is one: from `position`, or from the end."""
    frame: dict[str, Any] = {"type": "hello", "id": 1, "token": token, "producer": name, "incarnation": incarnation}
    if session is not None:
        frame["subscriptions"] = [{"session": session, "from": position or "latest"}]
    return json.dumps(frame, separators=(",", ":")).encode()
