"""Reads that a client sent one behind the other, as one thing from its socket to its replies. Pure.

    | header | header | header | ...   ──> Reads ──> one request to the primary, one answer ──> | header | blocks | ...

A client with a queue sends its small reads in bursts. Taken one by one, an object for each and a handful of calls at
each place that it passes cost more than reading the block does. So they are kept as columns, each of which is looked at
in one go. Only what is plain goes this way: reads of one size, on whole blocks and inside the volume. Anything else,
and what is wrong with a request, is `NbdConnection`'s to find.
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

_HEADER = struct.Struct(">8s8sQI")
"""magic, flags and command as one; handle, offset, length"""
HEADER_BYTES = _HEADER.size
assert wire.REQUEST.size == HEADER_BYTES
_PLAIN_READ = struct.pack(">IHH", wire.REQUEST_MAGIC, 0, Command.READ)
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

    def requests(self) -> list[NbdRequest]:
        """Each by itself."""
        return [
            NbdRequest(Command.READ, 0, int.from_bytes(handle), offset, self.length)
            for handle, offset in zip(self.handles, self.offsets, strict=True)
        ]

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


def leading_reads(data: memoryview, size_bytes: int, requests_max: int, bytes_max: int) -> Reads | None:
    """Those with which `data` begins, as many as may travel together; None when there is no use in it."""
    count = min(len(data) // HEADER_BYTES, requests_max, MANY)
    if count < 2 or data[:8] != _PLAIN_READ:
        return None
    plain, handles, offsets, lengths = zip(*_HEADER.iter_unpack(data[: count * HEADER_BYTES]), strict=True)
    length = lengths[0]
    if not length or length % BLOCK_BYTES or length > SMALL_BLOCKS * BLOCK_BYTES:
        return None
    if plain.count(_PLAIN_READ) < count or lengths.count(length) < count:
        alike = [kind == _PLAIN_READ and size == length for kind, size in zip(plain, lengths, strict=True)]
        count = alike.index(False)
    count = min(count, MANY_BLOCKS * BLOCK_BYTES // length, bytes_max // length)
    handles, offsets = handles[:count], offsets[:count]
    if count < 2 or any(map(_within_block, offsets)) or max(offsets) + length > size_bytes:
        return None
    return Reads(handles, offsets, length)
