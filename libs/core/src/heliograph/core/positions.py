"""Positions: where a message stands in its session.

A position is `(epoch, seq)`. seq is 1, 2, 3 … without holes inside an epoch; an epoch is one life of the session's
counter. On the wire a position is one opaque string that sorts as text:

    1764000000000-1a2b3c4d-0000000000000042
    └ epoch: ms ┘ └ run  ┘ └ seq, 16 digits ┘

`run` is 32 bits of the Redis process that gave the epoch, so that two primaries can't give one position twice.
"""

import re
from functools import total_ordering
from typing import NamedTuple

from heliograph.core.errors import InvalidValueError

EPOCH_LENGTH = 13 + 1 + 8
RUN_STARTS = 13 + 1
POSITION_LENGTH = EPOCH_LENGTH + 1 + 16
MAX_SEQ = 2**53 - 1
"""Lua and JavaScript numbers are doubles: above this they skip."""

EPOCH_PATTERN = r"[0-9]{13}-[0-9a-f]{8}"
POSITION_PATTERN = rf"{EPOCH_PATTERN}-[0-9]{{16}}"
_EPOCH = re.compile(EPOCH_PATTERN, re.ASCII)
_POSITION = re.compile(POSITION_PATTERN, re.ASCII)


@total_ordering
class Position(NamedTuple):
    """A place in a session. Compares as its text does: by epoch, then seq.

    seq 0 is the place before an epoch's first message. Where a session has no message at all it is of an epoch that is
    still to come: whichever begins, it is that one or a later one.
    """

    epoch: str
    seq: int

    @classmethod
    def parse(cls, text: str) -> "Position":
        """Raise InvalidValueError(code=`position_invalid`) unless `text` is a position."""
        if not isinstance(text, str) or not _POSITION.fullmatch(text) or int(text[EPOCH_LENGTH + 1 :]) > MAX_SEQ:
            raise InvalidValueError(
                "position_invalid", "position", text, "a position that a Heliograph server gave, as it was given"
            )
        return cls(text[:EPOCH_LENGTH], int(text[EPOCH_LENGTH + 1 :]))

    def __str__(self) -> str:
        return f"{self.epoch}-{self.seq:016d}"

    @property
    def next(self) -> "Position":
        return Position(self.epoch, self.seq + 1)

    @property
    def epoch_ms(self) -> int:
        return int(self.epoch[:13])

    def begins_after(self, last: "Position") -> bool:
        """Whether this is the first message of a session that had none at `last`.

        Only where the same process gave both: what another one was given before it died may be missing.
        """
        return (
            self.seq == 1
            and last.seq == 0
            and self.epoch > last.epoch
            and self.epoch[RUN_STARTS:] == last.epoch[RUN_STARTS:]
        )


BEFORE_ALL = Position("0000000000000-00000000", 0)
"""Before a session's first message, in whatever epoch that is: where a subscriber that wants all of it begins."""


def check_epoch(text: str) -> str:
    """`text` if it is an epoch; else InvalidValueError(code=`position_invalid`)."""
    if not _EPOCH.fullmatch(text):
        raise InvalidValueError("position_invalid", "epoch", text, "13 digits, a dash and 8 hexadecimal digits")
    return text
