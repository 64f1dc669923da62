"""scopes: what a token may do, and to which sessions."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliograph.core.errors import InvalidValueError
from heliograph.core.scopes import MAX_SCOPES, REMEMBERED_ANSWERS, Operation, Scopes
from heliograph.core.sessions import SessionKey

PUBLISH, SUBSCRIBE, SERVE = Operation.PUBLISH, Operation.SUBSCRIBE, Operation.SERVE


def session(text: str) -> SessionKey:
    return SessionKey.parse(text)


def allowed(scope: str, operation: Operation, text: str) -> bool:
    return Scopes("acme", [scope]).allows(operation, session(text))


def test_an_exact_scope_is_for_one_session() -> None:
    assert allowed("publish:planner:42", PUBLISH, "acme:planner:42")
    assert not allowed("publish:planner:42", PUBLISH, "acme:planner:420")
    assert not allowed("publish:planner:42", PUBLISH, "acme:coder:42")
    assert not allowed("publish:planner:42", SUBSCRIBE, "acme:planner:42")


def test_a_prefix_is_for_what_begins_with_it() -> None:
    assert allowed("publish:planner:trip-*", PUBLISH, "acme:planner:trip-9")
    assert allowed("publish:planner:trip-*", PUBLISH, "acme:planner:trip-")
    assert not allowed("publish:planner:trip-*", PUBLISH, "acme:planner:Trip-9")
    assert not allowed("publish:planner:trip-*", PUBLISH, "acme:planner:a-trip-9")


def test_stars_are_for_all_of_the_tenant_and_no_other() -> None:
    assert allowed("publish:*:*", PUBLISH, "acme:planner:42")
    assert not allowed("publish:*:*", PUBLISH, "other:planner:42")
    assert allowed("publish:*:42", PUBLISH, "acme:coder:42")
    assert not allowed("publish:*:42", PUBLISH, "acme:coder:43")


def test_no_operation_implies_another() -> None:
    for given_one in Operation:
        scopes = Scopes("acme", [f"{given_one}:*:*"])
        assert [each for each in Operation if scopes.allows(each, session("acme:a:b"))] == [given_one]


def test_a_whole_agent_type_needs_a_star() -> None:
    assert Scopes("acme", ["serve:planner:*"]).allows_every(SERVE, "acme", "planner")
    assert Scopes("acme", ["serve:*:*"]).allows_every(SERVE, "acme", "planner")
    assert not Scopes("acme", ["serve:planner:a*"]).allows_every(SERVE, "acme", "planner")
    assert not Scopes("acme", ["serve:planner:*"]).allows_every(SERVE, "other", "planner")
    assert not Scopes("acme", ["serve:planner:*"]).allows_every(SERVE, "acme")
    assert Scopes("acme", ["serve:*:*"]).allows_every(SERVE, "acme")
    assert not Scopes("acme", ["serve:planner:*"]).allows_every(SERVE, "acme", "*")
    assert not Scopes("acme", []).allows_every(SERVE, "acme", "planner")


def test_a_claim_is_a_list_or_one_string() -> None:
    for claim in (["publish:a:b", "subscribe:a:c"], "publish:a:b subscribe:a:c", ("publish:a:b", "subscribe:a:c")):
        scopes = Scopes.parse("acme", claim)
        assert scopes.allows(PUBLISH, session("acme:a:b"))
        assert scopes.allows(SUBSCRIBE, session("acme:a:c"))
    assert not Scopes.parse("acme", "").allows(PUBLISH, session("acme:a:b"))


@pytest.mark.parametrize("claim", [None, 7, {"publish:a:b": True}, b"publish:a:b"])
def test_another_claim_is_refused(claim: object) -> None:
    with pytest.raises(InvalidValueError, match="scope_invalid"):
        Scopes.parse("acme", claim)


MALFORMED = [
    "", ":", "::", "publish", "publish:planner", "publish:planner:", "publish::42", ":planner:42",
    "write:planner:42", "Publish:planner:42", "*:planner:42", "publish:plan*:42", "publish:planner:**",
    "publish:planner:4*2", "publish:planner:*2", "publish:planner:42:43", "publish:planner:..", "publish:planner:a/b",
    "publish:Planner:42", "publish:planner:42\n", " publish:planner:42", "publish:planner:４２", "publish:-a:42",
    "publish:planner:%2A", "publish:planner:a b", "publish:" + "a" * 64 + ":1", "publish:a:" + "a" * 129, 7, None,
]  # fmt: skip


@pytest.mark.parametrize("scope", MALFORMED)
def test_a_malformed_scope_is_refused_by_name(scope: object) -> None:
    with pytest.raises(InvalidValueError, match=re.escape(repr(scope)[:40])) as refused:
        Scopes("acme", ["publish:a:b", scope])  # type: ignore[list-item]
    assert refused.value.code == "scope_invalid"
    assert refused.value.field == "scope"


def test_a_token_of_too_many_scopes_is_refused() -> None:
    assert Scopes("acme", [f"publish:a:{number}" for number in range(MAX_SCOPES)])
    with pytest.raises(InvalidValueError, match="scope_invalid"):
        Scopes("acme", (f"publish:a:{number}" for number in range(MAX_SCOPES + 1)))


def test_what_is_remembered_is_bounded_and_stays_right() -> None:
    scopes = Scopes("acme", ["publish:a:1*"])
    keys = [SessionKey("acme", "a", str(number)) for number in range(3 * REMEMBERED_ANSWERS)]
    for _ in range(2):
        assert [scopes.allows(PUBLISH, key) for key in keys] == [key.session_id.startswith("1") for key in keys]
        assert all(len(answers) <= REMEMBERED_ANSWERS for answers in scopes._answers.values())


labels = st.sampled_from(["a", "b", "ab"])
ids = st.text("xy", min_size=1, max_size=3)
scope_parts = st.tuples(
    st.sampled_from(Operation), labels | st.just("*"), ids | st.just("*") | ids.map(lambda prefix: prefix + "*")
)


@given(
    st.lists(scope_parts, max_size=8),
    st.lists(st.tuples(st.sampled_from(Operation), st.sampled_from(["acme", "other"]), labels, ids), max_size=20),
)
@settings(deadline=None)
def test_the_answer_is_that_of_reading_each_scope(
    parts: list[tuple[Operation, str, str]], asked: list[tuple[Operation, str, str, str]]
) -> None:
    scopes = Scopes("acme", [":".join(part) for part in parts])
    for operation, tenant, agent_type, session_id in asked:
        expected = tenant == "acme" and any(
            operation == one
            and kind in ("*", agent_type)
            and (session_id.startswith(which[:-1]) if which.endswith("*") else session_id == which)
            for one, kind, which in parts
        )
        assert scopes.allows(operation, SessionKey(tenant, agent_type, session_id)) == expected


SCOPE = re.compile(
    r"(publish|subscribe|history|presence|serve|admin):(\*|[a-z0-9]|[a-z0-9][a-z0-9-]{0,61}[a-z0-9])"
    r":(\*|[A-Za-z0-9][A-Za-z0-9._~-]{0,127}\*?)"
)


@given(st.text(max_size=40) | st.from_regex(SCOPE) | st.text(":*-aZ0.", max_size=8).map("publish:{}".format))
@settings(deadline=None)
def test_any_text_is_a_scope_or_refused_with_its_code(text: str) -> None:
    if SCOPE.fullmatch(text):
        assert Scopes("acme", [text])
    else:
        with pytest.raises(InvalidValueError, match="scope_invalid"):
            Scopes("acme", [text])
