"""A replica directory in memory, with the split between what a process loses and what a power loss loses.

    written --> page cache --sync--> disk            a killed process keeps the page cache, a power loss does not
    marked  --> disk (when its completion is reported; before that, by chance)

A block's content is a number, 0 for zeros; it is its own checksum. A torn block is not modelled: the real store
rehashes marked regions from the data, so what a power loss leaves is one of the contents written since the sync.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random

from services.replica.brain import HardState, Voter
from services.replica.replication.replica import Share
from services.replica.replication.resync import FANOUT
from stoscore.units import REGION_BLOCKS

TAIL_ENTRIES = 4096


class StoreBroken(Exception):
    """The cores broke the store's contract."""


class Disk:
    """One replica's directory: survives its process."""

    def __init__(self, volume: str, me: Voter, size_blocks: int):
        self.volume = volume
        self.me = me
        self.size_blocks = size_blocks
        self.state: HardState | None = None
        self.cache: dict[int, int] = {}
        self.dirty: dict[int, list[int]] = {}
        """Block -> every content that the disk may hold after a power loss, oldest first."""
        self.marked: set[int] = set()
        self.lingering: set[int] = set()
        """Unmarked in memory, maybe not on disk."""
        self.tail: list[tuple[int, int, int]] = []
        self.commit = 0
        self.highest = 0
        self.lost_seq = 0
        self.doubted: set[int] = set()
        self.unclean = False
        self.broken = False
        """A sync failed: nothing is promised until the directory is opened again."""
        self.lossy = False
        """Truth, unknown to the cores: a power loss took unsynced content and no clean sync has repaired it."""

    # ---- blocks ---------------------------------------------------------------------------------------

    def _put(self, block: int, content: int) -> None:
        if block // REGION_BLOCKS not in self.marked:
            raise StoreBroken(f"block {block} is written and its region is not marked")
        self.dirty.setdefault(block, [self.cache.get(block, 0)]).append(content)
        self.cache[block] = content

    def write(self, seq: int, block: int, contents: Sequence[int]) -> None:
        self.note(seq, block, len(contents))
        for offset, content in enumerate(contents):
            self._put(block + offset, content)

    def copy(self, seq: int, block: int, contents: Sequence[int]) -> None:
        self.write(seq, block, contents)

    def read(self, block: int, count: int) -> tuple[int, ...]:
        if block < 0 or count < 1 or block + count > self.size_blocks:
            raise StoreBroken(f"blocks {block} to {block + count} of a volume of {self.size_blocks}")
        get = self.cache.get
        return tuple(get(b, 0) for b in range(block, block + count))

    def digests(self, level: int, index: int, count: int) -> tuple[int, ...]:
        """Nodes of the hash tree; level 0 is the blocks themselves."""
        if level == 0:
            return self.read(index, count)
        below = -(-self.size_blocks // FANOUT ** (level - 1))
        out = []
        for node in range(index, index + count):
            start = node * FANOUT
            children = self.digests(level - 1, start, min(FANOUT, below - start))
            out.append(hash(children) if any(children) else 0)
        return tuple(out)

    # ---- tail -----------------------------------------------------------------------------------------

    def note(self, seq: int, block: int, count: int) -> None:
        self.highest = max(self.highest, seq)
        if seq <= self.commit:
            return
        if len(self.tail) == TAIL_ENTRIES:
            self.lost_seq = max(self.lost_seq, self.tail.pop(0)[0])
        self.tail.append((seq, block, count))

    def tail_commit(self, seq: int) -> None:
        if seq > self.commit:
            self.commit = seq
            self.tail = [entry for entry in self.tail if entry[0] > seq]

    def share(self) -> Share:
        """What may be unconfirmed here: the tail, or the marked regions when the tail can't tell."""
        if self.doubted or self.lost_seq > self.commit:
            ranges = tuple(
                (region * REGION_BLOCKS, min(REGION_BLOCKS, self.size_blocks - region * REGION_BLOCKS))
                for region in sorted(self.marked)
            )
        else:
            ranges = tuple((block, count) for _, block, count in sorted(self.tail))
        return Share(ranges, max(self.highest, self.commit), self.commit, self.unclean)

    # ---- intent log and syncs -------------------------------------------------------------------------

    def mark(self, regions: Iterable[int]) -> None:
        self.marked |= set(regions)
        self.lingering -= self.marked

    def unmark(self, regions: Iterable[int]) -> None:
        gone = self.marked & set(regions)
        for block in self.dirty:
            if block // REGION_BLOCKS in gone and len(self.dirty[block]) > 1:
                raise StoreBroken(f"region of block {block} is unmarked with an unsynced write in it")
        self.marked -= gone
        self.lingering |= gone
        self.doubted -= gone

    def snapshot(self) -> dict[int, int]:
        """What a sync that begins now covers: block -> how many of its contents."""
        return {block: len(contents) for block, contents in self.dirty.items()}

    def synced(self, snapshot: dict[int, int]) -> None:
        for block, covered in snapshot.items():
            contents = self.dirty.get(block)
            if contents is None:
                continue
            del contents[: covered - 1]
            if len(contents) == 1:
                del self.dirty[block]

    def clean(self) -> None:
        self.unclean = False
        self.doubted = set()
        self.lossy = False

    # ---- faults ---------------------------------------------------------------------------------------

    def killed(self, rng: Random, marking: Iterable[int]) -> None:
        """The process is gone: marks on their way may have arrived."""
        self.marked |= {region for region in sorted(marking) if rng.random() < 0.5}
        if self.broken:
            self.broken = False
            self._forget(rng)
            self.unclean = True

    def power_lost(self, rng: Random, marking: Iterable[int]) -> None:
        lingering = {region for region in sorted(self.lingering) if rng.random() < 0.5}
        self.marked |= lingering | {region for region in sorted(marking) if rng.random() < 0.5}
        self.broken = False
        self._forget(rng)
        self.unclean = self.unclean or bool(self.marked)

    def _forget(self, rng: Random) -> None:
        self.lossy = self.lossy or bool(self.dirty)
        mode = rng.choice(("none", "all", "some", "some"))
        for block in sorted(self.dirty):
            contents = self.dirty[block]
            kept = {"none": contents[0], "all": contents[-1]}.get(mode)
            content = rng.choice(contents) if kept is None else kept
            if content:
                self.cache[block] = content
            else:
                self.cache.pop(block, None)
        self.dirty.clear()
        self.lingering.clear()
        self.tail = []
        self.lost_seq = 0
        self.doubted = set(self.marked)
