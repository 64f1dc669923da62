"""addresses: who is behind a proxy, by what trusted hops say and nobody else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliograph.core.addresses import ClientAddresses, Origin, hops_of_forwarded, hops_of_x_forwarded_for
from heliograph.core.errors import InvalidValueError

OURS = ClientAddresses(["10.0.0.0/8", "192.0.2.7", "fd00::/8"])


def behind(*values: str, peer: str = "10.0.0.1") -> Origin:
    return OURS.of(peer, hops_of_x_forwarded_for(values))


def test_a_peer_that_is_no_proxy_is_itself_whatever_it_says() -> None:
    for header in ("198.51.100.1", "10.0.0.9", "10.0.0.9, 10.0.0.8", "", "junk"):
        assert behind(header, peer="203.0.113.9") == Origin("203.0.113.9", proxied=False)


def test_the_first_hop_from_the_right_that_is_not_ours_is_the_client() -> None:
    assert behind("203.0.113.9") == Origin("203.0.113.9", proxied=True)
    assert behind("203.0.113.9, 10.2.3.4") == Origin("203.0.113.9", proxied=True)
    assert behind("203.0.113.9", "192.0.2.7,10.2.3.4") == Origin("203.0.113.9", proxied=True)


def test_what_a_client_wrote_left_of_that_is_not_believed() -> None:
    assert behind("198.51.100.1, 203.0.113.9") == Origin("203.0.113.9", proxied=True)
    assert behind("10.9.9.9, 203.0.113.9, 10.0.0.2").address == "203.0.113.9"
    assert behind("198.51.100.1", "203.0.113.9").address == "203.0.113.9", "lines are read in their order"
    assert behind("junk, <script>, 203.0.113.9").address == "203.0.113.9"


def test_a_proxy_that_says_nothing_of_use_speaks_for_nobody() -> None:
    for header in ("", "unknown", "203.0.113.9, junk", "203.0.113.9, "):
        assert behind(header) == Origin(None, proxied=True)
    assert OURS.of("10.0.0.1", []) == Origin(None, proxied=True)
    assert OURS.of(None, ["203.0.113.9"]) == Origin(None, proxied=False)


def test_a_client_among_our_own_hops_is_the_first_of_them() -> None:
    assert behind("10.1.1.1, 10.2.2.2") == Origin("10.1.1.1", proxied=True)


@pytest.mark.parametrize(
    ("hop", "address"),
    [
        ("203.0.113.9:4711", "203.0.113.9"),
        ("[2001:db8:1:2:3::4]:4711", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_ports_zones_and_networks_are_seen_through(hop: str, address: str) -> None:
    assert behind(hop) == Origin(address, proxied=True)
    assert OURS.of(hop, []).address == address


def test_forwarded_is_read_as_rfc_7239_has_it() -> None:
    hops = hops_of_forwarded(
        ['for=192.0.2.60;proto=http;by=203.0.113.43, For="[2001:db8:cafe::17]:4711"', "proto=https", "for=_hidden"]
    )
    assert hops == ["192.0.2.60", "[2001:db8:cafe::17]:4711", "", "_hidden"]
    assert OURS.of("10.0.0.1", hops_of_forwarded(["for=198.51.100.1, for=203.0.113.9"])).address == "203.0.113.9"


def test_trust_in_no_network_is_refused() -> None:
    for text in ("proxy.example", "10.0.0.0/33", ""):
        with pytest.raises(InvalidValueError) as raised:
            ClientAddresses([text])
        assert raised.value.field == "trusted_proxies"


@given(st.lists(st.text(max_size=50), max_size=5), st.text(max_size=40))
def test_nothing_that_is_sent_is_an_error(values: list[str], peer: str) -> None:
    for read in (hops_of_x_forwarded_for, hops_of_forwarded):
        OURS.of("10.0.0.1", read(values))
        OURS.of(peer, read(values))


@given(st.lists(st.ip_addresses().map(str), max_size=5))
def test_only_what_stands_right_of_the_client_matters(written: list[str]) -> None:
    assert behind(*written, "203.0.113.9, 10.0.0.2").address == "203.0.113.9"
