"""The client's side of an NBD handshake, up to where the kernel takes the socket over.

The kernel's nbd driver speaks only the transmission phase: whoever connects it negotiates first (fixed
newstyle, NBD_OPT_GO; https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md). Structured
replies are not asked for, because the driver does not know them.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

from stoscore.errors import Code, StosError, not_found, unavailable

_MAGIC = b"NBDMAGIC"
_OPTION_MAGIC = b"IHAVEOPT"
_REPLY_MAGIC = 0x3E889045565A9
_FIXED_NEWSTYLE, _NO_ZEROES = 1, 2
_OPTION_GO = 7
_REPLY_ACK, _REPLY_INFO = 1, 3
_REPLY_ERROR = 1 << 31
_ERROR_UNKNOWN_EXPORT = _REPLY_ERROR + 6
_INFO_EXPORT, _INFO_BLOCK_SIZE = 0, 3
_PAYLOAD_BYTES_MAX = 65_536


@dataclass(slots=True)
class Negotiated:
    """A connection that is ready for the kernel. The caller closes the socket."""

    connection: socket.socket
    size_bytes: int
    flags: int
    """The export's transmission flags."""


def negotiate(path: str, name: str, *, timeout_s: float) -> Negotiated:
    """Connect to the server at the Unix socket and enter the transmission phase of the export. Raises
    NOT_FOUND for an unknown export, UNAVAILABLE when the server is away or speaks something else."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout_s)
        connection.connect(path)
        size_bytes, flags = _go(connection, name)
        connection.settimeout(None)
    except OSError as error:
        connection.close()
        raise unavailable(f"no NBD server answers at {path}: {error}") from error
    except StosError:
        connection.close()
        raise
    return Negotiated(connection, size_bytes, flags)


def _go(connection: socket.socket, name: str) -> tuple[int, int]:
    greeting = _exactly(connection, 18)
    flags = int.from_bytes(greeting[16:], "big")
    if greeting[:8] != _MAGIC or greeting[8:16] != _OPTION_MAGIC or not flags & _FIXED_NEWSTYLE:
        raise unavailable("the server's greeting is no fixed newstyle NBD")
    encoded = name.encode()
    request = struct.pack(">I", len(encoded)) + encoded + struct.pack(">HH", 1, _INFO_BLOCK_SIZE)
    connection.sendall(
        struct.pack(">I", flags & (_FIXED_NEWSTYLE | _NO_ZEROES))
        + _OPTION_MAGIC
        + struct.pack(">II", _OPTION_GO, len(request))
        + request
    )
    export: tuple[int, int] | None = None
    while True:
        kind, payload = _reply(connection)
        if kind == _REPLY_INFO and payload[:2] == struct.pack(">H", _INFO_EXPORT) and len(payload) == 12:
            size_bytes, transmission_flags = struct.unpack(">QH", payload[2:])
            export = (size_bytes, transmission_flags)
        elif kind == _REPLY_ACK and export:
            return export
        elif kind == _ERROR_UNKNOWN_EXPORT:
            raise not_found(f"the server has no export {name!r}")
        elif kind != _REPLY_INFO:
            raise StosError(Code.UNAVAILABLE, f"the server refused: {kind:#x} {payload.decode(errors='replace')}")


def _reply(connection: socket.socket) -> tuple[int, bytes]:
    magic, option, kind, length = struct.unpack(">QIII", _exactly(connection, 20))
    if magic != _REPLY_MAGIC or option != _OPTION_GO or length > _PAYLOAD_BYTES_MAX:
        raise unavailable("the server's option reply is malformed")
    return kind, _exactly(connection, length)


def _exactly(connection: socket.socket, count: int) -> bytes:
    received = bytearray()
    while len(received) < count:
        part = connection.recv(count - len(received))
        if not part:
            raise unavailable("the server hung up during the handshake")
        received += part
    return bytes(received)
