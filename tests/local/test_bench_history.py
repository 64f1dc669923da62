"""The messages that replay is measured with, and what is made of its answer."""

from collections import Counter
from itertools import pairwise

from heliograph.core.positions import Position
from heliograph.local.bench.fill import one_among_many
from heliograph.local.bench.history import judge
from heliograph.protocol.messages import frame

SESSION = "bench-history:planner:wanted"
END = b'{"type":"end","next":null,"complete":true,"resume":null}\n'


def stream(count: int) -> list[bytes]:
    """Frames of the wanted session, as replay sends them."""
    messages = one_among_many(SESSION, "bench-history", wanted=count, others=0, sessions=1)
    return [frame(message) + b"\n" for message in messages]


def test_one_session_is_spread_evenly_among_the_others() -> None:
    sessions = [m.session for m in one_among_many(SESSION, "t", wanted=10, others=90, sessions=5)]
    places = [at for at, session in enumerate(sessions) if session == SESSION]
    assert len(sessions) == 100
    assert len(places) == 10
    assert {after - before for before, after in pairwise(places)} == {10}


def test_positions_of_each_session_are_contiguous() -> None:
    seen: Counter[str] = Counter()
    for message in one_among_many(SESSION, "t", wanted=10, others=40, sessions=5):
        seen[message.session] += 1
        assert Position.parse(message.position or "").seq == seen[message.session]


def test_a_whole_stream_is_taken() -> None:
    assert judge(b"".join([*stream(5), END]), 5) == (0, "")


def test_a_message_that_is_not_there_is_noticed() -> None:
    lines = stream(5)
    del lines[2]
    missing, fault = judge(b"".join([*lines, END]), 5)
    assert missing == 1
    assert fault == "4 of 5 messages came, or not in order"


def test_order_is_looked_at() -> None:
    lines = stream(3)
    assert judge(b"".join([lines[1], lines[0], lines[2], END]), 3)[1] == "3 of 3 messages came, or not in order"


def test_a_gap_is_no_message() -> None:
    gap = b'{"type":"gap","session":"bench-history:planner:wanted","reason":"retention"}\n'
    assert judge(b"".join([gap, *stream(2), END]), 2)[1] == "1 lines are no messages"


def test_a_stream_that_was_cut_off_is_not_complete() -> None:
    cut = END.replace(b"true", b"false")
    assert judge(b"".join([*stream(2), cut]), 2)[1] == "the stream does not say that it is complete"
