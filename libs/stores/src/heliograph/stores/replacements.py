"""What this process replaced of its stores' clients; apart from them, so that a count needs no client library."""

from dataclasses import dataclass


@dataclass(slots=True)
class Replacements:
    """Since the start of the process, whoever of its parts had them."""

    log_clients: int = 0
    """Kafka clients that heard nothing for long: those that ask, and those that read as members of a group."""


REPLACEMENTS = Replacements()
