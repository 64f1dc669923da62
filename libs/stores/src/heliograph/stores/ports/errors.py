"""What every store raises."""

from heliograph.core.errors import HeliographError


class StoreError(HeliographError):
    """A store could not do what it was asked. `code`: `live_unavailable`, `log_unavailable`, `overloaded` (the live
    store is full: nothing was written) or `unavailable`.

    `maybe_done`: the request may have been carried out (the connection broke before the answer).
    """

    def __init__(self, code: str, message: str, *, maybe_done: bool = False) -> None:
        super().__init__(code, message)
        self.maybe_done = maybe_done


class CorruptError(StoreError):
    """A stored value is not what this code writes. `key` says which; the value is never shown."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__("internal", f"{key}: {message}")
        self.key = key
