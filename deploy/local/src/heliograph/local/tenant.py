"""A tenant for trying things out: a signing key of this checkout's own, its tenant file, and tokens.

The private key stays in its directory, readable by its owner alone, and is never printed.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from jwt.algorithms import OKPAlgorithm

DEMO_TENANT = "demo"
AUDIENCE = "heliograph"
KEY_ID = "local-1"
TOKEN_TTL_S = 24 * 3600
"""A working day and a night: nobody renews a token by hand."""
ALL_SCOPES = ("publish:*:*", "subscribe:*:*", "history:*:*", "presence:*:*", "serve:*:*")


class DevelopmentTenant:
    """`directory` holds `key.pem` and `tenant.yaml`; the key is made when first needed and then kept."""

    def __init__(self, directory: Path, tenant: str = DEMO_TENANT, settings: Mapping[str, Any] | None = None) -> None:
        self.directory = directory
        self.tenant = tenant
        self._settings = dict(settings or {})

    @property
    def file(self) -> Path:
        return self.directory / "tenant.yaml"

    def write(self) -> Path:
        """The tenant file for `heliograph tenant apply`. JSON, which is YAML too."""
        content = {"tenant": self.tenant, "auth": {"jwks": self.jwks()}, **self._settings}
        self.directory.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        return self.file

    def jwks(self) -> dict[str, Any]:
        """The public key (RFC 7517, RFC 8037)."""
        key: dict[str, Any] = OKPAlgorithm.to_jwk(self._key().public_key(), as_dict=True)
        return {"keys": [{**key, "kid": KEY_ID, "alg": "EdDSA", "use": "sig"}]}

    def token(
        self,
        subject: str = "you",
        scopes: Sequence[str] = ALL_SCOPES,
        ttl_s: float = TOKEN_TTL_S,
        **claims: object,
    ) -> str:
        """A token of this tenant; `claims` are added, or replace these."""
        now = int(time.time())
        content = {
            "tenant": self.tenant,
            "sub": subject,
            "aud": AUDIENCE,
            "iat": now,
            "exp": now + int(ttl_s),
            "scope": " ".join(scopes),
            **claims,
        }
        return jwt.encode(content, self._key(), algorithm="EdDSA", headers={"kid": KEY_ID})

    def _key(self) -> Ed25519PrivateKey:
        path = self.directory / "key.pem"
        if not path.exists():
            self.directory.mkdir(parents=True, exist_ok=True)
            made = Ed25519PrivateKey.generate()
            pem = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            partial = path.with_suffix(f".{os.getpid()}")
            with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
                out.write(pem)
            partial.rename(path)
        key = load_pem_private_key(path.read_bytes(), password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise TypeError(f"{path} is not an Ed25519 key; remove it and one is made")
        return key
