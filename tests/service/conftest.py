"""What the tests of heliograph.service share: signing keys, tokens, a tenant directory that is a dict."""

import json
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from heliograph.protocol.tenants import AuthSettings, Tenant
from heliograph.service.metrics import Metrics
from heliograph.service.tokens import TokenVerifier

NOW = 1_800_000_000.0


@dataclass
class Signer:
    """A key pair that signs tokens, and its public JWK."""

    key_id: str
    algorithm: str
    private: Any
    jwk: dict[str, Any]

    def sign(self, claims: dict[str, Any] | None = None, **header: Any) -> str:
        """A token with good claims, changed by `claims` (None removes one) and `header`."""
        merged = {
            "tenant": "acme",
            "sub": "planner-1",
            "aud": "heliograph",
            "exp": NOW + 300,
            "scope": "publish:planner:* subscribe:planner:42",
            **(claims or {}),
        }
        kept = {name: value for name, value in merged.items() if value is not None}
        return jwt.encode(kept, self.private, header.pop("alg", self.algorithm), {"kid": self.key_id, **header})


def make_signer(algorithm: str, key_id: str) -> Signer:
    private: Any
    match algorithm:
        case "EdDSA":
            private = ed25519.Ed25519PrivateKey.generate()
            jwk = OKPAlgorithm.to_jwk(private.public_key(), as_dict=True)
        case "ES256":
            private = ec.generate_private_key(ec.SECP256R1())
            jwk = ECAlgorithm.to_jwk(private.public_key(), as_dict=True)
        case "RS256":
            private = rsa.generate_private_key(65_537, 2_048)
            jwk = RSAAlgorithm.to_jwk(private.public_key(), as_dict=True)
        case _:
            private = b"a secret for development, 32 bytes and more"
            jwk = {"kty": "oct", "k": jwt.utils.base64url_encode(private).decode()}
    return Signer(key_id, algorithm, private, {**jwk, "kid": key_id})


@dataclass
class Entry:
    record: Tenant
    generation: int


@dataclass
class Tenants:
    """Stands in for the directory: `find` answers from a dict, `put` makes a new generation."""

    entries: dict[str, Entry] = field(default_factory=dict)
    generation: int = 0

    def put(self, name: str, keys: list[dict[str, Any]], *, suspended: bool = False, **auth: Any) -> None:
        self.generation += 1
        record = Tenant(name, auth=AuthSettings(jwks={"keys": keys}, **auth), suspended=suspended)
        self.entries[name] = Entry(record, self.generation)

    def find(self, name: str) -> Entry | None:
        return self.entries.get(name)


@pytest.fixture(scope="session")
def signers() -> dict[str, Signer]:
    """One signer an algorithm; its key id is the algorithm's name in lower case."""
    return {algorithm: make_signer(algorithm, algorithm.lower()) for algorithm in ("EdDSA", "ES256", "RS256", "HS256")}


@pytest.fixture(scope="session")
def new_signer() -> Callable[[str, str], Signer]:
    return make_signer


@pytest.fixture
def tenants(signers: dict[str, Signer]) -> Tenants:
    """`acme` with all signers' keys, and `other` with none."""
    made = Tenants()
    made.put("acme", [signer.jwk for signer in signers.values()])
    made.put("other", [])
    return made


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("test", "0", process=False)


@pytest.fixture
def now() -> float:
    """The Unix time at which tokens of `Signer` are good."""
    return NOW


@pytest.fixture
def make(tenants: Tenants, metrics: Metrics, now: float) -> Callable[..., TokenVerifier]:
    """A verifier of the tenants, with these options."""

    def verifier(**options: Any) -> TokenVerifier:
        defaults: dict[str, Any] = {"audience": "heliograph", "leeway_s": 10.0, "clock": lambda: now}
        return TokenVerifier(tenants.find, metrics, **{**defaults, **options})

    return verifier


@pytest.fixture
def verifier(make: Callable[..., TokenVerifier]) -> TokenVerifier:
    return make()


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    """Wait until something is so, or fail after 10 s."""
    import asyncio

    async def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline, "it did not become so in 10 s"
            await asyncio.sleep(0.005)

    return wait


@pytest.fixture
def log_lines() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """JSON logs configured onto a buffer: the events so far. What pytest had is restored."""
    import io
    import logging

    import structlog

    from heliograph.service.logs import configure_logs

    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    levels = {name: logging.getLogger(name).level for name in list(logging.Logger.manager.loggerDict)}
    stream = io.StringIO()
    configure_logs(service="test", version="1.2.3", level="debug", stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logging.captureWarnings(False)
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)
