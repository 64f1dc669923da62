"""Ports for servers that are started, killed and started again: nobody else may be given them in between."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from heliograph.local.errors import NoFreePortError
from heliograph.local.ports import LOOPBACK, PORTS, PortReservation, free_ports, is_taken

TAKES = (
    "import sys; from heliograph.local.ports import free_ports; print(*free_ports(40), flush=True); sys.stdin.read()"
)


@pytest.fixture
def few() -> range:
    """Nine ports in a row that no other process is given."""
    while (ports := free_ports(9)) != list(range(ports[0], ports[0] + 9)):
        pass
    return range(ports[0], ports[0] + 9)


def test_free_ports_are_free_and_different() -> None:
    ports = free_ports(40)
    assert len(set(ports)) == 40
    assert not any(is_taken(port) for port in ports)


def test_no_port_is_one_that_the_kernel_gives_to_connections() -> None:
    """A connection of anybody's would keep a server that was killed from coming back on its port."""
    bounds = Path("/proc/sys/net/ipv4/ip_local_port_range")
    lowest = int(bounds.read_text().split()[0]) if bounds.exists() else 49_152
    if lowest < PORTS.stop:
        pytest.skip(f"this machine gives ports from {lowest} on to connections: no range is free of them")
    assert max(free_ports(40)) < lowest


def test_processes_that_live_at_once_are_given_different_ports() -> None:
    """Also before anything listens on them, and while what did is dead."""
    started = [
        subprocess.Popen([sys.executable, "-c", TAKES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    try:
        given = [one.stdout.readline().split() for one in started if one.stdout]
    finally:
        for one in started:
            one.communicate()
    assert [len(ports) for ports in given] == [40, 40, 40]
    assert len({port for ports in given for port in ports} | set(map(str, free_ports(40)))) == 160


def test_what_a_process_reserved_is_anothers_when_it_ends(few: range) -> None:
    one = PortReservation(few, block_ports=9)
    port = one.take()
    with pytest.raises(NoFreePortError, match=str(few.start)):
        PortReservation(few, block_ports=9).take()
    one.close()
    two = PortReservation(few, block_ports=9)
    assert two.take() == port
    two.close()


def test_a_port_in_use_is_passed_over(few: range) -> None:
    reservation = PortReservation(few, block_ports=3)
    with socket.create_server((LOOPBACK, few.start + 1)), socket.create_server((LOOPBACK, few.start + 3)):
        given = {reservation.take() for _ in range(3)}
    reservation.close()
    assert given == {few.start + 2, few.start + 7, few.start + 8}


def test_a_port_comes_back_only_after_many_others(few: range) -> None:
    reservation = PortReservation(few, block_ports=9, again_after=4)
    given = [reservation.take() for _ in range(10)]
    reservation.close()
    assert given == [few.start + number for number in (1, 2, 3, 4, 1, 2, 3, 4, 1, 2)]


def test_where_all_are_given_the_oldest_is_given_again_if_it_is_free(few: range) -> None:
    reservation = PortReservation(few, block_ports=9)
    given = [reservation.take() for _ in range(8)]
    with socket.create_server((LOOPBACK, given[0])):
        assert reservation.take() == given[1]
    reservation.close()
