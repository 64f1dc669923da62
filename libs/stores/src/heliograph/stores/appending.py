"""A message as the live store takes it, spelled once: for the edge that has it first, and the router where deferred."""

from heliograph.core.limits import RECORD_OVERHEAD_BYTES
from heliograph.protocol.messages import Message, content_hash, extras, frame_content, frame_rest
from heliograph.stores.ports import Append


def append_of(message: Message, partition: int, message_id: str, *, counted: bool) -> Append:
    """`partition`: by today's count. `message_id`: empty where it is not to be judged by that. `counted`: its
    publisher's counter judges it.
    """
    content = frame_content(message)
    return Append(
        session=message.session,
        rest=frame_rest(message, content),
        extras=extras(message),
        size_bytes=len(message.payload) + RECORD_OVERHEAD_BYTES,
        partition=partition,
        content_hash=content_hash(content),
        producer=f"{message.class_}|{message.producer}|{message.incarnation}".encode() if counted else b"",
        producer_seq=(message.producer_seq or 0) if counted else 0,
        message_id=message_id,
    )
