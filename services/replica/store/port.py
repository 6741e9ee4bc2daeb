"""The contract of a block store: one replica's blocks, their checksums, the intent log, the tail, hard state.

Sizes are blocks of 4 KiB. A checksum is xxh3-64 of the block, little-endian u64; 0 stands for a block that
reads as zeros (absent, trimmed or written with zeros: they hash alike, rule W1), so `block_sum` never gives 0
for anything else. All calls block and none of them waits for another thread; `sync`, `mark` and `save_state`
wait for the disk and are called from a worker thread, one call at a time, while reads and writes go on in the
event loop's thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol


class StoreError(Exception):
    """The disk's fault: a failed read, write or sync, no space. After it the replica counts for nothing
    until a delta sync (rule S3); a failed sync is never retried into success."""


class NoSnapshot(StoreError):
    """The replica has no such snapshot, or not any more. Nothing happened, and no disk is to blame."""


class Unproved(StoreError):
    """Checksums that neither the hash of their region nor the data prove: nothing is concluded from them. Nothing
    happened, and the disk gave what it had."""


class FormatError(Exception):
    """The directory is no replica of this cluster and format: foreign, newer, torn, or unreadable."""


class CorruptBlocks(Exception):
    """Blocks whose content does not match their checksum. `blocks` names them."""

    def __init__(self, blocks: Sequence[int]):
        super().__init__(f"checksum mismatch in blocks {list(blocks)[:8]}")
        self.blocks = tuple(blocks)


class Blocks(Protocol):
    """What is compared with another copy, and copied to it."""

    def digests_of(self, level: int, ranges: Sequence[tuple[int, int]]) -> bytes:
        """`BlockStore.digests` of each range of nodes, one behind the other."""

    def read_scattered(self, ranges: Sequence[tuple[int, int]]) -> tuple[bytes, bytes | bytearray]:
        """`BlockStore.read` of each range, one behind the other. Raises CorruptBlocks, which names all of them, and
        StoreError."""


class BlockStore(Blocks, Protocol):
    """One open replica directory. Range = (block, count), 0 <= block, block + count <= size_blocks."""

    size_blocks: int
    unclean: bool
    """S3: the host lost power (boot id changed) while regions were marked, or a write or sync failed.
    Durable. Cleared by `set_clean` only."""
    restarted: bool
    """This is not the first opening since the last clean close; `tail_entries` or `marked` tell what may
    be unfinished."""

    @property
    def marked(self) -> frozenset[int] | set[int]:
        """Regions that may hold unfinished or unflushed writes."""

    # --- blocks ---
    def write(self, block: int, sums: bytes | memoryview, data: bytes | memoryview) -> None:
        """Store len(sums) // 8 blocks. The caller has verified the sums and marked the regions.
        A sum of 0 stores zeros (a hole). Raises StoreError."""

    def write_many(
        self, seq: int, ranges: Sequence[tuple[int, int]], sums: bytes | memoryview, data: bytes | memoryview
    ) -> None:
        """`tail_append` and `write` for each range in turn; `sums` and `data` are those of all of them. Raises
        StoreError."""

    def write_scattered(
        self, ranges: Sequence[tuple[int, int]], sums: bytes | memoryview, data: bytes | memoryview
    ) -> None:
        """`write` of each range, in order, at what a block costs where they are many. Raises StoreError; then any of
        them may be written."""

    def zero(self, block: int, count: int) -> None:
        """The range reads as zeros and gives its space back."""

    def read(self, block: int, count: int) -> tuple[bytes, bytes]:
        """(sums, data), each block verified. Raises CorruptBlocks, StoreError."""

    def read_sums(self, block: int, count: int) -> bytes:
        """count * 8 bytes of stored checksums."""

    def extents(self, block: int, count: int) -> list[tuple[int, bool]]:
        """(blocks, they hold data) from `block` on, neighbours never alike; at least one, at most EXTENTS_MAX. May end
        before `count` blocks. What can't be told holds data. Raises StoreError."""

    # --- rot ---
    def heal(self, block: int, sums: bytes | memoryview, data: bytes | memoryview, *, settled: bool) -> list[int]:
        """Another copy's content of len(sums) // 8 blocks, verified by the caller, for those that do not match their
        checksum here; `settled`: see `cure`. The blocks that match now. The regions need no mark: a torn healing
        leaves what it found, a block that does not match. Raises StoreError."""

    def scan(self, block: int, count: int) -> bool:
        """Read the range from the disk, past the page cache: does every block match, and do their checksums match the
        region's root? False may be a write that is under way: `recheck` knows. All within one region. Worker thread,
        beside reads and writes. Raises StoreError."""

    def recheck(self, block: int, count: int) -> list[int]:
        """After a scan that failed: put right what the roots and the cached checksums can, and say which blocks do
        not match. Event loop's thread. Raises StoreError."""

    def next_present(self, region: int) -> int | None:
        """The first region from this one on that has anything; None at the end. Worker thread. Raises StoreError."""

    # --- the hash tree ---
    def digests(self, level: int, index: int, count: int) -> bytes:
        """count * 8 bytes of hash-tree nodes (`store/tree.py` has the levels). Level 0 is the checksums themselves; a
        node is xxh3-64 over its children's 8-byte values, and 0 when they are all 0. Raises ValueError for nodes that
        there are not, StoreError."""

    def origin_root(self, size_blocks: int) -> str:
        """The root of the hash tree over that many checksums of the snapshot right below what the volume holds, 16 hex
        digits: of what a clone began as, until its first own snapshot. "": there is none of that size. Worker
        thread."""

    def allocated_bytes(self) -> int: ...

    # --- intent log (rule T3, D3) ---
    def mark(self, regions: Iterable[int]) -> None:
        """Durable when it returns. Worker thread."""

    def unmark(self, regions: Iterable[int]) -> None:
        """Need not be durable at once. Only for regions without unflushed writes. Event loop's thread."""

    def set_clean(self) -> None:
        """Durably clears `unclean` after a take-over or delta sync that covered the marks. Worker thread."""

    def set_unclean(self) -> None:
        """Durably sets `unclean` (after a failed write or sync, best effort). Worker thread."""

    # --- tail: the latest writes, kept in the page cache so that they survive the process ---
    def tail_append_many(self, seq: int, ranges: Sequence[tuple[int, int]]) -> None:
        """`tail_append` of each range."""

    def tail_append(self, seq: int, block: int, count: int) -> None:
        """Before the write itself. Cheap (a few memory stores), not synced."""

    def tail_commit(self, seq: int) -> None:
        """Writes at or below seq are confirmed everywhere and no longer part of the tail."""

    def tail_entries(self) -> list[tuple[int, int, int]] | None:
        """(seq, block, count) above the last tail_commit, by seq, as found when the directory was opened
        plus what was appended since; None when the tail can't be trusted (power loss, overflow, torn):
        then `marked` is what may differ."""

    def tail_state(self) -> tuple[int, int]:
        """(highest seq ever appended, last committed seq)"""

    # --- durability ---
    def flush(self) -> None:
        """fdatasync of data and the map of present blocks (rule K1): what was written survives a power loss, after
        which the checksums of marked regions are made from the data (D3). Worker thread. Raises StoreError."""

    def files_to_flush(self) -> Sequence[tuple[int, str]] | None:
        """(descriptor, name) of the files whose fdatasync, begun after this call, is what `flush` does; none when it
        has nothing to do. None: there is more to it. Event loop's thread, in place of a `flush` and not beside one.
        Raises StoreError."""

    def sync(self) -> None:
        """A `flush`, and fdatasync of checksums and roots as well: what was written before it may be unmarked. Worker
        thread. Raises StoreError."""

    def sync_failed(self, reason: str) -> None:
        """An fdatasync of these files failed: no sync succeeds from now on. Event loop's thread."""

    def write_back(self) -> None:
        """Begin to write what lies in the page cache, so that the next `sync` finds less to do. Worker thread, beside
        everything but `close`. Tells nothing, not even a failure: that is the sync's to find."""

    def save_state(self, state: bytes) -> None:
        """The brain's hard state, checksummed, in two slots written in place + fdatasync. Worker thread."""

    def load_state(self) -> bytes | None:
        """None in a directory that never had one. Raises FormatError when neither slot is readable."""

    def grow(self, size_blocks: int) -> None:
        """Durably that many blocks, never fewer than before; the new ones read as zeros. Whole or not at all, also when
        power is lost in the middle. Worker thread, while everything else goes on."""

    # --- snapshots (rule K4); one call at a time ---
    @property
    def sealed(self) -> tuple[str, ...]:
        """Names of the snapshots, oldest first."""

    def prepare_seal(self) -> None:
        """What of the next seal takes long. Any thread but the event loop's, beside everything but `seal`, `drop` and
        `settle_fold`; `grow` does not wait for it. Raises StoreError: then all is as it was."""

    def seal(self, snapshot: str) -> None:
        """What the blocks hold now is durable and stays readable under this name. Worker thread; nothing is written
        meanwhile, reads go on. Raises StoreError."""

    def past(self, snapshot: str) -> Blocks | None:
        """What the blocks held at that snapshot, all that there are by now; None when it was dropped. Event loop's
        thread, good until it is dropped."""

    def root(self, snapshot: str, size_blocks: int) -> int | None:
        """The top node of the hash tree over that snapshot's first checksums, each of them proved; None when it was
        dropped meanwhile. Worker thread, beside everything else. Raises StoreError, Unproved."""

    def drop(self, snapshot: str) -> None:
        """Durably no snapshot any more; folding gives its space back. Idempotent. Worker thread. Raises StoreError."""

    @property
    def folds(self) -> bool:
        """There is something to fold, or to settle."""

    @property
    def nameless(self) -> bool:
        """Something of what was dropped is left, though it may be that nothing folds: another replica has it too."""

    def fold(self, blocks: int) -> bool:
        """Copy about that many blocks of what was dropped. True: there are more; else `settle_fold` is due. Event
        loop's thread, never while a seal is under way. Raises StoreError."""

    def settle_fold(self) -> None:
        """What is folded goes. Worker thread. Raises StoreError."""

    def close(self, clean: bool = True) -> None: ...
