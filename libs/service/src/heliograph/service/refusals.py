"""Refusals in the log: who was refused what by which code, and never what they showed or sent.

One line for each event, code and tenant in a while, which says how many it stands for: whoever is refused most sends
most. The exact numbers are in metrics, which the caller counts.
"""

import time
from collections.abc import Callable

from heliograph.service.logs import RateLimitedLog, get_logger

LOG_INTERVAL_S = 10.0
"""Between lines of one kind: an operator sees it at once, and a client in a loop costs six lines a minute."""


class Refusals:
    """The log of a service's refusals. Not for payloads, tokens, or text that a client made up."""

    def __init__(self, interval_s: float = LOG_INTERVAL_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = RateLimitedLog(get_logger("heliograph.refusals"), interval_s=interval_s, clock=clock)

    def say(self, event: str, code: str, tenant: str | None = None, *, reason: str = "", **fields: object) -> None:
        """`event`: what was refused, `tenant`: whose token holds, None where none does. `reason`: of those that share
        a code.
        """
        if reason:
            fields["reason"] = reason
        said = {name: value for name, value in fields.items() if value is not None}
        self._log.warning(event, key=f"{tenant} {code} {reason}", code=code, tenant=tenant, **said)
