"""A layer: a sparse file of blocks, with the sums that say which are present and what they must hash to.

Data goes through the page cache, in as few calls as it has runs: a request without zero blocks is one pwrite,
a read is one pread, and a range of absent blocks costs no I/O at all. A block of zeros is a hole.

    layers/0001/data     block n at byte 4096 * n
    layers/0001/sums     sum of block n at byte 8 * n, padded to whole regions
    layers/0001/roots    hash of region r's sums at byte 8 * r
    layers/0002/present  which blocks are in this layer's `data`; the others are in the layers below (not in 0001)

A layer's sums are those of *all* blocks of the volume, whichever layer has their data: a seal copies them. So the
tree, the scrub, delta sync and zeros look at one layer, and only where the data are is a question for the stack.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from services.replica.store import present
from services.replica.store.cure import Cure, judge
from services.replica.store.disk import (
    data_ranges,
    drop_clean,
    failed,
    first_data,
    is_cached,
    not_ahead,
    punch,
    read_at,
    read_into,
    start_writing,
    sync_data,
    sync_together,
    write_at,
    write_blocks_at,
)
from services.replica.store.extents import Extent, walk
from services.replica.store.intent import regions_of
from services.replica.store.port import CorruptBlocks, StoreError
from services.replica.store.present import PresentMap
from services.replica.store.root import root_of
from services.replica.store.scattered import Part, Range
from services.replica.store.sum_map import REGION_SUMS_BYTES, SumMap
from services.replica.store.sums import (
    ZERO_SUM,
    Buffer,
    all_zero,
    are_as,
    block_sums,
    blocks_of,
    has_zero,
    verify,
)
from stoscore.units import BLOCK_BYTES, REGION_BLOCKS, REGION_BYTES, SUM_BYTES


@dataclass(frozen=True, slots=True)
class LayerFiles:
    """The open descriptors of one layer's files; the replica's directory owns them."""

    data: int
    sums: int
    roots: int
    present: int | None = None


SHARED = ("data", "sums", "roots")
"""What clones have of a sealed layer is the same files. `present` is each replica's own: folding changes it."""


def file_sizes(size_blocks: int, number: int = 1) -> dict[str, int]:
    """Sizes of a layer's files; all of them are sparse. The first layer never had one below it."""
    regions = regions_of(size_blocks)
    sizes = {"data": size_blocks * BLOCK_BYTES, "sums": regions * REGION_SUMS_BYTES, "roots": regions * SUM_BYTES}
    return sizes if number == 1 else sizes | {"present": present.file_bytes(size_blocks)}


class Layer:
    """The newest layer of a volume takes the writes; a sealed one is what the volume was at its seal."""

    __slots__ = ("_data_fd", "_where", "below", "files", "present", "size_blocks", "sums", "where")

    def __init__(
        self,
        files: LayerFiles,
        size_blocks: int,
        where: str,
        marked: Callable[[], Collection[int]],
        below: Layer | None = None,
    ) -> None:
        """Raises FormatError, StoreError."""
        self.files = files
        self._data_fd = files.data
        self.where = where
        self._where = f"{where}/data"
        self.size_blocks = size_blocks
        self.below = below
        self.present: PresentMap | None = None
        if below is not None and files.present is not None:
            self.present = PresentMap(files.present, f"{where}/present")
            self.present.open(size_blocks)
        regions = regions_of(size_blocks)
        self.sums = SumMap(files.sums, files.roots, regions, where, self._hash_region, marked)

    # --- where the data are ---

    def owners(self, block: int, count: int) -> Iterator[tuple[Layer, int, int]]:
        """(layer, block, count): which layer's file has the data, in order."""
        layer = self
        while (below := layer.below) is not None and (present := layer.present) is not None:
            if block + count > below.size_blocks or not present.has_none(block, count):
                break
            layer = below
        else:
            yield layer, block, count
            return
        for at, length, here in present.runs(block, count):
            inside = 0 if here else max(0, min(length, below.size_blocks - at))
            if inside:
                yield from below.owners(at, inside)
            if length > inside:
                yield layer, at + inside, length - inside

    def _content(self, block: int, count: int) -> bytes:
        if self.present is None:
            return read_at(self._data_fd, count * BLOCK_BYTES, block * BLOCK_BYTES, self._where)
        return b"".join(
            read_at(layer._data_fd, length * BLOCK_BYTES, at * BLOCK_BYTES, layer._where)
            for layer, at, length in self.owners(block, count)
        )

    def sums_below(self, block: int, count: int) -> bytes:
        """What the range held when the layer below was sealed."""
        below = self.below
        inside = 0 if below is None else max(0, min(count, below.size_blocks - block))
        sums = below.sums.read(block, inside) if below is not None and inside else b""
        return sums + bytes((count - inside) * SUM_BYTES)

    # --- blocks ---

    def write(self, block: int, sums: Buffer, data: Buffer) -> None:
        """Data first, then sums: the pen or the marks cover what is in between."""
        if has_zero(sums):
            self._write_runs(block, sums, memoryview(data))
        else:
            write_blocks_at(self._data_fd, data, block * BLOCK_BYTES, self._where)
        if self.present is not None:
            self._has(block, len(sums) // SUM_BYTES)
        self.sums.write(block, sums)

    def write_many(
        self, ranges: Sequence[Range], sums: bytes, data: memoryview, pen: Callable[[int, int], None]
    ) -> None:
        """`write` of each range; `pen` is told of it before. They lie one behind the other in `sums` and `data`."""
        if self.present is not None or has_zero(sums):
            at = 0
            for block, count in ranges:
                end = at + count
                pen(block, count)
                self.write(block, sums[at * SUM_BYTES : end * SUM_BYTES], data[at * BLOCK_BYTES : end * BLOCK_BYTES])
                at = end
            return
        fd, where, put_sums, at = self._data_fd, self._where, self.sums.write, 0
        for block, count in ranges:
            end = at + count
            pen(block, count)
            write_blocks_at(fd, data[at * BLOCK_BYTES : end * BLOCK_BYTES], block * BLOCK_BYTES, where)
            put_sums(block, sums[at * SUM_BYTES : end * SUM_BYTES])
            at = end

    def write_blocks(self, blocks: Sequence[int], sums: bytes, data: memoryview, pen: Callable[[int], None]) -> bool:
        """`write_many` of single blocks, in the usual case and at the least cost. False: it is another one, and nothing
        is written."""
        if self.present is not None or has_zero(sums):
            return False
        data_fd, sums_fd, put, whole = self._data_fd, self.files.sums, os.pwrite, BLOCK_BYTES + SUM_BYTES
        each = struct.unpack(f"{SUM_BYTES}s" * len(blocks), sums)
        try:
            for block, total, content in zip(blocks, each, blocks_of(data), strict=True):
                pen(block)
                if put(data_fd, content, block * BLOCK_BYTES) + put(sums_fd, total, block * SUM_BYTES) < whole:
                    self.write(block, total, content)
        except StoreError:
            self.sums.forget(blocks)
            raise
        except OSError as error:
            self.sums.forget(blocks)
            raise failed(f"write {len(blocks)} blocks of", self._where, error) from error
        self.sums.written(blocks, each)
        return True

    def write_part(self, part: Part, sums: memoryview, data: memoryview) -> None:
        """Ranges of one region: all their data, then their row of sums at once."""
        if has_zero(sums):
            at = 0
            for block, count in part.ranges:
                end = at + count
                self.write(block, sums[at * SUM_BYTES : end * SUM_BYTES], data[at * BLOCK_BYTES : end * BLOCK_BYTES])
                at = end
            return
        fd, where, start = self._data_fd, self._where, 0
        for block, count in part.ranges:
            end = start + count * BLOCK_BYTES
            write_blocks_at(fd, data[start:end], block * BLOCK_BYTES, where)
            start = end
        if self.present is not None:
            for block, count in part.ranges:
                self._has(block, count)
        self.sums.write_part(part, sums)

    def _has(self, block: int, count: int) -> None:
        present = self.present
        if present is not None:
            present.add(block, count)

    def _write_runs(self, block: int, sums: Buffer, data: memoryview) -> None:
        values = struct.unpack(f"<{len(sums) // SUM_BYTES}Q", sums)
        start = 0
        for index in range(1, len(values) + 1):
            if index < len(values) and bool(values[index]) == bool(values[start]):
                continue
            if values[start]:
                run = data[start * BLOCK_BYTES : index * BLOCK_BYTES]
                write_blocks_at(self._data_fd, run, (block + start) * BLOCK_BYTES, self._where)
            else:
                self._punch(block + start, index - start)
            start = index

    def zero(self, block: int, count: int) -> None:
        """Region by region, and only where something is: trimming what is absent costs next to nothing."""
        while count:
            step = min(count, REGION_BLOCKS - block % REGION_BLOCKS)
            if self._punch(block, step):
                self._has(block, step)
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
        data = self._content(block, count)
        bad = verify(data, sums)
        if bad:
            raise CorruptBlocks([block + index for index in bad])
        return sums, data

    def read_scattered(self, ranges: Sequence[Range]) -> tuple[bytes, bytes | bytearray]:
        """Read where they lie, verified together. What is absent is not read."""
        if self.present is None and ranges:
            blocks, counts = zip(*ranges, strict=True)
            found = self._read_blocks(blocks) if max(counts) == 1 else None
            if found is not None:
                return found
        sums = self.sums.read_scattered(ranges)
        sparse = has_zero(sums)
        if sparse and self.sums.suspect:
            return self._read_each(ranges)
        data = bytearray(len(sums) // SUM_BYTES * BLOCK_BYTES)
        view, fd, where, layered, at = memoryview(data), self._data_fd, self._where, self.present is not None, 0
        for block, count in ranges:
            end = at + count
            if not sparse or not all_zero(sums[at * SUM_BYTES : end * SUM_BYTES]):
                room = view[at * BLOCK_BYTES : end * BLOCK_BYTES]
                if layered:
                    self._fill(room, block, count)
                else:
                    read_into(fd, room, block * BLOCK_BYTES, where)
            at = end
        return (sums, data) if block_sums(data) == sums else self._read_each(ranges)

    def _read_blocks(self, blocks: Sequence[int]) -> tuple[bytes, bytes] | None:
        """The usual case at the least cost: single blocks, all there and as their sums say. None: look closer."""
        sums, fd, size, pread = self.sums.of_blocks(blocks), self._data_fd, BLOCK_BYTES, os.pread
        if has_zero(sums):
            return None
        try:
            found = [pread(fd, size, block * size) for block in blocks]
        except OSError as error:
            raise failed(f"read {len(blocks)} blocks of", self._where, error) from error
        return (sums, b"".join(found)) if are_as(found, sums) else None

    def _fill(self, room: memoryview, block: int, count: int) -> None:
        """With the blocks' content, from the layers that have it."""
        for layer, at, length in self.owners(block, count):
            start = (at - block) * BLOCK_BYTES
            read_into(layer._data_fd, room[start : start + length * BLOCK_BYTES], at * BLOCK_BYTES, layer._where)

    def _read_each(self, ranges: Sequence[Range]) -> tuple[bytes, bytes]:
        bad: list[int] = []
        read: list[tuple[bytes, bytes]] = []
        for block, count in ranges:
            try:
                read.append(self.read(block, count))
            except CorruptBlocks as error:
                bad += error.blocks
        if bad:
            raise CorruptBlocks(bad)
        return b"".join(sums for sums, _ in read), b"".join(data for _, data in read)

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
        found = block_sums(self._content(block, count))
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
        """One block's data, whatever its checksum says, where they are: in a sealed layer it is what was there. What
        the sealed layer never held belongs here: the map that said so is what was lost, and the snapshot's own content
        is in that place."""
        owner, _, _ = next(self.owners(block, 1))
        if owner is not self and _values(owner.sums.read(block, 1)) != (total,):
            owner = self
        if total:
            write_at(owner._data_fd, content, block * BLOCK_BYTES, owner._where)
        else:
            punch(owner._data_fd, block * BLOCK_BYTES, BLOCK_BYTES, owner._where)
        if owner is self:
            self._has(block, 1)

    def scan(self, block: int, count: int) -> bool:
        """The page cache would show what was written, not what the disk kept: clean pages are dropped first. Those of a
        range that was not cached as a whole are dropped again afterwards, and nothing is read ahead, so that a scrub
        does not push out what the volume's user reads; what was cached is left as the user had it, or his next read
        would wait for the disk."""
        places = [
            (layer._data_fd, at * BLOCK_BYTES, length * BLOCK_BYTES) for layer, at, length in self.owners(block, count)
        ]
        unused = [place for place in places if not is_cached(*place)]
        for place in places:
            drop_clean(*place)
        try:
            with not_ahead(*(fd for fd, _, _ in places)):
                return self.sums.scan(block, self.actual(block, count))
        finally:
            for place in unused:
                drop_clean(*place)

    def root(self, size_blocks: int) -> int:
        """Of the hash tree over its first blocks. Worker thread. Raises StoreError, Unproved."""
        return root_of(self.sums.lowest_nodes(size_blocks), size_blocks)

    def recheck(self, block: int, count: int) -> list[int]:
        self.sums.reload(block // REGION_BLOCKS)
        return [block + at for at in verify(self._content(block, count), self.sums.read(block, count))]

    def next_present(self, region: int) -> int | None:
        """Of data, or of checksums: a block may have lost either."""
        found = [
            low // step
            for fd, step, size in (
                (self._data_fd, REGION_BYTES, self.size_blocks * BLOCK_BYTES),
                (self.files.sums, REGION_SUMS_BYTES, self.sums.regions * REGION_SUMS_BYTES),
            )
            if (low := first_data(fd, region * step, size, self._where)) is not None
        ]
        if self.below is not None and (low_below := self.below.next_present(region)) is not None:
            found.append(low_below)
        return min(found, default=None)

    # --- the layers below ---

    def own_sums(self, block: int, count: int) -> bytes:
        """Of this layer's own data, whether or not they are what the volume holds."""
        return hash_data(self._data_fd, block, count, self._where)

    def punch_absent(self, block: int, count: int) -> None:
        """What is not here takes no space here."""
        for at, length, here in list(self.present.runs(block, count) if self.present is not None else ()):
            found = (
                None if here else first_data(self._data_fd, at * BLOCK_BYTES, (at + length) * BLOCK_BYTES, self._where)
            )
            if found is not None:
                punch(self._data_fd, at * BLOCK_BYTES, length * BLOCK_BYTES, self._where)

    def adopt(self, lower: Layer, block: int, count: int) -> int:
        """Copy what the layer right below has and this one has not; the number of blocks. What rotted there is copied
        too: it does not match its sum here either. Inside one region."""
        copied = 0
        for at, length, here in list(self.present.runs(block, count) if self.present is not None else ()):
            for start, step, there in () if here else lower.own_runs(at, length):
                if not there:
                    continue
                sums = self.sums.read(start, step)
                if not all_zero(sums):
                    data = lower.own_data(start, step)
                    self._write_runs(start, sums, memoryview(self._sound(start, sums, data) if self.shared else data))
                    copied += step
                self._has(start, step)
        return copied

    def _sound(self, block: int, sums: bytes, data: bytes) -> bytes:
        """For a file that other replicas read: another one may have copied the same blocks into it before they rotted
        below, and what matches its sum is never replaced by what does not."""
        rotten = verify(data, sums)
        if not rotten:
            return data
        sound = bytearray(data)
        for at in rotten:
            place = slice(at * BLOCK_BYTES, (at + 1) * BLOCK_BYTES)
            own = self.own_data(block + at, 1)
            if not verify(own, sums[at * SUM_BYTES : (at + 1) * SUM_BYTES]):
                sound[place] = own
        return bytes(sound)

    def own_runs(self, block: int, count: int) -> list[tuple[int, int, bool]]:
        """(block, count, the data are here)."""
        return [(block, count, True)] if self.present is None else list(self.present.runs(block, count))

    def own_data(self, block: int, count: int) -> bytes:
        return read_at(self._data_fd, count * BLOCK_BYTES, block * BLOCK_BYTES, self._where)

    def rests_on(self, below: Layer | None) -> None:
        """The layer below has nothing any more that this one has not."""
        self.below = below
        if below is None:
            self.present = None

    # --- durability ---

    def flush(self) -> None:
        """Everything that was written before the call survives a power loss after it (rule K1). The sums are not
        synced: their regions are marked, so after a power loss they are made from the data (D3), and so are those of
        writes that went on meanwhile and were caught half. Worker thread."""
        present, sums = self.present, self.sums
        captured = [] if present is None else present.capture()
        if captured or sums.unflushed:
            sums.unflushed = False
            sync_data(self._data_fd, self._where)
            if present is not None:
                present.save(captured)

    def files_to_flush(self) -> list[tuple[int, str]] | None:
        """As `flush` in the event loop's thread, up to where the disk is waited for. None when the map of present
        blocks has to follow the data."""
        present, sums = self.present, self.sums
        if present is not None and present.changed:
            return None
        if not sums.unflushed:
            return []
        sums.unflushed = False
        return [(self._data_fd, self._where)]

    def sync(self, beside: Callable[[], Sequence[tuple[int, str]]] | None = None) -> None:
        """As `flush`, with the sums and the roots: what was written before the call needs no mark any more. `beside`:
        when all sums are in the file, what other files are to be synced at the same time. Worker thread."""
        present, sums = self.present, self.sums
        captured = [] if present is None else present.capture()
        if not captured and not sums.is_dirty() and beside is None:
            return
        sums.unflushed = False
        sums.write_roots()
        others = beside() if beside is not None else ()
        sync_together([(self._data_fd, self._where), *sums.files, *others])
        if present is not None:
            present.save(captured)

    def write_back(self) -> None:
        for fd in (self._data_fd, self.files.sums):
            start_writing(fd)

    def rehash(self, block: int, count: int) -> None:
        """Make the sums of a range those of its data: after a stop in the middle of a write the data are what
        there is, whatever the sums promised (rule D3)."""
        end = block + count
        while block < end:
            step = min(end - block, REGION_BLOCKS - block % REGION_BLOCKS)
            self.sums.write(block, self._settled(block, step))
            block += step

    def _settled(self, block: int, count: int) -> bytes:
        """What is not here was sealed, and nobody wrote it since."""
        if self.present is None:
            return self.actual(block, count)
        runs = self.present.runs(block, count)
        return b"".join(self.own_sums(*run) if here else self.sums_below(*run) for *run, here in runs)

    def drop_cache(self) -> None:
        """After a failed sync the page cache may hold what the disk does not: read the disk from here on."""
        for fd in self.descriptors:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    @property
    def descriptors(self) -> list[int]:
        files = self.files
        return [files.data, files.sums, files.roots, *([] if files.present is None else [files.present])]

    def allocated_bytes(self) -> int:
        """Of this layer's own files, and its share of those that clones have as well."""
        return sum(found.st_blocks * 512 // max(1, found.st_nlink) for found in map(os.fstat, self.descriptors))

    @property
    def shared(self) -> bool:
        """Another replica has the same data file."""
        return os.fstat(self._data_fd).st_nlink > 1

    def _hash_region(self, region: int) -> bytes:
        first = region * REGION_BLOCKS
        count = min(REGION_BLOCKS, self.size_blocks - first)
        return self.actual(first, count).ljust(REGION_SUMS_BYTES, b"\0")

    def actual(self, block: int, count: int) -> bytes:
        """The sums of the range as its data are."""
        return b"".join(
            hash_data(layer._data_fd, at, length, layer._where) for layer, at, length in self.owners(block, count)
        )


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
