"""The server's side of one NBD connection, without I/O: bytes in, requests and reply bytes out.

```
 bytes ──> receive() ──> requests   [(NbdRequest, payload)]   for whoever owns the blocks
                    └──> replies    [bytes]                   option replies, refused requests
 reply(request, errno, data) ──> [bytes]                      once a request is done
```

A client can send anything. Whatever arrives is either accepted, or answered with the protocol's own error,
or ends the connection (`phase` CLOSED with the reason in `closed_because`); nothing is ever raised. What a
request may be is checked here in a fixed order (command, flags, what was negotiated, length and alignment, range,
size), so that everything behind sees only whole sectors inside the volume.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

from services.replica.nbd import wire
from services.replica.nbd.wire import Command, CommandFlag, Errno, HandshakeFlag, Option, Reply
from stoscore.limits import REQUEST_BYTES_MAX
from stoscore.units import BLOCK_BYTES

_FLAGS_OF = {
    Command.READ: CommandFlag.FUA | CommandFlag.DF,
    Command.WRITE: CommandFlag.FUA,
    Command.FLUSH: CommandFlag.FUA,
    Command.TRIM: CommandFlag.FUA,
    Command.CACHE: CommandFlag(0),
    Command.BLOCK_STATUS: CommandFlag.REQ_ONE,
    # NO_HOLE is accepted and changes nothing: the store keeps every zero block as a hole, also a written one.
    Command.WRITE_ZEROES: CommandFlag.FUA | CommandFlag.NO_HOLE | CommandFlag.FAST_ZERO,
}
_FLAGS = {int(command): int(flags) for command, flags in _FLAGS_OF.items()}
"""Plain numbers: IntFlag arithmetic costs microseconds and this is looked up for every request."""
_READ, _WRITE, _DISC, _FLUSH = int(Command.READ), int(Command.WRITE), int(Command.DISC), int(Command.FLUSH)
_WRITE_ZEROES, _BLOCK_STATUS = int(Command.WRITE_ZEROES), int(Command.BLOCK_STATUS)
_DF, _FAST_ZERO = int(CommandFlag.DF), int(CommandFlag.FAST_ZERO)
_HEADER_BYTES = wire.REQUEST.size
_NO_DATA = memoryview(b"")

REQUEST_MEMORY_BYTES_MAX = _HEADER_BYTES + REQUEST_BYTES_MAX
"""The most that a server must hold of one connection's unread bytes."""


class Export(NamedTuple):
    """What is offered: one volume under its name. The empty name asks for it as well."""

    name: str
    size_bytes: int


class NbdRequest(NamedTuple):
    """One valid request; offset and length are bytes, multiples of 512, inside the volume."""

    command: int
    """any but DISC"""
    flags: int
    """`CommandFlag`s that belong to the command"""
    handle: int
    """the client's own name for it, repeated in the reply"""
    offset: int
    length: int


class Phase(IntEnum):
    CLIENT_FLAGS = 0
    OPTIONS = 1
    TRANSMISSION = 2
    LEAVING = 3
    """The client said goodbye: what is unanswered is still answered, what it sends is ignored."""
    CLOSED = 4


class NbdConnection:
    """One connection's state. `requests` and `replies` are taken (and emptied) by the owner of the socket."""

    def __init__(self, export: Export, *, secured: bool = False, zeroes: bool = True, refusal: str = ""):
        """`secured`: TLS stands, and both sides have greeted before it; `zeroes` is what was said then. `refusal`:
        why this client may not use the export; that is the answer to whatever it asks."""
        self._export = export
        self._secured = secured
        self._refusal = refusal
        self._zeroes = zeroes
        self._options = 0
        self._discard_bytes = 0
        """Payload still to come of a write that was refused."""
        self.phase = Phase.OPTIONS if secured else Phase.CLIENT_FLAGS
        self.structured = False
        self._context_of: bytes | None = None
        """The export name for which `base:allocation` was selected last; None: not selected."""
        self._contexts = False
        """The client may ask for the block status."""
        self.closed_because = ""
        self.wanted = wire.OPTION.size if secured else wire.CLIENT_FLAGS.size
        """Bytes, from the first one not consumed, that the next step needs."""
        self.requests: list[tuple[NbdRequest, memoryview]] = []
        """Payloads are views into what was received: valid until the next `receive`."""
        self.replies: list[bytes] = [] if secured else [wire.greeting()]

    @property
    def size_bytes(self) -> int:
        return self._export.size_bytes

    @property
    def at_request(self) -> bool:
        """What comes next is a request's first byte."""
        return self.phase == Phase.TRANSMISSION and not self._discard_bytes

    def receive(self, data: memoryview, requests_max: int, bytes_max: int) -> int:
        """Take what is complete in `data`; returns the bytes consumed. Stops early after `requests_max`
        requests, or when their payloads, both ways, have reached `bytes_max`."""
        at = 0
        while self.phase < Phase.TRANSMISSION:
            if len(data) - at < self.wanted:
                return at
            step = self._client_flags if self.phase == Phase.CLIENT_FLAGS else self._option
            at += step(data[at:])
        if self.phase == Phase.TRANSMISSION:
            at += self._transmission(data[at:] if at else data, requests_max, bytes_max)
        return len(data) if self.phase > Phase.TRANSMISSION else at

    def status(self, request: NbdRequest, extents: Iterable[tuple[int, bool]]) -> bytes:
        """The bytes that answer a block status: lengths in bytes from the request's offset on, and whether it is data.
        They end where the request ends, or before."""
        return wire.status_chunk(request.handle, extents)

    def reply(self, request: NbdRequest, errno: int, data: bytes | memoryview = b"") -> list[bytes | memoryview]:
        """The bytes that answer a request, in parts. `data` is a successful read's content."""
        if errno:
            return [self._error(request.handle, wire.wire_errno(errno), "")]
        if request.command != _READ:
            return [wire.simple_reply(request.handle, 0)]
        if self.structured:
            return [wire.data_chunk_header(request.handle, request.offset, request.length), data]
        return [wire.simple_reply(request.handle, 0), data]

    def replies_to(self, done: Iterable[tuple[NbdRequest, bytes | memoryview]]) -> list[bytes | memoryview]:
        """As `reply`, to requests that all succeeded, with their content."""
        parts: list[bytes | memoryview] = []
        append, pack, structured = parts.append, wire.SIMPLE_REPLY.pack, self.structured
        for (command, _, handle, offset, length), data in done:
            if command != _READ:
                append(pack(wire.SIMPLE_REPLY_MAGIC, 0, handle))
                continue
            if structured:
                append(wire.data_chunk_header(handle, offset, length))
            else:
                append(pack(wire.SIMPLE_REPLY_MAGIC, 0, handle))
            append(data)
        return parts

    # --- handshake ---

    def _client_flags(self, data: memoryview) -> int:
        flags: int = wire.CLIENT_FLAGS.unpack_from(data)[0]
        if flags & ~int(HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES):
            self._close(f"unknown client flags {flags:#x}")
        else:
            self._zeroes = not flags & HandshakeFlag.NO_ZEROES
            self._to(Phase.OPTIONS, wire.OPTION.size)
        return wire.CLIENT_FLAGS.size

    def _option(self, data: memoryview) -> int:
        magic, option, length = wire.OPTION.unpack_from(data)
        end = wire.OPTION.size + length
        if magic != wire.IHAVEOPT:
            self._close(f"bad option magic {magic:#x}")
        elif length > wire.OPTION_BYTES_MAX:
            self._close(f"option {option} with {length} bytes of data")
        elif len(data) < end:
            self.wanted = end
            return 0
        else:
            self._options += 1
            self.wanted = wire.OPTION.size
            self._haggle(option, bytes(data[wire.OPTION.size : end]))
            if self._options >= wire.OPTIONS_MAX and self.phase == Phase.OPTIONS:
                self._close("too many options")
        return min(int(end), len(data))

    def _haggle(self, option: int, data: bytes) -> None:
        if self._refusal and option not in (Option.EXPORT_NAME, Option.ABORT):
            self._option_reply(option, Reply.ERR_POLICY, self._refusal)
        elif option == Option.EXPORT_NAME:
            self._export_name(data)
        elif option in (Option.INFO, Option.GO):
            self._info_or_go(option, data)
        elif option == Option.ABORT:
            self._option_reply(option, Reply.ACK)
            self._close("the client gave up the negotiation")
        elif option in (Option.LIST, Option.STRUCTURED_REPLY, Option.STARTTLS) and data:
            self._option_reply(option, Reply.ERR_INVALID, "this option takes no data")
        elif option == Option.LIST:
            name = self._export.name.encode()
            self.replies.append(wire.option_reply(option, Reply.SERVER, struct.pack(">I", len(name)) + name))
            self._option_reply(option, Reply.ACK)
        elif option == Option.STRUCTURED_REPLY:
            self.structured = True
            self._option_reply(option, Reply.ACK)
        elif option in (Option.LIST_META_CONTEXT, Option.SET_META_CONTEXT):
            self._meta_context(option, data)
        elif option == Option.STARTTLS and self._secured:
            self._option_reply(option, Reply.ERR_INVALID, "TLS stands already")
        elif option == Option.STARTTLS:
            self._option_reply(option, Reply.ERR_POLICY, "a Unix socket needs no TLS: its rights guard it")
        else:
            self._option_reply(option, Reply.ERR_UNSUP, f"unknown option {option}")

    def _export_name(self, data: bytes) -> None:
        if self._refusal:
            self._close(self._refusal)
            return
        if not self._offers(data):
            # This option has no way to say no but to hang up.
            self._close(f"no export {data[:80]!r}")
            return
        self.replies.append(wire.export_reply(self._export.size_bytes, self.structured, self._zeroes))
        self._begin(data)

    def _begin(self, name: bytes) -> None:
        """Contexts are selected for a name, and hold only if the export is used by that same name."""
        self._contexts = self._context_of == name
        self._to(Phase.TRANSMISSION, _HEADER_BYTES)

    def _info_or_go(self, option: int, data: bytes) -> None:
        name = _requested_name(data)
        if name is None:
            self._option_reply(option, Reply.ERR_INVALID, "malformed name or list of information requests")
        elif not self._offers(name):
            self._option_reply(option, Reply.ERR_UNKNOWN, f"no export of that name; there is {self._export.name}")
        else:
            self.replies += wire.info_replies(option, self._export.name, self._export.size_bytes, self.structured)
            self._option_reply(option, Reply.ACK)
            if option == Option.GO:
                self._begin(name)

    def _meta_context(self, option: int, data: bytes) -> None:
        sets = option == Option.SET_META_CONTEXT
        if sets:
            self._context_of = None  # whatever becomes of this request
        asked = _requested_contexts(data)
        if not self.structured:
            self._option_reply(option, Reply.ERR_INVALID, "structured replies have to be negotiated first")
        elif asked is None:
            self._option_reply(option, Reply.ERR_INVALID, "malformed name or list of contexts")
        elif not self._offers(asked[0]):
            self._option_reply(option, Reply.ERR_UNKNOWN, f"no export of that name; there is {self._export.name}")
        else:
            name, queries = asked
            if wire.ALLOCATION in queries or (not sets and (not queries or b"base:" in queries)):
                self.replies.append(wire.context_reply(option, wire.ALLOCATION_ID if sets else 0))
                self._context_of = name if sets else self._context_of
            self._option_reply(option, Reply.ACK)

    def _offers(self, name: bytes) -> bool:
        return name in (b"", self._export.name.encode())

    def _option_reply(self, option: int, reply: Reply, message: str = "") -> None:
        self.replies.append(wire.option_reply(option, reply, message.encode()))

    # --- transmission ---

    def _transmission(self, data: memoryview, requests_max: int, bytes_max: int) -> int:
        at, end, size_bytes = 0, len(data), self._export.size_bytes
        self.wanted = _HEADER_BYTES
        while True:
            if self._discard_bytes:
                skipped = min(self._discard_bytes, end - at)
                self._discard_bytes -= skipped
                at += skipped
            if end - at < _HEADER_BYTES or requests_max <= 0 or bytes_max <= 0:
                return at
            magic, flags, command, handle, offset, length = wire.REQUEST.unpack_from(data, at)
            if magic != wire.REQUEST_MAGIC:
                self._close(f"bad request magic {magic:#x}")
                return end
            if command == _DISC:
                self._to(Phase.LEAVING, 0)
                return end
            payload_bytes = length if command == _WRITE else 0
            if payload_bytes > REQUEST_BYTES_MAX:
                self._close(f"a write of {length} bytes")
                return end
            whole = command <= _WRITE and not flags and 0 < length <= REQUEST_BYTES_MAX
            if not whole or (offset | length) % wire.SECTOR_BYTES or offset + length > size_bytes:
                errno, reason = self._fault(command, flags, offset, length)
                if errno:
                    self.replies.append(self._error(handle, errno, reason))
                    self._discard_bytes = payload_bytes
                    at += _HEADER_BYTES
                    continue
            after = at + _HEADER_BYTES + payload_bytes
            if after > end:
                self.wanted = _HEADER_BYTES + payload_bytes
                return at
            payload = data[at + _HEADER_BYTES : after] if payload_bytes else _NO_DATA
            self.requests.append((NbdRequest(command, flags, handle, offset, length), payload))
            requests_max -= 1
            if command <= _WRITE:
                bytes_max -= length
            at = after

    def _fault(self, command: int, flags: int, offset: int, length: int) -> tuple[int, str]:
        """(0, "") for a valid request, else the errno that the specification names and the reason."""
        allowed = _FLAGS.get(command)
        if allowed is None:
            return Errno.EINVAL, f"unknown command {command}"
        if flags & ~allowed or (flags & _DF and not self.structured):
            return Errno.EINVAL, f"flags {flags:#x} do not belong to command {command}"
        if command == _FLUSH:
            return (Errno.EINVAL, "a flush has no range") if offset or length else (0, "")
        if command == _BLOCK_STATUS and not self._contexts:
            return Errno.EINVAL, "no metadata context was selected for this export"
        if not length or (offset | length) % wire.SECTOR_BYTES:
            return Errno.EINVAL, f"offset and length must be multiples of {wire.SECTOR_BYTES} and length above 0"
        if offset + length > self._export.size_bytes:
            beyond = Errno.ENOSPC if command in (_WRITE, _WRITE_ZEROES) else Errno.EINVAL
            return beyond, "beyond the end of the volume"
        if command == _READ and length > REQUEST_BYTES_MAX:
            return (
                Errno.EOVERFLOW if self.structured else Errno.EINVAL,
                f"reads end at {REQUEST_BYTES_MAX} bytes",
            )
        if flags & _FAST_ZERO and (offset | length) % BLOCK_BYTES:
            return Errno.ENOTSUP, "parts of blocks are read and written: that is not faster than a write"
        return 0, ""

    def _error(self, handle: int, errno: int, reason: str) -> bytes:
        return wire.error_chunk(handle, errno, reason) if self.structured else wire.simple_reply(handle, errno)

    # --- phases ---

    def _to(self, phase: Phase, wanted: int) -> None:
        self.phase = phase
        self.wanted = wanted

    def _close(self, reason: str) -> None:
        self.closed_because = reason
        self._to(Phase.CLOSED, 0)


def _requested_name(data: bytes) -> bytes | None:
    """The export name in the data of INFO and GO: length, name, number of information requests, requests.
    None when the lengths contradict each other."""
    if len(data) < 6:
        return None
    (name_bytes,) = struct.unpack_from(">I", data)
    if name_bytes > len(data) - 6:
        return None
    (requests,) = struct.unpack_from(">H", data, 4 + name_bytes)
    if len(data) != 6 + name_bytes + 2 * requests:
        return None
    return data[4 : 4 + name_bytes]


def _requested_contexts(data: bytes) -> tuple[bytes, list[bytes]] | None:
    """(export name, queries) in the data of LIST_ and SET_META_CONTEXT: length, name, number of queries, each with its
    length. None when the lengths contradict each other, or a query names no namespace."""
    at = 0
    texts: list[bytes] = []
    expected = 1
    while len(texts) < expected:
        if len(data) - at < 4:
            return None
        (length,) = struct.unpack_from(">I", data, at)
        at += 4
        if length > min(len(data) - at, wire.NAME_BYTES_MAX):
            return None
        texts.append(data[at : at + length])
        at += length
        if len(texts) == 1:
            if len(data) - at < 4:
                return None
            expected += struct.unpack_from(">I", data, at)[0]
            at += 4
    name, *queries = texts
    return None if at != len(data) or not all(b":" in query for query in queries) else (name, queries)
