"""Bringing one peer up to date: compare checksums first, send only what differs, neighbours together.

Two sources, one protocol (design: delta sync). With a trusted map the candidates are blocks and the comparison
starts at level 0. Without one the comparison starts at the top of the hash tree and descends where nodes differ.

    tree --compare level n--> its nodes below ... --> todo --compare level 0--> differing --copy--> confirmed

The first comparisons are a sample: drawn from all that may differ, and answered down to level 0 before anything is
copied, so that what the whole will cost can be told before it begins: which share of each level's nodes differs. Each
copy is asked for with `may_send`.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable

from services.replica.replication import tree
from services.replica.replication.blockmap import BlockMap, Range
from services.replica.replication.effects import Effect, SendCopy, Tell
from services.replica.replication.estimate import Band, Expected, Share, Work
from services.replica.replication.messages import Digest
from services.replica.replication.past import Moment
from services.replica.replication.tree import Tree, nodes_over, span_of, taken

COMPARES_IN_FLIGHT = 4
COPY_BLOCKS = 64
"""Blocks in one copy message: 256 KiB."""
SMALL_COPY_BLOCKS = 16
"""While applications are at work: an application's request may stand behind any copy, at both ends."""
COPIES_IN_FLIGHT = 8
MAPPED_SAMPLE_BLOCKS = 512
"""In one comparison of the sample where nearly all are known to differ: the sooner it is answered, the sooner copies
and other comparisons are under way together."""
SAMPLES = COMPARES_IN_FLIGHT
"""Comparisons at level 0 that are answered before the first copy: they are under way together."""
SAMPLED_BLOCKS_MAX, SAMPLED_PIECES = 1 << 16, 400
"""Without a map there are as many as it takes to find so many pieces that differ, whose number is then known by 5 %, or
to compare so many blocks."""
UNSENT_BLOCKS = 2048
"""So many that differ and are not sent are enough: going on comparing would push the checksums that they are sent with
out of both ends' memory, and so find out earlier what is left, and no sooner be done."""


AsOf = Callable[[Iterable[Range]], int]


def always(blocks: int) -> bool:
    """Nobody else waits for the link."""
    return True


class Resync:
    """The candidates of one peer and what is in flight to it."""

    def __init__(
        self,
        peer: str,
        size_blocks: int,
        candidates: BlockMap,
        everything: bool,
        of: Moment | None = None,
        *,
        finer: bool = False,
    ):
        """`of`: the peer is made what the volume was then; None: what it is. `finer`: it knows all levels of `tree`."""
        self.of = of
        self.peer = peer
        self.todo = candidates
        self.everything = everything
        self._tree = Tree(size_blocks, finer=finer)
        if everything:
            self.todo = BlockMap()
            if self._tree.begin() == 0:
                self.todo.add(0, size_blocks)
        self._comparing: dict[int, tuple[int, tuple[Range, ...]]] = {}
        self._asked: dict[int, int] = defaultdict(int)
        """Level -> how many nodes or blocks are being compared."""
        self._differing: deque[Range] = deque()
        self._copying: dict[int, tuple[Range, ...]] = {}
        self._number = 0
        self._unsent = 0
        self._candidates = len(self.todo)
        self._samples = 0
        self._share = Share(mapped=not everything)
        self._shares: dict[int, Share] = defaultdict(lambda: Share(mapped=True))
        """Of each level above the blocks."""
        self._hidden = self._below_unknown().likely
        self.blocks_compared = 0
        self.blocks_sent = 0
        self.pieces_found = 0
        """In how many pieces of neighbours lay what differed."""

    @property
    def size_blocks(self) -> int:
        return self._tree.size_blocks

    def grew(self, size_blocks: int) -> None:
        """What it has compared was a smaller volume."""
        self._tree.size_blocks = size_blocks

    def done(self) -> bool:
        return not (self.todo or self._tree or self._comparing or self._differing or self._copying)

    def blocks_left(self) -> int:
        """Known so far: candidates not compared plus differing blocks not confirmed."""
        flying = sum(count for ranges in self._copying.values() for _, count in ranges)
        comparing = sum(count for level, ranges in self._comparing.values() if level == 0 for _, count in ranges)
        return len(self.todo) + comparing + sum(count for _, count in self._differing) + flying

    def sampled(self) -> bool:
        """What it will cost can be told: a sample was compared, or everything."""
        if not (self.todo or self._tree or self._comparing):
            return True
        many = self.pieces_found >= SAMPLED_PIECES or self.blocks_compared >= SAMPLED_BLOCKS_MAX
        return self._samples >= SAMPLES and (many or not self.everything)

    @property
    def has_begun(self) -> bool:
        """Something was copied, or is on its way."""
        return bool(self.blocks_sent or self._copying)

    def rest(self) -> int:
        """Blocks that may have to travel, as far as is known without counting them."""
        return self._candidates + self._hidden + self._unsent

    def expected(self) -> Expected:
        """What is still to be done."""
        hidden = self._below_unknown()
        flying = self._unsent + sum(count for ranges in self._copying.values() for _, count in ranges)
        pieces = len(self._differing) + sum(map(len, self._copying.values()))
        compared = self._candidates + hidden.likely

        def work(unknown: int) -> Work:
            return Work(unknown + flying, self._share.pieces(unknown) + pieces, compared)

        of, known = self._share.of, self._candidates
        return work(of(known + hidden.low).low), work(of(compared).likely), work(of(known + hidden.high).high)

    def _below_unknown(self) -> Band:
        """Blocks that will have to be compared below the nodes whose comparison is not answered."""
        low = likely = high = 0
        for level in self._tree.levels():
            share, unknown = self._shares[level], self._tree.pending(level) + self._asked[level]
            below = self._tree.below(level)
            children, most = span_of(level) // span_of(below), nodes_over(below, 0, self.size_blocks)[1]
            low, likely, high = (
                min(most, differing * children)
                for differing in (
                    share.of(low + unknown).low,
                    share.of(likely + unknown).likely,
                    share.of(high + unknown).high,
                )
            )
        return Band(low, likely, high)

    def pump(
        self, as_of: AsOf, may_send: Callable[[int], bool] = always, copy_blocks: int = COPY_BLOCKS
    ) -> list[Effect]:
        """Whatever may be sent now. `as_of`: what our own store holds of these (`Window.as_of`). `may_send`: is asked
        for each copy with its number of blocks, at most `copy_blocks`."""
        out: list[Effect] = []
        may_copy = self.sampled()
        while may_copy and self._differing and len(self._copying) < COPIES_IN_FLIGHT:
            if not may_send(min(self._unsent, copy_blocks)):
                break
            ranges = self._next_copy(copy_blocks)
            self._number += 1
            self._copying[self._number] = ranges
            out.append(SendCopy(self.peer, self._number, as_of(ranges), ranges, self.of))
        while len(self._comparing) < COMPARES_IN_FLIGHT and (self._tree or self.todo):
            if may_copy and self._unsent >= UNSENT_BLOCKS:
                break
            level, ranges = self._next_comparison()
            self._number += 1
            self._comparing[self._number] = (level, ranges)
            self._asked[level] += sum(count for _, count in ranges)
            out.append(Tell((self.peer,), Digest(self._number, level, ranges)))
        return out

    def _next_comparison(self) -> tuple[int, tuple[Range, ...]]:
        sample = not self.sampled()
        if self._tree and self._candidates - self._asked[0] < tree.COMPARE_BLOCKS:
            level = self._tree.next_level()
            return level, self._tree.take(level, spread=sample)
        most = MAPPED_SAMPLE_BLOCKS if sample and not self.everything else tree.COMPARE_BLOCKS
        return 0, tuple(self.todo.take(most, spread=sample))

    def _next_copy(self, most: int) -> tuple[Range, ...]:
        ranges = taken(self._differing, most)
        self._unsent -= sum(count for _, count in ranges)
        return ranges

    def asked(self, number: int) -> tuple[int, tuple[Range, ...]] | None:
        """(level, ranges) of a comparison that waits for its answer."""
        return self._comparing.get(number)

    def copying(self, number: int) -> tuple[Range, ...]:
        """The ranges of a copy that is not confirmed."""
        return self._copying.get(number, ())

    def force(self, ranges: Iterable[Range]) -> None:
        """To be copied whatever the checksums say: the peer can't read them."""
        self._differs(ranges)

    def _differs(self, ranges: Iterable[Range]) -> int:
        found = list(ranges)
        count = sum(count for _, count in found)
        self._differing.extend(found)
        self.pieces_found += len(found)
        self._unsent += count
        return count

    def compared(self, number: int, differing: Iterable[Range]) -> None:
        """The nodes (level > 0) or blocks (level 0) that differ, as ranges."""
        asked = self._comparing.pop(number, None)
        if asked is None:
            return
        differing = list(differing)
        level, ranges = asked
        compared = sum(count for _, count in ranges)
        self._asked[level] -= compared
        if level == 0:
            self.blocks_compared += compared
            self._candidates -= compared
            self._samples += 1
            self._share.add(compared, self._differs(differing), len(differing))
            return
        self._shares[level].add(compared, sum(count for _, count in differing), len(differing))
        for nodes in differing:
            blocks = self._tree.differs(level, nodes)
            if blocks is not None:
                self.todo.add(*blocks)
                self._candidates += blocks[1]
        self._hidden = self._below_unknown().likely

    def copied(self, number: int) -> None:
        for _, count in self._copying.pop(number, ()):
            self.blocks_sent += count

    def unfinished(self) -> tuple[BlockMap, bool]:
        """(blocks that may still differ, everything may): what the next attempt starts with."""
        if self._tree or any(level > 0 for level, _ in self._comparing.values()):
            return BlockMap(), True
        rest = self.todo.copy()
        for _, ranges in self._comparing.values():
            rest.update(BlockMap(ranges))
        for ranges in self._copying.values():
            rest.update(BlockMap(ranges))
        rest.update(BlockMap(self._differing))
        return rest, False
