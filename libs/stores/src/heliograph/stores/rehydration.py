"""What every rehydration store must agree on: how long a page is good for, how large it may be, how many. Pure."""

from heliograph.core.limits import PAGE_BYTES
from heliograph.protocol.messages import frame_position
from heliograph.stores.ports import RehydratedPage, RehydrationRequest

PAGE_TTL_S = 60.0
"""A page that can't change: many clients of one session come back within a minute of each other."""

PASSING_PAGE_TTL_S = 2.0
"""An error, or a page that ended where the log did: long enough for all who wait for it now."""

NOTHING_TTL_S = 0.5
"""A page without anything: who trusts an old one goes on in the live store, past what the log got since. That shows
nowhere if the live store was lost meanwhile and begins anew, and so this is shorter than any server's restart and the
return of its clients, and twice what somebody takes to look for the page who missed its announcement."""

TENANT_BYTES = 64 * 1024 * 1024
TOTAL_BYTES = 256 * 1024 * 1024
"""Pages of a tenant, and of all, in this minute and the last: what a store may hold of them."""

FULL_S = 5.0
"""Edges leave a tenant alone this long after its bound was met."""

CLAIM_IDLE_S = 3.0
"""A request that a worker took so long ago is another's: a page is read in well under a second."""

TOO_MANY = "too_many_requests"


def page_ttl_s(request: RehydrationRequest, page: RehydratedPage) -> float:
    """How long `page` answers `request`."""
    if page.code is None and page.frames:
        last = frame_position(page.frames[-1])
        if page.more or (last is not None and last.decode(errors="replace") == request.until):
            return PAGE_TTL_S
    if page.code is None and not page.frames and page.gap_before is None:
        return NOTHING_TTL_S
    return PASSING_PAGE_TTL_S


def bounded(page: RehydratedPage) -> RehydratedPage:
    """`page`, cut to PAGE_BYTES of frames (at least one frame)."""
    size = 0
    for count, frame in enumerate(page.frames):
        size += len(frame)
        if size > PAGE_BYTES and count:
            return RehydratedPage(page.frames[:count], more=True, gap_before=page.gap_before, code=page.code)
    return page


def page_bytes(page: RehydratedPage) -> int:
    return sum(map(len, page.frames))


def tenant_of(request: RehydrationRequest) -> str:
    return request.session.partition(":")[0]
