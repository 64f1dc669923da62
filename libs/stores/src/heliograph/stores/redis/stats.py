"""What one live store met, over all its shards; connections count their own."""

from typing import Any

from heliograph.stores.events import LIVE, StoreEvent, Tally
from heliograph.stores.ports import CorruptError, StoreError
from heliograph.stores.redis.connection import translate


class LiveStats(Tally):
    """Of one store."""

    __slots__ = ("appends",)

    def __init__(self) -> None:
        super().__init__(LIVE)
        self.appends = 0
        """Answered, admitted or refused."""

    def told(self, reply: Any) -> StoreError:
        """`reply` as an error with a code; counted."""
        error = translate(reply) if isinstance(reply, Exception) else StoreError("unavailable", "an unknown answer")
        self.error(error.code)
        if isinstance(error, CorruptError):
            self.count(StoreEvent.VALUE_CORRUPT)
        return error
