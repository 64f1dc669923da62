"""Where the operator may be sent to by a Tenant's author: public addresses of hosts on the list, nothing else."""

import pytest

from heliograph.operator.tenants.addresses import address_problem, url_problem

HOSTS = frozenset({"login.example.com"})


@pytest.mark.parametrize(
    "url", ["https://login.example.com/jwks", "https://LOGIN.example.com:8443/a?b=c", "https://login.example.com./x"]
)
def test_https_of_a_host_on_the_list_may_be_fetched(url: str) -> None:
    assert url_problem(url, HOSTS) is None


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://login.example.com/jwks", "https"),
        ("file:///etc/passwd", "https"),
        ("https://user:secret@login.example.com/", "user"),
        ("https://login.example.com@evil.example/", "user"),
        ("https://evil.example/", "not among"),
        ("https://login.example.com.evil.example/", "not among"),
        ("https://login.example.com:99999/", "no URL"),
        ("https://[::1", "no URL"),
        ("https:///jwks", "no host"),
        ("https://169.254.169.254/latest", "not among"),
    ],
)
def test_what_is_not_may_not(url: str, problem: str) -> None:
    assert problem in (url_problem(url, HOSTS) or "")


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "64:ff9b::5db8:d822"])
def test_public_addresses_may_be_connected_to(address: str) -> None:
    assert address_problem(address, private=False) is None


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1", "172.16.0.1", "192.168.1.1", "127.0.0.1", "100.64.0.1", "::1", "fd00::1", "::ffff:10.0.0.1",
        "64:ff9b::a00:1", "2002:a00:1::",
    ],
)  # fmt: skip
def test_private_addresses_only_of_hosts_that_may_be_there(address: str) -> None:
    assert address_problem(address, private=False) is not None
    assert address_problem(address, private=True) is None


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254", "fe80::1", "fe80::1%eth0", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255",
        "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::",
    ],
)  # fmt: skip
def test_link_local_and_the_like_are_never_connected_to(address: str) -> None:
    assert address_problem(address, private=True) is not None
