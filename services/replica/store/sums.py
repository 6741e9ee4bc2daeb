"""Block checksums: xxh3-64 per 4 KiB block, little-endian u64, and the nodes of the tree above them.

Zero and absent are one thing to everybody who compares copies (rule W1), so a block of zeros has the sum 0
and nothing else has: a real hash of 0 is stored as 1. Callers hash many blocks at a time, so both functions
are one tight loop over slices of one buffer, without an object per block that outlives it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from xxhash import xxh3_64_intdigest

from stoscore.units import BLOCK_BYTES, REGION_BLOCKS, SUM_BYTES

Buffer = bytes | bytearray | memoryview

FAN_OUT = 256
"""Children of one node of the hash tree."""
GROUP_BLOCKS = 16
"""Children of a node that is over a few sums."""
ZERO_BLOCK = bytes(BLOCK_BYTES)
ZERO_SUM = bytes(SUM_BYTES)
_ZERO_HASH: int = xxh3_64_intdigest(ZERO_BLOCK)
_SPECIAL = frozenset((0, _ZERO_HASH))
_NODES = {
    count: {0: 1, xxh3_64_intdigest(bytes(count * SUM_BYTES)): 0} for count in (GROUP_BLOCKS, FAN_OUT, REGION_BLOCKS)
}
"""Fan-out -> hashes of whole rows of children that the node is not: 0 is that of a row of zeros. *To look at all
children before took longer than to hash them.*"""
_PLACES = tuple([slice(at, at + BLOCK_BYTES) for at in range(0, 256 * BLOCK_BYTES, BLOCK_BYTES)])


def block_sums(data: Buffer) -> bytes:
    """One sum of 8 bytes per block of `data`, whose length is a multiple of the block size."""
    if len(data) % BLOCK_BYTES:
        raise ValueError(f"{len(data)} bytes are no whole number of blocks")
    digest = xxh3_64_intdigest
    if len(data) == BLOCK_BYTES:
        value = digest(data)
        if value not in _SPECIAL:
            return int(value).to_bytes(SUM_BYTES, "little")
    view = memoryview(data)
    sums = list(map(digest, blocks_of(view)))
    if not _SPECIAL.isdisjoint(sums):
        sums = [_canonical(value, view, at) if value in _SPECIAL else value for at, value in enumerate(sums)]
    return struct.pack(f"<{len(sums)}Q", *sums)


def blocks_of(data: memoryview) -> list[memoryview]:
    """Each by itself, a window as `data` is."""
    count = len(data) // BLOCK_BYTES
    if count <= len(_PLACES):
        return list(map(data.__getitem__, _PLACES[:count]))
    return [data[at : at + BLOCK_BYTES] for at in range(0, len(data), BLOCK_BYTES)]


def verify(data: Buffer, sums: Buffer) -> list[int]:
    """Indexes of the blocks of `data` that do not match their sum; [] when all do."""
    found = block_sums(data)
    if found == sums:
        return []
    if len(found) != len(sums):
        raise ValueError(f"{len(sums) // SUM_BYTES} sums do not belong to {len(data)} bytes")
    pairs = zip(struct.iter_unpack("<Q", found), struct.iter_unpack("<Q", sums), strict=True)
    return [index for index, (have, want) in enumerate(pairs) if have != want]


def are_as(blocks: Sequence[bytes], sums: bytes) -> bool:
    """Each of these blocks has its sum, none of which is 0."""
    return struct.pack(f"<{len(blocks)}Q", *map(xxh3_64_intdigest, blocks)) == sums


def has_zero(sums: Buffer) -> bool:
    """Is one of these sums 0? The search for eight zero bytes is quick and nearly always the answer."""
    raw = bytes(sums)
    return ZERO_SUM in raw and 0 in struct.unpack(f"<{len(raw) // SUM_BYTES}Q", raw)


def all_zero(sums: Buffer) -> bool:
    return sums == bytes(len(sums))


def node(children: Buffer) -> int:
    """A node of the hash tree over its children's 8-byte values; 0 when they are all 0."""
    return 0 if all_zero(children) else xxh3_64_intdigest(children) or 1


def nodes(children: Buffer, fan_out: int = FAN_OUT) -> bytes:
    """The nodes above a row of children that starts at a multiple of the fan-out; the last may be short."""
    view, step, others = memoryview(children), fan_out * SUM_BYTES, _NODES[fan_out]
    found = [others.get(value, value) for value in map(xxh3_64_intdigest, _rows(view, step))]
    if len(view) % step:
        found[-1] = node(view[len(view) // step * step :])
    return struct.pack(f"<{len(found)}Q", *found)


def _rows(view: memoryview, step: int) -> list[memoryview]:
    return [view[at : at + step] for at in range(0, len(view), step)]


def _canonical(value: int, view: memoryview, index: int) -> int:
    if value == _ZERO_HASH and bytes(view[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES]) == ZERO_BLOCK:
        return 0
    return value or 1
