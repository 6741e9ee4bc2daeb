"""The kernel's own byte counters, for the right sockets of the right process."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from services.dev.demo.wire import PeerTraffic, connections, listening_ports, socket_inodes

Pair = tuple[socket.socket, socket.socket, int]


@pytest.fixture
def pair() -> Iterator[Pair]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as dialled, listener.accept()[0] as accepted:
            yield dialled, accepted, port


def exchange(dialled: socket.socket, accepted: socket.socket, there: int, back: int) -> None:
    dialled.sendall(bytes(there))
    left = there
    while left:
        left -= len(accepted.recv(left))
    accepted.sendall(bytes(back))
    left = back
    while left:
        left -= len(dialled.recv(left))


def test_a_connection_is_counted_in_both_directions(pair: Pair) -> None:
    dialled, accepted, port = pair
    exchange(dialled, accepted, 100_000, 777)
    (found,) = [c for c in connections() if c.remote_port == port]
    assert found.bytes_received == 777
    # The kernel counts the SYN as one byte.
    assert found.bytes_sent in (100_000, 100_001)
    assert found.inode in socket_inodes(os.getpid())


def test_only_peer_links_of_the_process_count(pair: Pair) -> None:
    dialled, accepted, port = pair
    exchange(dialled, accepted, 1000, 1000)
    assert PeerTraffic(os.getpid(), frozenset({port})).sample() >= 4000  # Both ends are ours here.
    assert PeerTraffic(os.getpid(), frozenset({port + 1})).sample() == 0
    assert PeerTraffic(1, frozenset({port})).sample() == 0


def test_a_closed_connection_keeps_what_was_seen_of_it(pair: Pair) -> None:
    dialled, accepted, port = pair
    traffic = PeerTraffic(os.getpid(), frozenset({port}))
    exchange(dialled, accepted, 1000, 1000)
    before = traffic.sample()
    dialled.close()
    accepted.close()
    assert traffic.sample() >= before >= 4000


def test_listening_ports(pair: Pair) -> None:
    port = pair[2]
    assert listening_ports([port, 1]) == [port]


def test_a_process_that_is_gone_holds_no_sockets() -> None:
    assert socket_inodes(2**22 + 1) == set()
