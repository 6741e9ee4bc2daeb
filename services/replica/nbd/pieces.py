"""A client's request, which counts bytes, as requests on whole blocks. Pure.

    WRITE            |  .....####|##########|##########|###.......  |
    becomes           PATCH block  WRITE two blocks      PATCH block

A read asks for every block that it touches, and the answer is cut. A write or a write of zeros that does not begin or
end on a block's bound is cut there: at each end one block is patched (read, changed, written), the middle goes its
usual way. A trim may leave ends alone, and does. What is large is cut as well: a piece is one step in the loop of every
copy's process, and leases are bounded by the loop's pauses. *On a busy machine a client that wrote and read 32 MiB in
one piece was not done after four minutes.* The client's answer waits for all pieces.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from services.replica.nbd.protocol import NbdRequest
from services.replica.nbd.wire import Command, CommandFlag
from services.replica.replication.frontend import RequestKind
from stoscore.units import BLOCK_BYTES, MIB

DATA_BLOCKS_MAX = 4 * MIB // BLOCK_BYTES
ZERO_BLOCKS_MAX = 256 * MIB // BLOCK_BYTES

_READ, _WRITE, _PATCH = int(RequestKind.READ), int(RequestKind.WRITE), int(RequestKind.PATCH)
_ZERO, _STATUS = int(RequestKind.ZERO), int(RequestKind.STATUS)
_WHOLE = {
    int(Command.READ): (_READ, DATA_BLOCKS_MAX * BLOCK_BYTES),
    int(Command.WRITE): (_WRITE, DATA_BLOCKS_MAX * BLOCK_BYTES),
    int(Command.FLUSH): (int(RequestKind.FLUSH), 0),
    int(Command.TRIM): (_ZERO, ZERO_BLOCKS_MAX * BLOCK_BYTES),
    int(Command.WRITE_ZEROES): (_ZERO, ZERO_BLOCKS_MAX * BLOCK_BYTES),
    int(Command.BLOCK_STATUS): (_STATUS, 1 << 32),
}
"""Command -> kind, and up to how many bytes it is one piece."""


class Piece(NamedTuple):
    """`payload`: what a WRITE or a PATCH puts there, a PATCH at byte `skip` of its block; else empty."""

    kind: int
    block: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody calls here
    payload: bytes | memoryview = b""
    skip: int = 0


def whole(request: NbdRequest) -> int:
    """The kind of a request that is one piece, as nearly all are: on whole blocks and not large. -1 for any other."""
    command, _, _, offset, length = request
    known = _WHOLE.get(command)
    if known is None or (offset | length) % BLOCK_BYTES or length > known[1]:
        return -1
    return known[0]


def pieces(request: NbdRequest, payload: memoryview) -> list[Piece]:
    """In the order of their places; none for a hint that has nothing to do."""
    command = request.command
    first, last = request.offset // BLOCK_BYTES, -(-(request.offset + request.length) // BLOCK_BYTES)
    if command == Command.CACHE:
        return []  # a read goes to one page cache anyway, and what is said to be cached may not be
    if command in (Command.WRITE, Command.WRITE_ZEROES):
        return list(_cut(request, payload if command == Command.WRITE else None))
    if command == Command.TRIM:
        first, last = -(-request.offset // BLOCK_BYTES), (request.offset + request.length) // BLOCK_BYTES
        return list(_zeros(first, last))
    if command == Command.BLOCK_STATUS:
        return [Piece(_STATUS, first, last - first)]
    return [Piece(_READ, at, min(DATA_BLOCKS_MAX, last - at)) for at in range(first, last, DATA_BLOCKS_MAX)]


def _cut(request: NbdRequest, payload: memoryview | None) -> Iterator[Piece]:
    """`payload` None: zeros."""
    at, end = request.offset, request.offset + request.length
    while at < end:
        block, skip = divmod(at, BLOCK_BYTES)
        middle = end // BLOCK_BYTES - block
        length = min(BLOCK_BYTES - skip, end - at) if skip or not middle else middle * BLOCK_BYTES
        here = at - request.offset
        if length % BLOCK_BYTES:
            part = payload[here : here + length] if payload is not None else bytes(length)
            yield Piece(_PATCH, block, 1, part, skip)
        elif payload is not None:
            middle = min(middle, DATA_BLOCKS_MAX)
            length = middle * BLOCK_BYTES
            yield Piece(_WRITE, block, middle, payload[here : here + length])
        else:
            yield from _zeros(block, block + middle)
        at += length


def _zeros(first: int, last: int) -> Iterator[Piece]:
    for block in range(first, last, ZERO_BLOCKS_MAX):
        yield Piece(_ZERO, block, min(ZERO_BLOCKS_MAX, last - block))


def cut_read(request: NbdRequest, blocks: bytes | memoryview) -> bytes | memoryview:
    """What was asked for of the blocks that it touches."""
    if len(blocks) == request.length:
        return blocks
    skip = request.offset % BLOCK_BYTES
    return memoryview(blocks)[skip : skip + request.length]


def cut_status(request: NbdRequest, extents: list[tuple[int, bool]]) -> list[tuple[int, bool]]:
    """Extents in blocks, from the first block that the request touches on, as (bytes, they hold data) from its offset
    to its end at most; a single one where the client wants no more."""
    found: list[tuple[int, bool]] = []
    at, end = request.offset, request.offset + request.length
    stop = request.offset // BLOCK_BYTES * BLOCK_BYTES
    for count, is_data in extents:
        stop = min(stop + count * BLOCK_BYTES, end)
        found.append((stop - at, is_data))
        at = stop
    return found[:1] if request.flags & CommandFlag.REQ_ONE else found
