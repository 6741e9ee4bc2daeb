"""Ports are free, different, and out of the way of outgoing connections."""

from __future__ import annotations

import socket
from pathlib import Path

from services.dev.ports import HOST, free_ports, in_use


def test_ports_are_different_and_can_be_listened_on() -> None:
    found = free_ports(20)
    assert len(set(found)) == 20
    for port in found:
        with socket.socket() as listener:
            listener.bind((HOST, port))


def test_no_ports_are_no_problem() -> None:
    assert free_ports(0) == []


def test_ports_are_below_the_range_of_outgoing_connections() -> None:
    first_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(port < first_outgoing for port in free_ports(20)) or first_outgoing < 12_000


def test_a_port_with_a_listener_is_in_use() -> None:
    (port,) = free_ports(1)
    assert not in_use(port)
    with socket.socket() as listener:
        listener.bind((HOST, port))
        listener.listen()
        assert in_use(port)
    assert not in_use(port)
