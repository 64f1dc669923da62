"""The sparse position index in the metadata Redis: one sorted set a session, members sorted as text (all score 0)."""

from collections.abc import Sequence

from heliograph.core.errors import InvalidValueError
from heliograph.core.positions import Position
from heliograph.stores import keys
from heliograph.stores.ports import CorruptError, IndexEntry
from heliograph.stores.redis.metadata.client import MetadataClient, store_errors

ENTRIES_PER_SESSION = 2_000
"""Some 370 KB a session at most: its first and its newest, a million positions. What is between is found by a scan from
its epoch's time."""

SAME_POSITION = 4
"""A message written twice (a retry, a reconciled one) may be indexed twice; the earlier place serves."""


# KEYS: index of a session. ARGV: time to live in ms, entries kept, members.
_ADD = """
for i = 3, #ARGV do redis.call('ZADD', KEYS[1], 0, ARGV[i]) end
redis.call('ZREMRANGEBYRANK', KEYS[1], 1, -ARGV[2]) -- the first is kept
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
"""


class RedisPositionIndex:
    """`heliograph.stores.ports.PositionIndex`."""

    def __init__(
        self,
        client: MetadataClient,
        *,
        entries_per_session: int = ENTRIES_PER_SESSION,
    ) -> None:
        self._client = client
        self._kept = entries_per_session

    async def add(self, entries: Sequence[tuple[str, IndexEntry]], ttl_s: float) -> None:
        members: dict[str, list[str]] = {}
        for session, entry in entries:
            member = f"{entry.position} {entry.topic_id} {entry.partition} {entry.offset}"
            members.setdefault(session, []).append(member)
        if not members:
            return
        ttl_ms = str(max(1, int(ttl_s * 1000)))
        with store_errors("hg:index:*"):
            await self._client.run_script(
                _ADD, [([keys.index(session)], [ttl_ms, self._kept, *added]) for session, added in members.items()]
            )

    async def at_or_before(self, session: str, position: str) -> IndexEntry | None:
        # A member at `position` goes on with a space, which is the one character below "!".
        return await self._highest(session, f"({position}!")

    async def last(self, session: str) -> IndexEntry | None:
        return await self._highest(session, "+")

    async def first(self, session: str) -> IndexEntry | None:
        key = keys.index(session)
        with store_errors(key):
            found = await self._client.redis.zrange(key, 0, SAME_POSITION - 1)
        return _earliest(key, found)

    async def _highest(self, session: str, maximum: str) -> IndexEntry | None:
        key = keys.index(session)
        with store_errors(key):
            found = await self._client.redis.zrevrangebylex(key, maximum, "-", start=0, num=SAME_POSITION)
        return _earliest(key, found)


def _earliest(key: str, members: Sequence[bytes]) -> IndexEntry | None:
    """Of the members with the first one's position, the one earliest in the log."""
    if not members:
        return None
    entries = [_entry(key, member) for member in members]
    same = [entry for entry in entries if entry.position == entries[0].position]
    return min(same, key=lambda entry: entry.offset)


def _entry(key: str, member: bytes) -> IndexEntry:
    try:
        position, topic_id, partition, offset = member.decode().split(" ")
        Position.parse(position)
        return IndexEntry(position, topic_id, int(partition), int(offset))
    except (ValueError, InvalidValueError):
        raise CorruptError(key, "holds a member that is no index entry") from None
