"""Revocations: tokens that are no longer taken although they are signed well and have not run out.

A list is compiled once a change of the tenant's record and asked per token, so its length costs nothing then.

What this must never do: let a token through because it does not say when it was issued. One without `iat` counts as
issued before everything.
"""

import math
from collections.abc import Iterable


class Revocations:
    """The compiled revocations of one tenant.

    >>> revoked = Revocations([(None, "planner", 1_764_000_000)])
    >>> revoked.cover("t-1", "planner", 1_763_999_999), revoked.cover("t-2", "planner", 1_764_000_000)
    (True, False)
    """

    __slots__ = ("_before",)

    def __init__(self, revocations: Iterable[tuple[str | None, str | None, float | None]]) -> None:
        """(token id, subject, issued before), None: any. One that says nothing covers nothing, not everything."""
        self._before: dict[tuple[str | None, str | None], float] = {}
        for token_id, subject, before in revocations:
            if token_id is None and subject is None and before is None:
                continue
            until = math.inf if before is None else before
            named = (token_id, subject)
            self._before[named] = max(until, self._before.get(named, -math.inf))

    def cover(self, token_id: str | None, subject: str, issued_at: float | None) -> bool:
        """Whether such a token is revoked."""
        if not self._before:
            return False
        at = -math.inf if issued_at is None else issued_at
        before = self._before.get
        names = {(None, None), (None, subject), (token_id, None), (token_id, subject)}
        return any(at < before(named, -math.inf) for named in names)
