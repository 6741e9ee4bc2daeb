"""Which blocks are present and what they hash to: the files `sums` and `roots` of a layer.

`sums` has 8 bytes per block, 0 for a block that reads as zeros, so it is the map of present blocks as well.
A lost or rotten entry of 0 would turn a block into zeros with no mismatch to show for it (rule K1): `roots` has
the hash of each region's sums, written by `sync`, and every region that is loaded while it is not marked is
checked against it. Marked regions change all the time, so their roots say nothing.

When a root does not match, the data decide (rule K3), because they were flushed together with the sums:

- the sums match the data: the root is the rotten part, and is written again;
- the data's hashes match the root: the sums are the rotten part, and are written again;
- else the region is *suspect*: reads look at the data of its absent blocks too, and its root stays as it
  is, so that the next opening finds it again, until all of its blocks match.

Sums are read and written by system calls, through a small cache of regions, and not by a memory map: a full
disk or a bad sector under a map is a fatal signal to the process, and with it to every volume of the node.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Collection, Iterator, Sequence

from services.replica.store.disk import data_ranges, failed, read_at, write_at
from services.replica.store.port import Unproved
from services.replica.store.scattered import Part, Range
from services.replica.store.sums import FAN_OUT, Buffer, node, nodes
from stoscore.units import BLOCK_BYTES, REGION_BLOCKS, SUM_BYTES

REGION_SUMS_BYTES = REGION_BLOCKS * SUM_BYTES
_CACHED_REGIONS_MAX = 4096
_NODES_PER_REGION = REGION_BLOCKS // FAN_OUT
_READ_REGIONS = 128
"""Whose sums are read by one call."""

assert REGION_BLOCKS % FAN_OUT == 0
assert REGION_SUMS_BYTES % BLOCK_BYTES == 0


class SumMap:
    """The sums and roots of one layer. `hash_region` reads a region's data and gives its sums.

    The event loop's thread reads and writes sums; `check_roots` and `write_roots` run in a worker and touch files and
    the `_dirty` flags only: one byte per region, set after a write's sums are in the file and cleared before
    they are hashed, so no write is missed whichever comes first.
    """

    __slots__ = (
        "_cache",
        "_dirty",
        "_hash_region",
        "_lock",
        "_marked",
        "_roots_fd",
        "_roots_where",
        "_sums_fd",
        "_watched",
        "_where",
        "regions",
        "suspect",
        "unflushed",
    )

    def __init__(
        self,
        sums_fd: int,
        roots_fd: int,
        regions: int,
        where: str,
        hash_region: Callable[[int], bytes],
        marked: Callable[[], Collection[int]],
    ) -> None:
        self._sums_fd = sums_fd
        self._roots_fd = roots_fd
        self._where = f"{where}/sums"
        self._roots_where = f"{where}/roots"
        self._hash_region = hash_region
        self._marked = marked
        self._cache: dict[int, bytearray] = {}
        self._dirty = bytearray(regions)
        self._lock = threading.Lock()
        self._watched: set[int] = set()
        self.regions = regions
        self.suspect: frozenset[int] = frozenset()
        self.unflushed = False
        """Something was written since this was last set to False."""

    def grow(self, regions: int) -> None:
        """The new regions are absent, as their roots of 0 say. Worker thread."""
        self._dirty.extend(bytes(regions - self.regions))
        self.regions = regions

    def seal(self) -> None:
        """Nothing is written any more: every root says something from now on."""
        self._marked = frozenset

    # --- event loop's thread ---

    def read(self, block: int, count: int) -> bytes:
        region, first = divmod(block, REGION_BLOCKS)
        if first + count <= REGION_BLOCKS:
            sums = self.region(region)
            return bytes(sums[first * SUM_BYTES : (first + count) * SUM_BYTES])
        parts = []
        while count:
            step = min(count, REGION_BLOCKS - first)
            parts.append(self.read(block, step))
            block, count, first = block + step, count - step, 0
        return b"".join(parts)

    def region(self, region: int) -> bytearray:
        """The sums of a whole region, not to be changed."""
        return self._cache.get(region) or self._load(region)

    def roots_of(self, first: int, count: int) -> bytes:
        """Of each region the hash of its sums, 0 where all are: its root, as far as that says something. Beyond the end
        there are none."""
        here = max(0, min(count, self.regions - first))
        roots = bytearray(read_at(self._roots_fd, here * SUM_BYTES, first * SUM_BYTES, self._roots_where))
        for start, length in runs_of(sorted(self._unproved(first, first + here)), _READ_REGIONS):
            sums = read_at(self._sums_fd, length * REGION_SUMS_BYTES, start * REGION_SUMS_BYTES, self._where)
            at = (start - first) * SUM_BYTES
            roots[at : at + length * SUM_BYTES] = nodes(sums, REGION_BLOCKS)
        return bytes(roots) + bytes((count - here) * SUM_BYTES)

    def _unproved(self, first: int, end: int) -> set[int]:
        """Those whose roots say nothing."""
        marked, few = self._marked(), range(first, end)
        found = {region for region in (marked if len(marked) < len(few) else few) if region in few and region in marked}
        found.update(region for region in self.suspect if region in few)
        region = self._dirty.find(1, first, end)
        while region >= 0:
            found.add(region)
            region = self._dirty.find(1, region + 1, end)
        return found

    def write(self, block: int, sums: Buffer) -> None:
        write_at(self._sums_fd, sums, block * SUM_BYTES, self._where)
        region = block // REGION_BLOCKS
        start = block % REGION_BLOCKS * SUM_BYTES
        end = start + len(sums)
        if end <= REGION_SUMS_BYTES:
            cached = self._cache.get(region)
            if cached is not None:
                cached[start:end] = sums
            self._dirty[region] = 1
            self.unflushed = True
            return
        last = region + (end - 1) // REGION_SUMS_BYTES
        for touched in range(region, last + 1):
            self._cache.pop(touched, None)
            self._dirty[touched] = 1
        self.unflushed = True

    def written(self, blocks: Sequence[int], each: Sequence[bytes]) -> None:
        """The sums of these blocks, which are in the file."""
        cached, dirty, size = self._cache.get, self._dirty, SUM_BYTES
        for block, total in zip(blocks, each, strict=True):
            region = block // REGION_BLOCKS
            dirty[region] = 1
            row = cached(region)
            if row is not None:
                start = block % REGION_BLOCKS * size
                row[start : start + size] = total
        self.unflushed = True

    def forget(self, blocks: Sequence[int]) -> None:
        """Some of these blocks have new sums in the file, and nobody knows which."""
        for block in blocks:
            self._cache.pop(block // REGION_BLOCKS, None)
            self._dirty[block // REGION_BLOCKS] = 1
        self.unflushed = True

    def read_scattered(self, ranges: Sequence[Range]) -> bytes:
        """Of each range, one behind the other."""
        found = bytearray()
        last, sums = -1, bytearray()
        for block, count in ranges:
            region, first = block // REGION_BLOCKS, block % REGION_BLOCKS
            if first + count > REGION_BLOCKS:
                found += self.read(block, count)
                continue
            if region != last:
                last, sums = region, self.region(region)
            found += sums[first * SUM_BYTES : (first + count) * SUM_BYTES]
        return bytes(found)

    def of_blocks(self, blocks: Sequence[int]) -> bytes:
        """As `read_scattered`, of single blocks."""
        cache, size = self._cache, SUM_BYTES
        try:
            rows = [(cache[block // REGION_BLOCKS], block % REGION_BLOCKS * size) for block in blocks]
        except KeyError:
            return self.read_scattered([(block, 1) for block in blocks])
        return b"".join([row[at : at + size] for row, at in rows])

    def write_part(self, part: Part, sums: memoryview) -> None:
        """The region's row from the first to the last of them, with what lies between them as it is."""
        cached = self.region(part.region)
        base = part.region * REGION_BLOCKS
        low, high = (part.first - base) * SUM_BYTES, (part.end - base) * SUM_BYTES
        row = cached[low:high]
        at = 0
        for block, count in part.ranges:
            start, size = (block - part.first) * SUM_BYTES, count * SUM_BYTES
            row[start : start + size] = sums[at : at + size]
            at += size
        write_at(self._sums_fd, row, part.first * SUM_BYTES, self._where)
        cached[low:high] = row
        self._dirty[part.region] = 1
        self.unflushed = True

    def reload(self, region: int) -> None:
        """The file may have rotten under the cache, or the root beside it. Where the root says something, it decides;
        else what the cache holds was written last, and is written again."""
        if region not in self._marked() and not self._dirty[region]:
            self._cache.pop(region, None)
        elif region in self._cache:
            write_at(self._sums_fd, self._cache[region], region * REGION_SUMS_BYTES, self._where)

    def _load(self, region: int) -> bytearray:
        sums = self._trusted_region(region)
        if len(self._cache) >= _CACHED_REGIONS_MAX:
            del self._cache[next(iter(self._cache))]
        cached = self._cache[region] = bytearray(sums)
        return cached

    def _trusted_region(self, region: int) -> bytes:
        sums = self._read_region(region)
        if region in self._marked() or self._dirty[region] or region in self.suspect:
            return sums
        return self._checked(region, sums)

    # --- roots ---

    def check_roots(self, regions: Collection[int]) -> None:
        """Before regions are marked: from then on their roots say nothing, and the next sync writes them anew
        over whatever the sums say. Worker thread; nobody writes these regions yet."""
        for region in sorted(regions):
            if not self._dirty[region] and region not in self.suspect:
                self._checked(region, self._read_region(region))

    def _checked(self, region: int, sums: bytes) -> bytes:
        root = self.root(region)
        if root == node(sums):
            return sums
        actual = self._hash_region(region)
        if actual == sums:
            self._write_root(region, node(sums))
        elif node(actual) == root:
            write_at(self._sums_fd, actual, region * REGION_SUMS_BYTES, self._where)
        else:
            with self._lock:
                self.suspect |= {region}
            return sums
        return actual

    def root(self, region: int) -> int:
        return int.from_bytes(read_at(self._roots_fd, SUM_BYTES, region * SUM_BYTES, self._roots_where), "little")

    def _write_root(self, region: int, root: int) -> None:
        write_at(self._roots_fd, root.to_bytes(SUM_BYTES, "little"), region * SUM_BYTES, self._roots_where)

    # --- worker thread ---

    def set_dirty(self, regions: Collection[int]) -> None:
        """These regions' roots are to be written by the next sync."""
        for region in regions:
            self._dirty[region] = 1
            self.unflushed = True

    def is_dirty(self) -> bool:
        return self._dirty.find(1) >= 0

    def write_roots(self) -> None:
        """The roots of what changed since the last call. A root that is computed while its region is being
        written is of no use and does no harm: the region stays marked until a sync that starts later."""
        region = self._dirty.find(1)
        while region >= 0:
            self._dirty[region] = 0
            self._watched.add(region)
            sums = self._read_region(region)
            if region not in self.suspect:
                self._write_root(region, node(sums))
            elif self._hash_region(region) == sums:
                self._write_root(region, node(sums))
                with self._lock:
                    self.suspect -= {region}
            region = self._dirty.find(1, region + 1)

    def watch(self) -> None:
        """A copy of all sums begins; what is written from here on will be in `watched`, after the next sync."""
        self._watched = set()

    @property
    def watched(self) -> list[int]:
        return sorted(self._watched)

    def copy_region(self, region: int, sums_fd: int, roots_fd: int) -> None:
        """Into another layer's files, for the regions of a copy that were written meanwhile."""
        write_at(sums_fd, self._read_region(region), region * REGION_SUMS_BYTES, self._where)
        write_at(roots_fd, self.root(region).to_bytes(SUM_BYTES, "little"), region * SUM_BYTES, self._roots_where)

    @property
    def files(self) -> list[tuple[int, str]]:
        """(descriptor, name) of what has to be synced together with the data."""
        return [(self._sums_fd, self._where), (self._roots_fd, self._roots_where)]

    def _read_region(self, region: int) -> bytes:
        return read_at(self._sums_fd, REGION_SUMS_BYTES, region * REGION_SUMS_BYTES, self._where)

    def scan(self, block: int, actual: bytes) -> bool:
        """Are these the sums in the file, from `block` on and inside one region, and are that region's proved by its
        root as far as it says anything? By the files alone: the cache belongs to the event loop."""
        region, first = divmod(block, REGION_BLOCKS)
        sums = self._read_region(region)
        at = first * SUM_BYTES
        if sums[at : at + len(actual)] != actual:
            return False
        says_nothing = region in self._marked() or self._dirty[region]
        return bool(says_nothing) or self.root(region) == node(sums)

    def lowest_nodes(self, size_blocks: int) -> Iterator[tuple[int, int]]:
        """(index, value) of the hash tree's nodes right above the sums that are not 0, of a sealed layer: each region's
        sums are proved by its root first, for whoever holds others is judged by them. By the files alone. Worker
        thread. Raises StoreError, Unproved."""
        for region in self._regions_with_sums(-(-size_blocks // REGION_BLOCKS)):
            sums = self._checked(region, self._read_region(region))
            if region in self.suspect:
                raise Unproved(f"the checksums of region {region} in {self._where} and their hash differ")
            values = nodes(sums[: (size_blocks - region * REGION_BLOCKS) * SUM_BYTES])
            for at, (value,) in enumerate(struct.iter_unpack("<Q", values), region * _NODES_PER_REGION):
                if value:
                    yield at, value

    def _regions_with_sums(self, end: int) -> list[int]:
        """Those below `end` that have sums, or had by their root."""
        end = min(end, self.regions)
        roots = read_at(self._roots_fd, end * SUM_BYTES, 0, self._roots_where)
        found = {region for region, (root,) in enumerate(struct.iter_unpack("<Q", roots)) if root}
        try:
            for low, high in data_ranges(self._sums_fd, 0, end * REGION_SUMS_BYTES):
                found.update(range(low // REGION_SUMS_BYTES, -(-high // REGION_SUMS_BYTES)))
        except OSError as error:
            raise failed("find the data of", self._where, error) from error
        return sorted(found)


def runs_of(numbers: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """(first, length) of each run of neighbours in ascending numbers, none longer than `most`."""
    at = 0
    while at < len(numbers):
        end = at + 1
        while end < len(numbers) and end - at < most and numbers[end] == numbers[at] + end - at:
            end += 1
        yield numbers[at], end - at
        at = end
