"""Whose a tenant is: the oldest claimant's, and after it, whoever may have what it left."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.operator.tenants.ownership import Claimant, Judgement, Verdict, judge
from heliograph.stores.ports import Owner

OLD = Claimant("2026-01-01T00:00:00Z", "uid-a", "team", "old", "acme")
YOUNG = Claimant("2026-01-02T00:00:00Z", "uid-b", "others", "young", "acme")


def judged(me: Claimant, *claimants: Claimant, owner: Owner | None = None, **facts: bool) -> Judgement:
    known = {"sees_owner": True, "had_it": False, "has_data": False, "adopts": False, **facts}
    return judge(me, claimants, owner, **known)


def test_the_oldest_has_it_whoever_is_looked_at_first() -> None:
    assert judged(YOUNG, OLD, YOUNG) == Judgement(Verdict.CONFLICT, "team/old")
    assert judged(OLD, OLD, YOUNG).verdict is Verdict.MAY_CLAIM


def test_who_has_it_keeps_it_from_an_older_one_that_comes_later() -> None:
    assert judged(OLD, OLD, YOUNG, owner=YOUNG.owner()) == Judgement(Verdict.CONFLICT, "others/young")
    assert judged(YOUNG, OLD, YOUNG, owner=YOUNG.owner()).verdict is Verdict.OWNS


def test_an_older_one_that_is_being_deleted_without_having_had_it_is_no_rival() -> None:
    assert judged(YOUNG, replace(OLD, deleting=True), YOUNG).verdict is Verdict.MAY_CLAIM


def test_one_of_another_tenant_is_no_rival() -> None:
    assert judged(YOUNG, replace(OLD, tenant="beta"), YOUNG).verdict is Verdict.MAY_CLAIM


@pytest.mark.parametrize("retained", [True, False])  # finalized in order, or its resource is simply gone
def test_what_is_left_is_for_its_namespace_and_for_others_only_where_it_is_said(retained: bool) -> None:
    left = OLD.owner(retained=retained)
    same = replace(YOUNG, namespace="team")
    assert judged(same, same, owner=left).verdict is Verdict.MAY_CLAIM
    assert judged(YOUNG, YOUNG, owner=left) == Judgement(Verdict.NOT_ITS_DATA, "team/old")
    assert judged(YOUNG, YOUNG, owner=left, adopts=True).verdict is Verdict.MAY_CLAIM


def test_an_owner_that_can_not_be_seen_is_there() -> None:
    assert judged(YOUNG, YOUNG, owner=OLD.owner(), sees_owner=False, adopts=True).verdict is Verdict.CONFLICT


def test_data_of_nobody_who_is_known_is_had_by_who_had_it_or_where_it_is_said() -> None:
    assert judged(OLD, OLD, has_data=True).verdict is Verdict.NOT_ITS_DATA
    assert judged(OLD, OLD, has_data=True, had_it=True).verdict is Verdict.MAY_CLAIM
    assert judged(OLD, OLD, has_data=True, adopts=True).verdict is Verdict.MAY_CLAIM


claimants = st.lists(
    st.builds(
        Claimant,
        st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]),
        st.sampled_from("abcdef"),
        st.sampled_from(["one", "two"]),
        st.just("x"),
        st.just("acme"),
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda one: one.uid,
)


@given(claimants, st.booleans(), st.data())
def test_never_may_two_have_it_at_once(found: list[Claimant], adopts: bool, data: st.DataObject) -> None:
    owners = (
        st.none()
        | st.sampled_from(found).map(Claimant.owner)
        | st.sampled_from(found).map(lambda one: one.owner(retained=True))
    )
    owner = data.draw(owners)
    alive = [one for one in found if not one.deleting]
    having = [
        one
        for one in alive
        if judged(one, *found, owner=owner, adopts=adopts).verdict in (Verdict.OWNS, Verdict.MAY_CLAIM)
    ]
    assert len(having) <= 1
