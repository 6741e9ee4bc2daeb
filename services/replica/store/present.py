"""Which blocks a layer has itself; what it does not have is in the layers below it.

    layers/0002/present     cells of 32,256 blocks, a bit per block; each cell: one SlotPair of 4 KiB copies

A bit is set in memory as soon as the block is in the layer's data file, and on the disk only after that file was
synced: a durable bit without its data would read as zeros, which nobody wrote, while the block that was flushed
long ago lies one layer below. What is set and not durable yet is found again after a stop (`regain`).

A cell that was never written is a hole, which is what an empty layer is made of. Two threads: the event loop
sets bits, the worker that syncs makes them durable; `_changed` is what both touch.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

from services.replica.store.disk import data_ranges, failed, read_at, sync_data
from services.replica.store.port import FormatError
from services.replica.store.slots import OVERHEAD, Copy, SlotPair, pair_bytes
from stoscore.units import BLOCK_BYTES

COPY_BYTES = BLOCK_BYTES
CELL_BYTES = pair_bytes(COPY_BYTES)
BITMAP_BYTES = 4032
CELL_BLOCKS = BITMAP_BYTES * 8

assert BITMAP_BYTES + OVERHEAD <= COPY_BYTES

Captured = list[tuple[int, int]]
"""(cell, bits): what is being made durable."""


def file_bytes(size_blocks: int) -> int:
    return CELL_BYTES * -(-size_blocks // CELL_BLOCKS)


class PresentMap:
    """The file `present` of a layer. Owns no descriptor: the layer does."""

    __slots__ = ("_bits", "_changed", "_fd", "_lock", "_pairs", "_where")

    def __init__(self, fd: int, where: str) -> None:
        self._fd = fd
        self._where = where
        self._bits: dict[int, int] = {}
        self._pairs: dict[int, SlotPair] = {}
        self._changed: set[int] = set()
        self._lock = threading.Lock()

    def open(self, size_blocks: int) -> None:
        """Read what is on the disk. Raises FormatError when a cell is unreadable, StoreError."""
        try:
            ranges = list(data_ranges(self._fd, 0, file_bytes(size_blocks)))
        except OSError as error:
            raise failed("find the data of", self._where, error) from error
        for cell in sorted({cell for low, high in ranges for cell in range(low // CELL_BYTES, -(-high // CELL_BYTES))}):
            if not any(read_at(self._fd, CELL_BYTES, cell * CELL_BYTES, self._where)):
                continue
            bitmap = self._pair(cell).load()
            if len(bitmap) != BITMAP_BYTES:
                raise FormatError(f"{self._where} has a bitmap of {len(bitmap)} bytes")
            self._bits[cell] = int.from_bytes(bitmap, "little")

    def settle(self) -> None:
        """Make durable what `open` read, before anything overwrites the slots beside it."""
        sync_data(self._fd, self._where)

    # --- event loop's thread ---

    def add(self, block: int, count: int) -> None:
        """Their data are in the layer's file."""
        for cell, first, step in _cells(block, count):
            old = self._bits.get(cell, 0)
            new = old | ((1 << step) - 1) << first
            if new != old:
                with self._lock:
                    self._bits[cell] = new
                    self._changed.add(cell)

    def runs(self, block: int, count: int) -> Iterator[tuple[int, int, bool]]:
        """(block, count, they are here), in order."""
        for cell, first, step in _cells(block, count):
            yield from _runs(self._bits.get(cell, 0) >> first & (1 << step) - 1, cell * CELL_BLOCKS + first, step)

    def has_none(self, block: int, count: int) -> bool:
        """None of these blocks is here: soon said, for many layers lie between a block and its data."""
        cell, first = divmod(block, CELL_BLOCKS)
        bits = self._bits.get(cell)
        if first + count <= CELL_BLOCKS:
            return bits is None or not bits >> first & (1 << count) - 1
        return not any(here for _, _, here in self.runs(block, count))

    # --- durability; worker thread ---

    @property
    def changed(self) -> bool:
        return bool(self._changed)

    def capture(self) -> Captured:
        """Before the data are synced: the bits whose data that sync will cover."""
        with self._lock:
            captured = [(cell, self._bits[cell]) for cell in sorted(self._changed)]
            self._changed.clear()
        return captured

    def save(self, captured: Captured) -> None:
        """After the data were synced. Durable when it returns. Raises StoreError."""
        if not captured:
            return
        for cell, bits in captured:
            self._pair(cell).put(bits.to_bytes(BITMAP_BYTES, "little"))
        sync_data(self._fd, self._where)
        for cell, _ in captured:
            self._pair(cell).settle()

    def change_all(self) -> None:
        """The disk may not have what was read: a sync failed, and the page cache forgets what it could not write."""
        with self._lock:
            self._changed.update(self._bits)

    def copies(self, size_blocks: int) -> list[Copy]:
        """Of all cells that were ever written."""
        cells = range(-(-size_blocks // CELL_BLOCKS))
        return [copy for cell in cells if cell in self._bits for copy in self._pair(cell).copies()]

    def _pair(self, cell: int) -> SlotPair:
        pair = self._pairs.get(cell)
        if pair is None:
            pair = self._pairs[cell] = SlotPair(self._fd, cell * CELL_BYTES, COPY_BYTES, self._where)
        return pair


def _cells(block: int, count: int) -> Iterator[tuple[int, int, int]]:
    """(cell, first block in it, count) of a range."""
    while count:
        cell, first = divmod(block, CELL_BLOCKS)
        step = min(count, CELL_BLOCKS - first)
        yield cell, first, step
        block, count = block + step, count - step


def _runs(bits: int, block: int, count: int) -> Iterator[tuple[int, int, bool]]:
    while count:
        here = bool(bits & 1)
        ends = ~bits if here else bits
        length = min(count, (ends & -ends).bit_length() - 1) if ends else count
        yield block, length, here
        bits, block, count = bits >> length, block + length, count - length
