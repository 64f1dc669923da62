"""Tokens: JWTs (RFC 7519) signed with one of the tenant's keys, judged by the advice of RFC 8725.

The order matters. What depends on the token alone is judged first; then the tenant's key and the signature; claims and
the tenant's state only of a token whose signature holds. Until then a caller learns nothing about tenants: unknown
tenant, unknown key and wrong signature are one answer, and take one signature check each (against a decoy where there
is no key). Metrics and logs know which it was. A token is never logged, nor any part of one besides the key id.
"""

import base64
import binascii
import hashlib
import hmac
import json
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any, NoReturn, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from jwt.api_jws import PyJWS
from jwt.exceptions import PyJWTError

from heliograph.core.errors import HeliographError, InvalidValueError
from heliograph.core.revocations import Revocations
from heliograph.core.scopes import Scopes
from heliograph.core.sessions import check_label
from heliograph.protocol.tenants import Tenant
from heliograph.service.jwks import ASYMMETRIC, MAX_KEY_ID_LENGTH, SYMMETRIC, KeySet, VerifyKey, parse_jwks
from heliograph.service.logs import RateLimitedLog, get_logger
from heliograph.service.metrics import Metrics
from heliograph.service.refusals import Refusals

MAX_TOKEN_BYTES = 8 * 1024
"""Room for a few hundred scopes; also what proxies commonly allow a header. Checked before anything is decoded."""

MAX_SUBJECT_LENGTH = 255
"""StringOrURI of OpenID Connect Core, 2: not above 255 characters."""


class TokenReason(StrEnum):
    """What exactly is wrong with a token: for metrics and logs. `TokenError.code` is what a caller gets."""

    MISSING = "token_missing"
    MALFORMED = "token_malformed"
    ALGORITHM_REFUSED = "token_algorithm_refused"
    TENANT_UNKNOWN = "token_tenant_unknown"
    KEY_UNKNOWN = "token_key_unknown"
    SIGNATURE_INVALID = "token_signature_invalid"
    CLAIM_MISSING = "token_claim_missing"
    EXPIRED = "token_expired"
    NOT_YET_VALID = "token_not_yet_valid"
    AUDIENCE_WRONG = "token_audience_wrong"
    ISSUER_WRONG = "token_issuer_wrong"
    REVOKED = "token_revoked"
    TENANT_SUSPENDED = "tenant_suspended"


_OUTWARD = {
    TokenReason.EXPIRED: "token_expired",
    TokenReason.REVOKED: "token_revoked",
    TokenReason.TENANT_SUSPENDED: "tenant_suspended",
}
"""Reasons with a code of their own for the caller; all others are `unauthenticated`."""

_UNVERIFIED = "the signature can't be verified with the tenant's keys (unknown tenant or kid, or signed otherwise)"


class TokenError(HeliographError):
    """A token is not accepted. `code` and `message` are for the caller, `reason` must not leave the service."""

    def __init__(self, reason: TokenReason, message: str) -> None:
        super().__init__(_OUTWARD.get(reason, "unauthenticated"), message)
        self.reason = reason
        self.tenant: str | None = None
        """Whose token it is; None where that is only claimed."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a verified token speaks for, and what it allows."""

    tenant: str
    subject: str
    scopes: Scopes
    expires_at: float
    """`exp`, Unix time in s."""
    key_id: str
    key_fingerprint: bytes
    """Of the key that signed it."""
    token_id: str | None = None
    """`jti`."""
    issued_at: float | None = None
    """`iat`, Unix time in s."""


class KnownTenant(Protocol):
    """What the verifier needs of a tenant: its record, and a number that another record never has."""

    @property
    def record(self) -> Tenant: ...

    @property
    def generation(self) -> int: ...


@dataclass(frozen=True, slots=True)
class _Rules:
    """What a tenant's record says of tokens, compiled."""

    generation: int
    keys: KeySet
    revoked: Revocations


@dataclass(slots=True)
class _Verified:
    identity: Identity
    generation: int
    not_before: float


class TokenVerifier:
    """Verifies tokens of all tenants. Keys are parsed once per tenant record, tokens are checked once each."""

    def __init__(
        self,
        find_tenant: Callable[[str], KnownTenant | None],
        metrics: Metrics,
        *,
        audience: str,
        leeway_s: float = 10.0,
        development: bool = False,
        max_remembered: int = 20_000,
        refusals: Refusals | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._find_tenant = find_tenant
        self._audience = audience
        self._leeway_s = leeway_s
        self._development = development
        self._algorithms = (*ASYMMETRIC, SYMMETRIC) if development else ASYMMETRIC
        self._jws = PyJWS(algorithms=list(self._algorithms))
        self._clock = clock
        self._rules: dict[str, _Rules] = {}
        self._remembered: OrderedDict[bytes, _Verified] = OrderedDict()
        self._max_remembered = max_remembered
        self._log = RateLimitedLog(get_logger(__name__))
        self._refusals = refusals or Refusals()
        refused = metrics.tick_family("tokens_refused_total", "Tokens not accepted, by reason.", ["reason"])
        self._refused = {reason: refused.labels(reason.value) for reason in TokenReason}
        verified = metrics.tick_family("tokens_accepted_total", "Tokens accepted, by how.", ["how"])
        self._by_signature, self._by_memory = verified.labels("signature"), verified.labels("memory")
        self._bad_keys = metrics.ticks("tenant_keys_refused_total", "Keys of tenants' sets that can't be used.")
        metrics.sampled_gauge("tokens_remembered", "Verified tokens in memory.", lambda: len(self._remembered))

    def verify(self, token: str) -> Identity:
        """Who `token` speaks for now. Raises TokenError, after counting it and saying so in the log."""
        try:
            return self._verify(token)
        except TokenError as error:
            self._count(error)
            raise

    def refusal(self, identity: Identity) -> TokenReason | None:
        """Why an identity accepted before would not be accepted now, as far as time and the tenant's record go.

        For open connections: the tenant exists, is not suspended, still has the key, has not revoked the token, and the
        token has not run out. None: it would be accepted.
        """
        tenant = self._find_tenant(identity.tenant)
        if tenant is None:
            return TokenReason.TENANT_UNKNOWN
        if tenant.record.suspended:
            return TokenReason.TENANT_SUSPENDED
        rules = self._rules_of(identity.tenant, tenant)
        if rules.revoked.cover(identity.token_id, identity.subject, identity.issued_at):
            return TokenReason.REVOKED
        if self._clock() >= identity.expires_at + self._leeway_s:
            return TokenReason.EXPIRED
        return None if rules.keys.holds(identity.key_fingerprint) else TokenReason.KEY_UNKNOWN

    def check(self, identity: Identity) -> None:
        """Raise TokenError, counted and logged, where `refusal` has a reason: for answers that go on for minutes."""
        reason = self.refusal(identity)
        if reason is not None:
            error = TokenError(reason, "the token is no longer accepted")
            error.tenant = identity.tenant
            self._count(error)
            raise error

    def _count(self, error: TokenError) -> None:
        self._refused[error.reason].n += 1
        self._refusals.say("token_refused", error.code, error.tenant, reason=error.reason.value)

    def _verify(self, token: str) -> Identity:
        if not token:
            raise TokenError(TokenReason.MISSING, "a token is needed")
        if len(token) > MAX_TOKEN_BYTES:
            raise TokenError(TokenReason.MALFORMED, f"the token is above {MAX_TOKEN_BYTES} bytes")
        if not token.isascii():
            raise TokenError(TokenReason.MALFORMED, "the token is no JWT")
        now = self._clock()
        digest = hashlib.sha256(token.encode()).digest()
        remembered = self._recall(digest, now)
        if remembered is not None:
            self._by_memory.n += 1
            return remembered
        parts = token.split(".")
        if len(parts) != 3:
            raise TokenError(TokenReason.MALFORMED, "the token is no JWT of three parts")
        header, claims = _json_object(parts[0], "header"), _json_object(parts[1], "claims")
        algorithm, key_id = self._judge_header(header)
        name = claims.get("tenant")
        if name is None:
            raise TokenError(TokenReason.CLAIM_MISSING, "the claim tenant is missing")
        tenant, key = self._verify_signature(token, algorithm, key_id, _label(name))
        try:
            identity, not_before = self._judge_claims(claims, tenant, key, now)
        except TokenError as error:
            error.tenant = tenant.record.tenant
            raise
        self._remember(digest, _Verified(identity, tenant.generation, not_before), now)
        self._by_signature.n += 1
        return identity

    def _judge_header(self, header: dict[str, Any]) -> tuple[str, str]:
        algorithm, key_id = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            wanted = ", ".join(self._algorithms)
            raise TokenError(TokenReason.ALGORITHM_REFUSED, f"the token's algorithm must be one of {wanted}")
        if "crit" in header or "b64" in header:  # RFC 7515, 4.1.11: what isn't understood must be refused
            raise TokenError(TokenReason.MALFORMED, "the token's header has extensions, which are not understood")
        if not isinstance(key_id, str) or not 0 < len(key_id) <= MAX_KEY_ID_LENGTH:
            raise TokenError(TokenReason.MALFORMED, "the token's header needs a kid")
        return algorithm, key_id

    def _verify_signature(self, token: str, algorithm: str, key_id: str, name: str) -> tuple[KnownTenant, VerifyKey]:
        tenant = self._find_tenant(name)
        if tenant is None:
            self._rules.pop(name, None)
            self._unverified(TokenReason.TENANT_UNKNOWN, token, algorithm)
        keys = self._rules_of(name, tenant).keys
        key = keys.find(key_id, algorithm)
        if key is None:
            reason = TokenReason.ALGORITHM_REFUSED if key_id in keys else TokenReason.KEY_UNKNOWN
            self._unverified(reason, token, algorithm)
        try:
            self._jws.decode(token, key.jwk, algorithms=[key.algorithm])
        except (PyJWTError, ValueError):
            raise TokenError(TokenReason.SIGNATURE_INVALID, _UNVERIFIED) from None
        return tenant, key

    def _unverified(self, reason: TokenReason, token: str, algorithm: str) -> NoReturn:
        _check_against_decoy(algorithm, token.encode())
        raise TokenError(reason, _UNVERIFIED)

    def _rules_of(self, name: str, tenant: KnownTenant) -> _Rules:
        known = self._rules.get(name)
        if known is not None and known.generation == tenant.generation:
            return known
        auth = tenant.record.auth
        keys = parse_jwks(auth.jwks, development=self._development)
        for problem in keys.problems:
            self._bad_keys.n += 1
            self._log.warning(
                "tenant_key_refused",
                key=f"{name}/{problem.key_id}",
                tenant=name,
                kid=problem.key_id,
                why=problem.problem,
            )
        revoked = Revocations((one.jti, one.subject, one.before) for one in auth.revoked)
        rules = self._rules[name] = _Rules(tenant.generation, keys, revoked)
        return rules

    def _judge_claims(
        self, claims: dict[str, Any], tenant: KnownTenant, key: VerifyKey, now: float
    ) -> tuple[Identity, float]:
        """The identity, and the time its token is valid from."""
        auth = tenant.record.auth
        expires_at = _time(claims, "exp")
        if expires_at is None:
            raise TokenError(TokenReason.CLAIM_MISSING, "the claim exp is missing")
        if now >= expires_at + self._leeway_s:
            raise TokenError(TokenReason.EXPIRED, "the token ran out")
        not_before = _time(claims, "nbf")
        if not_before is not None and now < not_before - self._leeway_s:
            raise TokenError(TokenReason.NOT_YET_VALID, "the token is not valid yet")
        audience = auth.audience or self._audience
        named = claims.get("aud")
        if named is None:
            raise TokenError(TokenReason.CLAIM_MISSING, "the claim aud is missing")
        if named != audience and not (isinstance(named, list) and audience in named):
            raise TokenError(TokenReason.AUDIENCE_WRONG, f"the claim aud must name {audience}")
        if auth.issuer is not None and claims.get("iss") != auth.issuer:
            raise TokenError(TokenReason.ISSUER_WRONG, f"the claim iss must be {auth.issuer}")
        subject = claims.get("sub")
        if subject is None:
            raise TokenError(TokenReason.CLAIM_MISSING, "the claim sub is missing")
        if not isinstance(subject, str) or not 0 < len(subject) <= MAX_SUBJECT_LENGTH or not subject.isprintable():
            raise TokenError(TokenReason.MALFORMED, f"the claim sub is no text of 1 to {MAX_SUBJECT_LENGTH} characters")
        try:
            scopes = Scopes.parse(tenant.record.tenant, claims.get("scope", ""))
        except InvalidValueError as error:
            raise TokenError(TokenReason.MALFORMED, error.message) from None
        token_id = claims.get("jti")
        if token_id is not None and not (isinstance(token_id, str) and 0 < len(token_id) <= MAX_SUBJECT_LENGTH):
            # RFC 7519, 4.1.7; what can't be named can't be revoked
            raise TokenError(TokenReason.MALFORMED, f"the claim jti is no text of 1 to {MAX_SUBJECT_LENGTH} characters")
        issued_at = _time(claims, "iat")
        if self._rules_of(tenant.record.tenant, tenant).revoked.cover(token_id, subject, issued_at):
            raise TokenError(TokenReason.REVOKED, "the tenant revoked the token")
        if tenant.record.suspended:
            raise TokenError(TokenReason.TENANT_SUSPENDED, "the tenant is suspended")
        identity = Identity(
            tenant=tenant.record.tenant,
            subject=subject,
            scopes=scopes,
            expires_at=expires_at,
            key_id=key.key_id,
            key_fingerprint=key.fingerprint,
            token_id=token_id,
            issued_at=issued_at,
        )
        return identity, -math.inf if not_before is None else not_before

    def _recall(self, digest: bytes, now: float) -> Identity | None:
        found = self._remembered.get(digest)
        if found is None:
            return None
        tenant = self._find_tenant(found.identity.tenant)
        if tenant is None or tenant.generation != found.generation:
            del self._remembered[digest]  # judged anew by the record as it is now
            return None
        if now >= found.identity.expires_at + self._leeway_s:
            del self._remembered[digest]
            error = TokenError(TokenReason.EXPIRED, "the token ran out")
            error.tenant = found.identity.tenant
            raise error
        if now < found.not_before - self._leeway_s:  # the clock was set back
            raise TokenError(TokenReason.NOT_YET_VALID, "the token is not valid yet")
        self._remembered.move_to_end(digest)
        return found.identity

    def _remember(self, digest: bytes, verified: _Verified, now: float) -> None:
        if self._max_remembered <= 0:
            return
        while len(self._remembered) >= self._max_remembered:
            self._remembered.popitem(last=False)
        self._remembered[digest] = verified
        # The least recently used one is also the likeliest to have run out: a look at it keeps memory from filling up
        # with the dead in a quiet time.
        oldest = next(iter(self._remembered))
        if now >= self._remembered[oldest].identity.expires_at + self._leeway_s:
            del self._remembered[oldest]


def _json_object(part: str, what: str) -> dict[str, Any]:
    try:
        value = json.loads(base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError):
        raise TokenError(TokenReason.MALFORMED, f"the token's {what} can't be read") from None
    if not isinstance(value, dict):
        raise TokenError(TokenReason.MALFORMED, f"the token's {what} must be a JSON object")
    return value


def _label(name: object) -> str:
    try:
        return check_label("tenant", name if isinstance(name, str) else "")
    except InvalidValueError:
        raise TokenError(TokenReason.MALFORMED, "the claim tenant must be a DNS label") from None


def _time(claims: dict[str, Any], name: str) -> float | None:
    """A NumericDate (RFC 7519, 2): a JSON number of seconds."""
    value = claims.get(name)
    if value is None:
        return None
    try:
        seconds = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds):
        raise TokenError(TokenReason.MALFORMED, f"the claim {name} must be a number of seconds")
    return seconds


@cache
def _decoy(algorithm: str) -> Any:
    """A public key that nobody has the private part of; for RSA a number that only looks like a modulus."""
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate().public_key()
    if algorithm == "ES256":
        return ec.generate_private_key(ec.SECP256R1()).public_key()
    digits = b"".join(hashlib.sha256(b"heliograph decoy %d" % part).digest() for part in range(8))
    return rsa.RSAPublicNumbers(65_537, int.from_bytes(digits, "big") | 1 << 2_047 | 1).public_key()


def _check_against_decoy(algorithm: str, message: bytes) -> None:
    """Take as long as a wrong signature takes."""
    try:
        match algorithm:
            case "EdDSA":
                _decoy(algorithm).verify(bytes(64), message)
            case "ES256":
                _decoy(algorithm).verify(_ECDSA_SIGNATURE, message, ec.ECDSA(hashes.SHA256()))
            case "RS256":
                _decoy(algorithm).verify(b"\x01" * 256, message, padding.PKCS1v15(), hashes.SHA256())
            case _:
                hmac.digest(b"decoy", message, "sha256")
    except InvalidSignature:
        return


_ECDSA_SIGNATURE = bytes.fromhex("3006020101020101")
"""r = 1, s = 1 in DER: well-formed, so that it is computed with."""
