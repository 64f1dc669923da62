"""Who a Redis will not have is told which setting to look at."""

import pytest

from heliograph.stores.redis.refusing import explained


@pytest.mark.parametrize(
    ("message", "part"),
    [
        ("WRONGPASS invalid username-password pair or user is disabled.", "user and password"),
        ("NOAUTH Authentication required.", "user and password"),
        ("NOPERM this user has no permissions to run the command", "user and password"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed", "ssl_ca_certs"),
        ("[SSL: WRONG_VERSION_NUMBER] wrong version number", "rediss://"),
    ],
)
def test_what_is_about_who_we_are_names_the_setting(message: str, part: str) -> None:
    shown = explained(message, "redis_url")
    assert shown.startswith(message)
    assert part in shown
    assert shown.endswith("in redis_url")


def test_anything_else_stays_as_it_is() -> None:
    assert explained("connection refused", "redis_url") == "connection refused"
