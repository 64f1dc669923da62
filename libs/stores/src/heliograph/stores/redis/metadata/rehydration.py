"""Requests of edges to replay and their pages, through the metadata Redis (never the live one's memory).

An edge that asks looks for the page first; whoever is first to want it puts the request on the stream, all wait for the
one page. A worker of the group takes requests, also those of workers that died, and drops what nobody waits for any
more. Pages live under keys that expire, and are bounded: each in bytes, all of a tenant in bytes, and all together.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import msgspec
from redis.exceptions import ResponseError

from heliograph.stores import keys
from heliograph.stores.ports import RehydratedPage, RehydrationRequest, StoreError
from heliograph.stores.redis.metadata.client import MetadataClient, store_errors
from heliograph.stores.redis.metadata.ready import Ready
from heliograph.stores.rehydration import (
    CLAIM_IDLE_S,
    FULL_S,
    TENANT_BYTES,
    TOO_MANY,
    TOTAL_BYTES,
    bounded,
    page_bytes,
    page_ttl_s,
    tenant_of,
)

GROUP = "replay"
STREAM_LENGTH = 10_000
"""Requests on the stream, about; past it the oldest fall off, and their edges meet their deadline."""

POLL_S = 0.25
"""How often who waits looks for itself, should the announcement be lost."""

BLOCK_S = 1.0
TAKE = 32
"""Requests taken at once."""

CONSUMER_GONE_MS = 3_600_000
"""A consumer of the group that did nothing for an hour, and owes nothing, is removed."""

_encode = msgspec.msgpack.Encoder().encode
_page_decoder = msgspec.msgpack.Decoder(RehydratedPage)


class RedisRehydration:
    """`heliograph.stores.ports.Rehydration`. Counters are for metrics: they only rise."""

    def __init__(
        self,
        client: MetadataClient,
        *,
        tenant_bytes: int = TENANT_BYTES,
        total_bytes: int = TOTAL_BYTES,
        claim_idle_s: float = CLAIM_IDLE_S,
        block_s: float = BLOCK_S,
    ) -> None:
        self._client = client
        self._tenant_bytes = tenant_bytes
        self._total_bytes = total_bytes
        self._claim_idle_ms = int(claim_idle_s * 1000)
        self._block_ms = int(block_s * 1000)
        self._ready = Ready(client)
        self._taken: dict[str, list[bytes]] = {}
        """Requests this worker yielded and has not answered, with their entries on the stream."""
        self.stale_requests = 0
        self.corrupt_requests = 0
        self.corrupt_pages = 0
        self.pages_refused = 0

    async def close(self) -> None:
        await self._ready.close()

    # ---- edges ----

    async def ask(self, request: RehydrationRequest, deadline_s: float) -> RehydratedPage:
        ends = time.monotonic() + deadline_s
        with self._ready.waiter(request.name) as announced:
            while (left_s := ends - time.monotonic()) > 0:
                announced.clear()
                try:
                    async with asyncio.timeout(left_s):
                        page = await self._page_or_ask(request, left_s)
                except TimeoutError:
                    break
                if page is not None:
                    return page
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, min(POLL_S, ends - time.monotonic()))):
                        await announced.wait()
        raise StoreError("history_unavailable", f"no history of {request.session} within {deadline_s:g} s")

    async def _page_or_ask(self, request: RehydrationRequest, left_s: float) -> RehydratedPage | None:
        redis, page_key, asked = self._client.redis, keys.replay_page(request.name), keys.replay_asked(request.name)
        with store_errors(page_key):
            async with self._client.pipeline() as pipeline:
                for key in (page_key, keys.replay_full(tenant_of(request)), keys.replay_full("*")):
                    pipeline.get(key)
                stored, full, full_all = await pipeline.execute()
            if stored is not None:
                try:
                    page: RehydratedPage = _page_decoder.decode(stored)
                    return page
                except (msgspec.MsgspecError, ValueError, RecursionError):
                    self.corrupt_pages += 1
                    await redis.delete(page_key)
            if full is not None or full_all is not None:
                return RehydratedPage([], more=False, code=TOO_MANY)
            left_ms = max(1, int(left_s * 1000))
            if await redis.set(asked, b"1", nx=True, px=left_ms):
                try:
                    await redis.xadd(
                        keys.REPLAY_REQUESTS,
                        {
                            "session": request.session,
                            "after": request.after or "",
                            "until": request.until or "",
                            "deadline_ms": left_ms,
                        },
                        maxlen=STREAM_LENGTH,
                        approximate=True,
                    )
                except BaseException:
                    with suppress(Exception):
                        await asyncio.shield(redis.delete(asked))  # else equal requests wait for nobody
                    raise
        return None

    # ---- replay ----

    async def requests(self, worker: str) -> AsyncIterator[RehydrationRequest]:
        """Raises StoreError when the store can't be reached: call again to go on."""
        await self._join()
        try:
            while True:
                for entry, fields in await self._take(worker):
                    request = await self._wanted(entry, fields)
                    if request is None:
                        continue
                    entries = self._taken.get(request.name)
                    if entries is None:
                        self._taken[request.name] = [entry]
                        yield request
                    elif entry not in entries:
                        entries.append(entry)
        finally:
            self._taken.clear()
            with suppress(Exception):
                await self._leave(worker)

    async def answer(self, request: RehydrationRequest, page: RehydratedPage) -> None:
        page = bounded(page)
        redis, name, tenant = self._client.redis, request.name, tenant_of(request)
        page_key = keys.replay_page(name)
        with store_errors(page_key):
            if page.code is None and not await self._has_room(tenant, page_bytes(page)):
                self.pages_refused += 1
                page = RehydratedPage([], more=False, code=TOO_MANY)
            # By itself: whoever hears of it, or finds that nobody asks any more, must find it, on whatever node it is.
            await redis.set(page_key, _encode(page), px=int(page_ttl_s(request, page) * 1000))
            async with self._client.pipeline() as pipeline:
                pipeline.delete(keys.replay_asked(name))
                pipeline.publish(keys.REPLAY_READY, name)
                await pipeline.execute()
            entries = self._taken.pop(name, [])
            if entries:
                await redis.xack(keys.REPLAY_REQUESTS, GROUP, *entries)
                await redis.xdel(keys.REPLAY_REQUESTS, *entries)

    async def _has_room(self, tenant: str, size_bytes: int) -> bool:
        """Count `size_bytes` for the tenant, unless that is past its bound or that of all."""
        minute = await self._client.now_ms(keys.replay_bytes("*", 0)) // 60_000
        owners = ((tenant, self._tenant_bytes), ("*", self._total_bytes))
        async with self._client.pipeline() as pipeline:
            for owner, _ in owners:
                pipeline.get(keys.replay_bytes(owner, minute - 1))
                pipeline.incrby(keys.replay_bytes(owner, minute), size_bytes)
                pipeline.expire(keys.replay_bytes(owner, minute), 120)
            answers = await pipeline.execute()
        used = (int(answers[0] or 0) + answers[1], int(answers[3] or 0) + answers[4])
        over = [owner for (owner, bound), bytes_ in zip(owners, used, strict=True) if bytes_ > bound]
        if not over:
            return True
        async with self._client.pipeline() as pipeline:
            for owner, _ in owners:
                pipeline.decrby(keys.replay_bytes(owner, minute), size_bytes)
            for owner in over:
                pipeline.set(keys.replay_full(owner), b"1", px=int(FULL_S * 1000))
            await pipeline.execute()
        return False

    async def _join(self) -> None:
        redis = self._client.redis
        with store_errors(keys.REPLAY_REQUESTS):
            try:
                await redis.xgroup_create(keys.REPLAY_REQUESTS, GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise
            for consumer in await redis.xinfo_consumers(keys.REPLAY_REQUESTS, GROUP):
                if consumer["pending"] == 0 and consumer["idle"] > CONSUMER_GONE_MS:
                    await redis.xgroup_delconsumer(keys.REPLAY_REQUESTS, GROUP, consumer["name"])

    async def _leave(self, worker: str) -> None:
        redis = self._client.redis
        for consumer in await redis.xinfo_consumers(keys.REPLAY_REQUESTS, GROUP):
            if consumer["name"] == worker.encode() and consumer["pending"] == 0:
                await redis.xgroup_delconsumer(keys.REPLAY_REQUESTS, GROUP, worker)

    async def _take(self, worker: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
        """Entries that other workers let lie, and new ones."""
        redis = self._client.redis
        with store_errors(keys.REPLAY_REQUESTS):
            try:
                claimed = await redis.xautoclaim(
                    keys.REPLAY_REQUESTS, GROUP, worker, min_idle_time=self._claim_idle_ms, count=TAKE
                )
                entries = list(claimed[1])
                block = None if entries else self._block_ms
                read = await redis.xreadgroup(GROUP, worker, {keys.REPLAY_REQUESTS: ">"}, count=TAKE, block=block)
            except ResponseError as error:
                if "NOGROUP" not in str(error) and "UNBLOCKED" not in str(error):
                    raise
                await self._join()  # the store lost its data, the stream with it
                return []
            for _, found in read or ():
                entries.extend(found)
        return entries

    async def _wanted(self, entry: bytes, fields: dict[bytes, bytes] | None) -> RehydrationRequest | None:
        """The request of an entry; None, and the entry removed, where it is broken or nobody waits for it any more."""
        redis = self._client.redis
        try:
            found = {name.decode(): value.decode() for name, value in (fields or {}).items()}
            request = RehydrationRequest(found["session"], found["after"] or None, found["until"] or None)
            gives_up_ms = int(entry.partition(b"-")[0]) + int(found["deadline_ms"])
        except (KeyError, ValueError):
            self.corrupt_requests += 1
            request, gives_up_ms = None, 0
        with store_errors(keys.REPLAY_REQUESTS):
            if request is not None:
                if await self._client.now_ms(keys.REPLAY_REQUESTS) < gives_up_ms:
                    return request
                self.stale_requests += 1
            await redis.xack(keys.REPLAY_REQUESTS, GROUP, entry)
            await redis.xdel(keys.REPLAY_REQUESTS, entry)
        return None
