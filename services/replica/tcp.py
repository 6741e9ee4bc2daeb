"""TCP sockets as links and remote clients want them: no delay, room for a burst, dead peers noticed by the kernel."""

from __future__ import annotations

import asyncio
import errno
import socket
from contextlib import suppress

from stoscore.errors import StosError, invalid, precondition
from stoscore.units import MIB

SOCKET_BUFFER_BYTES = 4 * MIB
"""Some wake-ups' worth of a sequential writer; the kernel caps it at net.core.[rw]mem_max."""
UNACKNOWLEDGED_MS_MAX = 5_000
"""Data that the other machine's kernel did not take for so long ends the connection. Beats notice a dead peer
earlier; this bounds how long a link to it blocks the way of a new one."""
KEEPALIVE_IDLE_S = 10
KEEPALIVE_INTERVAL_S = 2
BACKLOG = 128


def tune(sock: socket.socket) -> None:
    """Applied before connect and listen, so that the window scale fits the buffers."""
    sock.setblocking(False)
    options = (
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES),
        (socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS_MAX),
    )
    for level, option, value in options:
        with suppress(OSError):
            sock.setsockopt(level, option, value)


def split_address(address: str, *, port_min: int = 1) -> tuple[str, int]:
    """("host", port) of "host:port" or "[v6]:port". Raises StosError INVALID_ARGUMENT."""
    host, separator, port = address.rpartition(":")
    if not separator or not host or not (port.isascii() and port.isdigit()) or not port_min <= int(port) < 65536:
        raise invalid(f"{address[:80]!r} is no address", "write host:port, or [address]:port for IPv6")
    return host.strip("[]"), int(port)


def join_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def listening_socket(host: str, port: int, what: str) -> socket.socket:
    """Bound and listening; port 0 takes a free one. Raises StosError that says what is in the way of `what`."""
    loop = asyncio.get_running_loop()
    where = join_address(host, port)
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        reason = f"can't listen for {what} on {where}: {error}"
        raise invalid(reason, "set an address of this machine") from None
    family, kind, proto, _, bind_to = found[0]
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tune(sock)
        sock.bind(bind_to)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise _cannot_listen(f"can't listen for {what} on {where}", error) from None
    return sock


def _cannot_listen(failed: str, error: OSError) -> StosError:
    if error.errno == errno.EADDRINUSE:
        return precondition(f"{failed}: the port is in use", "stop the program that uses it, or choose another port")
    return precondition(f"{failed}: {error.strerror}", "choose an address and a port that this node may use")


async def connected_socket(address: str) -> socket.socket:
    """Raises OSError, or StosError INVALID_ARGUMENT for what is no address."""
    host, port = split_address(address)
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family, kind, proto, _, connect_to = found[0]
    sock = socket.socket(family, kind, proto)
    try:
        tune(sock)
        await loop.sock_connect(sock, connect_to)
    except BaseException:
        sock.close()
        raise
    return sock
