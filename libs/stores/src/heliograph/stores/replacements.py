"""What this process replaced of its stores' clients; apart from them, so that a count needs no client library."""

from dataclasses import dataclass


@dataclass(slots=True)
class Replacements:
    """Since the start of the process, whoever of its parts had them."""

    log_clients: int = 0
    """Kafka admin clients that heard nothing for long."""


REPLACEMENTS = Replacements()
