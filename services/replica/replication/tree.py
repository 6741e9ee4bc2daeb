"""The hash tree as those who compare two copies go through it: its levels, and which nodes are still to be compared.

    level         11 ────── 10 ────── 1 ───── 9 ───── 0
    is over    1 GiB    a region    256      16       1 block

Down to regions the highest go first: a store keeps the hash of each region, so they cost it next to nothing, and then
it is known what all the rest can be. Below, a store reads the checksums of a region for each node that it is asked for,
and keeps those of some regions in memory: so the lowest go first, as soon as there are enough for one comparison, and a
region is through with all of its levels while its checksums are at hand. *Level by level, a volume of 100 GiB was read
six times.*

A peer of an older version knows 0 and 1 of these: for it, level n has as many blocks as the fan-out to the nth.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from math import isqrt

from services.replica.replication.blockmap import Range

FANOUT = 256
LEAVES = 1
"""The level of the lowest nodes over whole rows of checksums, which those above are made of in an older version."""
GROUPS = 9
"""The level between the leaves and the blocks, with as many nodes below one leaf as blocks below one of them. *Single
blocks in as many leaves brought the checksums of their 255 neighbours each: half as many bytes again as the blocks.*
These levels are numbered above all others, so that who does not know them refuses them; a peer says that it does when
it joins."""
REGIONS = 10
"""The level of the nodes whose hashes a store keeps."""
HIGHEST = 11
_REGION_LEAVES = 4
COMPARE_BLOCKS = 4096
"""Nodes, or blocks, in one comparison."""
COMPARE_SPAN = 1 << 22
"""Blocks below the nodes of one comparison: both ends hash the checksums of 16 GiB in one turn of the loop, which takes
milliseconds, and of a terabyte in none, which would take longer than a lease."""
_LEAVES_SPAN = 1 << 18
"""As `COMPARE_SPAN`, where each region is read for a comparison of leaves."""


def span_of(level: int) -> int:
    """How many blocks lie below a node of that level."""
    if level == GROUPS:
        return isqrt(FANOUT)
    if level >= REGIONS:
        return int(_REGION_LEAVES * FANOUT ** (level - REGIONS + 1))
    return int(FANOUT**level)


def nodes_over(level: int, first: int, end: int) -> Range:
    """The nodes of that level that the blocks from `first` up to `end` lie below."""
    span = span_of(level)
    start = first // span
    return start, -(-end // span) - start


def top_level(size_blocks: int, *, finer: bool = False) -> int:
    """Where the comparison begins: the lowest level whose nodes number at most the fan-out, or one whose nodes are made
    quickly, while those are few enough. `finer`: both ends know the levels from 9 on."""
    for level in (0, LEAVES):
        if nodes_over(level, 0, size_blocks)[1] <= FANOUT:
            return level
    level, quickly = REGIONS if finer else 2, 16 * FANOUT
    while level != HIGHEST and nodes_over(level, 0, size_blocks)[1] > (quickly if level in (2, REGIONS) else FANOUT):
        level += 1
    return level


class Tree:
    """The nodes of a volume's tree that may differ, above the blocks."""

    def __init__(self, size_blocks: int, *, finer: bool):
        self.size_blocks = size_blocks
        self._finer = finer
        self._pending: dict[int, deque[Range]] = {}
        self._nodes: dict[int, int] = {}
        """Level -> how many are pending."""

    def __bool__(self) -> bool:
        return bool(self._pending)

    def clear(self) -> None:
        """Nothing above the blocks is to be compared any more."""
        self._pending.clear()
        self._nodes.clear()

    def begin(self) -> int:
        """Everything may differ: the level where it begins. At 0 there are no nodes, only blocks."""
        level = top_level(self.size_blocks, finer=self._finer)
        if level:
            self.add(level, nodes_over(level, 0, self.size_blocks))
        return level

    def below(self, level: int) -> int:
        if self._finer:
            return {REGIONS: LEAVES, LEAVES: GROUPS, GROUPS: 0}.get(level, level - 1)
        return level - 1

    def levels(self) -> Iterator[int]:
        """From the highest down to the lowest above the blocks."""
        level = top_level(self.size_blocks, finer=self._finer)
        while level:
            yield level
            level = self.below(level)

    def pending(self, level: int) -> int:
        return self._nodes.get(level, 0)

    def differs(self, level: int, nodes: Range) -> Range | None:
        """These differ: the blocks to be compared, or None where there are nodes before."""
        below = self.below(level)
        children = span_of(level) // span_of(below)
        limit = nodes_over(below, 0, self.size_blocks)[1]
        start = nodes[0] * children
        found = (start, min(start + nodes[1] * children, limit) - start)
        if below == 0:
            return found
        self.add(below, found)
        return None

    def add(self, level: int, nodes: Range) -> None:
        self._pending.setdefault(level, deque()).append(nodes)
        self._nodes[level] = self.pending(level) + nodes[1]

    def next_level(self) -> int:
        """Which to compare next; there is one."""
        highest = max(self._pending, key=span_of)
        if span_of(highest) > span_of(LEAVES):
            return highest
        full = [level for level in self._pending if self._nodes[level] >= _most(level)]
        return min(full, key=span_of, default=highest)

    def take(self, level: int, *, spread: bool) -> tuple[Range, ...]:
        """Nodes for one comparison. `spread`: from all over the volume, so that they can stand for the rest."""
        queue, most = self._pending[level], _most(level)
        if spread and level in (LEAVES, GROUPS):
            found = taken_from_all(queue, most, _REGION_LEAVES if level == LEAVES else isqrt(FANOUT))
        else:
            found = taken(queue, most)
        self._nodes[level] -= sum(count for _, count in found)
        if not queue:
            del self._pending[level], self._nodes[level]
        return found


def _most(level: int) -> int:
    """Nodes of that level in one comparison."""
    span = _LEAVES_SPAN if level == LEAVES else COMPARE_SPAN
    return max(1, min(COMPARE_BLOCKS, span // span_of(level)))


def taken(queue: deque[Range], most: int) -> tuple[Range, ...]:
    """At most so many from its head, which are not in it any more."""
    found: list[Range] = []
    while queue and most:
        first, count = queue.popleft()
        if count > most:
            queue.appendleft((first + most, count - most))
            count = most
        found.append((first, count))
        most -= count
    return tuple(found)


def taken_from_all(queue: deque[Range], most: int, piece: int) -> tuple[Range, ...]:
    """As `taken`, in pieces from all over the queue."""
    total = sum(count for _, count in queue)
    if total <= most:
        return taken(queue, most)
    step = max(piece, total * piece // most // piece * piece)
    found: list[Range] = []
    kept: deque[Range] = deque()
    at, due = 0, min(step, total) // 2 // piece * piece
    for first, count in queue:
        end = at + count
        while due < end and most:
            skipped = max(0, due - at)
            if skipped:
                kept.append((first, skipped))
            size = min(piece, end - at - skipped, most)
            found.append((first + skipped, size))
            first, at, due, most = first + skipped + size, at + skipped + size, due + step, most - size
        if at < end:
            kept.append((first, end - at))
        at = end
    queue.clear()
    queue.extend(kept)
    return tuple(found)
