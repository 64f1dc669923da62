import pytest

from heliograph.client.addresses import Addresses, connect_url
from heliograph.core.errors import InvalidValueError


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("ws://edge:8080", "ws://edge:8080/v1/connect"),
        ("http://edge:8080/", "ws://edge:8080/v1/connect"),
        ("https://edge", "wss://edge/v1/connect"),
        ("wss://edge/behind/a/proxy", "wss://edge/behind/a/proxy"),
        ("ws://[::1]:8080", "ws://[::1]:8080/v1/connect"),
    ],
)
def test_the_address_of_an_edge_is_enough(given: str, url: str) -> None:
    assert connect_url(given) == url


@pytest.mark.parametrize(
    "url", ["edge:8080", "ftp://edge", "ws://", "ws://edge:99999", "ws://edge?token=eyJ", "ws://user:secret@edge", ""]
)
def test_what_is_no_address_is_refused_without_showing_secrets(url: str) -> None:
    with pytest.raises(InvalidValueError, match="ws://host") as caught:
        connect_url(url)
    assert "secret" not in str(caught.value)
    assert "eyJ" not in str(caught.value)


def test_no_address_at_all_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="at least one"):
        Addresses([], lambda: 0.0)


def test_each_is_tried_once_before_any_is_tried_again() -> None:
    addresses = Addresses(["ws://a", "ws://b", "ws://c"], lambda: 0.5)
    assert {addresses.next() for _ in range(3)} == set(addresses.urls)
    assert {addresses.next() for _ in range(3)} == set(addresses.urls)


def test_the_first_is_drawn_evenly() -> None:
    draws = [Addresses(["ws://a", "ws://b"], lambda share=share: share).next() for share in (0.0, 0.49, 0.5, 0.99)]  # type: ignore[misc]
    assert [url[5] for url in draws] == ["a", "a", "b", "b"]


def test_the_last_good_one_is_tried_first_and_only_once() -> None:
    addresses = Addresses(["ws://a", "ws://b", "ws://c"], lambda: 0.0)
    addresses.succeeded("ws://b/v1/connect")
    assert addresses.next() == "ws://b/v1/connect"
    assert {addresses.next(), addresses.next()} == {"ws://a/v1/connect", "ws://c/v1/connect"}


def test_one_that_asked_to_be_left_comes_last() -> None:
    addresses = Addresses(["ws://a", "ws://b"], lambda: 0.0)
    addresses.succeeded("ws://a/v1/connect")
    addresses.leave("ws://a/v1/connect")
    assert addresses.next() == "ws://b/v1/connect"


def test_the_only_one_is_gone_back_to() -> None:
    addresses = Addresses("ws://a", lambda: 0.0)
    addresses.leave("ws://a/v1/connect")
    assert addresses.next() == "ws://a/v1/connect"
