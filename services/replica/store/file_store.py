"""The block store in files: one replica's directory, opened (what that finds: see `recovery`) and kept.

A failed sync is never retried into success: the kernel has forgotten which pages it could not write, and its
next answer would be a lie. So `sync` refuses until the store was opened again, which looks at the disk and not
at the page cache.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from operator import add
from pathlib import Path

from services.replica.store import growing
from services.replica.store.cloning import make_clone
from services.replica.store.extents import Extent
from services.replica.store.files import OpenFiles, make_data, open_data
from services.replica.store.format import Format, read_format
from services.replica.store.intent import Header, IntentLog, regions_of
from services.replica.store.layer import Layer
from services.replica.store.layers import Layers
from services.replica.store.past import PastBlocks
from services.replica.store.port import FormatError, StoreError
from services.replica.store.recovery import Recovery
from services.replica.store.scattered import Range, by_region
from services.replica.store.stack import NAME
from services.replica.store.state import StateFile
from services.replica.store.sums import Buffer
from services.replica.store.tail import Tail
from services.replica.store.tree import Tree
from stoscore.units import BLOCK_BYTES, REGION_BLOCKS, SUM_BYTES


class FileStore:
    """Implements `BlockStore`; see there for what each call means and from which thread it comes."""

    __slots__ = (
        "_closed",
        "_doubted",
        "_failure",
        "_files",
        "_intent",
        "_layer",
        "_layers",
        "_sizes",
        "_state",
        "_tail",
        "directory",
        "format",
        "restarted",
        "size_blocks",
        "unclean",
    )

    def __init__(self, directory: Path, format: Format, files: OpenFiles) -> None:
        """Use `create` or `open`."""
        self.directory = directory
        self.format = format
        self.size_blocks = format.size_blocks
        self.unclean = False
        self.restarted = False
        self._files = files
        self._failure = ""
        self._closed = False
        self._doubted: frozenset[int] = frozenset()
        self._state = StateFile(files.state, str(directory / "state"))
        self._intent = IntentLog(files.intent, regions_of(self.size_blocks), str(directory / "intent"))
        self._tail = Tail(files.tail, str(directory / "tail"))
        files.closing.callback(self._tail.close)
        self._sizes = threading.RLock()
        """Held while the files become larger, for a seal, and when a prepare looks how large they are: not while it
        copies, or no record could be stored meanwhile."""
        self._layers = Layers(directory, format, lambda: self._intent.marked)
        self._layer = self._layers.top
        files.closing.callback(self._layers.close)

    @classmethod
    def create(cls, directory: Path, format: Format, boot_id: str) -> FileStore:
        """A new, empty replica, durable and open. Raises StoreError and leaves nothing half made."""
        make_data(directory, format, boot_id)
        return cls._open_new(directory, format, boot_id)

    def clone(self, snapshot: str, directory: Path, format: Format, boot_id: str) -> FileStore:
        """A new replica that holds what this one's volume held at that snapshot, durable and open: see `cloning`. Any
        thread but the event loop's, beside everything else. Raises StoreError and leaves nothing half made."""
        format = replace(format, version=2)
        make_clone(self._layers, snapshot, directory, format, boot_id)
        return self._open_new(directory, format, boot_id)

    @classmethod
    def _open_new(cls, directory: Path, format: Format, boot_id: str) -> FileStore:
        store = cls.open(directory, cluster=format.cluster, boot_id=boot_id)
        store.restarted = False
        return store

    @classmethod
    def open(cls, directory: Path, *, cluster: str, boot_id: str, volume: str | None = None) -> FileStore:
        """Open and recover. Raises FormatError (foreign, newer, torn) and StoreError (in use, not writable,
        the disk failed); then nothing stays open or locked."""
        format = growing.settled(directory, read_format(directory, cluster=cluster, volume=volume))
        if format.kind != "data":
            raise FormatError(f"{directory} is a {format.kind} of volume {format.volume} and holds no data")
        files = open_data(directory, format)
        try:
            store = cls(directory, format, files)
            store._recover(boot_id)
        except BaseException:
            files.closing.close()
            raise
        return store

    def _recover(self, boot_id: str) -> None:
        self._state.open()
        found = Recovery(self._intent, self._tail, self._layers, self.size_blocks).run(boot_id)
        self.restarted, self.unclean, self._doubted = found.restarted, found.unclean, found.doubted
        self._end_doubt()

    # --- blocks ---

    def write(self, block: int, sums: Buffer, data: Buffer) -> None:
        count = len(sums) >> 3
        if len(data) != count * BLOCK_BYTES:
            raise ValueError(f"{count} sums for {len(data)} bytes of data")
        self._check_range(block, count)
        try:
            self._tail.pen(block, count)
            self._layer.write(block, sums, data)
            self._tail.pen(0, 0)
        except StoreError:
            self.unclean = True
            raise

    def write_many(self, seq: int, ranges: Sequence[tuple[int, int]], sums: Buffer, data: Buffer) -> None:
        blocks, counts = zip(*ranges, strict=True)
        if len(data) != len(sums) * (BLOCK_BYTES // SUM_BYTES) or sum(counts) != len(sums) >> 3:
            raise ValueError(f"{len(sums)} bytes of sums and {len(data)} of data for {len(ranges)} ranges")
        self._check_ranges(blocks, counts)
        layer, tail, sums, data = self._layer, self._tail, bytes(sums), memoryview(data)
        try:
            tail.append_many(seq, ranges)
            if max(counts) > 1 or not layer.write_blocks(blocks, sums, data, tail.pen_each(blocks[0], 1)):
                layer.write_many(ranges, sums, data, tail.pen)
            tail.pen(0, 0)
        except StoreError:
            self.unclean = True
            raise

    def write_scattered(self, ranges: Sequence[Range], sums: Buffer, data: Buffer) -> None:
        count = sum(length for _, length in ranges)
        if len(sums) != count * SUM_BYTES or len(data) != count * BLOCK_BYTES:
            raise ValueError(f"{len(sums)} bytes of sums and {len(data)} of data for {count} blocks")
        parts = by_region(ranges)
        for part in parts:
            self._check_range(*part.hull)
        sums, data = memoryview(sums), memoryview(data)
        at = 0
        try:
            if 2 * len(parts) > count and self._write_single(ranges, bytes(sums), data):
                return
            for part in parts:
                end = at + part.blocks
                self._tail.pen(*part.hull)
                row, content = sums[at * SUM_BYTES : end * SUM_BYTES], data[at * BLOCK_BYTES : end * BLOCK_BYTES]
                self._layer.write_part(part, row, content)
                self._tail.pen(0, 0)
                at = end
        except StoreError:
            self.unclean = True
            raise

    def _write_single(self, ranges: Sequence[Range], sums: bytes, data: memoryview) -> bool:
        """One here and one there: there is no row of a region to be written at once. False: they are other ones."""
        blocks, counts = zip(*ranges, strict=True)
        if max(counts) > 1 or not self._layer.write_blocks(blocks, sums, data, self._tail.pen_each(blocks[0], 1)):
            return False
        self._tail.pen(0, 0)
        return True

    def zero(self, block: int, count: int) -> None:
        self._check_range(block, count)
        try:
            self._tail.pen(block, count)
            self._layer.zero(block, count)
            self._tail.pen(0, 0)
        except StoreError:
            self.unclean = True
            raise

    def read(self, block: int, count: int) -> tuple[bytes, bytes]:
        self._check_range(block, count)
        return self._layer.read(block, count)

    def read_scattered(self, ranges: Sequence[Range]) -> tuple[bytes, bytes | bytearray]:
        if ranges:
            self._check_ranges(*zip(*ranges, strict=True))
        return self._layer.read_scattered(ranges)

    def heal(self, block: int, sums: Buffer, data: Buffer, *, settled: bool) -> list[int]:
        self._check_range(block, len(sums) >> 3)
        try:
            return self._layer.heal(block, sums, data, settled=settled)
        except StoreError:
            self.unclean = True
            raise

    def scan(self, block: int, count: int) -> bool:
        self._check_range(block, count)
        with self._layers.scanning():
            return self._layer.scan(block, count)

    def recheck(self, block: int, count: int) -> list[int]:
        self._check_range(block, count)
        return self._layer.recheck(block, count)

    def next_present(self, region: int) -> int | None:
        with self._layers.scanning():
            return self._layer.next_present(region)

    def read_sums(self, block: int, count: int) -> bytes:
        self._check_range(block, count)
        return self._layer.sums.read(block, count)

    def extents(self, block: int, count: int) -> list[Extent]:
        self._check_range(block, count)
        return self._layer.extents(block, count)

    def digests(self, level: int, index: int, count: int) -> bytes:
        return self.digests_of(level, ((index, count),))

    def digests_of(self, level: int, ranges: Sequence[Range]) -> bytes:
        return Tree(self._layer.sums, self.size_blocks).digests_of(level, ranges)

    def origin_root(self, size_blocks: int) -> str:
        below = self._layer.below
        return "" if below is None or below.size_blocks < size_blocks else f"{below.root(size_blocks):016x}"

    def allocated_bytes(self) -> int:
        return self._layers.allocated_bytes()

    def _check_ranges(self, blocks: Sequence[int], counts: Sequence[int]) -> None:
        if min(blocks) < 0 or min(counts) < 1 or max(map(add, blocks, counts)) > self.size_blocks:
            for block, count in zip(blocks, counts, strict=True):
                self._check_range(block, count)

    def _check_range(self, block: int, count: int) -> None:
        if block < 0 or count < 1 or block + count > self.size_blocks:
            raise ValueError(f"blocks {block} to {block + count} of a volume of {self.size_blocks}")

    # --- intent log ---

    @property
    def marked(self) -> frozenset[int]:
        return self._intent.marked

    def mark(self, regions: Iterable[int]) -> None:
        new = frozenset(regions) - self._intent.marked
        if not new:
            return
        if min(new) < 0 or max(new) >= self._layer.sums.regions:
            raise ValueError(f"regions {min(new)} to {max(new)} of a volume of {self._layer.sums.regions}")
        self._layer.sums.check_roots(new)
        self._intent.mark(new)

    def unmark(self, regions: Iterable[int]) -> None:
        gone = frozenset(regions)
        self._intent.unmark(gone)
        if self._doubted:
            self._doubted -= gone
            self._end_doubt()

    def _end_doubt(self) -> None:
        """Once no region is left of those that were marked at the opening, nothing of before is unfinished."""
        if not self._doubted and self._tail.doubtful:
            self._tail.doubt(False)

    def set_clean(self) -> None:
        self._refuse_after_failure()
        self._intent.save_header(replace(self._intent.header, unclean=False))
        self.unclean = False
        self._doubted = frozenset()
        self._tail.doubt(False)

    def set_unclean(self) -> None:
        self.unclean = True
        try:
            self._intent.save_header(replace(self._intent.header, unclean=True))
        except StoreError:
            # A disk that can't take this byte either keeps the mark of the region, which says the same after
            # a power loss; until then this process remembers.
            return

    # --- tail ---

    def tail_append_many(self, seq: int, ranges: Sequence[Range]) -> None:
        self._tail.append_many(seq, ranges)

    def tail_append(self, seq: int, block: int, count: int) -> None:
        self._tail.append(seq, block, count)

    def tail_commit(self, seq: int) -> None:
        self._tail.commit(seq)

    def tail_entries(self) -> list[tuple[int, int, int]] | None:
        return self._tail.entries()

    def tail_state(self) -> tuple[int, int]:
        return self._tail.state()

    # --- durability ---

    def sync(self) -> None:
        self._refuse_after_failure()
        with self._final_failures():
            self._layer.sync()

    def flush(self) -> None:
        self._refuse_after_failure()
        with self._final_failures():
            self._layer.flush()

    def files_to_flush(self) -> Sequence[tuple[int, str]] | None:
        self._refuse_after_failure()
        return self._layer.files_to_flush()

    def sync_failed(self, reason: str) -> None:
        self._failure = self._failure or reason
        self.unclean = True

    def write_back(self) -> None:
        with self._layers.scanning():
            self._layer.write_back()

    def _refuse_after_failure(self) -> None:
        if self._failure:
            raise StoreError(f"{self._failure}; the store has to be opened again first")

    @contextmanager
    def _final_failures(self) -> Iterator[None]:
        try:
            yield
        except StoreError as error:
            self._failure = str(error)
            self.set_unclean()
            raise

    # --- snapshots ---

    @property
    def snapshots(self) -> Mapping[str, Layer]:
        """Oldest first; each is read like the volume. Good until the next `drop`."""
        return self._layers.snapshots

    def prepare_seal(self) -> None:
        """What of the next seal takes long: it copies all checksums, so that the seal copies those written since.
        Raises StoreError."""
        self._refuse_after_failure()
        if self._layers.full:
            raise StoreError(f"{self.directory} has as many layers as there may be: delete a snapshot first")
        with self._sizes:
            self.format = self._layers.begin(self.format)
        while not self._layers.is_prepared(self.size_blocks):
            self._layers.prepare(self._sizes)

    def seal(self, snapshot: str) -> None:
        """What the volume holds now is durable and stays readable under this name. Does nothing when there is such a
        snapshot. Worker thread; nothing is written meanwhile, reads go on. Raises StoreError; then the name says
        nothing and is not used again: the disk may have it all the same."""
        if not NAME.fullmatch(snapshot):
            raise ValueError(f"{snapshot!r} is no name for a snapshot")
        if snapshot in self._layers.snapshots:
            return
        with self._sizes:
            self.prepare_seal()
            with self._final_failures():
                self._layers.seal(snapshot, self.size_blocks)
            self._layer = self._layers.top

    @property
    def sealed(self) -> tuple[str, ...]:
        """Names of the snapshots, oldest first."""
        return tuple(self._layers.snapshots)

    def past(self, snapshot: str) -> PastBlocks | None:
        layer = self._layers.snapshots.get(snapshot)
        return PastBlocks(layer, self.size_blocks) if layer is not None else None

    def root(self, snapshot: str, size_blocks: int) -> int | None:
        """The top of the hash tree over that snapshot's checksums, of so many blocks; None when there is none of that
        name. Worker thread, beside everything else. Raises StoreError, Unproved."""
        return self._layers.root(snapshot, size_blocks)

    @property
    def folds(self) -> bool:
        """There is something to fold, or to settle."""
        return self._layers.folds

    @property
    def nameless(self) -> bool:
        """Something of what was dropped is left: what folds, or what a clone has as well."""
        return self._layers.nameless

    def drop(self, snapshot: str) -> None:
        """Durably no snapshot any more; `fold` gives its space back. Idempotent. Worker thread. Raises StoreError."""
        self._refuse_after_failure()
        with self._final_failures():
            self._layers.drop(snapshot)

    def fold(self, blocks: int) -> bool:
        """Copy about that many blocks of a dropped snapshot to where they are still needed. True: there are more.
        The regions need no mark: what the volume holds does not change. Event loop's thread. Raises StoreError."""
        return self._layers.fold(blocks)

    def settle_fold(self) -> None:
        """A layer of which everything is copied goes. Worker thread. Raises StoreError."""
        self._refuse_after_failure()
        with self._final_failures():
            self._layers.settle()

    def save_state(self, state: bytes) -> None:
        self._state.save(state)

    def load_state(self) -> bytes | None:
        return self._state.load()

    def grow(self, size_blocks: int) -> None:
        if size_blocks > self.size_blocks:
            with self._sizes:
                self._grow(size_blocks)

    def _grow(self, size_blocks: int) -> None:
        format = replace(self.format, size_blocks=size_blocks)
        growing.announce(self.directory, format)
        growing.extend(self.directory, self.format, format)
        self._intent.grow(regions_of(size_blocks))
        growing.finish(self.directory)
        self._layer.grow(size_blocks)
        self.format, self.size_blocks = format, size_blocks

    def close(self, clean: bool = True) -> None:
        """Idempotent. Clean: sync, forget what is finished, set the clean mark. Not clean: as a kill leaves it."""
        if self._closed:
            return
        self._closed = True
        try:
            if clean and not self._failure:
                self._close_cleanly()
        finally:
            self._files.closing.close()

    def _close_cleanly(self) -> None:
        self.sync()
        if self.unclean:
            self.set_unclean()
            return
        unfinished = self._tail.entries()
        if unfinished is not None:
            kept = {
                region
                for _, block, count in unfinished
                for region in range(block // REGION_BLOCKS, (block + count - 1) // REGION_BLOCKS + 1)
            }
            self._intent.unmark(self._intent.marked - kept)
        self._tail.sync()
        last, commit = self._tail.state()
        header = Header(self._intent.header.boot_id, closed=True, tail_last=last, tail_commit=commit)
        self._intent.save_header(header)
