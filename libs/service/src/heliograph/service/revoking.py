"""Changing a stored tenant record while others may be changing it too: revocations are added to what is there.

A revocation must not get lost, so a record is only replaced by what was made from it, and applying a tenant's file adds
its revocations to the stored ones: a file that was written before does not know of them. Only `lift` takes one back.
"""

from collections.abc import Callable, Iterable

import msgspec

from heliograph.core.errors import InvalidValueError
from heliograph.protocol.tenants import MAX_REVOCATIONS, Revocation, Tenant, decode_tenant, encode_tenant
from heliograph.stores.ports import CorruptError, StoreError, TenantStore

TRIES = 20
"""Of a change that others keep getting ahead of; each lost try means that one of them got through."""


def checked_revocation(token_id: str | None, subject: str | None, before: int | None) -> Revocation:
    """A revocation as somebody asked for it. Raises InvalidValueError that names the field."""
    try:
        return msgspec.convert({"jti": token_id, "subject": subject, "before": before}, Revocation)
    except msgspec.ValidationError as error:
        raise InvalidValueError("value_invalid", "revocation", subject or token_id, str(error)) from None


def with_revocations(tenant: Tenant, more: Iterable[Revocation]) -> Tenant:
    """`tenant` with these as well. For one token id and subject there is one entry: the one that covers most.

    Raises InvalidValueError where they become too many.
    """
    merged: dict[tuple[str | None, str | None], Revocation] = {}
    for one in (*tenant.auth.revoked, *more):
        named = (one.jti, one.subject)
        other = merged.get(named)
        merged[named] = one if other is None else max(one, other, key=_reach)
    if len(merged) > MAX_REVOCATIONS:
        raise InvalidValueError(
            "value_invalid",
            "tenant.auth.revoked",
            f"{len(merged)} entries",
            f"at most {MAX_REVOCATIONS}; rotate the key",
        )
    return _revoking(tenant, list(merged.values()))


def without_revocation(tenant: Tenant, token_id: str | None, subject: str | None) -> Tenant:
    """`tenant` without the entry of this token id and subject, whenever issued."""
    return _revoking(tenant, [one for one in tenant.auth.revoked if (one.jti, one.subject) != (token_id, subject)])


async def change_record(
    store: TenantStore, name: str, change: Callable[[Tenant | None], Tenant]
) -> tuple[Tenant | None, Tenant]:
    """Replace a record by what `change` makes of it, from what is stored then (None: nothing that can be read).

    Answers the record before and after; where they are equal nothing was written. Raises StoreError, and what `change`
    raises.
    """
    for _ in range(TRIES):
        try:
            raw = await store.get(name)
        except CorruptError:  # it is there to be replaced
            after = change(None)
            await store.put(name, encode_tenant(after))
            return None, after
        before = None if raw is None else decode_tenant(raw)
        after = change(before)
        if before == after or await store.replace(name, raw, encode_tenant(after)):
            return before, after
    raise StoreError("unavailable", f"others changed the record of {name} {TRIES} times meanwhile")


def _revoking(tenant: Tenant, revoked: list[Revocation]) -> Tenant:
    return msgspec.structs.replace(tenant, auth=msgspec.structs.replace(tenant.auth, revoked=revoked))


def _reach(revocation: Revocation) -> float:
    return float("inf") if revocation.before is None else revocation.before
