"""A layer: a sparse file of blocks, with the sums that say which are present and what they must hash to.

Data goes through the page cache, in as few calls as it has runs: a request without zero blocks is one pwrite,
a read is one pread, and a range of absent blocks costs no I/O at all. A block of zeros is a hole.

    layers/0001/data     block n at byte 4096 * n
    layers/0001/sums     sum of block n at byte 8 * n, padded to whole regions
    layers/0001/roots    hash of region r's sums at byte 8 * r
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass

from services.replica.store.cure import Cure, judge
from services.replica.store.disk import data_ranges, failed, first_data, punch, read_at, sync_together, write_at
from services.replica.store.extents import Extent, walk
from services.replica.store.intent import regions_of
from services.replica.store.port import CorruptBlocks
from services.replica.store.sum_map import REGION_SUMS_BYTES, SumMap
from services.replica.store.sums import ZERO_SUM, Buffer, all_zero, block_sums, has_zero, verify
from stoscore.units import BLOCK_BYTES, REGION_BLOCKS, REGION_BYTES, SUM_BYTES

DIRECTORY = "layers/0001"


@dataclass(frozen=True, slots=True)
class LayerFiles:
    """The open descriptors of one layer's files; the replica's directory owns them."""

    data: int
    sums: int
    roots: int


def file_sizes(size_blocks: int) -> dict[str, int]:
    """Sizes of a layer's files; all of them are sparse."""
    regions = regions_of(size_blocks)
    return {"data": size_blocks * BLOCK_BYTES, "sums": regions * REGION_SUMS_BYTES, "roots": regions * SUM_BYTES}


class Layer:
    """The newest layer of a volume: it takes the writes."""

    __slots__ = ("_data_fd", "_files", "_where", "size_blocks", "sums")

    def __init__(self, files: LayerFiles, size_blocks: int, where: str, marked: Callable[[], Collection[int]]) -> None:
        self._files = files
        self._data_fd = files.data
        self._where = f"{where}/data"
        self.size_blocks = size_blocks
        regions = regions_of(size_blocks)
        self.sums = SumMap(files.sums, files.roots, regions, where, self._hash_region, marked)

    def write(self, block: int, sums: Buffer, data: Buffer) -> None:
        """Data first, then sums: the pen or the marks cover what is in between."""
        if has_zero(sums):
            self._write_runs(block, sums, memoryview(data))
        else:
            write_at(self._data_fd, data, block * BLOCK_BYTES, self._where)
        self.sums.write(block, sums)

    def _write_runs(self, block: int, sums: Buffer, data: memoryview) -> None:
        values = struct.unpack(f"<{len(sums) // SUM_BYTES}Q", sums)
        start = 0
        for index in range(1, len(values) + 1):
            if index < len(values) and bool(values[index]) == bool(values[start]):
                continue
            if values[start]:
                run = data[start * BLOCK_BYTES : index * BLOCK_BYTES]
                write_at(self._data_fd, run, (block + start) * BLOCK_BYTES, self._where)
            else:
                self._punch(block + start, index - start)
            start = index

    def zero(self, block: int, count: int) -> None:
        """Region by region, and only where something is: trimming what is absent costs next to nothing."""
        while count:
            step = min(count, REGION_BLOCKS - block % REGION_BLOCKS)
            if self._punch(block, step):
                self.sums.write(block, bytes(step * SUM_BYTES))
            block, count = block + step, count - step

    def _punch(self, block: int, count: int) -> bool:
        sums = self.sums.read(block, count)
        if all_zero(sums) and not self.sums.suspect:
            return False
        punch(self._data_fd, block * BLOCK_BYTES, count * BLOCK_BYTES, self._where)
        return True

    def read(self, block: int, count: int) -> tuple[bytes, bytes]:
        sums = self.sums.read(block, count)
        if all_zero(sums) and not self.sums.suspect:
            return sums, bytes(count * BLOCK_BYTES)
        data = read_at(self._data_fd, count * BLOCK_BYTES, block * BLOCK_BYTES, self._where)
        bad = verify(data, sums)
        if bad:
            raise CorruptBlocks([block + index for index in bad])
        return sums, data

    def extents(self, block: int, count: int) -> list[Extent]:
        """Where data are, as far as one look goes. A suspect region's zeros are not believed."""
        suspect = self.sums.suspect

        def sums(at: int, step: int) -> bytes | None:
            return None if at // REGION_BLOCKS in suspect else self.sums.read(at, step)

        return walk(block, count, sums)

    def grow(self, size_blocks: int) -> None:
        """The files are of that size already."""
        self.sums.grow(regions_of(size_blocks))
        self.size_blocks = size_blocks

    # --- rot ---

    def heal(self, block: int, sums: Buffer, data: Buffer, *, settled: bool) -> list[int]:
        count = len(sums) // SUM_BYTES
        stored = self.sums.read(block, count)
        found = block_sums(read_at(self._data_fd, count * BLOCK_BYTES, block * BLOCK_BYTES, self._where))
        view, whole = memoryview(data), []
        for at, (have, want, offer) in enumerate(zip(_values(found), _values(stored), _values(sums), strict=True)):
            region = (block + at) // REGION_BLOCKS
            disproved = region in self.sums.suspect
            cure = judge(want, have, offer, settled=settled, disproved=disproved)
            if cure is Cure.REFUSED:
                continue
            if cure in (Cure.DATA, Cure.BOTH):
                self._put(block + at, offer, view[at * BLOCK_BYTES : (at + 1) * BLOCK_BYTES])
            if cure in (Cure.SUM, Cure.BOTH):
                self.sums.write(block + at, offer.to_bytes(SUM_BYTES, "little"))
            if disproved:
                self.sums.set_dirty((region,))  # the next sync looks whether its checksums are proved by now
            whole.append(block + at)
        return whole

    def _put(self, block: int, total: int, content: Buffer) -> None:
        """One block's data, whatever its checksum says."""
        if total:
            write_at(self._data_fd, content, block * BLOCK_BYTES, self._where)
        else:
            punch(self._data_fd, block * BLOCK_BYTES, BLOCK_BYTES, self._where)

    def scan(self, block: int, count: int) -> bool:
        """The page cache would show what was written, not what the disk kept: clean pages are dropped first, and
        afterwards, so that a scrub does not push out what the volume's user reads."""
        place = (block * BLOCK_BYTES, count * BLOCK_BYTES)
        os.posix_fadvise(self._data_fd, *place, os.POSIX_FADV_DONTNEED)
        try:
            return self.sums.scan(block, self._hash(block, count))
        finally:
            os.posix_fadvise(self._data_fd, *place, os.POSIX_FADV_DONTNEED)

    def recheck(self, block: int, count: int) -> list[int]:
        self.sums.reload(block // REGION_BLOCKS)
        data = read_at(self._data_fd, count * BLOCK_BYTES, block * BLOCK_BYTES, self._where)
        return [block + at for at in verify(data, self.sums.read(block, count))]

    def next_present(self, region: int) -> int | None:
        """Of data, or of checksums: a block may have lost either."""
        found = [
            low // step
            for fd, step, size in (
                (self._data_fd, REGION_BYTES, self.size_blocks * BLOCK_BYTES),
                (self._files.sums, REGION_SUMS_BYTES, self.sums.regions * REGION_SUMS_BYTES),
            )
            if (low := first_data(fd, region * step, size, self._where)) is not None
        ]
        return min(found, default=None)

    # --- durability ---

    def sync(self) -> None:
        """Everything that was written before the call survives a power loss after it (rule K1). Writes that go
        on meanwhile may be caught half: data without sums or the reverse. Their regions are marked, so after a
        power loss their sums are computed from the data. Worker thread."""
        if not self.sums.is_dirty():
            return
        self.sums.write_roots()
        sync_together([(self._data_fd, self._where), *self.sums.files])

    def rehash(self, block: int, count: int) -> None:
        """Make the sums of a range those of its data: after a stop in the middle of a write the data are what
        there is, whatever the sums promised (rule D3)."""
        end = block + count
        while block < end:
            step = min(end - block, REGION_BLOCKS - block % REGION_BLOCKS)
            self.sums.write(block, self._hash(block, step))
            block += step

    def drop_cache(self) -> None:
        """After a failed sync the page cache may hold what the disk does not: read the disk from here on."""
        for fd in (self._files.data, self._files.sums, self._files.roots):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def allocated_bytes(self) -> int:
        files = (self._files.data, self._files.sums, self._files.roots)
        return sum(os.fstat(fd).st_blocks * 512 for fd in files)

    def _hash_region(self, region: int) -> bytes:
        first = region * REGION_BLOCKS
        count = min(REGION_BLOCKS, self.size_blocks - first)
        return self._hash(first, count).ljust(REGION_SUMS_BYTES, b"\0")

    def _hash(self, block: int, count: int) -> bytes:
        return hash_data(self._data_fd, block, count, self._where)


def _values(sums: Buffer) -> tuple[int, ...]:
    return struct.unpack(f"<{len(sums) // SUM_BYTES}Q", sums)


def hash_data(fd: int, block: int, count: int, where: str) -> bytes:
    """The sums of a range as its data are, one region's worth of memory at a time. Raises StoreError."""
    start, end = block * BLOCK_BYTES, (block + count) * BLOCK_BYTES
    try:
        ranges = list(data_ranges(fd, start, end))
    except OSError as error:
        raise failed("find the data of", where, error) from error
    found, known = [], start
    for low, high in ranges:
        found.append(ZERO_SUM * ((low - known) // BLOCK_BYTES))
        for at in range(low, high, REGION_BYTES):
            found.append(block_sums(read_at(fd, min(REGION_BYTES, high - at), at, where)))
        known = high
    found.append(ZERO_SUM * ((end - known) // BLOCK_BYTES))
    return b"".join(found)
