"""How cursors look to Redis: the arguments and answers of `hg1_cursor`, and the stored value."""

import struct
from collections.abc import Sequence

from heliograph.core.errors import InvalidValueError
from heliograph.core.positions import BEFORE_ALL, MAX_SEQ, Position, check_epoch
from heliograph.stores.ports import Ack, Acknowledged, AckStatus, CorruptError

_fixed = struct.Struct(">QQ").pack
_STORED = struct.Struct(">22sQQ")
"""Epoch, seq, fence: CURSOR in `functions/cursor.lua`."""
_STATUSES = {str(status).encode(): status for status in AckStatus}


def ack_arguments(ack: Ack) -> tuple[bytes, bytes, bytes]:
    """Consumer, epoch, and seq with fence."""
    position = ack.position
    if position is None or position.epoch == BEFORE_ALL.epoch:
        return ack.consumer.encode(), b"", _fixed(0, ack.fence)
    return ack.consumer.encode(), position.epoch.encode(), _fixed(position.seq, ack.fence)


def acknowledged(answer: Sequence[bytes]) -> Acknowledged:
    """One answer of the function."""
    status, epoch, seq, fence = answer
    return Acknowledged(_STATUSES[status], Position(epoch.decode(), int(seq)) if epoch else None, int(fence))


def cursor_of(key: bytes, value: bytes | None) -> Position | None:
    """Where a stored cursor stands. Raises CorruptError that names `key`, never the value."""
    if value is None:
        return None
    try:
        epoch, seq, _ = _STORED.unpack(value)
        position = Position(check_epoch(epoch.decode("ascii")), seq)
    except (struct.error, UnicodeDecodeError, InvalidValueError):
        raise CorruptError(key.decode(), "not a cursor") from None
    if seq > MAX_SEQ:
        raise CorruptError(key.decode(), "not a cursor")
    return None if position.epoch == BEFORE_ALL.epoch else position
