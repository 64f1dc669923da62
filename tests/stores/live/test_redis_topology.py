"""Which primary has what on a Redis Cluster, and what an answer that sends us elsewhere says."""

import hiredis
import pytest

from heliograph.stores.keys import SessionKeys, ShardKeys
from heliograph.stores.ports import StoreError
from heliograph.stores.redis.redirects import Again, Step, again, is_down, is_elsewhere, is_lost_primary
from heliograph.stores.redis.subscriptions import BATCH, batches
from heliograph.stores.redis.topology import agreed, changes, owners, primaries, slot_of, slot_of_virtual_shard, tag_of

HERE, A, B, C = ("10.0.0.9", 6379), ("10.0.0.1", 6379), ("10.0.0.2", 6380), ("10.0.0.3", 6379)


@pytest.mark.parametrize(
    ("key", "slot"),
    [
        (b"123456789", 0x31C3),
        (b"foo", 12182),
        (b"{user1000}.following", 3443),
        (b"foo{}{bar}", slot_of(b"foo{}{bar}")),
        (b"foo{bar}{zap}", slot_of(b"bar")),
    ],
)
def test_slots_are_those_of_the_specification(key: bytes, slot: int) -> None:
    assert slot_of(key) == slot


def test_all_keys_and_the_channel_of_a_virtual_shard_are_in_its_slot() -> None:
    for number in (0, 17, 255):
        shard, session = ShardKeys.of(number), SessionKeys.of("acme:planner:{odd}", number)
        keys = (shard.shard, shard.dirty, shard.idle, session.meta, session.window, session.ahead, session.cursors)
        assert {slot_of(key) for key in keys} == {slot_of_virtual_shard(number)}
        assert slot_of(session.id_prefix + b"my {id}") == slot_of_virtual_shard(number)
        assert tag_of(session.window) == b"v%d" % number


def test_virtual_shards_are_spread_over_three_equal_primaries() -> None:
    thirds = [slot_of_virtual_shard(number) * 3 // 16_384 for number in range(256)]
    assert all(60 <= thirds.count(third) <= 110 for third in range(3))


SLOTS = [
    [5461, 10922, [b"10.0.0.2", 6380, b"id-b", []], [b"10.0.0.8", 6379, b"replica", []]],
    [0, 5460, [b"10.0.0.1", 6379, b"id-a", []]],
    [10923, 16000, [b"10.0.0.3", 6379, b"id-c", []]],
]


def test_owners_are_the_primaries_of_an_answer_and_none_where_a_slot_has_none() -> None:
    ranges = primaries(SLOTS, HERE)
    assert owners(ranges, [0, 5460, 5461, 10922, 10923, 16000, 16001]) == [A, A, B, B, C, C, None]
    assert owners([], [1]) == [None]


@pytest.mark.parametrize("host", [None, b"", b"?"])
def test_a_node_that_does_not_know_its_name_is_where_it_was_asked(host: bytes | None) -> None:
    assert primaries([[0, 16383, [host, 7000, b"id", []]]], HERE) == [(0, 16383, ("10.0.0.9", 7000))]


@pytest.mark.parametrize("answer", [None, [1], [[0, 1]], [[b"x", 1, [b"h", 1]]], [[0, 1, [b"h", None]]]])
def test_an_answer_that_is_none_is_refused_and_names_who_gave_it(answer: object) -> None:
    with pytest.raises(StoreError) as caught:
        primaries(answer, HERE)
    assert "10.0.0.9:6379" in caught.value.message


def test_a_node_that_does_not_know_yet_is_outvoted() -> None:
    assert agreed([[A, A], [B, A], [B, None]]) == [B, A]
    assert agreed([[A], [B]]) == [A], "a tie: the first"
    assert agreed([[None], [C]]) == [C]
    assert agreed([[None]]) == [None]


def test_only_what_has_another_primary_changes_and_silence_changes_nothing() -> None:
    assert changes([A, A, B], [A, B, None]) == {1: B}
    assert changes([A], [None]) == {}


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("MOVED 3999 127.0.0.1:6381", Again(Step.FOLLOW, ("127.0.0.1", 6381))),
        ("MOVED 3999 :6381", Again(Step.FOLLOW, ("10.0.0.9", 6381))),
        ("MOVED 3999 2001:db8::1:6381", Again(Step.FOLLOW, ("2001:db8::1", 6381))),
        ("ASK 3999 redis-2.example:6381", Again(Step.ASK, ("redis-2.example", 6381))),
        ("TRYAGAIN Multiple keys request during rehashing of slot", Again(Step.WAIT)),
        ("ERR Function not found", Again(Step.LOAD)),
        ("MOVED nonsense", None),
        ("MOVED 1 nonsense", None),
        ("CLUSTERDOWN The cluster is down", None),
        ("READONLY You can't write against a read only replica.", None),
        ("ERR user_function:1: broke script: hg1_append", None),
    ],
)
def test_what_was_not_carried_out_is_asked_again_as_the_answer_says(said: str, wanted: Again | None) -> None:
    assert again(hiredis.ReplyError(said), HERE) == wanted


def test_what_is_no_error_of_redis_is_never_repeated() -> None:
    """A connection that broke may have carried it out."""
    for reply in (b"OK", [b"ok"], None, StoreError("live_unavailable", "MOVED 1 a:1", maybe_done=True)):
        assert again(reply, HERE) is None


def test_errors_tell_what_to_think_of_who_answered() -> None:
    error = hiredis.ReplyError
    assert is_lost_primary(error("READONLY You can't write against a read only replica."))
    assert is_down(error("CLUSTERDOWN Hash slot not served"))
    assert is_elsewhere(error("MOVED 1 a:1"))
    assert is_elsewhere(error("ASK 1 a:1"))
    for reply in (error("ERR x"), b"MOVED 1 a:1"):
        assert not is_lost_primary(reply)
        assert not is_down(reply)
        assert not is_elsewhere(reply)


SUB, UNSUB = b"ssubscribe", b"sunsubscribe"


def channel(shard: int, name: str = "a") -> bytes:
    return SessionKeys.of(f"acme:planner:{name}", shard).window


def test_a_command_of_a_cluster_names_channels_of_one_slot() -> None:
    asked = [(SUB, channel(1, "a")), (SUB, channel(2, "b")), (SUB, channel(1, "c"))]
    assert batches(asked, by_slot=True) == [(SUB, [channel(1, "a"), channel(1, "c")]), (SUB, [channel(2, "b")])]
    assert batches(asked, by_slot=False) == [(SUB, [channel for _, channel in asked])]


def test_leaving_and_coming_back_stay_in_their_order() -> None:
    one = channel(1)
    asked = [(UNSUB, one), (SUB, one), (UNSUB, one), (SUB, one)]
    assert batches(asked, by_slot=True) == [(kind, [name]) for kind, name in asked]


def test_batches_are_bounded() -> None:
    asked = [(SUB, channel(1, str(number))) for number in range(BATCH + 3)]
    assert [len(channels) for _, channels in batches(asked, by_slot=True)] == [BATCH, 3]
