"""A replica directory in memory, with the split between what a process loses and what a power loss loses.

    written --> page cache --sync--> disk            a killed process keeps the page cache, a power loss does not
    marked  --> disk (when its completion is reported; before that, by chance)

A block's content is a number, 0 for zeros; it is its own checksum. Blocks are stored whole or not at all (devices have
4096-byte sectors), but a write of several blocks tears between them: what a power loss leaves is, block by block, one
of the contents written since the last sync. What opening a directory finds is the table of `services/replica/store`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

from services.replica.brain import HardState, Voter
from services.replica.replication import tree
from services.replica.replication.replica import Share
from services.replica.store import Cure, judge
from stoscore.units import REGION_BLOCKS

TAIL_ENTRIES = 4096
GARBAGE = -1


class StoreBroken(Exception):
    """The cores broke the store's contract."""


class Outside(Exception):
    """Blocks beyond the end of the volume as it is here: this copy has not grown yet."""


class DiskFailed(Exception):
    """The disk refused: an error of its own, or no space left."""


class Rotten(Exception):
    """Blocks whose content does not match their checksum."""

    def __init__(self, blocks: tuple[int, ...]):
        super().__init__(f"blocks {blocks} do not match their checksum")
        self.blocks = blocks


@dataclass(frozen=True, slots=True)
class Layer:
    """What the volume was when it was sealed."""

    cache: dict[int, int]
    size_blocks: int

    def root(self, size_blocks: int) -> int:
        return hash(tuple(sorted((b, c) for b, c in self.cache.items() if c and b < size_blocks))) & (1 << 64) - 1


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
        self.unsettled: dict[int, int] = {}
        """Region whose checksums may be newer than those on the disk -> `writes` at its latest write."""
        self.lingering: set[int] = set()
        """Unmarked in memory, maybe not on disk."""
        self.tail: list[tuple[int, int, int]] = []
        """(seq, block, count) of the writes above the commit point."""
        self.commit = 0
        self.highest = 0
        self.lost_seq = 0
        self.doubted: set[int] = set()
        """Regions that were marked when the tail was lost: what is unfinished in them is not known any better."""
        self.unclean = False
        self.failure = ""
        """A write or sync failed: nothing is promised until the directory is opened again."""
        self.votes = True
        """It can store a hard state, if it failed."""
        self.closed = False
        """Closed cleanly since its last opening."""
        self.refuses: set[str] = set()
        """What the device fails at: "write", "sync", "mark", "save"."""
        self.older: dict[int, int] = {}
        """Block -> the content before the present one."""
        self.rotten: dict[int, int] = {}
        """Block -> what its data are by now; `cache` keeps what its checksum says."""
        self.restored_ns: dict[int, int] = {}
        """Rotten block -> when an operator restored it."""
        self.sealed: dict[str, Layer] = {}
        """Snapshots' layers, durable."""
        self.writes = 0
        self.lossy = False
        """Truth, unknown to the cores: a power loss took unsynced content and no clean sync has repaired it."""

    # ---- blocks ---------------------------------------------------------------------------------------

    def write(self, seq: int, block: int, contents: Sequence[int]) -> None:
        self._inside(block, len(contents))
        self.note(seq, block, len(contents))
        if "write" in self.refuses:
            self.unclean = True
            raise DiskFailed("no space left on device")
        cache, dirty, older, marked = self.cache, self.dirty, self.older, self.marked
        for at, content in enumerate(contents, block):
            if at // REGION_BLOCKS not in marked:
                raise StoreBroken(f"block {at} is written and its region is not marked")
            before = cache.get(at, 0)
            kept = dirty.get(at)
            if kept is None:
                dirty[at] = [before, content]
            else:
                kept.append(content)
            older[at] = before
            cache[at] = content
        self.writes += len(contents)
        self.unsettled.update(dict.fromkeys(range(block // REGION_BLOCKS, at // REGION_BLOCKS + 1), self.writes))
        if self.rotten:
            for at in range(block, block + len(contents)):
                self.rotten.pop(at, None)

    def read(self, block: int, count: int) -> tuple[int, ...]:
        """Raises Rotten."""
        self._inside(block, count)
        if self.rotten:
            bad = tuple(at for at in range(block, block + count) if at in self.rotten)
            if bad:
                raise Rotten(bad)
        get = self.cache.get
        return tuple([get(b, 0) for b in range(block, block + count)])

    def heal(self, block: int, content: int, *, settled: bool) -> bool:
        """Another copy's content, judged as the store judges it; does the block match now?"""
        if block not in self.rotten:
            return True
        cure = judge(self.cache.get(block, 0), self.rotten[block], content, settled=settled, disproved=False)
        if cure is Cure.REFUSED:
            return False
        del self.rotten[block]
        self.cache[block] = content  # with a rotten checksum: what the data are
        return True

    def _inside(self, block: int, count: int) -> None:
        if block < 0 or count < 1 or block + count > self.size_blocks:
            raise StoreBroken(f"blocks {block} to {block + count} of a volume of {self.size_blocks}")

    def holds(self, block: int, count: int) -> bool:
        return block + count <= self.size_blocks

    def grow(self, size_blocks: int) -> None:
        """Whole or not at all, and never back."""
        self.size_blocks = max(self.size_blocks, size_blocks)

    def digests(self, level: int, index: int, count: int, layer: str = "") -> tuple[int, ...]:
        """Nodes of the hash tree over the stored checksums, which rot does not change; level 0 is the blocks. Of what
        the volume was when `layer` was sealed, where one is named: beyond its end there are zeros."""
        cache = self.sealed[layer].cache if layer else self.cache
        span = tree.span_of(level)
        if index + count > -(-self.size_blocks // span):
            raise Outside
        if level == 0:
            values = [0] * count
            for block in _held(cache, index, index + count):
                values[block - index] = cache[block]
            return tuple(values)
        held: dict[int, list[tuple[int, int]]] = {}
        for block in _held(cache, index * span, (index + count) * span):
            content = cache[block]
            if content:
                held.setdefault(block // span - index, []).append((block, content))
        values = [0] * count
        for node, contents in held.items():
            values[node] = hash(tuple(sorted(contents)))
        return tuple(values)

    # ---- tail -----------------------------------------------------------------------------------------

    def note(self, seq: int, block: int, count: int) -> None:
        if seq > self.highest:
            self.highest = seq
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
        if self.unclean or self.doubted or self.lost_seq > self.commit:
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
        for block, contents in self.dirty.items():
            if block // REGION_BLOCKS in gone and len(contents) > 1:
                raise StoreBroken(f"region of block {block} is unmarked with an unsynced write in it")
        for seq, block, count in self.tail:
            if any(b // REGION_BLOCKS in gone for b in (block, block + count - 1)):
                raise StoreBroken(f"T3: region of block {block} is unmarked above the commit point: {seq}")
        if not gone.isdisjoint(self.unsettled):
            raise StoreBroken(
                f"T3: regions {sorted(gone & set(self.unsettled))} are unmarked, their checksums unsynced"
            )
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

    def settled(self, snapshot: dict[int, int]) -> None:
        """The checksums as well: of what `unsettled` was when the sync began."""
        for region, writes in snapshot.items():
            if self.unsettled.get(region) == writes:
                del self.unsettled[region]

    def freeze(self) -> tuple[Layer, dict[int, int], int]:
        """A seal begins: what it keeps, and what it makes durable."""
        return Layer(dict(self.cache), self.size_blocks), self.snapshot(), self.writes

    def seal(self, layer: str, frozen: tuple[Layer, dict[int, int], int]) -> None:
        kept, covers, writes = frozen
        if writes != self.writes:
            raise StoreBroken(f"K4: {layer} is sealed and the blocks are written meanwhile")
        self.synced(covers)
        self.sealed.setdefault(layer, kept)

    def clean(self) -> None:
        self.unclean = False
        self.doubted = set()
        self.lossy = False

    def fail(self, reason: str) -> None:
        """Durably, if the disk still takes that (S3)."""
        self.failure = reason
        self.unclean = self.me.kind == "data"

    def close(self, rng: Random) -> None:
        """The orderly end: everything synced, unfinished regions stay marked, the clean mark names the tail. What had
        failed is as after any other end: the next process opens it anew. *It came back as failed as it went: joined
        over and over, it never answered.*"""
        if self.failure:
            self.killed(rng, ())
            return
        if "sync" in self.refuses:
            return
        self.dirty.clear()
        if self.unclean:
            return
        if not self.doubted and self.lost_seq <= self.commit:
            kept = {b // REGION_BLOCKS for _, block, count in self.tail for b in (block, block + count - 1)}
            self.marked &= kept
        self.lingering.clear()
        self.unsettled.clear()
        self.closed = True

    # ---- faults ---------------------------------------------------------------------------------------

    def killed(self, rng: Random, marking: Iterable[int]) -> None:
        """The process is gone: marks on their way may have arrived."""
        self.marked |= {region for region in sorted(marking) if rng.random() < 0.5}
        self.unsettled = dict.fromkeys(self.marked, self.writes)
        if self.failure:
            self.failure, self.votes = "", True
            self._forget(rng)
            self.unclean = self.me.kind == "data"

    def power_lost(self, rng: Random, marking: Iterable[int]) -> None:
        lingering = {region for region in sorted(self.lingering) if rng.random() < 0.5}
        self.marked |= lingering | {region for region in sorted(marking) if rng.random() < 0.5}
        self.failure, self.votes = "", True
        self.unsettled = dict.fromkeys(self.marked, self.writes)
        if self.closed:
            return
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

    def rot(self, rng: Random) -> int | None:
        """One block's content changes on the platter, into nothing that anybody wrote or, a write that was lost, into
        what it was before; says which."""
        held = [block for block in self.cache if block not in self.dirty]
        if not held:
            return None
        block = held[rng.randrange(len(held))]
        older = self.older.get(block, GARBAGE) if rng.random() < 0.5 else GARBAGE
        self.spoil(block, older)
        return block

    def spoil(self, block: int, content: int) -> bool:
        """The platter holds another content than was written there; False: it was not written yet."""
        if block not in self.cache or block in self.dirty:
            return False
        self.rotten[block] = GARBAGE if content == self.cache[block] else content
        return True

    def validate(self) -> None:
        assert all(seq > self.commit for seq, _, _ in self.tail), "the tail holds what is committed"
        assert len(self.tail) <= TAIL_ENTRIES
        assert all(contents[-1] == self.cache.get(block, 0) for block, contents in self.dirty.items())


def _held(cache: dict[int, int], low: int, high: int) -> list[int]:
    """The blocks from `low` to `high` that were ever written: few of a large volume."""
    if high - low < len(cache):
        return [block for block in range(low, high) if block in cache]
    return [block for block in cache if low <= block < high]
