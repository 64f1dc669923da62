"""revocations: tokens that are no longer taken."""

from hypothesis import given
from hypothesis import strategies as st

from heliograph.core.revocations import Revocations

names = st.none() | st.sampled_from(["a", "b", "c"])
times = st.none() | st.integers(0, 5)
revocations = st.lists(st.tuples(names, names, times), max_size=6)


Entry = tuple[str | None, str | None, float | None]


def covers(revocation: Entry, jti: str | None, sub: str, iat: float | None) -> bool:
    """The rule for one, written down plainly."""
    token_id, subject, before = revocation
    if (token_id, subject, before) == (None, None, None):
        return False
    return token_id in (None, jti) and subject in (None, sub) and (before is None or iat is None or iat < before)


@given(revocations, names, st.sampled_from(["a", "b", "c"]), times)
def test_a_token_is_revoked_where_all_that_one_entry_says_holds_for_it(
    entries: list[Entry], jti: str | None, sub: str, iat: float | None
) -> None:
    assert Revocations(entries).cover(jti, sub, iat) == any(covers(entry, jti, sub, iat) for entry in entries)


def test_a_token_that_does_not_say_when_it_was_issued_counts_as_issued_before() -> None:
    assert Revocations([(None, "planner", 0)]).cover("t", "planner", None)


def test_nothing_is_revoked_where_nothing_is_said() -> None:
    assert not Revocations([]).cover(None, "planner", None)
    assert not Revocations([(None, None, None)]).cover(None, "planner", None)
