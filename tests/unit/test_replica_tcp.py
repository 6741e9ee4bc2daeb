"""Addresses of peers, and what is in the way of listening."""

from __future__ import annotations

import asyncio
import socket

import pytest

from services.replica.tcp import connected_socket, join_address, listening_socket, split_address
from stoscore.errors import Code, StosError


@pytest.mark.parametrize(
    ("address", "parts"),
    [("10.0.0.1:7000", ("10.0.0.1", 7000)), ("[::1]:1", ("::1", 1)), ("n1.stos:65535", ("n1.stos", 65535))],
)
def test_addresses_split_and_join(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts
    assert join_address(*parts) == address


@pytest.mark.parametrize("address", ["", "n1", ":7000", "n1:", "n1:0", "n1:65536", "n1:x", "n1:-1", "n1:٣"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(StosError) as caught:
        split_address(address)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert "host:port" in caught.value.next_step


async def test_a_port_in_use_is_named_with_a_way_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(StosError) as caught:
            await listening_socket("127.0.0.1", port, "peers")
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert f"127.0.0.1:{port}: the port is in use" in str(caught.value)
    assert "another port" in caught.value.next_step


async def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(StosError, match="can't listen"):
        await listening_socket("192.0.2.1", 0, "peers")
    with pytest.raises(StosError, match="can't listen"):
        await listening_socket("no such host", 0, "peers")


async def test_a_connection_is_made_with_no_delay() -> None:
    listener = await listening_socket("127.0.0.1", 0, "peers")
    try:
        sock = await connected_socket(join_address(*listener.getsockname()))
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        sock.close()
    finally:
        listener.close()


async def test_nobody_there_is_an_os_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = join_address(*gone.getsockname())
    with pytest.raises(OSError):
        await asyncio.wait_for(connected_socket(address), 5)
