"""The id of a message whose publisher chose none but counts its publishes.

Both sides can make it: the server when it accepts the message, the publisher when it has to send it again under a new
incarnation (because the server forgot the old one). So a repeat that can't be judged any more still carries the id of
the first one, and everybody behind sees that they are the same message (CloudEvents: equal source and id).
"""

from heliograph.core.messages import MessageClass


def derived_message_id(incarnation: str, class_: MessageClass, seq: int) -> str:
    """Unique within a session: the incarnation is random, the counter is per class.

    >>> derived_message_id("4fGh0pQ2xY7a", MessageClass.EVENT, 17)
    '4fGh0pQ2xY7a.e17'
    """
    return f"{incarnation}.{class_.value[0]}{seq}"
