"""A member that is in sync, compared with its primary while both work; and what it lacks after all, sent to it.

The same comparison as for a member that was away, over the same tree. Writes go on meanwhile: a block that is written
between the beginning of a comparison and its end proves nothing, and is left for the next one. What differs and was
not written differs for another reason than time, and the primary's content wins (rule K3).

Here are also copied the blocks that the member itself found rotten, compared or not: their checksums are equal.
"""

from __future__ import annotations

from collections.abc import Iterable

from services.replica.replication.blockmap import BlockMap, Range
from services.replica.replication.resync import Resync
from services.replica.replication.tree import top_level

FIRST_NUMBER = 1 << 32
"""Its comparisons and copies are numbered apart from those of catching up."""
COMPARED_LEVEL = 1
BLOCKS_LEFT_MAX = 65_536
"""A member that reports more rotten blocks than we send is heard again when these are sent."""


class Scrub(Resync):
    def __init__(self, peer: str, size_blocks: int):
        super().__init__(peer, size_blocks, BlockMap(), everything=False)
        self._number = FIRST_NUMBER
        self._written = BlockMap()
        self._rotten = BlockMap()
        self.level = min(COMPARED_LEVEL, top_level(size_blocks))

    def sampled(self) -> bool:
        """Nobody is told beforehand what it will cost. *A member's rotten blocks waited for a sample of blocks that
        were compared, which there never is where all are equal, or for a moment without a comparison.*"""
        return True

    def compare(self, level: int, nodes: Range, under_way: Iterable[Range]) -> None:
        """`under_way`: writes that the member has not confirmed, or that we have not stored."""
        for block, count in under_way:
            self._written.add(block, count)
        if level:
            self._tree.add(level, nodes)
        else:
            self.todo.add(*nodes)

    def copy(self, ranges: Iterable[Range]) -> None:
        """Blocks that the member can't read."""
        new = BlockMap(ranges)
        for block, count in self._rotten.ranges():
            new.discard(block, count)
        if self.blocks_left() + len(new) > BLOCKS_LEFT_MAX:
            return
        self._rotten.update(new)
        self._differs(new.ranges())

    def written(self, block: int, count: int) -> None:
        self._written.add(block, count)

    def compared(self, number: int, differing: Iterable[Range]) -> None:
        asked = self.asked(number)
        if asked is not None and asked[0] == 0 and self._written:
            settled = BlockMap(differing)
            for block, count in self._written.ranges():
                settled.discard(block, count)
            differing = settled.ranges()
        super().compared(number, differing)

    def copied_blocks(self, number: int) -> tuple[tuple[Range, ...], tuple[Range, ...]]:
        """A copy has arrived: (the rotten blocks of it, those that only differed)."""
        ranges = BlockMap(self._copying.get(number, ()))
        self.copied(number)
        rotten = BlockMap()
        for block, count in ranges.ranges():
            for at in range(block, block + count):
                if at in self._rotten:
                    rotten.add(at, 1)
        for block, count in rotten.ranges():
            self._rotten.discard(block, count)
            ranges.discard(block, count)
        return tuple(rotten.ranges()), tuple(ranges.ranges())

    def gave_up(self, number: int) -> tuple[Range, ...]:
        """Our own copy of these is rotten, and nobody else has them."""
        ranges = self._copying.pop(number, ())
        for block, count in ranges:
            self._rotten.discard(block, count)
        return ranges

    def unfinished(self) -> tuple[BlockMap, bool]:
        """Only what is known to differ: the member was in sync, and a comparison that ended early says nothing."""
        self._tree.clear()
        self.todo = BlockMap()
        self._comparing.clear()
        return super().unfinished()
