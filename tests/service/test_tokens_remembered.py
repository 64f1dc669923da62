"""Tokens that were verified once: remembered, bounded, and never longer than they hold."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from heliograph.protocol.tenants import Revocation
from heliograph.service.metrics import Metrics
from heliograph.service.tokens import TokenError, TokenReason, TokenVerifier

NOW = 1_800_000_000
"""As `now`, for tables."""


def refusal(verifier: TokenVerifier, token: str) -> TokenError:
    with pytest.raises(TokenError) as caught:
        verifier.verify(token)
    return caught.value


def test_a_token_is_checked_once(verifier: TokenVerifier, signers: Any, metrics: Metrics) -> None:
    token = signers["EdDSA"].sign()
    first = verifier.verify(token)
    assert verifier.verify(token) is first
    assert metrics.value("tokens_accepted_total", {"how": "signature"}) == 1
    assert metrics.value("tokens_accepted_total", {"how": "memory"}) == 1


def test_a_remembered_token_runs_out(
    make: Callable[..., TokenVerifier], signers: Any, metrics: Metrics, now: float
) -> None:
    at = now
    verifier = make(clock=lambda: at)
    token = signers["EdDSA"].sign({"exp": now + 60})
    verifier.verify(token)
    at = now + 70
    assert refusal(verifier, token).reason is TokenReason.EXPIRED
    assert metrics.value("tokens_remembered") == 0


def test_a_remembered_token_is_judged_by_the_tenants_record_of_now(
    verifier: TokenVerifier, tenants: Any, signers: Any, new_signer: Any
) -> None:
    signer = signers["EdDSA"]
    token = signer.sign()
    verifier.verify(token)
    tenants.put("acme", [signer.jwk], suspended=True)
    assert refusal(verifier, token).reason is TokenReason.TENANT_SUSPENDED
    tenants.put("acme", [signer.jwk])
    verifier.verify(token)
    tenants.put("acme", [new_signer("EdDSA", "next").jwk])
    assert refusal(verifier, token).reason is TokenReason.KEY_UNKNOWN
    tenants.put("acme", [signer.jwk])
    verifier.verify(token)
    del tenants.entries["acme"]
    assert refusal(verifier, token).reason is TokenReason.TENANT_UNKNOWN


def test_remembered_tokens_are_bounded_and_the_least_used_goes(
    make: Callable[..., TokenVerifier], signers: Any, metrics: Metrics
) -> None:
    verifier = make(max_remembered=2)
    first, second, third = (signers["EdDSA"].sign({"sub": name}) for name in ("a", "b", "c"))
    for token in (first, second, first, third, first):
        verifier.verify(token)
    assert metrics.value("tokens_remembered") == 2
    assert metrics.value("tokens_accepted_total", {"how": "signature"}) == 3
    verifier.verify(second)
    assert metrics.value("tokens_accepted_total", {"how": "signature"}) == 4


def test_a_refused_token_is_not_remembered(verifier: TokenVerifier, signers: Any, metrics: Metrics) -> None:
    refusal(verifier, signers["EdDSA"].sign({"aud": "x"}))
    assert metrics.value("tokens_remembered") == 0


def test_an_identity_holds_as_long_as_its_tenant_key_and_time_do(
    make: Callable[..., TokenVerifier], tenants: Any, signers: Any, new_signer: Any, now: float
) -> None:
    at = now
    verifier = make(clock=lambda: at)
    signer = signers["EdDSA"]
    identity = verifier.verify(signer.sign({"exp": now + 60}))
    assert verifier.refusal(identity) is None
    tenants.put("acme", [new_signer("EdDSA", "next").jwk])
    assert verifier.refusal(identity) is TokenReason.KEY_UNKNOWN
    tenants.put("acme", [signer.jwk], suspended=True)
    assert verifier.refusal(identity) is TokenReason.TENANT_SUSPENDED
    tenants.put("acme", [signer.jwk])
    assert verifier.refusal(identity) is None
    at = now + 70
    assert verifier.refusal(identity) is TokenReason.EXPIRED
    at = now
    del tenants.entries["acme"]
    assert verifier.refusal(identity) is TokenReason.TENANT_UNKNOWN


def test_a_check_of_an_identity_raises_and_counts_as_a_refused_token_does(
    make: Callable[..., TokenVerifier], tenants: Any, signers: Any, metrics: Metrics
) -> None:
    verifier = make()
    signer = signers["EdDSA"]
    identity = verifier.verify(signer.sign())
    verifier.check(identity)
    tenants.put("acme", [signer.jwk], revoked=[Revocation(subject="planner-1")])
    with pytest.raises(TokenError) as caught:
        verifier.check(identity)
    assert (caught.value.code, caught.value.tenant) == ("token_revoked", "acme")
    assert metrics.value("tokens_refused_total", {"reason": "token_revoked"}) == 1


def test_another_key_under_the_old_id_ends_what_the_old_one_signed(
    verifier: TokenVerifier, tenants: Any, signers: Any, new_signer: Any
) -> None:
    signer = signers["EdDSA"]
    identity = verifier.verify(signer.sign())
    tenants.put("acme", [new_signer("EdDSA", signer.key_id).jwk])
    assert verifier.refusal(identity) is TokenReason.KEY_UNKNOWN
    tenants.put("acme", [{**signer.jwk, "kid": "renamed"}])
    assert verifier.refusal(identity) is None


@pytest.mark.parametrize(
    ("revoked", "hit"),
    [
        ({"jti": "t-1"}, True),
        ({"jti": "t-2"}, False),
        ({"subject": "planner-1"}, True),
        ({"subject": "planner-2"}, False),
        ({"subject": "planner-1", "before": NOW - 60}, False),
        ({"subject": "planner-1", "before": NOW - 59}, True),
        ({"before": NOW}, True),
        ({"jti": "t-1", "subject": "planner-2"}, False),
    ],
)
def test_a_revoked_token_is_refused_new_remembered_or_in_use(
    verifier: TokenVerifier, tenants: Any, signers: Any, now: float, revoked: dict[str, Any], hit: bool
) -> None:
    signer = signers["EdDSA"]
    token = signer.sign({"jti": "t-1", "iat": now - 60})
    identity = verifier.verify(token)
    tenants.put("acme", [signer.jwk], revoked=[Revocation(**revoked)])
    assert verifier.refusal(identity) is (TokenReason.REVOKED if hit else None)
    unseen = signer.sign({"jti": "t-1", "iat": now - 60, "exp": now + 99})
    for one in (token, unseen):
        if hit:
            error = refusal(verifier, one)
            assert (error.code, error.reason) == ("token_revoked", TokenReason.REVOKED)
        else:
            assert verifier.verify(one).subject == "planner-1"
    tenants.put("acme", [signer.jwk])
    assert verifier.verify(token).token_id == "t-1"


def test_a_token_without_a_time_of_issue_is_revoked_by_any_time(
    verifier: TokenVerifier, tenants: Any, signers: Any
) -> None:
    signer = signers["EdDSA"]
    tenants.put("acme", [signer.jwk], revoked=[Revocation(subject="planner-1", before=1)])
    assert refusal(verifier, signer.sign()).reason is TokenReason.REVOKED


def test_who_is_revoked_learns_nothing_without_the_key(
    verifier: TokenVerifier, tenants: Any, signers: Any, new_signer: Any
) -> None:
    tenants.put("acme", [signers["EdDSA"].jwk], revoked=[Revocation(subject="planner-1")])
    assert refusal(verifier, new_signer("EdDSA", "eddsa").sign()).code == "unauthenticated"


def test_a_bad_key_of_a_tenant_is_logged_by_its_id_once_a_record(
    verifier: TokenVerifier, tenants: Any, signers: Any, metrics: Metrics, log_lines: Callable[[], list[dict[str, Any]]]
) -> None:
    tenants.put("acme", [signers["EdDSA"].jwk, {"kty": "RSA", "kid": "broken", "n": "hunter2", "e": "AQAB"}])
    for name in ("a", "b", "c"):
        verifier.verify(signers["EdDSA"].sign({"sub": name}))
    assert metrics.value("tenant_keys_refused_total") == 1
    (line,) = log_lines()
    assert (line["event"], line["tenant"], line["kid"]) == ("tenant_key_refused", "acme", "broken")
    assert "hunter2" not in json.dumps(line)
