"""Orders to edges in the metadata Redis: a key for each kind of order, that runs out by Redis' clock."""

from collections.abc import Sequence
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from heliograph.stores import keys
from heliograph.stores.ports import DrainOrder, ShedOrder, StandingOrders
from heliograph.stores.redis.metadata.client import MetadataClient, store_errors
from heliograph.stores.registrations import check_edge

# KEYS: an edge's drain order. ARGV: order (JSON), id, time in ms. Answers the order that stands, and its age in ms.
_DRAIN = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local stored = redis.call('HMGET', KEYS[1], 'order', 'since_ms')
if not stored[1] or not tonumber(stored[2]) then
  stored = {ARGV[1], string.format('%.0f', now)}
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'order', ARGV[1], 'id', ARGV[2], 'since_ms', stored[2])
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {stored[1], string.format('%.0f', now - tonumber(stored[2]))}
"""

# KEYS: an edge's shed order. ARGV: order (JSON), time in ms. Answers the order that stands.
_SHED = """
local stored = redis.call('GET', KEYS[1])
if stored then return stored end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
"""

# KEYS: an edge's drain order. ARGV: id.
_WITHDRAW = """
if redis.call('HGET', KEYS[1], 'id') ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""

O = TypeVar("O", DrainOrder, ShedOrder)  # noqa: E741 - of an order

_encode = msgspec.json.Encoder().encode
_drain_decoder = msgspec.json.Decoder(DrainOrder)
_shed_decoder = msgspec.json.Decoder(ShedOrder)


class RedisEdgeOrders:
    """`heliograph.stores.ports.EdgeOrders`."""

    def __init__(self, client: MetadataClient) -> None:
        self._client = client
        self._drain = client.redis.register_script(_DRAIN)
        self._shed = client.redis.register_script(_SHED)
        self._withdraw = client.redis.register_script(_WITHDRAW)
        self.corrupt_records = 0
        """Orders that could not be read, and count as not given: an edge goes on serving."""

    async def drain(self, edge: str, order: DrainOrder, ttl_s: float) -> DrainOrder:
        key = keys.edge_drain(check_edge(edge))
        arguments = [_encode(order), order.id, _ms(ttl_s)]
        with store_errors(key):
            stored, age_ms = await self._drain(keys=[key], args=arguments)
            found = self._read(_drain_decoder, stored)
            if found is None:  # no edge can obey it: this one takes its place
                await self._client.redis.delete(key)
                found, age_ms = order, 0
                await self._drain(keys=[key], args=arguments)
        return replace(found, age_s=max(int(age_ms), 0) / 1000)

    async def shed(self, edge: str, order: ShedOrder, ttl_s: float) -> ShedOrder:
        key = keys.edge_shed(check_edge(edge))
        with store_errors(key):
            stored = await self._shed(keys=[key], args=[_encode(order), _ms(ttl_s)])
        return self._read(_shed_decoder, stored) or order

    async def withdraw(self, edge: str, order_id: str) -> bool:
        key = keys.edge_drain(check_edge(edge))
        with store_errors(key):
            return bool(await self._withdraw(keys=[key], args=[order_id]))

    async def standing(self, edges: Sequence[str]) -> list[StandingOrders]:
        if not edges:
            return []
        with store_errors("hg:edge:*:drain"):
            async with self._client.pipeline() as pipeline:
                pipeline.time()
                for edge in edges:
                    pipeline.hmget(keys.edge_drain(check_edge(edge)), "order", "since_ms")
                    pipeline.get(keys.edge_shed(edge))
                (seconds, micros), *answers = await pipeline.execute()
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        return [
            StandingOrders(self._drain_of(drain, now_ms), self._read(_shed_decoder, shed))
            for drain, shed in zip(answers[::2], answers[1::2], strict=True)
        ]

    def _drain_of(self, stored: Sequence[bytes | None], now_ms: int) -> DrainOrder | None:
        order = self._read(_drain_decoder, stored[0])
        if order is None:
            return None
        since = int(stored[1]) if stored[1] is not None and stored[1].isdigit() else now_ms
        return replace(order, age_s=max(now_ms - since, 0) / 1000)

    def _read(self, decoder: "msgspec.json.Decoder[O]", stored: bytes | None) -> O | None:
        if stored is None:
            return None
        try:
            return decoder.decode(stored)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            self.corrupt_records += 1
            return None


def _ms(ttl_s: float) -> int:
    return max(1, int(ttl_s * 1000))
