import json
import stat
import time
from collections.abc import Callable
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from typer.testing import Result

from heliograph.cli.keys import SigningKey
from heliograph.protocol.tenants import parse_tenant
from heliograph.service.jwks import parse_jwks

Invoke = Callable[..., Result]


@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256", "RS256"])
def test_a_minted_token_is_verified_by_the_key_set_beside_it(invoke: Invoke, tmp_path: Path, algorithm: str) -> None:
    prefix = str(tmp_path / "dev")
    assert invoke("token", "keygen", prefix, "--alg", algorithm).exit_code == 0
    done = invoke(
        "token", "--key", f"{prefix}.jwk", "--tenant", "acme", "--subject", "me", "--ttl", "15m",
        "--scope", "publish:planner:* subscribe:*:*", "--scope", "history:*:*", "--issuer", "https://id.example",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    token = done.stdout.strip()
    jwks = json.loads(Path(f"{prefix}.jwks.json").read_text())
    keys = parse_jwks(jwks, development=False)
    assert keys.problems == ()
    key = keys.find(jwt.get_unverified_header(token)["kid"], algorithm)
    assert key is not None
    claims = jwt.decode(token, key.jwk, algorithms=[algorithm], audience="heliograph", issuer="https://id.example")
    assert (claims["tenant"], claims["sub"]) == ("acme", "me")
    assert claims["scope"] == "publish:planner:* subscribe:*:* history:*:*"
    assert claims["exp"] - claims["iat"] == 900
    assert abs(claims["iat"] - time.time()) < 60
    parse_tenant({"tenant": "acme", "auth": {"jwks": jwks}})


def test_keys_are_readable_by_their_owner_alone_and_never_shown(invoke: Invoke, tmp_path: Path) -> None:
    done = invoke("token", "keygen", str(tmp_path / "dev"))
    for name in ("dev.jwk", "dev.jwks.json"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert json.loads((tmp_path / "dev.jwk").read_text())["d"] not in done.output
    assert "d" not in json.loads((tmp_path / "dev.jwks.json").read_text())["keys"][0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dev.jwk", "dev.jwks.json"]


def test_keys_that_are_there_are_not_overwritten_unasked(invoke: Invoke, tmp_path: Path) -> None:
    prefix = str(tmp_path / "dev")
    invoke("token", "keygen", prefix)
    before = Path(f"{prefix}.jwk").read_bytes()
    done = invoke("token", "keygen", prefix)
    assert done.exit_code == 2
    assert "--force" in done.stderr
    assert Path(f"{prefix}.jwk").read_bytes() == before
    assert invoke("token", "keygen", prefix, "--force").exit_code == 0
    assert Path(f"{prefix}.jwk").read_bytes() != before


def test_a_pem_key_is_taken_with_an_id(invoke: Invoke, tmp_path: Path) -> None:
    pem = SigningKey.read(_jwk(invoke, tmp_path)).key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key.pem").write_bytes(pem)
    options = ["token", "--key", str(tmp_path / "key.pem"), "--tenant", "acme", "--scope", "publish:*:*"]
    assert invoke(*options).exit_code == 2
    done = invoke(*options, "--kid", "local-1")
    assert jwt.get_unverified_header(done.stdout.strip()) == {"alg": "EdDSA", "kid": "local-1", "typ": "JWT"}


def test_json_says_what_the_token_is(invoke: Invoke, tmp_path: Path) -> None:
    done = invoke("token", "--key", str(_jwk(invoke, tmp_path)), "--tenant", "acme", "--scope", "publish:*:*", "--json")
    shown = json.loads(done.stdout)
    assert (shown["tenant"], shown["scopes"], shown["ttl_s"]) == ("acme", ["publish:*:*"], 3600)
    assert shown["token"].count(".") == 2


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--tenant", "acme"], "--scope"),
        (["--scope", "publish:*:*"], "--tenant"),
        (["--tenant", "acme", "--scope", "write:*:*"], "scope_invalid"),
        (["--tenant", "Acme!", "--scope", "publish:*:*"], "session_invalid"),
        (["--tenant", "acme", "--scope", "publish:*:*", "--ttl", "soon"], "duration"),
    ],
)
def test_what_makes_no_token_is_a_usage_error(invoke: Invoke, tmp_path: Path, options: list[str], wanted: str) -> None:
    done = invoke("token", "--key", str(_jwk(invoke, tmp_path)), *options)
    assert (done.exit_code, done.stdout) == (2, "")
    assert wanted in done.stderr


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b'{"keys": []}',
        b'{"kty": "oct", "k": "AA", "d": "x"}',
        b"-----BEGIN x",
        b'{"kty":"OKP","crv":"Ed25519","d":"!","x":"!","kid":"a"}',
    ],
)
def test_what_is_no_key_is_a_usage_error(invoke: Invoke, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    done = invoke("token", "--key", str(tmp_path / "key"), "--tenant", "acme", "--scope", "publish:*:*")
    assert done.exit_code == 2, done.output


def test_a_key_of_another_curve_is_a_usage_error(invoke: Invoke, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    (tmp_path / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    options = ["--key", str(tmp_path / "key.pem"), "--kid", "a", "--tenant", "acme", "--scope", "publish:*:*"]
    done = invoke("token", *options)
    assert done.exit_code == 2
    assert "P-256" in done.stderr


def test_a_missing_key_file_is_a_usage_error(invoke: Invoke, tmp_path: Path) -> None:
    done = invoke("token", "--key", str(tmp_path / "none"), "--tenant", "acme", "--scope", "publish:*:*")
    assert done.exit_code == 2
    assert "No such file" in done.stderr


def _jwk(invoke: Invoke, directory: Path) -> Path:
    assert invoke("token", "keygen", str(directory / "dev")).exit_code == 0
    return directory / "dev.jwk"
