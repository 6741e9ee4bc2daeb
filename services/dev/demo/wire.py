"""What really crossed the sockets, as the kernel counted it.

A program's own sum of what it sent forgets TLS records, retries and whatever it did not think of. The
kernel counts every byte of a TCP connection (tcp_info: bytes_acked, bytes_received), so the figure for a
resync is: all peer-link sockets of the returned process, both directions, beats included.

Asked over netlink (sock_diag(7)), which needs no program and no rights; a socket belongs to a process if its
inode is among the process's descriptors (proc(5)).
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLM_F_REQUEST_DUMP = 0x1 | 0x300
_INET_DIAG_INFO = 2
_ALL_STATES = 0xFFFFFFFF

_NLMSGHDR = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBxI48x")
"""inet_diag_req_v2: family, protocol, extensions, states, an empty inet_diag_sockid."""
_DIAG = struct.Struct("=4B")
_PORTS = struct.Struct("!HH")
_INODE_OFFSET = 68
_DIAG_BYTES = 72
"""inet_diag_msg: 4 x u8, inet_diag_sockid (48), expires, rqueue, wqueue, uid, inode."""
_RTATTR = struct.Struct("=HH")
_BYTES_ACKED_RECEIVED = struct.Struct("=QQ")
_BYTES_ACKED_OFFSET = 120
"""Of tcpi_bytes_acked in struct tcp_info; tcpi_bytes_received follows (linux/tcp.h, fixed ABI)."""


@dataclass(frozen=True, slots=True)
class Connection:
    """One TCP socket with the kernel's counters."""

    local_port: int
    remote_port: int
    inode: int
    bytes_sent: int
    """Acknowledged by the other end."""
    bytes_received: int


def connections() -> list[Connection]:
    """All IPv4 TCP sockets of this network namespace. Raises OSError if the kernel has no sock_diag."""
    found: list[Connection] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
        request = _REQUEST.pack(socket.AF_INET, socket.IPPROTO_TCP, 1 << (_INET_DIAG_INFO - 1), _ALL_STATES)
        header = _NLMSGHDR.pack(_NLMSGHDR.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 1, 0)
        netlink.sendto(header + request, (0, 0))
        while _take(netlink.recv(1 << 18), found):
            pass
    return found


def _take(data: bytes, found: list[Connection]) -> bool:
    """Parses one datagram of a dump; False after its last message."""
    offset = 0
    while offset + _NLMSGHDR.size <= len(data):
        length, kind, _, _, _ = _NLMSGHDR.unpack_from(data, offset)
        if kind == _NLMSG_DONE:
            return False
        if kind == _NLMSG_ERROR:
            (error,) = struct.unpack_from("=i", data, offset + _NLMSGHDR.size)
            raise OSError(-error, os.strerror(-error))
        body = data[offset + _NLMSGHDR.size : offset + length]
        if (connection := _parse(body)) is not None:
            found.append(connection)
        offset += (length + 3) & ~3
    return True


def _parse(body: bytes) -> Connection | None:
    if len(body) < _DIAG_BYTES:
        return None
    local_port, remote_port = _PORTS.unpack_from(body, _DIAG.size)
    (inode,) = struct.unpack_from("=I", body, _INODE_OFFSET)
    offset = _DIAG_BYTES
    while offset + _RTATTR.size <= len(body):
        length, kind = _RTATTR.unpack_from(body, offset)
        if length < _RTATTR.size:
            return None
        info = body[offset + _RTATTR.size : offset + length]
        if kind == _INET_DIAG_INFO and len(info) >= _BYTES_ACKED_OFFSET + _BYTES_ACKED_RECEIVED.size:
            sent, received = _BYTES_ACKED_RECEIVED.unpack_from(info, _BYTES_ACKED_OFFSET)
            return Connection(local_port, remote_port, inode, sent, received)
        offset += (length + 3) & ~3
    return None


def socket_inodes(pid: int) -> set[int]:
    """The sockets that a process holds; empty when it is gone."""
    inodes: set[int] = set()
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return inodes
    for descriptor in descriptors:
        try:
            target = os.readlink(f"/proc/{pid}/fd/{descriptor}")
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(int(target[8:-1]))
    return inodes


@dataclass(slots=True)
class PeerTraffic:
    """Bytes over one process's peer links since it started. Sampled, because a link that is dialled again
    takes its counters with it: each connection counts with the most that was ever seen of it."""

    pid: int
    peer_ports: frozenset[int]
    """The ports on which the nodes' peer links listen."""
    _seen: dict[int, int] = field(default_factory=dict)

    def sample(self) -> int:
        """Reads the counters; returns the total so far."""
        own = socket_inodes(self.pid)
        for connection in connections():
            if connection.inode in own and self._is_peer_link(connection):
                total = connection.bytes_sent + connection.bytes_received
                self._seen[connection.inode] = max(total, self._seen.get(connection.inode, 0))
        return self.total

    @property
    def total(self) -> int:
        """As of the last sample."""
        return sum(self._seen.values())

    def _is_peer_link(self, connection: Connection) -> bool:
        return connection.local_port in self.peer_ports or connection.remote_port in self.peer_ports


def listening_ports(ports: Iterable[int]) -> list[int]:
    """Those of `ports` on which somebody listens: a listening socket has no remote port."""
    wanted = set(ports)
    open_ports = {c.local_port for c in connections() if c.remote_port == 0}
    return sorted(wanted & open_ports)
