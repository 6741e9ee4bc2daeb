"""Bringing one peer up to date: compare checksums first, send only what differs, neighbours together.

Two sources, one protocol (design: delta sync). With a trusted map the candidates are blocks and the comparison
starts at level 0. Without one the comparison starts at the top of the hash tree and descends where nodes differ.

    trees --compare level n--> trees of level n-1 ... --> todo --compare level 0--> differing --copy--> confirmed
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from services.replica.replication.blockmap import BlockMap, Range
from services.replica.replication.effects import Effect, SendCopy, Tell
from services.replica.replication.messages import Digest

FANOUT = 256
COMPARE_BLOCKS = 4096
"""Blocks in one comparison."""
COMPARES_IN_FLIGHT = 4
COPY_BLOCKS = 64
"""Blocks in one copy message: 256 KiB."""
COPIES_IN_FLIGHT = 8


def top_level(size_blocks: int) -> int:
    """The lowest level whose nodes number at most the fan-out."""
    level, nodes = 0, size_blocks
    while nodes > FANOUT:
        level, nodes = level + 1, -(-nodes // FANOUT)
    return level


def _level_nodes(size_blocks: int, level: int) -> int:
    fanned: int = FANOUT**level
    return -(-size_blocks // fanned)


class Resync:
    """The candidates of one peer and what is in flight to it."""

    def __init__(self, peer: str, size_blocks: int, candidates: BlockMap, everything: bool):
        self.peer = peer
        self.size_blocks = size_blocks
        self.todo = candidates
        self.everything = everything
        self._trees: deque[tuple[int, Range]] = deque()
        if everything:
            level = top_level(size_blocks)
            self.todo = BlockMap()
            if level == 0:
                self.todo.add(0, size_blocks)
            else:
                self._trees.append((level, (0, _level_nodes(size_blocks, level))))
        self._comparing: dict[int, tuple[int, tuple[Range, ...]]] = {}
        self._differing: deque[Range] = deque()
        self._copying: dict[int, tuple[Range, ...]] = {}
        self._number = 0
        self.blocks_compared = 0
        self.blocks_sent = 0

    def done(self) -> bool:
        return not (self.todo or self._trees or self._comparing or self._differing or self._copying)

    def blocks_left(self) -> int:
        """Known so far: candidates not compared plus differing blocks not confirmed."""
        flying = sum(count for ranges in self._copying.values() for _, count in ranges)
        comparing = sum(count for level, ranges in self._comparing.values() if level == 0 for _, count in ranges)
        return len(self.todo) + comparing + sum(count for _, count in self._differing) + flying

    def pump(self, as_of: int) -> list[Effect]:
        """Whatever may be sent now. `as_of`: every write at or below is in our own store."""
        out: list[Effect] = []
        while self._differing and len(self._copying) < COPIES_IN_FLIGHT:
            ranges = self._next_copy()
            self._number += 1
            self._copying[self._number] = ranges
            out.append(SendCopy(self.peer, self._number, as_of, ranges))
        while len(self._comparing) < COMPARES_IN_FLIGHT and (self._trees or self.todo):
            if self._trees:
                level, nodes = self._trees.popleft()
                ranges = (nodes,)
            else:
                level, ranges = 0, tuple(self.todo.take(COMPARE_BLOCKS))
            self._number += 1
            self._comparing[self._number] = (level, ranges)
            out.append(Tell((self.peer,), Digest(self._number, level, ranges)))
        return out

    def _next_copy(self) -> tuple[Range, ...]:
        taken: list[Range] = []
        room = COPY_BLOCKS
        while self._differing and room:
            block, count = self._differing.popleft()
            if count > room:
                self._differing.appendleft((block + room, count - room))
                count = room
            taken.append((block, count))
            room -= count
        return tuple(taken)

    def asked(self, number: int) -> tuple[int, tuple[Range, ...]] | None:
        """(level, ranges) of a comparison that waits for its answer."""
        return self._comparing.get(number)

    def copying(self, number: int) -> tuple[Range, ...]:
        """The ranges of a copy that is not confirmed."""
        return self._copying.get(number, ())

    def force(self, ranges: Iterable[Range]) -> None:
        """To be copied whatever the checksums say: the peer can't read them."""
        self._differing.extend(ranges)

    def compared(self, number: int, differing: Iterable[Range]) -> None:
        """The nodes (level > 0) or blocks (level 0) that differ, as ranges."""
        asked = self._comparing.pop(number, None)
        if asked is None:
            return
        level, ranges = asked
        if level == 0:
            self.blocks_compared += sum(count for _, count in ranges)
            self._differing.extend(differing)
            return
        limit = _level_nodes(self.size_blocks, level - 1)
        for node, count in differing:
            start = node * FANOUT
            end = min((node + count) * FANOUT, limit)
            if level == 1:
                self.todo.add(start, end - start)
                continue
            for piece in range(start, end, COMPARE_BLOCKS):
                self._trees.append((level - 1, (piece, min(COMPARE_BLOCKS, end - piece))))

    def copied(self, number: int) -> None:
        for _, count in self._copying.pop(number, ()):
            self.blocks_sent += count

    def unfinished(self) -> tuple[BlockMap, bool]:
        """(blocks that may still differ, everything may): what the next attempt starts with."""
        if self._trees or any(level > 0 for level, _ in self._comparing.values()):
            return BlockMap(), True
        rest = self.todo.copy()
        for _, ranges in self._comparing.values():
            rest.update(BlockMap(ranges))
        for ranges in self._copying.values():
            rest.update(BlockMap(ranges))
        rest.update(BlockMap(self._differing))
        return rest, False
