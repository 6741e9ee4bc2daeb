"""The payload of a copy: the checksums of all its blocks, then the data of those that are not zeros."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from services.replica.store import Blocks, BlockStore, CorruptBlocks
from stoscore.units import BLOCK_BYTES, SUM_BYTES

Range = tuple[int, int]
_ZERO = bytes(SUM_BYTES)


def pack_copy(store: Blocks, ranges: Sequence[Range]) -> tuple[bytes | memoryview, ...]:
    """(sums, data...) as the store holds them now, each block verified. Raises CorruptBlocks, StoreError."""
    sums, data = store.read_scattered(ranges)
    view = memoryview(data)
    runs = _runs(sums)
    return sums, *(view[at * BLOCK_BYTES : (at + length) * BLOCK_BYTES] for at, length, zeros in runs if not zeros)


def pack_readable(
    store: BlockStore, ranges: Sequence[Range]
) -> tuple[list[Range], tuple[bytes | memoryview, ...], list[int]]:
    """(ranges, payload as of `pack_copy`, bad blocks): what of these ranges matches its checksum, and what does not.
    Raises StoreError."""
    bad: list[int] = []
    good: list[Range] = []
    for block, count in ranges:
        try:
            store.read(block, count)
        except CorruptBlocks as error:
            bad += error.blocks
            good += _without(block, count, error.blocks)
        else:
            good.append((block, count))
    return good, pack_copy(store, good), bad


def _without(block: int, count: int, bad: Sequence[int]) -> list[Range]:
    edges = [block - 1, *sorted(bad), block + count]
    return [(low + 1, high - low - 1) for low, high in pairwise(edges) if high - low > 1]


def heal_copy(
    store: BlockStore, ranges: Sequence[Range], sums: bytes | memoryview, data: bytes | memoryview, *, settled: bool
) -> list[int]:
    """Heals what does not match here with another copy's payload; the blocks that match now. Raises StoreError."""
    sums, view = bytes(sums), memoryview(data)
    whole: list[int] = []
    at_sum = at_data = 0
    for block, count in ranges:
        part = sums[at_sum : at_sum + count * SUM_BYTES]
        at_sum += len(part)
        for first, length, zeros in _runs(part):
            size = length * BLOCK_BYTES
            content = bytes(size) if zeros else view[at_data : at_data + size]
            at_data += 0 if zeros else size
            run = part[first * SUM_BYTES : (first + length) * SUM_BYTES]
            whole += store.heal(block + first, run, content, settled=settled)
    return whole


def store_copy(
    store: BlockStore,
    ranges: Sequence[Range],
    keep: Sequence[Range],
    sums: bytes | memoryview,
    data: bytes | memoryview,
) -> None:
    """Stores the blocks of `ranges` that lie in `keep`. Raises StoreError."""
    sums, view = bytes(sums), memoryview(data)
    if ranges == keep and _ZERO not in sums:
        store.write_scattered(ranges, sums, view)
        return
    kept = sorted(keep)
    places: list[Range] = []
    parts: list[memoryview] = []
    rows: list[bytes] = []
    at_sum = at_data = 0
    for block, count in ranges:
        part = sums[at_sum : at_sum + count * SUM_BYTES]
        at_sum += len(part)
        for first, length, zeros in _runs(part):
            size = 0 if zeros else length * BLOCK_BYTES
            content = view[at_data : at_data + size]
            at_data += size
            for start, end in _inside(block + first, length, kept):
                offset = start - block - first
                if zeros:
                    store.zero(start, end - start)
                    continue
                places.append((start, end - start))
                rows.append(part[(first + offset) * SUM_BYTES : (first + offset + end - start) * SUM_BYTES])
                parts.append(content[offset * BLOCK_BYTES : (offset + end - start) * BLOCK_BYTES])
    store.write_scattered(places, b"".join(rows), b"".join(parts))


def _runs(sums: bytes) -> list[tuple[int, int, bool]]:
    """(first, length, zeros?) over a row of checksums."""
    if _ZERO not in sums:
        return [(0, len(sums) // SUM_BYTES, False)]
    runs: list[tuple[int, int, bool]] = []
    for index in range(len(sums) // SUM_BYTES):
        zeros = sums[index * SUM_BYTES : (index + 1) * SUM_BYTES] == _ZERO
        if runs and runs[-1][2] is zeros:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1, zeros)
        else:
            runs.append((index, 1, zeros))
    return runs


def _inside(block: int, count: int, kept: list[Range]) -> list[tuple[int, int]]:
    """The pieces (start, end) of a range that lie in `kept`."""
    end = block + count
    return [
        (max(block, first), min(end, first + length))
        for first, length in kept
        if first < end and first + length > block
    ]
