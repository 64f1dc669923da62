"""JWK sets: each key verifies one algorithm; a bad key is left out by its id, never with its material."""

import base64
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from heliograph.service.jwks import MAX_KEYS, parse_jwks

SECRET = base64.urlsafe_b64encode(b"hunter2-hunter2-hunter2-hunter2!").decode().rstrip("=")


def parse(*keys: Any, development: bool = False) -> Any:
    return parse_jwks({"keys": list(keys)}, development=development)


def only_problem(*keys: Any, development: bool = False) -> str:
    found = parse(*keys, development=development)
    assert len(found) == 0
    (problem,) = found.problems
    return f"{problem.key_id}: {problem.problem}"


@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256", "RS256"])
def test_a_key_verifies_the_algorithm_of_its_kind_and_no_other(signers: Any, algorithm: str) -> None:
    jwk = signers[algorithm].jwk
    found = parse(jwk)
    assert found.problems == ()
    assert jwk["kid"] in found
    for other in ("EdDSA", "ES256", "RS256", "HS256", "none", "RS512"):
        assert (found.find(jwk["kid"], other) is not None) == (other == algorithm)


def test_an_alg_that_agrees_passes_and_one_that_does_not_is_a_problem(signers: Any) -> None:
    assert len(parse({**signers["RS256"].jwk, "alg": "RS256"})) == 1
    assert len(parse({**signers["EdDSA"].jwk, "alg": "Ed25519"})) == 1
    assert "its alg must be RS256" in only_problem({**signers["RS256"].jwk, "alg": "PS256"})
    assert "its alg must be RS256" in only_problem({**signers["RS256"].jwk, "alg": "HS256"})


def test_a_symmetric_key_is_for_development_only() -> None:
    key = {"kty": "oct", "kid": "dev", "k": SECRET}
    assert "development only" in only_problem(key)
    assert parse(key, development=True).find("dev", "HS256") is not None


def test_a_short_secret_is_refused_and_not_shown() -> None:
    problem = only_problem({"kty": "oct", "kid": "dev", "k": "aHVudGVyMg"}, development=True)
    assert problem == "dev: a secret has at least 32 bytes"


def test_keys_for_other_uses_are_passed_over(signers: Any) -> None:
    jwk = signers["RS256"].jwk
    for other in ({**jwk, "use": "enc"}, {**jwk, "key_ops": ["encrypt"]}):
        found = parse(other)
        assert (len(found), found.problems) == (0, ())


def test_a_private_key_in_the_set_is_refused_and_not_shown() -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    jwk = ECAlgorithm.to_jwk(private, as_dict=True)
    problem = only_problem({**jwk, "kid": "leaked"})
    assert problem.startswith("leaked: it contains a private key")
    assert jwk["d"] not in problem


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: RSAAlgorithm.to_jwk(rsa.generate_private_key(65_537, 1_024).public_key(), as_dict=True), "2048 to"),
        (lambda: ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP384R1()).public_key(), as_dict=True), "P-256"),
        (lambda: OKPAlgorithm.to_jwk(ed448.Ed448PrivateKey.generate().public_key(), as_dict=True), "Ed25519"),
    ],
)
def test_other_curves_and_weak_keys_are_refused(make: Callable[[], dict[str, Any]], problem: str) -> None:
    assert problem in only_problem({**make(), "kid": "odd"})


def test_a_key_without_an_id_is_named_by_its_place(signers: Any) -> None:
    jwk = {name: value for name, value in signers["EdDSA"].jwk.items() if name != "kid"}
    assert only_problem(jwk).startswith("(key 1): needs a kid")
    assert only_problem({**jwk, "kid": "a\nb"}).startswith("(key 1): needs a kid")
    assert only_problem({**jwk, "kid": 5}).startswith("(key 1): needs a kid")


def test_a_bad_key_does_not_take_a_good_one_along(signers: Any) -> None:
    found = parse({"kty": "RSA", "kid": "bad", "n": "!", "e": "AQAB"}, signers["ES256"].jwk, "nonsense")
    assert len(found) == 1
    assert [problem.key_id for problem in found.problems] == ["bad", "(key 3)"]


def test_the_same_key_twice_is_one_key(signers: Any) -> None:
    found = parse(signers["EdDSA"].jwk, {**signers["EdDSA"].jwk, "use": "sig"})
    assert (len(found), found.problems) == (1, ())


def test_two_different_keys_of_one_id_and_kind_are_both_refused(signers: Any, new_signer: Any) -> None:
    twin = new_signer("EdDSA", "eddsa").jwk
    for order in ((signers["EdDSA"].jwk, twin), (twin, signers["EdDSA"].jwk), (twin, signers["EdDSA"].jwk, twin)):
        assert "two different EdDSA keys have this id" in only_problem(*order)


def test_keys_of_different_kinds_may_share_an_id(signers: Any) -> None:
    found = parse({**signers["EdDSA"].jwk, "kid": "a"}, {**signers["RS256"].jwk, "kid": "a"})
    assert found.problems == ()
    assert found.find("a", "EdDSA") is not None
    assert found.find("a", "RS256") is not None


def test_the_number_of_keys_is_bounded(signers: Any) -> None:
    found = parse(*({**signers["EdDSA"].jwk, "kid": str(number)} for number in range(MAX_KEYS + 1)))
    assert len(found) == MAX_KEYS
    assert len(found.problems) == 1


@pytest.mark.parametrize("jwks", [None, [], "", 5, {"keys": {}}, {"other": []}])
def test_what_is_no_set_is_a_problem(jwks: object) -> None:
    found = parse_jwks(jwks, development=False)
    assert (len(found), len(found.problems)) == (0, 1)


def test_a_tenant_without_keys_has_no_problem() -> None:
    assert parse_jwks({}, development=False).problems == ()


@pytest.mark.parametrize(
    ("algorithm", "member"),
    [
        ("EdDSA", "x"),
        ("EdDSA", "crv"),
        ("ES256", "x"),
        ("ES256", "y"),
        ("ES256", "crv"),
        ("RS256", "n"),
        ("RS256", "e"),
    ],
)
@pytest.mark.parametrize("value", ["", "!", "AAAA", "A" * 10_000, None, 5, [], {}])
def test_broken_material_is_a_problem_and_never_shown(signers: Any, algorithm: str, member: str, value: object) -> None:
    jwk = signers[algorithm].jwk
    problem = only_problem({**jwk, member: value})
    for shown in jwk.values():
        if len(str(shown)) > 10:
            assert str(shown) not in problem


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.dictionaries(st.sampled_from(["kty", "kid", "use", "key_ops", "alg", "crv", "x", "y", "n", "e", "k"]), values),
    st.sampled_from(["OKP", "EC", "RSA", "oct"]),
)
def test_no_entry_raises(entry: dict[str, Any], kind: str) -> None:
    for tried in (entry, {**entry, "kty": kind, "kid": "a"}):
        found = parse_jwks({"keys": [tried]}, development=True)
        assert len(found) + len(found.problems) <= 1
