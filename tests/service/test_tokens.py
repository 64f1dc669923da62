"""Tokens: what is accepted, what is refused, and what a refusal tells."""

import base64
import hashlib
import hmac
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heliograph.core.scopes import Operation
from heliograph.core.sessions import SessionKey
from heliograph.protocol.codes import CODES
from heliograph.service.metrics import Metrics
from heliograph.service.refusals import Refusals
from heliograph.service.tokens import MAX_TOKEN_BYTES, TokenError, TokenReason, TokenVerifier

ALGORITHMS = ["EdDSA", "ES256", "RS256"]


def refusal(verifier: TokenVerifier, token: str) -> TokenError:
    with pytest.raises(TokenError) as caught:
        verifier.verify(token)
    return caught.value


def part(value: object) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


GOOD_HEADER = part({"alg": "EdDSA", "kid": "eddsa"})
NOT_UTF8 = b'{"a": "\xff"}'
LONG_NUMBER = b'{"exp": ' + b"9" * 4_999 + b"}"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_good_token_gives_its_identity(verifier: TokenVerifier, signers: Any, now: float, algorithm: str) -> None:
    identity = verifier.verify(signers[algorithm].sign({"jti": "t-1", "nbf": now - 5}))
    assert (identity.tenant, identity.subject, identity.key_id) == ("acme", "planner-1", algorithm.lower())
    assert (identity.expires_at, identity.token_id) == (now + 300, "t-1")
    assert identity.scopes.allows(Operation.PUBLISH, SessionKey.parse("acme:planner:7"))
    assert identity.scopes.allows(Operation.SUBSCRIBE, SessionKey.parse("acme:planner:42"))
    assert not identity.scopes.allows(Operation.SUBSCRIBE, SessionKey.parse("acme:planner:7"))
    assert not identity.scopes.allows(Operation.PUBLISH, SessionKey.parse("other:planner:7"))


def test_a_token_without_scopes_allows_nothing(verifier: TokenVerifier, signers: Any) -> None:
    identity = verifier.verify(signers["EdDSA"].sign({"scope": None}))
    assert not identity.scopes.allows(Operation.SUBSCRIBE, SessionKey.parse("acme:planner:42"))


# ---- algorithms


@pytest.mark.parametrize(
    "alg", ["none", "None", "NONE", "nOnE", "", "HS256", "HS384", "RS512", "PS256", "ES256K", None, 5, []]
)
def test_an_algorithm_that_is_not_on_the_list_is_refused(verifier: TokenVerifier, signers: Any, alg: object) -> None:
    _, claims, signature = signers["RS256"].sign().split(".")
    for end in (signature, ""):
        token = f"{part({'alg': alg, 'kid': 'rs256', 'typ': 'JWT'})}.{claims}.{end}"
        assert refusal(verifier, token).reason is TokenReason.ALGORITHM_REFUSED


@pytest.mark.parametrize("development", [False, True])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_public_key_is_never_taken_for_a_shared_secret(
    make: Callable[..., TokenVerifier], signers: Any, algorithm: str, development: bool
) -> None:
    signer = signers[algorithm]
    public = signer.private.public_key()
    secrets = [
        json.dumps(signer.jwk).encode(),
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        b"",
    ]
    verifier = make(development=development)
    body = signer.sign().split(".")[1]
    for secret in secrets:
        signed = f"{part({'alg': 'HS256', 'kid': signer.key_id})}.{body}"
        token = f"{signed}.{part(hmac.digest(secret, signed.encode(), hashlib.sha256))}"
        assert refusal(verifier, token).reason is TokenReason.ALGORITHM_REFUSED


def test_a_key_is_not_used_for_another_algorithm_of_its_kind(verifier: TokenVerifier, signers: Any) -> None:
    for alg in ("PS256", "RS512"):
        assert refusal(verifier, signers["RS256"].sign(alg=alg)).reason is TokenReason.ALGORITHM_REFUSED
    mixed = signers["RS256"].sign(kid="eddsa")
    assert refusal(verifier, mixed).reason is TokenReason.ALGORITHM_REFUSED


def test_a_shared_secret_is_accepted_in_development_only(make: Callable[..., TokenVerifier], signers: Any) -> None:
    token = signers["HS256"].sign()
    assert make_identity(make(development=True), token) == ("acme", "planner-1")


def test_a_shared_secret_is_refused_outside_development(verifier: TokenVerifier, signers: Any) -> None:
    assert refusal(verifier, signers["HS256"].sign()).reason is TokenReason.ALGORITHM_REFUSED


def make_identity(verifier: TokenVerifier, token: str) -> tuple[str, str]:
    identity = verifier.verify(token)
    return identity.tenant, identity.subject


# ---- keys and signatures


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_changed_token_is_refused(verifier: TokenVerifier, signers: Any, algorithm: str) -> None:
    header, claims, signature = signers[algorithm].sign().split(".")
    changed = json.loads(base64.urlsafe_b64decode(claims + "=="))
    changed["scope"] = "admin:*:*"
    flipped = bytearray(base64.urlsafe_b64decode(signature + "=="))
    flipped[0] ^= 1
    for token in (
        f"{header}.{part(changed)}.{signature}",
        f"{header}.{claims}.{part(bytes(flipped))}",
        f"{header}.{claims}.",
        f"{header}.{claims}.{part(b'')}",
        f"{header}.{claims}.{part(bytes(64))}",
    ):
        assert refusal(verifier, token).reason is TokenReason.SIGNATURE_INVALID


def test_a_token_signed_by_another_key_of_the_same_id_is_refused(verifier: TokenVerifier, new_signer: Any) -> None:
    for algorithm in ALGORITHMS:
        forged = new_signer(algorithm, algorithm.lower()).sign()
        assert refusal(verifier, forged).reason is TokenReason.SIGNATURE_INVALID


def test_a_key_id_that_the_tenant_does_not_have_is_refused(verifier: TokenVerifier, signers: Any) -> None:
    assert refusal(verifier, signers["EdDSA"].sign(kid="gone")).reason is TokenReason.KEY_UNKNOWN


def test_a_tenants_key_signs_for_no_other_tenant(verifier: TokenVerifier, signers: Any) -> None:
    assert refusal(verifier, signers["EdDSA"].sign({"tenant": "other"})).reason is TokenReason.KEY_UNKNOWN


@pytest.mark.parametrize("kid", [None, "", 5, ["eddsa"], "k" * 300])
def test_a_token_names_its_key(verifier: TokenVerifier, signers: Any, kid: object) -> None:
    _, claims, signature = signers["EdDSA"].sign().split(".")
    token = f"{part({'alg': 'EdDSA', 'kid': kid})}.{claims}.{signature}"
    assert refusal(verifier, token).reason is TokenReason.MALFORMED


@pytest.mark.parametrize(
    "header", [{"crit": ["exp"], "exp": 1}, {"crit": []}, {"b64": False, "crit": ["b64"]}, {"b64": True}]
)
def test_header_extensions_are_refused(verifier: TokenVerifier, signers: Any, header: dict[str, Any]) -> None:
    _, claims, signature = signers["EdDSA"].sign().split(".")
    token = f"{part({'alg': 'EdDSA', 'kid': 'eddsa', **header})}.{claims}.{signature}"
    assert refusal(verifier, token).reason is TokenReason.MALFORMED


def test_a_key_inside_the_token_is_not_used(verifier: TokenVerifier, new_signer: Any) -> None:
    forger = new_signer("EdDSA", "eddsa")
    for header in ({"jwk": forger.jwk}, {"jku": "https://evil.example/keys"}, {"x5u": "https://evil.example"}):
        assert refusal(verifier, forger.sign(**header)).reason is TokenReason.SIGNATURE_INVALID


# ---- what a refusal tells


def test_unknown_tenant_unknown_key_and_wrong_signature_are_one_answer_but_counted_apart(
    verifier: TokenVerifier, signers: Any, new_signer: Any, metrics: Metrics
) -> None:
    signer = signers["EdDSA"]
    refusals = [
        refusal(verifier, signer.sign({"tenant": "nobody"})),
        refusal(verifier, signer.sign(kid="gone")),
        refusal(verifier, new_signer("EdDSA", "eddsa").sign()),
        refusal(verifier, signers["ES256"].sign(kid="eddsa")),
    ]
    assert len({(error.code, error.message, str(error)) for error in refusals}) == 1
    assert refusals[0].code == "unauthenticated"
    reasons = ["token_tenant_unknown", "token_key_unknown", "token_signature_invalid", "token_algorithm_refused"]
    assert [error.reason for error in refusals] == reasons
    for reason in reasons:
        assert metrics.value("tokens_refused_total", {"reason": reason}) == 1


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_unknown_tenant_takes_a_signature_check_as_a_wrong_signature_does(
    verifier: TokenVerifier, signers: Any, new_signer: Any, algorithm: str
) -> None:
    unknown = signers[algorithm].sign({"tenant": "nobody"})
    wrong = new_signer(algorithm, algorithm.lower()).sign()

    def cost(token: str) -> float:
        taken = []
        for _ in range(40):
            begin = time.process_time_ns()
            refusal(verifier, token)
            taken.append(time.process_time_ns() - begin)
        return statistics.median(taken)

    cost(unknown), cost(wrong)
    ratio = cost(unknown) / cost(wrong)
    assert 0.4 < ratio < 2.5


def test_nothing_about_a_tenant_is_told_before_the_signature_holds(
    verifier: TokenVerifier, tenants: Any, signers: Any, new_signer: Any, now: float
) -> None:
    tenants.put("acme", [signers["EdDSA"].jwk], suspended=True)
    forger = new_signer("EdDSA", "eddsa")
    for claims in ({}, {"exp": now - 1_000}, {"aud": "x"}, {"exp": None}, {"sub": None}, {"nbf": now + 1_000}):
        assert refusal(verifier, forger.sign(claims)).reason is TokenReason.SIGNATURE_INVALID


def test_every_outward_code_is_in_the_table(verifier: TokenVerifier) -> None:
    for reason in TokenReason:
        assert TokenError(reason, "").code in CODES


def test_no_error_shows_any_part_of_the_token(verifier: TokenVerifier, signers: Any, now: float) -> None:
    for claims in ({"exp": now - 100}, {"aud": "secret-audience"}, {"tenant": "nobody"}, {"sub": "\n"}):
        token = signers["EdDSA"].sign(claims)
        error = refusal(verifier, token)
        for piece in (*token.split("."), "secret-audience"):
            assert piece not in str(error)
        assert error.__cause__ is None


# ---- claims


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": None}, TokenReason.CLAIM_MISSING),
        ({"aud": None}, TokenReason.CLAIM_MISSING),
        ({"sub": None}, TokenReason.CLAIM_MISSING),
        ({"tenant": None}, TokenReason.CLAIM_MISSING),
        ({"tenant": 5}, TokenReason.MALFORMED),
        ({"tenant": "ACME"}, TokenReason.MALFORMED),
        ({"tenant": ["acme"]}, TokenReason.MALFORMED),
        ({"exp": True}, TokenReason.MALFORMED),
        ({"exp": "1900000000"}, TokenReason.MALFORMED),
        ({"exp": float("inf")}, TokenReason.MALFORMED),
        ({"exp": float("nan")}, TokenReason.MALFORMED),
        ({"exp": 10**400}, TokenReason.MALFORMED),
        ({"exp": [1]}, TokenReason.MALFORMED),
        ({"nbf": "soon"}, TokenReason.MALFORMED),
        ({"exp": -1}, TokenReason.EXPIRED),
        ({"exp": 0}, TokenReason.EXPIRED),
        ({"sub": ""}, TokenReason.MALFORMED),
        ({"sub": "a\nb"}, TokenReason.MALFORMED),
        ({"sub": "s" * 256}, TokenReason.MALFORMED),
        ({"sub": "\ud800"}, TokenReason.MALFORMED),
        ({"sub": {"a": 1}}, TokenReason.MALFORMED),
        ({"aud": "Heliograph"}, TokenReason.AUDIENCE_WRONG),
        ({"aud": []}, TokenReason.AUDIENCE_WRONG),
        ({"aud": ["a", "b"]}, TokenReason.AUDIENCE_WRONG),
        ({"aud": ["heliograph-other"]}, TokenReason.AUDIENCE_WRONG),
        ({"aud": {"heliograph": 1}}, TokenReason.AUDIENCE_WRONG),
        ({"aud": [["heliograph"]]}, TokenReason.AUDIENCE_WRONG),
        ({"scope": "everything"}, TokenReason.MALFORMED),
        ({"scope": "publish:planner:* nonsense"}, TokenReason.MALFORMED),
        ({"scope": 5}, TokenReason.MALFORMED),
    ],
)
def test_claims_that_do_not_hold_are_refused(
    verifier: TokenVerifier, signers: Any, claims: dict[str, Any], reason: TokenReason
) -> None:
    signer = signers["EdDSA"]
    merged = {**json.loads(base64.urlsafe_b64decode(signer.sign().split(".")[1] + "==")), **claims}
    signed = f"{part({'alg': 'EdDSA', 'kid': 'eddsa'})}.{part({k: v for k, v in merged.items() if v is not None})}"
    token = f"{signed}.{part(signer.private.sign(signed.encode()))}"
    assert refusal(verifier, token).reason is reason


@pytest.mark.parametrize("audience", ["heliograph", ["heliograph"], ["other", "heliograph"]])
def test_the_audience_is_one_or_a_list(verifier: TokenVerifier, signers: Any, audience: object) -> None:
    assert verifier.verify(signers["EdDSA"].sign({"aud": audience})).tenant == "acme"


def test_a_token_holds_until_exp_and_the_leeway(make: Callable[..., TokenVerifier], signers: Any, now: float) -> None:
    at = now
    verifier = make(clock=lambda: at, max_remembered=0)
    token = signers["EdDSA"].sign({"exp": now + 60})
    at = now + 69.9
    assert verifier.verify(token).tenant == "acme"
    at = now + 70
    error = refusal(verifier, token)
    assert (error.reason, error.code) == (TokenReason.EXPIRED, "token_expired")


def test_a_token_holds_from_nbf_less_the_leeway(make: Callable[..., TokenVerifier], signers: Any, now: float) -> None:
    at = now
    verifier = make(clock=lambda: at, max_remembered=0)
    token = signers["EdDSA"].sign({"nbf": now + 60})
    at = now + 49.9
    assert refusal(verifier, token).reason is TokenReason.NOT_YET_VALID
    at = now + 50
    assert verifier.verify(token).tenant == "acme"


def test_a_suspended_tenant_is_told_so(verifier: TokenVerifier, tenants: Any, signers: Any) -> None:
    tenants.put("acme", [signers["EdDSA"].jwk], suspended=True)
    error = refusal(verifier, signers["EdDSA"].sign())
    assert (error.reason, error.code) == (TokenReason.TENANT_SUSPENDED, "tenant_suspended")


def test_a_tenant_may_have_an_audience_and_an_issuer_of_its_own(
    verifier: TokenVerifier, tenants: Any, signers: Any
) -> None:
    signer = signers["EdDSA"]
    tenants.put("acme", [signer.jwk], audience="acme-agents", issuer="https://login.acme.example")
    good = {"aud": "acme-agents", "iss": "https://login.acme.example"}
    assert verifier.verify(signer.sign(good)).tenant == "acme"
    assert refusal(verifier, signer.sign({**good, "aud": "heliograph"})).reason is TokenReason.AUDIENCE_WRONG
    assert refusal(verifier, signer.sign({**good, "iss": "https://evil.example"})).reason is TokenReason.ISSUER_WRONG
    assert refusal(verifier, signer.sign({**good, "iss": None})).reason is TokenReason.ISSUER_WRONG


# ---- garbage


def test_no_token_is_a_reason_of_its_own(verifier: TokenVerifier) -> None:
    assert refusal(verifier, "").reason is TokenReason.MISSING


@pytest.mark.parametrize(
    "token",
    [
        ".", "..", "...", "a.b", "a.b.c.d", "a.b.c", "é.b.c", "\x00", " ", "null.null.null",
        f"{part([])}.{part({})}.x", f"{part('x')}.{part({})}.x", f"{part(b'{')}.{part({})}.x", "=.=.=",
        f"{GOOD_HEADER}.{part([])}.x",
        f"{GOOD_HEADER}.{part(b'[' * 5_000)}.x",
        f"{part(b'[' * 5_000)}.{part({})}.x",
        f"{part(NOT_UTF8)}.{part({})}.x",
        f"{GOOD_HEADER}.{part(LONG_NUMBER)}.x",
    ],
)  # fmt: skip
def test_garbage_is_malformed(verifier: TokenVerifier, token: str) -> None:
    assert refusal(verifier, token).reason is TokenReason.MALFORMED


def test_a_huge_token_is_refused_before_it_is_looked_at(verifier: TokenVerifier, signers: Any) -> None:
    assert refusal(verifier, signers["EdDSA"].sign({"x": "y" * MAX_TOKEN_BYTES})).reason is TokenReason.MALFORMED
    assert refusal(verifier, "a" * 10_000_000).reason is TokenReason.MALFORMED


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text() | st.tuples(st.text(), st.text(), st.text()).map(".".join))
def test_no_text_gets_in_or_breaks_the_verifier(verifier: TokenVerifier, token: str) -> None:
    with pytest.raises(TokenError):
        verifier.verify(token)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk"]), json_values),
    st.dictionaries(st.sampled_from(["tenant", "sub", "exp", "nbf", "aud", "scope"]), json_values),
)
def test_no_header_and_claims_get_in_unsigned(
    verifier: TokenVerifier, header: dict[str, Any], claims: dict[str, Any]
) -> None:
    for used in (header, {"alg": "EdDSA", "kid": "eddsa", **header}, {**header, "alg": "RS256", "kid": "rs256"}):
        with pytest.raises(TokenError):
            verifier.verify(f"{part(used)}.{part({'tenant': 'acme', **claims})}.{part(bytes(64))}")


# ---- the log


def test_a_refused_token_is_logged_by_its_reason_and_whose_it_is_once_that_is_certain(
    make: Callable[..., TokenVerifier], signers: Any, now: float, log_lines: Callable[[], list[dict[str, Any]]]
) -> None:
    verifier = make(refusals=Refusals(0.0))
    signer = signers["EdDSA"]
    old = signer.sign({"exp": now - 60})
    tokens = {
        "": ("token_missing", None),
        signer.sign(kid="unknown"): ("token_key_unknown", None),
        signer.sign({"tenant": "nobody"}): ("token_tenant_unknown", None),
        signer.sign()[:-20] + "A" * 20: ("token_signature_invalid", None),
        signer.sign({"aud": "others"}): ("token_audience_wrong", "acme"),
        old: ("token_expired", "acme"),
    }
    for token, (reason, tenant) in tokens.items():
        known = len(log_lines())
        refusal(verifier, token)
        (line,) = [line for line in log_lines()[known:] if line["event"] == "token_refused"]
        assert (line["reason"], line["tenant"]) == (reason, tenant)
        for part_of_it in filter(None, token.split(".")):
            assert part_of_it not in json.dumps(line)
