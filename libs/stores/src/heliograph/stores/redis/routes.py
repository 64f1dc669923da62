"""Where a session lives, and the parts of its commands that never change: made once, kept while it is busy."""

from typing import Any

from heliograph.stores.keys import SessionKeys, ShardKeys, virtual_shard

CACHED = 50_000
"""Sessions kept ready, twice over (about 1.5 KB each): more than an edge has connections for."""


class Route:
    """One session."""

    __slots__ = ("append_start", "keys", "session", "shard_keys", "tenant", "virtual_shard")

    def __init__(self, session: str, number: int, shard_keys: ShardKeys) -> None:
        self.session = session.encode()
        self.tenant = self.session.partition(b":")[0]
        self.virtual_shard = number
        self.shard_keys = shard_keys
        self.keys = keys = SessionKeys.of(session, number)
        self.append_start: tuple[Any, ...] = (
            b"FCALL", b"hg1_append", b"6", keys.meta, keys.window, keys.ahead,
            shard_keys.shard, shard_keys.dirty, shard_keys.idle, self.session, self.tenant,
        )  # fmt: skip

    def append_start_with_id(self, message_id: str) -> tuple[Any, ...]:
        start = self.append_start
        return (*start[:2], b"7", *start[3:9], self.keys.id_prefix + message_id.encode(), *start[9:])


class Routes:
    """Bounded: two generations, the older one dropped whole when the younger is full."""

    __slots__ = ("_old", "_shard_keys", "_young")

    def __init__(self, shards: int) -> None:
        self._shard_keys = [ShardKeys.of(number) for number in range(shards)]
        self._young: dict[str, Route] = {}
        self._old: dict[str, Route] = {}

    def shard(self, number: int) -> ShardKeys:
        return self._shard_keys[number]

    def of(self, session: str) -> Route:
        route = self._young.get(session)
        if route is None:
            route = self._old.get(session)
            if route is None:
                number = virtual_shard(session, len(self._shard_keys))
                route = Route(session, number, self._shard_keys[number])
            if len(self._young) >= CACHED:
                self._old, self._young = self._young, {}
            self._young[session] = route
        return route
