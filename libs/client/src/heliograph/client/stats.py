"""What happened to one client since its start: for logs, metrics and tests."""

from dataclasses import dataclass


@dataclass(slots=True)
class ClientStats:
    """Counters; they only grow."""

    connections: int = 0
    moves: int = 0
    """Of these, the ones to another edge than the one before."""
    refreshes: int = 0
    """Tokens replaced on a live connection."""
    published: int = 0
    """Publishes answered with `published`."""
    duplicates: int = 0
    """Of these, the ones the server had already: collapsed."""
    resends: int = 0
    """Publishes sent again, after a lost connection or a refusal."""
    refusals: int = 0
    """`refused` answers to publishes, also those that were overcome."""
    rotations: int = 0
    """New incarnations begun because the server had forgotten a counter."""
    shed: int = 0
    """Telemetry dropped here, for want of a connection or of room."""
    assigned: int = 0
    """Sessions that came to work on."""
    leases_lost: int = 0
    """Of these, the ones that were lost to another worker."""
    received: int = 0
    """Messages and gaps that reached a subscription."""
    dropped: int = 0
    """Message frames that nobody needed: had already, or for a parked or ended subscription."""
    acks: int = 0
    """Acknowledgements sent: the furthest of each session, now and then."""
    acks_refused: int = 0
    """Of these, the ones that will never be taken."""
    parked: int = 0
    """Times a slow reader's subscription was stopped at the server."""
    holes: int = 0
    """Positions the server left out without a word: anything but 0 is a bug of the server."""
