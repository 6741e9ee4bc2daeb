"""How sound one copy's disk is: the blocks that were rotten here, and whether there were too many of them. Pure.

A disk that rots a block a month is a disk; one that rots a hundred a day is about to die, and every block that is
healed from another copy is one that had only so many copies left. Such a copy is *worn out*: it is retired, and the
volume's repair makes another one elsewhere.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

KNOWN_MAX = 100_000


class Health:
    def __init__(self, blocks_max: int, window_ns: int):
        """More than `blocks_max` rotten blocks within the window are too many."""
        self._blocks_max = blocks_max
        self._window_ns = window_ns
        self._recent: deque[tuple[int, int]] = deque()
        """(when, how many)"""
        self.rotten: set[int] = set()
        """Found and not yet healed or written anew."""
        self._lost: set[int] = set()
        """Of these, nobody had the content when it was last asked for."""
        self.found = 0
        self.healed = 0
        """Since the process started."""

    def see(self, blocks: Iterable[int], now_ns: int) -> list[int]:
        """These do not match their checksum; says which of them are news."""
        new = sorted(set(blocks) - self.rotten)[: KNOWN_MAX - len(self.rotten)]
        if new:
            self.rotten.update(new)
            self.found += len(new)
            self._recent.append((now_ns, len(new)))
        return new

    def lose(self, blocks: Iterable[int]) -> bool:
        """Nobody has the content of these; is that news?"""
        before = len(self._lost)
        self._lost.update(self.rotten.intersection(blocks))
        return len(self._lost) > before

    @property
    def lost(self) -> int:
        return len(self._lost)

    def heal(self, blocks: Iterable[int]) -> int:
        """They match again; how many of them did not before."""
        whole = self.rotten.intersection(blocks)
        self.rotten -= whole
        self._lost -= whole
        self.healed += len(whole)
        return len(whole)

    def overwrite(self, block: int, count: int) -> None:
        """A write of the range replaced whatever was there."""
        self.rotten = {at for at in self.rotten if not block <= at < block + count}
        self._lost &= self.rotten

    def worn_out(self, now_ns: int) -> bool:
        while self._recent and self._recent[0][0] < now_ns - self._window_ns:
            self._recent.popleft()
        return sum(count for _, count in self._recent) > self._blocks_max
