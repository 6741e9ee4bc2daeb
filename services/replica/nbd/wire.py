"""The numbers and layouts of the NBD protocol, and the replies built from them.

Reference: the NBD project's `doc/proto.md`. All integers are big-endian. Only what this server speaks is
here: fixed newstyle negotiation, simple and structured replies.
"""

from __future__ import annotations

import errno as os_errno
import struct
from collections.abc import Iterable
from enum import IntEnum, IntFlag

from stoscore.limits import REQUEST_BYTES_MAX
from stoscore.units import BLOCK_BYTES

NBDMAGIC = 0x4E42444D41474943
IHAVEOPT = 0x49484156454F5054
OPTION_REPLY_MAGIC = 0x3E889045565A9
REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY_MAGIC = 0x67446698
STRUCTURED_REPLY_MAGIC = 0x668E33EF

GREETING = struct.Struct(">QQH")
CLIENT_FLAGS = struct.Struct(">I")
OPTION = struct.Struct(">QII")
"""magic, option, length of the data that follows"""
OPTION_REPLY = struct.Struct(">QIII")
"""magic, option, reply type, length of the data that follows"""
REQUEST = struct.Struct(">IHHQQI")
"""magic, command flags, command, handle, offset, length"""
SIMPLE_REPLY = struct.Struct(">IIQ")
"""magic, error, handle"""
CHUNK = struct.Struct(">IHHQI")
"""magic, flags, type, handle, length of the payload"""
DATA_CHUNK = struct.Struct(">IHHQIQ")
"""a chunk's header and the offset that starts a data chunk's payload"""
EXTENT = struct.Struct(">II")
"""length, state flags: one descriptor of a block status"""
_U32 = struct.Struct(">I")

SECTOR_BYTES = 512
"""The smallest block of a request; below 4 KiB, and off its bounds, a block is read, changed and written."""
NAME_BYTES_MAX = 4096
"""The specification's limit for every string."""
OPTION_BYTES_MAX = 2 * NAME_BYTES_MAX + 1024
"""An option's data beyond this is no honest request: room for a name, a query as long, and a short list."""
OPTIONS_MAX = 64
"""Options in one negotiation; a client that goes on haggling is cut off."""


class HandshakeFlag(IntFlag):
    FIXED_NEWSTYLE = 1
    NO_ZEROES = 2


class TransmissionFlag(IntFlag):
    HAS_FLAGS = 1 << 0
    SEND_FLUSH = 1 << 2
    SEND_FUA = 1 << 3
    SEND_TRIM = 1 << 5
    SEND_WRITE_ZEROES = 1 << 6
    SEND_DF = 1 << 7
    CAN_MULTI_CONN = 1 << 8
    SEND_CACHE = 1 << 10
    SEND_FAST_ZERO = 1 << 11


class Option(IntEnum):
    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10


class Reply(IntEnum):
    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    ERR_UNSUP = (1 << 31) + 1
    ERR_POLICY = (1 << 31) + 2
    ERR_INVALID = (1 << 31) + 3
    ERR_TLS_REQD = (1 << 31) + 5
    ERR_UNKNOWN = (1 << 31) + 6


class Info(IntEnum):
    EXPORT = 0
    NAME = 1
    BLOCK_SIZE = 3


class Command(IntEnum):
    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7


class CommandFlag(IntFlag):
    FUA = 1 << 0
    NO_HOLE = 1 << 1
    DF = 1 << 2
    REQ_ONE = 1 << 3
    FAST_ZERO = 1 << 4


class Errno(IntEnum):
    """The only error values that the protocol knows."""

    OK = 0
    EPERM = 1
    EIO = 5
    ENOMEM = 12
    EINVAL = 22
    ENOSPC = 28
    EOVERFLOW = 75
    ENOTSUP = 95
    ESHUTDOWN = 108


class State(IntFlag):
    """What `base:allocation` says about an extent; 0 is data."""

    HOLE = 1
    ZERO = 2


ALLOCATION = b"base:allocation"
"""The one metadata context of every export."""
ALLOCATION_ID = 1

CHUNK_DONE = 1
CHUNK_NONE = 0
CHUNK_OFFSET_DATA = 1
CHUNK_BLOCK_STATUS = 5
CHUNK_ERROR = (1 << 15) + 1

_WIRE_ERRNO = {int(known): int(known) for known in Errno} | {
    os_errno.EDQUOT: int(Errno.ENOSPC),
    os_errno.EFBIG: int(Errno.ENOSPC),
    os_errno.EACCES: int(Errno.EPERM),
    os_errno.EROFS: int(Errno.EPERM),
}


def wire_errno(errno: int) -> int:
    """The protocol's error for an errno of the system: itself, its nearest kin, or EIO."""
    return _WIRE_ERRNO.get(errno, Errno.EIO)


def transmission_flags(structured: bool) -> int:
    """What a client may use; DF only exists with structured replies.

    CAN_MULTI_CONN is true of every export: all connections of a volume share one session with its primary, which
    keeps nothing to itself. An answered write is on every in-sync copy, so a read on any connection sees it, and a
    flush on any connection covers it."""
    flags = (
        TransmissionFlag.HAS_FLAGS
        | TransmissionFlag.SEND_FLUSH
        | TransmissionFlag.SEND_FUA
        | TransmissionFlag.SEND_TRIM
        | TransmissionFlag.SEND_WRITE_ZEROES
        | TransmissionFlag.CAN_MULTI_CONN
        | TransmissionFlag.SEND_CACHE
        | TransmissionFlag.SEND_FAST_ZERO
    )
    return int(flags | TransmissionFlag.SEND_DF) if structured else int(flags)


def greeting() -> bytes:
    """The server's first bytes."""
    return GREETING.pack(NBDMAGIC, IHAVEOPT, HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES)


def option_reply(option: int, reply: int, data: bytes = b"") -> bytes:
    return OPTION_REPLY.pack(OPTION_REPLY_MAGIC, option, reply, len(data)) + data


def info_replies(option: int, name: str, size_bytes: int, structured: bool) -> list[bytes]:
    """The facts of an export for INFO and GO, without the closing ACK. The block sizes are sent unasked
    too: a client that can honour them then never sends a request that must be refused."""
    facts = (
        struct.pack(">HQH", Info.EXPORT, size_bytes, transmission_flags(structured)),
        struct.pack(">HIII", Info.BLOCK_SIZE, SECTOR_BYTES, BLOCK_BYTES, REQUEST_BYTES_MAX),
        struct.pack(">H", Info.NAME) + name.encode(),
    )
    return [option_reply(option, Reply.INFO, fact) for fact in facts]


def export_reply(size_bytes: int, structured: bool, zeroes: bool) -> bytes:
    """The answer to EXPORT_NAME, the oldest way into transmission."""
    return struct.pack(">QH", size_bytes, transmission_flags(structured)) + (bytes(124) if zeroes else b"")


def context_reply(option: int, number: int) -> bytes:
    """One metadata context: its number (0 where it is only listed) and its name."""
    return option_reply(option, Reply.META_CONTEXT, _U32.pack(number) + ALLOCATION)


def simple_reply(handle: int, errno: int) -> bytes:
    return SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, errno, handle)


def error_chunk(handle: int, errno: int, message: str = "") -> bytes:
    """The single, final chunk of a structured reply that failed."""
    text = message.encode()[:NAME_BYTES_MAX]
    payload = struct.pack(">IH", errno, len(text)) + text
    return CHUNK.pack(STRUCTURED_REPLY_MAGIC, CHUNK_DONE, CHUNK_ERROR, handle, len(payload)) + payload


def data_chunk_header(handle: int, offset: int, length: int) -> bytes:
    """The single, final chunk of a structured read; `length` bytes of data follow."""
    return DATA_CHUNK.pack(STRUCTURED_REPLY_MAGIC, CHUNK_DONE, CHUNK_OFFSET_DATA, handle, length + 8, offset)


def status_chunk(handle: int, extents: Iterable[tuple[int, bool]]) -> bytes:
    """The single, final chunk of a block status. `extents`: length in bytes, and whether it is data; a hole of ours
    always reads as zeros."""
    hole = int(State.HOLE | State.ZERO)
    body = b"".join(EXTENT.pack(length, 0 if data else hole) for length, data in extents)
    header = CHUNK.pack(STRUCTURED_REPLY_MAGIC, CHUNK_DONE, CHUNK_BLOCK_STATUS, handle, len(body) + _U32.size)
    return header + _U32.pack(ALLOCATION_ID) + body
