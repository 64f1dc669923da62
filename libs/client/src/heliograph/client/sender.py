"""What every part of a client shares of the connection: ids for requests, and a way to have a frame sent."""

from collections import deque
from collections.abc import Callable

from msgspec import Struct

from heliograph.protocol.frames import encode


class Sender:
    """Frames that are not publishes of a lane, in order. Gone with the connection: who sent them sends anew."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """`wake` says that there is something to send."""
        self.wake = wake
        self.online = False
        self._frames: deque[bytes] = deque()
        self._last_id = 0

    def next_id(self) -> int:
        """The id of a request; answers carry it."""
        self._last_id += 1
        return self._last_id

    def send(self, frame: Struct) -> None:
        """Have it sent; dropped where there is no connection."""
        if self.online:
            self._frames.append(encode(frame))
            self.wake()

    def __len__(self) -> int:
        return len(self._frames)

    def take(self) -> list[bytes]:
        frames = list(self._frames)
        self._frames.clear()
        return frames

    def connected(self) -> None:
        self.online = True

    def disconnected(self) -> None:
        self.online = False
        self._frames.clear()
