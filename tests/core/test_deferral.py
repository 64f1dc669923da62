"""deferral: what becomes of a deferred message."""

import pytest

from heliograph.core.deferral import AFTER, TURN_S, Step, after
from heliograph.stores.ports import AppendStatus


def test_every_answer_of_the_live_store_has_a_next_step() -> None:
    assert AFTER.keys() == {status.value for status in AppendStatus}


@pytest.mark.parametrize("status", AFTER)
@pytest.mark.parametrize("confirmed", [True, False])
@pytest.mark.parametrize("waited_s", [0.0, TURN_S, 1e9])
def test_nothing_is_dropped_but_what_was_taken(status: str, confirmed: bool, waited_s: float) -> None:
    step = after(status, confirmed=confirmed, waited_s=waited_s)
    assert (step is Step.DONE) == ((status == "duplicate" and confirmed) or status == "producer_seq_expired")


def test_a_repeat_that_the_log_may_lack_is_followed() -> None:
    assert after("duplicate", confirmed=False, waited_s=0.0) is Step.FOLLOW


@pytest.mark.parametrize("status", ["out_of_order", "producer_unknown"])
def test_an_earlier_one_is_waited_for_and_not_for_ever(status: str) -> None:
    assert after(status, confirmed=False, waited_s=TURN_S - 0.1) is Step.WAIT_TURN
    assert after(status, confirmed=False, waited_s=TURN_S) is Step.JUDGE_BY_ID
