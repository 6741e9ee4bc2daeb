"""Reads, or writes, that a client sent one behind the other, as one thing from its socket to its replies. Pure.

    | header | header | header | ...   ──> Reads ──> one request to the primary, one answer ──> | header | blocks | ...
    | header | blocks | header | ...  ──> Writes ──> one request to the primary, one answer ──> | header | header | ...

A client with a queue sends its small requests in bursts. Taken one by one, an object for each and a handful of calls at
each place that it passes cost more than reading or writing the block does. So they are kept as columns, each of which
is looked at in one go. Only what is plain goes this way: requests of one kind and one size, on whole blocks and inside
the volume. Anything else, and what is wrong with a request, is `NbdConnection`'s to find.
"""

from __future__ import annotations

import struct
from itertools import chain
from typing import NamedTuple

from services.replica.nbd import wire
from services.replica.nbd.protocol import NbdRequest
from services.replica.nbd.wire import Command
from services.replica.replication.frontend import MANY, MANY_BLOCKS, SMALL_BLOCKS
from stoscore.units import BLOCK_BYTES

_HEADER = ">8s8sQI"
"""magic, flags and command as one; handle, offset, length"""
_READS = struct.Struct(_HEADER)
_WRITES = {
    blocks * BLOCK_BYTES: struct.Struct(f"{_HEADER}{blocks * BLOCK_BYTES}s") for blocks in range(1, SMALL_BLOCKS + 1)
}
"""By the length of each: what follows the header is its content."""
HEADER_BYTES = _READS.size
assert wire.REQUEST.size == HEADER_BYTES
_LENGTH = struct.Struct(">I")
_LENGTH_AT = HEADER_BYTES - _LENGTH.size
_PLAIN_READ = struct.pack(">IHH", wire.REQUEST_MAGIC, 0, Command.READ)
_PLAIN_WRITE = struct.pack(">IHH", wire.REQUEST_MAGIC, 0, Command.WRITE)
_PLAIN_BYTES = len(_PLAIN_READ)
_REPLY = struct.pack(">II", wire.SIMPLE_REPLY_MAGIC, 0)
_CHUNK = struct.pack(">IHH", wire.STRUCTURED_REPLY_MAGIC, wire.CHUNK_DONE, wire.CHUNK_OFFSET_DATA)
_PLACE = struct.Struct(">IQ")
_within_block = (BLOCK_BYTES - 1).__and__


class Reads(NamedTuple):
    """Two or more; offsets and the length of each are bytes, whole blocks inside the volume."""

    handles: tuple[bytes, ...]
    offsets: tuple[int, ...]
    length: int

    @property
    def blocks(self) -> list[int]:
        return [offset // BLOCK_BYTES for offset in self.offsets]

    @property
    def received_bytes(self) -> int:
        """What they are in the client's stream."""
        return len(self.handles) * HEADER_BYTES

    def requests(self) -> list[NbdRequest]:
        """Each by itself."""
        return _requests(Command.READ, self.handles, self.offsets, self.length)

    def replies(self, content: bytes | memoryview, structured: bool) -> list[bytes | memoryview]:
        """The bytes that answer all of them. `content`: what they read, one behind the other."""
        length, view = self.length, memoryview(content)
        data = [view[at : at + length] for at in range(0, len(content), length)]
        if structured:
            place, size = _PLACE.pack, length + 8
            pairs = zip(self.handles, self.offsets, strict=True)
            headers = [_CHUNK + handle + place(size, offset) for handle, offset in pairs]
        else:
            headers = [_REPLY + handle for handle in self.handles]
        return list(chain.from_iterable(zip(headers, data, strict=True)))


class Writes(NamedTuple):
    """As `Reads`."""

    handles: tuple[bytes, ...]
    offsets: tuple[int, ...]
    length: int
    data: bytes
    """What they write, one behind the other."""

    @property
    def blocks(self) -> list[int]:
        return [offset // BLOCK_BYTES for offset in self.offsets]

    @property
    def received_bytes(self) -> int:
        return len(self.handles) * (HEADER_BYTES + self.length)

    def requests(self) -> list[NbdRequest]:
        return _requests(Command.WRITE, self.handles, self.offsets, self.length)

    def replies(self) -> bytes:
        """The bytes that say that all of them are done."""
        return _REPLY + _REPLY.join(self.handles)


def _requests(command: Command, handles: tuple[bytes, ...], offsets: tuple[int, ...], length: int) -> list[NbdRequest]:
    return [
        NbdRequest(command, 0, int.from_bytes(handle), offset, length)
        for handle, offset in zip(handles, offsets, strict=True)
    ]


def leading_run(data: memoryview, size_bytes: int, requests_max: int, bytes_max: int) -> Reads | Writes | None:
    """The requests with which `data` begins, as many as may travel together; None when there is no use in it."""
    if len(data) < 2 * HEADER_BYTES:
        return None
    kind, (length,) = bytes(data[:_PLAIN_BYTES]), _LENGTH.unpack_from(data, _LENGTH_AT)
    row = _READS if kind == _PLAIN_READ else _WRITES.get(length) if kind == _PLAIN_WRITE else None
    if row is None or not length or length % BLOCK_BYTES or length > SMALL_BLOCKS * BLOCK_BYTES:
        return None
    count = min(len(data) // row.size, requests_max, MANY, MANY_BLOCKS * BLOCK_BYTES // length, bytes_max // length)
    if count < 2 or data[row.size : row.size + _PLAIN_BYTES] != kind:
        return None
    plain, handles, offsets, lengths, *contents = zip(*row.iter_unpack(data[: count * row.size]), strict=True)
    if plain.count(kind) < count or lengths.count(length) < count:
        alike = [one == kind and size == length for one, size in zip(plain, lengths, strict=True)]
        count = alike.index(False)
        handles, offsets = handles[:count], offsets[:count]
    if count < 2 or any(map(_within_block, offsets)) or max(offsets) + length > size_bytes:
        return None
    if contents:
        return Writes(handles, offsets, length, b"".join(contents[0][:count]))
    return Reads(handles, offsets, length)
