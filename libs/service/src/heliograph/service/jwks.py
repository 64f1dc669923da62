"""A tenant's keys: a JWK set (RFC 7517) made into keys that verify exactly one algorithm each.

What kind of key it is decides the algorithm; a token's header only has to agree. That is what makes algorithm confusion
(an RSA public key taken as an HMAC secret) impossible rather than checked for.

One bad key must not take the others along: it is left out and reported by its key id. Key material never appears in a
report, which is why PyJWT's own messages (they quote the key) are not passed on.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWK
from jwt.exceptions import PyJWTError

MAX_KEYS = 64
"""Of one tenant: rotation needs two or three; more is somebody else's set."""
MAX_KEY_ID_LENGTH = 256
MIN_RSA_BITS, MAX_RSA_BITS = 2_048, 8_192
"""Below: RFC 7518, 3.3 forbids it. Above: one verification takes milliseconds of the event loop."""
MIN_SECRET_BYTES = 32
"""Of HS256: RFC 7518, 3.2, as long as the hash."""

ASYMMETRIC = ("EdDSA", "ES256", "RS256")
SYMMETRIC = "HS256"

_ALGORITHM_OF_KIND = {"OKP": "EdDSA", "EC": "ES256", "RSA": "RS256", "oct": SYMMETRIC}
_OTHER_NAMES = {"EdDSA": ("EdDSA", "Ed25519")}
"""What `alg` in the key may say (RFC 9864 renames EdDSA with this curve)."""
_PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth"})


@dataclass(frozen=True, slots=True)
class VerifyKey:
    """A key, and the only algorithm it verifies."""

    key_id: str
    algorithm: str
    jwk: PyJWK
    fingerprint: bytes
    """Of the key itself: the same id may be given to another key."""

    def __repr__(self) -> str:
        return f"VerifyKey(key_id={self.key_id!r}, algorithm={self.algorithm!r})"


@dataclass(frozen=True, slots=True)
class KeyProblem:
    """Why a key of the set is not used."""

    key_id: str
    problem: str


class KeySet:
    """The usable keys of a set by (key id, algorithm), and the problems of the others."""

    def __init__(self, keys: Mapping[tuple[str, str], VerifyKey], problems: tuple[KeyProblem, ...]) -> None:
        self._keys = dict(keys)
        self._ids = {key_id for key_id, _ in keys}
        self._fingerprints = {key.fingerprint for key in keys.values()}
        self.problems = problems

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key_id: object) -> bool:
        return key_id in self._ids

    def holds(self, fingerprint: bytes) -> bool:
        """Whether the key itself is in the set, whatever its id is now."""
        return fingerprint in self._fingerprints

    def find(self, key_id: str, algorithm: str) -> VerifyKey | None:
        """The key of this id for this algorithm."""
        return self._keys.get((key_id, algorithm))


def parse_jwks(jwks: object, *, development: bool) -> KeySet:
    """The keys of a decoded JWK set. Never raises: what can't be used is a problem.

    Two entries of one id are one key where they are the same; keys of different kinds may share an id (RFC 7517, 4.5);
    two different ones of one kind are ambiguous, and neither is used. `development` admits HS256 secrets.
    """
    entries = jwks.get("keys") if isinstance(jwks, Mapping) else None
    if not isinstance(entries, list):
        if jwks == {}:
            return KeySet({}, ())
        return KeySet({}, (KeyProblem("", 'a JWK set is an object with a list "keys"'),))
    problems: list[KeyProblem] = []
    if len(entries) > MAX_KEYS:
        problems.append(KeyProblem("", f"{len(entries)} keys; the first {MAX_KEYS} are looked at"))
    keys: dict[tuple[str, str], VerifyKey] = {}
    material: dict[tuple[str, str], Any] = {}
    ambiguous: set[tuple[str, str]] = set()
    for number, entry in enumerate(entries[:MAX_KEYS], 1):
        made = _parse_key(entry, number, development=development)
        if isinstance(made, KeyProblem):
            problems.append(made)
            continue
        if made is None:
            continue
        name = (made.key_id, made.algorithm)
        if name in keys and material[name] != _material(entry):
            ambiguous.add(name)
        keys[name], material[name] = made, _material(entry)
    for name in ambiguous:
        del keys[name]
        problems.append(KeyProblem(name[0], f"two different {name[1]} keys have this id: neither is used"))
    return KeySet(keys, tuple(problems))


def _parse_key(entry: object, number: int, *, development: bool) -> VerifyKey | KeyProblem | None:
    """A key; None for one that is not for verifying signatures."""
    if not isinstance(entry, Mapping):
        return KeyProblem(f"(key {number})", "is no object")
    key_id = entry.get("kid")
    if not isinstance(key_id, str) or not 0 < len(key_id) <= MAX_KEY_ID_LENGTH or not key_id.isprintable():
        return KeyProblem(f"(key {number})", f"needs a kid: printable text of at most {MAX_KEY_ID_LENGTH} characters")
    operations = entry.get("key_ops")
    if entry.get("use", "sig") != "sig" or (isinstance(operations, list) and "verify" not in operations):
        return None
    kind = entry.get("kty")
    algorithm = _ALGORITHM_OF_KIND.get(kind) if isinstance(kind, str) else None
    if algorithm is None:
        return KeyProblem(key_id, "its kty must be OKP, EC or RSA")
    if algorithm == SYMMETRIC and not development:
        return KeyProblem(key_id, "symmetric keys are for development only (HELIOGRAPH_DEVELOPMENT)")
    if _PRIVATE_MEMBERS & entry.keys():
        return KeyProblem(key_id, "it contains a private key: replace it by a new one, this one is no secret any more")
    named = entry.get("alg", algorithm)
    if named not in _OTHER_NAMES.get(algorithm, (algorithm,)):
        return KeyProblem(key_id, f"its alg must be {algorithm} for this kind of key")
    try:
        jwk = PyJWK(dict(entry), algorithm)
    except (PyJWTError, ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return KeyProblem(key_id, f"it can't be read as a public key for {algorithm}")
    wrong = _wrong_material(jwk.key, algorithm)
    if wrong:
        return KeyProblem(key_id, wrong)
    return VerifyKey(key_id, algorithm, jwk, hashlib.sha256(repr(_material(entry)).encode()).digest())


def _wrong_material(key: object, algorithm: str) -> str | None:
    match algorithm:
        case "RS256":
            if not isinstance(key, RSAPublicKey) or not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
                return f"an RSA key has {MIN_RSA_BITS} to {MAX_RSA_BITS} bits"
        case "ES256":
            if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
                return "an EC key must be on the curve P-256"
        case "EdDSA":
            if not isinstance(key, Ed25519PublicKey):
                return "an OKP key must be on the curve Ed25519"
        case _:
            if not isinstance(key, bytes) or len(key) < MIN_SECRET_BYTES:
                return f"a secret has at least {MIN_SECRET_BYTES} bytes"
    return None


def _material(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(entry.get(member) for member in ("kty", "crv", "x", "y", "n", "e", "k"))
