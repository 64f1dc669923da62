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
    for _ in range(2):
        tried = set()
        for _ in range(3):
            url = addresses.next(0.0)
            tried.add(url)
            addresses.failed(url, None, 0.0)
        assert tried == set(addresses.urls)


def test_the_last_good_one_is_tried_first_and_only_once() -> None:
    addresses = Addresses(["ws://a", "ws://b", "ws://c"], lambda: 0.0)
    addresses.succeeded("ws://b/v1/connect", None)
    assert addresses.next(0.0) == "ws://b/v1/connect"
    addresses.failed("ws://b/v1/connect", None, 0.0)
    assert addresses.next(0.0) != "ws://b/v1/connect"


def test_the_only_one_is_gone_back_to() -> None:
    addresses = Addresses("ws://a", lambda: 0.0)
    addresses.failed("ws://a/v1/connect", None, 0.0)
    assert addresses.next(0.0) == "ws://a/v1/connect"


def test_a_balancer_is_told_the_same_until_the_edge_it_leads_to_does_not_do() -> None:
    addresses = Addresses("ws://a", lambda: 0.0)
    hint = addresses.hint
    addresses.succeeded("ws://a/v1/connect", "10.0.0.1 80")
    assert addresses.hint == hint
    addresses.failed("ws://a/v1/connect", "10.0.0.1 80", 0.0)
    assert addresses.hint != hint


def test_clients_of_one_affinity_are_led_to_one_edge_and_others_anywhere() -> None:
    def hint(affinity: str | None) -> str:
        return Addresses("ws://a", lambda: 0.0, affinity).hint

    assert hint("acme:planner:1") == hint("acme:planner:1") != hint("acme:planner:2")
    assert hint(None) != hint(None)
    assert "acme" not in hint("acme:planner:1")
