"""The errors the decisions raise. Each carries a stable code and its parts as fields, never only a sentence."""


class HeliographError(Exception):
    """Any error of Heliograph that has a stable code.

    `code` is one of `heliograph.protocol.codes` and is what programs match on; `message` is for people.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class InvalidValueError(HeliographError, ValueError):
    """A value from outside that can't be what it claims to be."""

    SHOWN = 80
    """Characters of the bad value that are shown: enough to find it, too few to flood a log."""

    def __init__(self, code: str, field: str, value: object, wanted: str) -> None:
        shown = repr(value)
        if len(shown) > self.SHOWN:
            shown = shown[: self.SHOWN] + "…"
        super().__init__(code, f"{field} is {shown}; it must be {wanted}")
        self.field = field
        self.wanted = wanted
