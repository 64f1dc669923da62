"""Counters of the live store, for services to export; connections count their own."""

from typing import Any

from heliograph.stores.ports import CorruptError, StoreError
from heliograph.stores.redis.connection import translate
from heliograph.stores.redis.redirects import Step


class LiveStats:
    """Of one store, over all its shards."""

    __slots__ = ("appends", "corrupt_values", "functions_loaded", "given_up", "redirects")

    def __init__(self) -> None:
        self.appends = 0
        """Answered, admitted or refused."""
        self.functions_loaded = 0
        """Times the library had to be loaded."""
        self.corrupt_values = 0
        """Answers that named a stored value which is not ours."""
        self.given_up = 0
        """Appends that were refused because their virtual shard was too long between two primaries."""
        self.redirects = dict.fromkeys(Step, 0)
        """Times that something had to be done before what was asked could be asked again."""

    @property
    def redirected(self) -> int:
        """All of `redirects`."""
        return sum(self.redirects.values())

    def error(self, reply: Any) -> StoreError:
        """`reply` as an error with a code; counted."""
        error = translate(reply) if isinstance(reply, Exception) else StoreError("unavailable", "an unknown answer")
        if isinstance(error, CorruptError):
            self.corrupt_values += 1
        return error
