"""What a Redis URL says, of each of the three kinds, and that nothing secret of it is ever shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.core.errors import InvalidValueError
from heliograph.stores.redis.address import RedisAddress, RedisKind, RedisLocation


def test_one_server_is_read_from_its_url() -> None:
    url = "rediss://us%3Aer:p%40ss@redis.example:7000/2?ssl_ca_certs=/ca.pem&ssl_cert_reqs=none"
    address = RedisAddress("redis.example", 7000, 2, "us:er", "p@ss", True, "/ca.pem", False)
    assert RedisAddress.parse(url) == address
    location = RedisLocation.parse(url)
    assert (location.kind, location.seeds) == (RedisKind.SINGLE, (("redis.example", 7000),))
    assert location.at("redis.example", 7000) == address
    assert RedisAddress.parse("redis://localhost") == RedisAddress("localhost", 6379)
    assert RedisAddress.parse("redis://[::1]:7000/") == RedisAddress("::1", 7000)


def test_sentinels_the_name_of_their_primary_and_both_credentials_are_read() -> None:
    location = RedisLocation.parse(
        "rediss+sentinel://app:p%2Fw@s1,10.0.0.2:26380,[fd00::3]:26381/heliograph-live/3"
        "?sentinel_username=watch&sentinel_password=s%26w&ssl_ca_certs=/ca.pem"
    )
    assert location.kind is RedisKind.SENTINEL
    assert location.seeds == (("s1", 26379), ("10.0.0.2", 26380), ("fd00::3", 26381))
    assert location.master == "heliograph-live"
    assert location.at("10.1.1.1", 6379) == RedisAddress("10.1.1.1", 6379, 3, "app", "p/w", True, "/ca.pem")
    assert location.sentinel_at("s1", 26379) == RedisAddress("s1", 26379, 0, "watch", "s&w", True, "/ca.pem")


def test_sentinels_get_no_credentials_that_are_the_servers_alone() -> None:
    sentinel = RedisLocation.parse("redis+sentinel://app:secret@s1/m").sentinel_at("s1", 26379)
    assert (sentinel.username, sentinel.password) == ("", "")


def test_nodes_of_a_cluster_are_read_and_found_ones_get_the_same_credentials() -> None:
    location = RedisLocation.parse("redis+cluster://:secret@n1,n2:7001/0")
    assert (location.kind, location.seeds, location.database) == (RedisKind.CLUSTER, (("n1", 6379), ("n2", 7001)), 0)
    assert location.at("n3", 6379) == RedisAddress("n3", 6379, password="secret")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://h:1", "redis+sentinel://"),
        ("redis+sentinal://h/m", "redis+sentinel://"),
        ("", "redis://"),
        ("h:6379", "redis://"),
        ("redis://", "each host is"),
        ("redis://u:s3cret@/0", "each host is"),
        ("redis://h:0", "1 to 65535"),
        ("redis://h:99999", "1 to 65535"),
        ("redis://h:999999", "1 to 65535"),
        ("redis://h:s3cret", "1 to 65535"),
        ("redis://u:s3cret/s3cret@h/0", "each host is"),
        ("redis://u:12/s3cret@h/0", "a database is a number"),
        ("redis://u:12#s3cret@h/0", "%23"),
        ("redis://u:12?s3cret@h/0", "are none"),
        ("redis://h/x", "a database is a number"),
        ("redis://h/-1", "a database is a number"),
        ("redis://h1,h2", "redis+cluster://"),
        ("redis://[::1", "IPv6 in brackets"),
        ("redis://[:::1]", "no IPv6 address"),
        ("redis://fd00::1", "IPv6 in brackets"),
        ("redis+sentinel://s1,s2", "comes after the hosts"),
        ("redis+sentinel://s1/", "comes after the hosts"),
        ("redis+sentinel://s1//0", "comes after the hosts"),
        ("redis+sentinel://s1,,s2/m", "each host is"),
        ("redis+sentinel://s1/m/x", "a database is a number"),
        ("redis+sentinel://s1/m/1/2", "a database is a number"),
        ("redis+cluster://n1,n2/1", "only database 0"),
        ("redis+cluster://n1?sentinel_password=s3cret", "are none"),
        ("rediss+cluster://n1?ssl_ca_cert=/s3cret", "are ssl_ca_certs, ssl_cert_reqs"),
        ("redis+sentinel://s1/m?sentinel_pasword=s3cret", "are sentinel_password, sentinel_username"),
        ("rediss://h?ssl_cert_reqs=s3cret", "ssl_cert_reqs is required or none"),
        ("redis://h?ssl_ca_certs=/ca.pem", "are none"),
    ],
)
def test_a_url_that_is_none_is_refused_with_what_is_wrong_and_nothing_secret(url: str, says: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        RedisLocation.parse(url)
    assert says in str(caught.value)
    assert "s3cret" not in str(caught.value)


@given(st.text(st.sampled_from("rediscluntp+:/?#@[],.%0123456789 é\0"), max_size=40))
def test_any_text_is_a_location_or_refused(text: str) -> None:
    for url in (text, "redis+sentinel://" + text, "rediss+cluster://" + text):
        try:
            RedisLocation.parse(url)
        except InvalidValueError:
            continue


def test_where_only_one_server_is_possible_the_others_are_refused() -> None:
    for url in ("redis+sentinel://u:s3cret@s1/m", "rediss+cluster://u:s3cret@n1"):
        with pytest.raises(InvalidValueError, match="only one server") as caught:
            RedisAddress.parse(url)
        assert "s3cret" not in str(caught.value)


def test_no_text_of_a_location_shows_a_password() -> None:
    for url in (
        "redis://u:s3cret@h",
        "redis+sentinel://u:s3cret@s1,[::1]/m?sentinel_password=s3cret",
        "redis+cluster://u:s3cret@n1",
    ):
        location = RedisLocation.parse(url)
        shown = f"{location} {location!r} {location.at('h', 1)!r} {location.sentinel_at('h', 1)!r}"
        assert "s3cret" not in shown
    assert str(RedisLocation.parse("redis+sentinel://s1,[::1]/m")) == "m by sentinels s1:26379,[::1]:26379"
