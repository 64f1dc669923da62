import re

import pytest

from heliograph.protocol.codes import CLOSES, CODES, Close, CloseCode, Code, GapReason
from heliograph.protocol.websocket import may_be_sent


@pytest.mark.parametrize("close", CLOSES.values(), ids=lambda close: close.name)
def test_every_close_code_says_by_its_number_whether_to_come_back(close: Close) -> None:
    if 4000 <= close.code < 4500:
        assert close.come_back
    elif close.code >= 4500:
        assert not close.come_back
    assert close.code < 3000 or 4000 <= close.code < 5000


def test_standard_codes_that_mean_trouble_on_the_way_are_come_back_codes() -> None:
    come_back = [code for code in range(1000, 1016) if Close(code, "", "").come_back]
    assert come_back == [1001, 1005, 1006, 1011, 1012, 1013]


def test_the_enumeration_and_the_table_of_close_codes_are_one() -> None:
    assert {code.value: code.name.lower() for code in CloseCode} == {
        close.code: close.name for close in CLOSES.values()
    }
    assert list(CLOSES) == sorted(CLOSES)


@pytest.mark.parametrize("close", CLOSES.values(), ids=lambda close: close.name)
def test_a_close_code_may_be_sent_and_its_name_fits_a_close_frame(close: Close) -> None:
    assert may_be_sent(close.code)
    assert re.fullmatch(r"[a-z0-9_]{1,60}", close.name)
    assert close.meaning.endswith(".")


@pytest.mark.parametrize("code", CODES.values(), ids=lambda code: code.code)
def test_every_code_has_a_status_that_fits_its_meaning(code: Code) -> None:
    assert re.fullmatch(r"[a-z0-9_]{1,40}", code.code)
    assert 400 <= code.http < 600
    assert code.meaning.endswith(".")
    if code.http >= 500:
        assert code.retry, "a failure on our side may pass"
    if code.http in (400, 401, 403, 404, 405, 410, 413):
        assert not code.retry, "the same request fails again"


def test_codes_are_filed_under_their_own_names() -> None:
    assert all(name == code.code for name, code in CODES.items())
    assert all(number == close.code for number, close in CLOSES.items())


def test_all_gap_reasons_are_listed() -> None:
    named = {value for name, value in vars(GapReason).items() if name.isupper() and name != "ALL"}
    assert set(GapReason.ALL) == named
    assert len(GapReason.ALL) == len(named)
