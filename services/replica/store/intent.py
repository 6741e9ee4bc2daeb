"""The intent log: which regions may hold unfinished or unflushed writes, and whether this host lost power.

A region is marked, durably, before its first write and unmarked after a flush (rule T3). So when power is lost,
everything that may be half written is inside the marks, and a mismatch outside them is corruption. The header
holds the boot id under which the directory was opened, `unclean` (rule S3) and the clean mark, which is erased
durably at each opening and therefore before the first write.

    | header | regions 0 .. 32,255 | regions 32,256 .. | ...        each cell: one SlotPair of 4 KiB copies

Two threads: `mark` and `save_header` run in a worker, one at a time, and wait for the disk; `unmark` runs in the
event loop and never waits for them. What both touch is memory behind a lock that no I/O of the worker is done
under. Two rules keep the slots honest:

- `unmark` writes only the slot that is not durable. Torn, it falls back to a value with more marks: harmless.
- While the worker is between its write and its sync, `unmark` only notes that the page is stale. It would write
  the very slot that is being made durable, tear it at a power loss, and so take back a mark that was promised.
"""

from __future__ import annotations

import re
import struct
import threading
from collections.abc import Iterable
from dataclasses import dataclass

from services.replica.store.disk import sync_data
from services.replica.store.port import FormatError, StoreError
from services.replica.store.slots import OVERHEAD, Copy, SlotPair, pair_bytes
from stoscore.units import REGION_BLOCKS

COPY_BYTES = 4096
CELL_BYTES = pair_bytes(COPY_BYTES)
BITMAP_BYTES = 4032
CELL_REGIONS = BITMAP_BYTES * 8
BOOT_ID_BYTES_MAX = 64
_HEADER = struct.Struct("<BQQH")
_UNCLEAN, _CLOSED = 1, 2
_NOT_CLEAR = re.compile(rb"[^\0]")

assert BITMAP_BYTES + OVERHEAD <= COPY_BYTES


@dataclass(frozen=True, slots=True)
class Header:
    """`closed`: the last opening ended in a clean close, and then the tail ended at (tail_last, tail_commit)."""

    boot_id: str
    unclean: bool = False
    closed: bool = False
    tail_last: int = 0
    tail_commit: int = 0

    def to_bytes(self) -> bytes:
        boot_id = self.boot_id.encode()
        if not 0 < len(boot_id) <= BOOT_ID_BYTES_MAX:
            raise ValueError(f"a boot id has 1 to {BOOT_ID_BYTES_MAX} bytes, this one {len(boot_id)}")
        flags = self.unclean * _UNCLEAN | self.closed * _CLOSED
        return _HEADER.pack(flags, self.tail_last, self.tail_commit, len(boot_id)) + boot_id

    @classmethod
    def from_bytes(cls, raw: bytes) -> Header:
        flags, last, commit, length = _HEADER.unpack_from(raw)
        boot_id = raw[_HEADER.size : _HEADER.size + length].decode()
        return cls(boot_id, bool(flags & _UNCLEAN), bool(flags & _CLOSED), last, commit)


def regions_of(size_blocks: int) -> int:
    return -(-size_blocks // REGION_BLOCKS)


def file_bytes(regions: int) -> int:
    return CELL_BYTES * (1 + -(-regions // CELL_REGIONS))


class IntentLog:
    """The file `intent` of a replica directory. `marked` is replaced, never changed, so that a reader in
    either thread always holds a whole set."""

    __slots__ = ("_bits", "_busy", "_fd", "_header_pair", "_lock", "_pairs", "_stale", "_where", "header", "marked")

    def __init__(self, fd: int, regions: int, where: str) -> None:
        self._fd = fd
        self._where = where
        self._lock = threading.Lock()
        self._header_pair = SlotPair(fd, 0, COPY_BYTES, where)
        cells = -(-regions // CELL_REGIONS)
        self._pairs = [SlotPair(fd, (1 + cell) * CELL_BYTES, COPY_BYTES, where) for cell in range(cells)]
        self._bits = bytearray(cells * BITMAP_BYTES)
        self._busy = False
        self._stale: set[int] = set()
        self.marked: frozenset[int] = frozenset()
        self.header = Header("none")

    def make(self, boot_id: str) -> None:
        """Both slots of every cell of a new file: nothing marked, opened under this boot id."""
        self.header = Header(boot_id)
        for _ in range(2):
            self._header_pair.put(self.header.to_bytes())
            for cell, pair in enumerate(self._pairs):
                pair.put(self._bitmap(cell))
            sync_data(self._fd, self._where)
            for pair in (self._header_pair, *self._pairs):
                pair.settle()

    def grow(self, regions: int) -> None:
        """Cells for that many regions, empty and durable, before anything is marked there. The file is long enough.
        Worker thread."""
        cells = range(len(self._pairs), -(-regions // CELL_REGIONS))
        if not cells:
            return
        pairs = [SlotPair(self._fd, (1 + cell) * CELL_BYTES, COPY_BYTES, self._where) for cell in cells]
        for _ in range(2):
            for pair in pairs:
                pair.put(bytes(BITMAP_BYTES))
            sync_data(self._fd, self._where)
            for pair in pairs:
                pair.settle()
        with self._lock:
            self._bits.extend(bytes(len(pairs) * BITMAP_BYTES))
            self._pairs.extend(pairs)

    def open(self) -> None:
        """Read what the last opening left. Raises FormatError when a cell is unreadable."""
        raw = self._header_pair.load()
        try:
            self.header = Header.from_bytes(raw)
        except (struct.error, UnicodeDecodeError):
            raise FormatError(f"the header of {self._where} makes no sense") from None
        for cell, pair in enumerate(self._pairs):
            bitmap = pair.load()
            if len(bitmap) != BITMAP_BYTES:
                raise FormatError(f"{self._where} has a bitmap of {len(bitmap)} bytes")
            self._bits[cell * BITMAP_BYTES : (cell + 1) * BITMAP_BYTES] = bitmap
        self.marked = frozenset(_set_bits(self._bits))

    def settle(self) -> None:
        """Make durable what `open` read, before anything overwrites the slots beside it."""
        sync_data(self._fd, self._where)

    def mark(self, regions: Iterable[int]) -> None:
        """Durable when it returns; after a StoreError the new marks are not set. Worker thread."""
        with self._lock:
            new = frozenset(regions) - self.marked
            if not new:
                return
            self._flip(new, on=True)
            cells = sorted(self._stale | {region // CELL_REGIONS for region in new})
            self._stale.clear()
            images = [self._pairs[cell].image(self._bitmap(cell)) for cell in cells]
            self._busy = True
        try:
            for cell, image in zip(cells, images, strict=True):
                self._pairs[cell].write(image)
            sync_data(self._fd, self._where)
        except StoreError:
            with self._lock:
                self._flip(new, on=False)
                self._stale.update(cells)
                self._busy = False
            raise
        with self._lock:
            for cell in cells:
                self._pairs[cell].settle()
            self._busy = False

    def unmark(self, regions: Iterable[int]) -> None:
        """In memory at once, on disk soon: in the page cache now, or together with the next mark."""
        with self._lock:
            gone = self.marked.intersection(regions)
            if not gone:
                return
            self._flip(gone, on=False)
            self._stale.update(region // CELL_REGIONS for region in gone)
            if self._busy:
                return
            try:
                for cell in sorted(self._stale):
                    self._pairs[cell].put(self._bitmap(cell))
            except StoreError:
                return  # More marks on disk than needed do no harm, and the next mark reports the disk.
            self._stale.clear()

    def save_header(self, header: Header) -> None:
        """Durable when it returns. Worker thread, or nobody else at work."""
        image = self._header_pair.image(header.to_bytes())
        with self._lock:
            self._busy = True
        try:
            self._header_pair.write(image)
            sync_data(self._fd, self._where)
            self._header_pair.settle()
            self.header = header
        finally:
            with self._lock:
                self._busy = False

    def copies(self) -> list[Copy]:
        return [copy for pair in (self._header_pair, *self._pairs) for copy in pair.copies()]

    def _bitmap(self, cell: int) -> bytes:
        return bytes(self._bits[cell * BITMAP_BYTES : (cell + 1) * BITMAP_BYTES])

    def _flip(self, regions: frozenset[int], *, on: bool) -> None:
        for region in regions:
            if on:
                self._bits[region >> 3] |= 1 << (region & 7)
            else:
                self._bits[region >> 3] &= ~(1 << (region & 7)) & 0xFF
        self.marked = self.marked | regions if on else self.marked - regions


def _set_bits(bits: bytearray) -> list[int]:
    """Nearly all are clear: what looks for the others is not a loop over bytes."""
    set_bytes = (found.start() for found in _NOT_CLEAR.finditer(bits))
    return [at * 8 + bit for at in set_bytes for bit in range(8) if bits[at] >> bit & 1]
