import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocol.strategies import NONCHARACTERS, names

from heliograph.core.errors import InvalidValueError
from heliograph.protocol.frames import RESERVED_EVENT_TYPE_PREFIX, check_name
from heliograph.protocol.messages import DEFAULT_EVENT_TYPE, OWN_EVENT_TYPES


@given(names)
def test_a_line_of_text_is_a_name(name: str) -> None:
    assert check_name("consumer", name) == name


@pytest.mark.parametrize(
    "name", ["planner", "user/Zoë", "日本語", "a b", "😀", "'\"\\{}[]", "com.example.order", "\u00ad"]
)
def test_names_of_any_script_are_taken(name: str) -> None:
    assert check_name("consumer", name) == name


@given(
    st.text(max_size=5),
    st.characters(categories=["Cc", "Cs"]) | st.sampled_from(NONCHARACTERS),
    st.text(max_size=5),
)
def test_controls_surrogates_and_noncharacters_are_no_part_of_a_name(before: str, bad: str, after: str) -> None:
    with pytest.raises(InvalidValueError) as raised:
        check_name("correlation_id", before + bad + after)
    assert (raised.value.code, raised.value.field) == ("value_invalid", "correlation_id")


@pytest.mark.parametrize("code", [*range(0x20), *range(0x7F, 0xA0)])
def test_every_control_character_is_refused(code: int) -> None:
    with pytest.raises(InvalidValueError, match="control characters"):
        check_name("producer", f"a{chr(code)}b")


@pytest.mark.parametrize("name", ["", " ", "  \u3000\u2003", "\u00a0"])
def test_a_blank_name_is_none(name: str) -> None:
    with pytest.raises(InvalidValueError, match="not blank"):
        check_name("producer", name)


@pytest.mark.parametrize("event_type", [DEFAULT_EVENT_TYPE, *OWN_EVENT_TYPES, RESERVED_EVENT_TYPE_PREFIX + "x"])
def test_publishers_may_not_use_the_event_types_of_our_own_records(event_type: str) -> None:
    with pytest.raises(InvalidValueError, match="without the prefix"):
        check_name("event_type", event_type)
    assert check_name("correlation_id", event_type) == event_type


def test_event_types_that_only_look_alike_are_taken() -> None:
    for event_type in ("dev.heliographs.x", "dev.heliograph", "com.dev.heliograph.x", "DEV.heliograph.x"):
        assert check_name("event_type", event_type) == event_type


def test_the_refusal_shows_the_name_escaped_and_cut() -> None:
    with pytest.raises(InvalidValueError) as raised:
        check_name("producer", "\x1b[31m" + "x" * 500)
    assert "\x1b" not in raised.value.message
    assert len(raised.value.message) < 250
