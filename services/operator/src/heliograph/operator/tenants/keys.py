"""Where a tenant's keys come from: spelled out, from a Secret or ConfigMap, or from a URL.

Keys that can't be had now don't take the former ones away: those that the record has stay in force, and the condition
says so. Content of a Secret never appears in a message.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from heliograph.core.errors import InvalidValueError
from heliograph.operator.conditions import Condition, Truth
from heliograph.operator.kube import CONFIG_MAPS, SECRETS, Kind, Kube
from heliograph.operator.tenants.crd import WATCHED_LABEL
from heliograph.operator.tenants.fetching import Fetch, FetchError
from heliograph.protocol.tenants import parse_tenant
from heliograph.service.jwks import parse_jwks

KEYS_READY = "KeysReady"
MAX_PROBLEMS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Keys:
    """A key set (None: what the record has stays), and what is said of it."""

    jwks: dict[str, Any] | None
    condition: Condition
    ids: tuple[str, ...] = ()
    fetched: bool = False
    """They come from a URL: to be looked at again."""


class UnusableReferenceError(Exception):
    """Why something that a Tenant refers to can't be used: `reason` as in a condition."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


async def referred(kube: Kube, kind: Kind, namespace: str, reference: Mapping[str, str]) -> tuple[bytes, str]:
    """What a key of a Secret or ConfigMap holds, and the object's version. Raises UnusableReferenceError, KubeError."""
    name, key = reference["name"], reference["key"]
    what = f"{kind.kind} {name}"
    body = await kube.get(kind, namespace, name)
    if body is None:
        raise UnusableReferenceError("NotFound", f"there is no {what} in this namespace")
    if (body["metadata"].get("labels") or {}).get(WATCHED_LABEL) != "true":
        raise UnusableReferenceError("NotLabelled", f'{what} needs the label {WATCHED_LABEL}: "true" to be used')
    version = str(body["metadata"]["resourceVersion"])
    text = (body.get("data") or {}).get(key)
    if text is None:
        raise UnusableReferenceError("NotFound", f"{what} has no key {key}")
    if kind is not SECRETS:
        return str(text).encode(), version
    try:
        return base64.b64decode(text, validate=True), version
    except (binascii.Error, ValueError):
        raise UnusableReferenceError("Unreadable", f"{key} of {what} can't be read") from None


class KeySource:
    """Finds a tenant's keys."""

    def __init__(self, kube: Kube, fetch: Fetch, *, development: bool) -> None:
        self._kube = kube
        self._fetch = fetch
        self._development = development

    async def find(self, namespace: str, tenant: str, auth: Mapping[str, Any], *, had_some: bool) -> Keys:
        """The keys that `spec.auth` asks for. `had_some`: others are in force. Raises KubeError."""
        source = auth.get("jwksFrom")
        if source is None:
            jwks = auth.get("jwks") or {}
            if not jwks.get("keys"):
                return Keys({}, _not_ready("NoKeys", "spec.auth gives no keys: no token is taken"))
            return self._judged(tenant, jwks, "spec.auth.jwks")
        fetched = "url" in source
        try:
            where, jwks = await self._from(namespace, source)
        except UnusableReferenceError as error:
            return Keys(None, _not_ready(error.reason, f"{error}; keys that it had stay in force"))
        except FetchError as error:
            if not had_some:
                return Keys(None, _not_ready("FetchFailed", f"{source['url']}: {error}; there are none"), fetched=True)
            message = f"{source['url']}: {error}; keys that it had stay in force"
            return Keys(None, Condition(KEYS_READY, Truth.UNKNOWN, "FetchFailed", message), fetched=True)
        found = self._judged(tenant, jwks, where)
        return Keys(found.jwks, found.condition, found.ids, fetched)

    async def _from(self, namespace: str, source: Mapping[str, Any]) -> tuple[str, object]:
        if "url" in source:
            return str(source["url"]), await self._fetch(source["url"])
        field, kind = ("secretKeyRef", SECRETS) if "secretKeyRef" in source else ("configMapKeyRef", CONFIG_MAPS)
        reference = source[field]
        data, _ = await referred(self._kube, kind, namespace, reference)
        where = f"{reference['key']} of {kind.kind} {reference['name']}"
        try:
            return where, json.loads(data)
        except (ValueError, RecursionError):
            raise UnusableReferenceError("Unreadable", f"{where} is no JSON") from None

    def _judged(self, tenant: str, jwks: object, where: str) -> Keys:
        try:
            parse_tenant({"tenant": tenant, "auth": {"jwks": jwks}})
        except InvalidValueError as error:
            return Keys(None, _not_ready("Invalid", f"{where}: {error.message}; keys that it had stay in force"))
        assert isinstance(jwks, dict)
        usable = parse_jwks(jwks, development=self._development)
        said = "; ".join(
            f"key {problem.key_id or '?'} is not used: {problem.problem}"
            for problem in usable.problems[:MAX_PROBLEMS_SHOWN]
        )
        if not len(usable):
            return Keys(jwks, _not_ready("NoUsableKeys", f"no key of {where} can be used. {said}".strip()))
        ids = tuple(sorted(str(key["kid"]) for key in jwks["keys"] if key["kid"] in usable))
        message = f"{len(usable)} from {where}" + (f"; {said}" if said else "")
        return Keys(jwks, Condition(KEYS_READY, Truth.TRUE, "KeysLoaded", message), ids)


def _not_ready(reason: str, message: str) -> Condition:
    return Condition(KEYS_READY, Truth.FALSE, reason, message)
