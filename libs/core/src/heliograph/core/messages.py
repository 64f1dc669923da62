"""Message classes: what the system may do with a message when it can't do everything."""

from enum import StrEnum


class MessageClass(StrEnum):
    """The class of a message, chosen by its publisher."""

    CONTROL = "control"
    """Never shed: deferred to the log when the live path is away."""
    EVENT = "event"
    """The default: throttled and refused with a retry time, never silently dropped."""
    TELEMETRY = "telemetry"
    """Shed first, unsequenced: it has no position and can't be resumed."""


SEQUENCED = (MessageClass.CONTROL, MessageClass.EVENT)


class AckMode(StrEnum):
    """What a publisher wants to be told about one publish."""

    NONE = "none"
    """Nothing, unless it is refused."""
    ACCEPTED = "accepted"
    """The live path has it. Lost with its Redis if that dies before the log has it."""
    DURABLE = "durable"
    """The log has it, acknowledged by all in-sync replicas."""
