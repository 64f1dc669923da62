"""Signing keys for development: made, written where nobody else can read them, read back.

For production, tokens come from the identity provider that the tenant trusts; its JWK set goes into the tenant's
record. This module must never print a private key.
"""

import json
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.exceptions import PyJWTError

from heliograph.core.errors import InvalidValueError
from heliograph.core.scopes import Scopes
from heliograph.core.sessions import check_label

PRIVATE_MODE = 0o600
RSA_BITS = 3072
"""128 bits of security until beyond 2030 (NIST SP 800-57, part 1)."""

PrivateKey = ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


class Algorithm(StrEnum):
    """Signature algorithms that services take."""

    EDDSA = "EdDSA"
    RS256 = "RS256"
    ES256 = "ES256"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key, its id and its algorithm."""

    key: PrivateKey
    key_id: str
    algorithm: Algorithm

    @classmethod
    def generate(cls, algorithm: Algorithm, key_id: str | None = None) -> "SigningKey":
        key: PrivateKey
        match algorithm:
            case Algorithm.EDDSA:
                key = ed25519.Ed25519PrivateKey.generate()
            case Algorithm.RS256:
                key = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
            case Algorithm.ES256:
                key = ec.generate_private_key(ec.SECP256R1())
        return cls(key, key_id or secrets.token_hex(8), algorithm)

    @classmethod
    def read(cls, path: Path, key_id: str | None = None) -> "SigningKey":
        """From a JWK (RFC 7517), a set with one private key, or PEM. `key_id` goes before the file's own."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InvalidValueError("value_invalid", "key", str(path), f"a readable file: {error.strerror}") from None
        if data.lstrip().startswith(b"-----BEGIN"):
            return cls._from_pem(path, data, key_id)
        try:
            document = json.loads(data)
            keys = document.get("keys", [document])
            jwk = next(key for key in keys if "d" in key)
        except (ValueError, AttributeError, TypeError, StopIteration):
            raise _no_key(path, "a private key as JWK or PEM") from None
        return cls.from_jwk(jwk, key_id, path)

    @classmethod
    def from_jwk(cls, jwk: dict[str, Any], key_id: str | None = None, path: Path = Path("JWK")) -> "SigningKey":
        """From a private JWK. `path` names it in errors."""
        readers = {
            "OKP": (OKPAlgorithm.from_jwk, Algorithm.EDDSA),
            "RSA": (RSAAlgorithm.from_jwk, Algorithm.RS256),
            "EC": (ECAlgorithm.from_jwk, Algorithm.ES256),
        }
        reader, algorithm = readers.get(jwk.get("kty", ""), (None, Algorithm.EDDSA))
        name = key_id or jwk.get("kid")
        if reader is None or not isinstance(name, str):
            raise _no_key(path, "a JWK with `kty` OKP, RSA or EC and a `kid`")
        try:
            key: Any = reader(jwk)
        except (PyJWTError, ValueError):
            raise _no_key(path, "a JWK that can be read") from None
        return cls._checked(path, key, name, algorithm)

    @classmethod
    def _from_pem(cls, path: Path, data: bytes, key_id: str | None) -> "SigningKey":
        try:
            key: Any = load_pem_private_key(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise _no_key(path, "a PEM private key without a password") from None
        if key_id is None:
            raise InvalidValueError("value_invalid", "kid", key_id, "given with --kid: a PEM file has no key id")
        algorithms = {rsa.RSAPrivateKey: Algorithm.RS256, ec.EllipticCurvePrivateKey: Algorithm.ES256}
        algorithm = next((alg for kind, alg in algorithms.items() if isinstance(key, kind)), Algorithm.EDDSA)
        return cls._checked(path, key, key_id, algorithm)

    @classmethod
    def _checked(cls, path: Path, key: object, key_id: str, algorithm: Algorithm) -> "SigningKey":
        if isinstance(key, ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey) or (
            isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1)
        ):
            return cls(key, key_id, algorithm)
        raise _no_key(path, "an Ed25519, RSA or P-256 private key")

    def private_jwk(self) -> dict[str, Any]:
        return self._jwk(self.key)

    def jwks(self) -> dict[str, Any]:
        """The public key, as a set for `auth.jwks` of a tenant."""
        return {"keys": [self._jwk(self.key.public_key())]}

    def _jwk(self, key: Any) -> dict[str, Any]:
        writer: Any = {
            Algorithm.EDDSA: OKPAlgorithm.to_jwk,
            Algorithm.RS256: RSAAlgorithm.to_jwk,
            Algorithm.ES256: ECAlgorithm.to_jwk,
        }[self.algorithm]
        members = {name: value for name, value in writer(key, as_dict=True).items() if name != "key_ops"}
        return {**members, "kid": self.key_id, "alg": self.algorithm.value, "use": "sig"}

    def mint(
        self, tenant: str, subject: str, scopes: Sequence[str], ttl_s: float, audience: str, issuer: str | None
    ) -> str:
        """A token that services of this tenant accept. Raises InvalidValueError for a tenant or scope that is none."""
        check_label("tenant", tenant)
        Scopes(tenant, scopes)
        now = int(time.time())
        claims = {
            "tenant": tenant,
            "sub": subject,
            "aud": audience,
            "iat": now,
            "exp": now + max(1, int(ttl_s)),
            "jti": secrets.token_hex(8),
            "scope": " ".join(scopes),
        }
        if issuer is not None:
            claims["iss"] = issuer
        return jwt.encode(claims, self.key, algorithm=self.algorithm.value, headers={"kid": self.key_id})


def write_private(path: Path, document: dict[str, Any], *, replace: bool) -> None:
    """Write JSON that only its owner can read. Raises FileExistsError unless `replace`.

    The file never exists with other rights or half-written: it is made under another name and moved into its place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_MODE), "w") as out:
            json.dump(document, out, indent=2)
            out.write("\n")
        if replace:
            partial.replace(path)
        else:
            os.link(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _no_key(path: Path, wanted: str) -> InvalidValueError:
    return InvalidValueError("value_invalid", "key", str(path), wanted)
