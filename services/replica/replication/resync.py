"""Bringing one peer up to date: compare checksums first, send only what differs, neighbours together.

Two sources, one protocol (design: delta sync). With a trusted map the candidates are blocks and the comparison
starts at level 0. Without one the comparison starts at the top of the hash tree and descends where nodes differ.

    trees --compare level n--> trees of the level below ... --> todo --compare level 0--> differing --copy--> confirmed

The first comparisons at level 0 are a sample: drawn from all that may differ, and answered before anything is copied,
so that what the whole will cost can be told before it begins. Each copy is asked for with `may_send`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from math import isqrt

from services.replica.replication.blockmap import BlockMap, Range
from services.replica.replication.effects import Effect, SendCopy, Tell
from services.replica.replication.estimate import Expected, Share, Work
from services.replica.replication.messages import Digest
from services.replica.replication.past import Moment

FANOUT = 256
GROUPS = 9
"""The level between 0 and 1: as many blocks lie below a node of it as there are such nodes below one of level 1.
*Single blocks in as many leaves brought the checksums of their 255 neighbours each: half as many bytes again as the
blocks.* It is numbered above all others, so that who does not know it refuses it; a peer says that it does when it
joins."""
COMPARE_BLOCKS = 4096
"""Blocks in one comparison."""
COMPARE_SPAN = 1 << 22
"""Blocks below the nodes of one comparison: both ends hash the checksums of 16 GiB in one turn of the loop, which takes
milliseconds, and of a terabyte in none, which would take longer than a lease."""
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
SAMPLES_MAX, SAMPLED_PIECES = 4 * SAMPLES, 400
"""Without a map there are as many as it takes to find so many pieces that differ, whose number is then known by 5 %."""


AsOf = Callable[[Iterable[Range]], int]


def always(blocks: int) -> bool:
    """Nobody else waits for the link."""
    return True


def top_level(size_blocks: int) -> int:
    """Where the comparison begins: the lowest level whose nodes number at most the fan-out, or the second, whose nodes
    are made quickly, while those are few enough."""
    level, nodes = 0, size_blocks
    while nodes > FANOUT and not (level == 2 and nodes <= 16 * FANOUT):
        level, nodes = level + 1, -(-nodes // FANOUT)
    return level


def span_of(level: int) -> int:
    """How many blocks lie below a node of that level."""
    return isqrt(FANOUT) if level == GROUPS else int(FANOUT**level)


def nodes_over(level: int, first: int, end: int) -> Range:
    """The nodes of that level that the blocks from `first` up to `end` lie below."""
    span = span_of(level)
    start = first // span
    return start, -(-end // span) - start


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
        groups: bool = False,
    ):
        """`of`: the peer is made what the volume was then; None: what it is. `groups`: it knows that level."""
        self.of = of
        self.peer = peer
        self._groups = groups
        self.size_blocks = size_blocks
        self.todo = candidates
        self.everything = everything
        self._trees: dict[int, deque[Range]] = {}
        """Level -> nodes that may differ."""
        if everything:
            level = top_level(size_blocks)
            self.todo = BlockMap()
            if level == 0:
                self.todo.add(0, size_blocks)
            else:
                self._ask_for(level, nodes_over(level, 0, size_blocks))
        self._comparing: dict[int, tuple[int, tuple[Range, ...]]] = {}
        self._differing: deque[Range] = deque()
        self._copying: dict[int, tuple[Range, ...]] = {}
        self._number = 0
        self._unsent = 0
        self._candidates = len(self.todo)
        self._samples = 0
        self._share = Share(mapped=not everything)
        self._shares_above = Share(mapped=True)
        self.blocks_compared = 0
        self.blocks_sent = 0
        self.pieces_found = 0
        """In how many pieces of neighbours lay what differed."""

    def done(self) -> bool:
        return not (self.todo or self._trees or self._comparing or self._differing or self._copying)

    def blocks_left(self) -> int:
        """Known so far: candidates not compared plus differing blocks not confirmed."""
        flying = sum(count for ranges in self._copying.values() for _, count in ranges)
        comparing = sum(count for level, ranges in self._comparing.values() if level == 0 for _, count in ranges)
        return len(self.todo) + comparing + sum(count for _, count in self._differing) + flying

    def sampled(self) -> bool:
        """What it will cost can be told: a sample was compared, or everything."""
        if not (self.todo or self._trees or self._comparing):
            return True
        enough = not self.everything or self.pieces_found >= SAMPLED_PIECES or self._samples >= SAMPLES_MAX
        return enough and self._samples >= SAMPLES

    @property
    def has_begun(self) -> bool:
        """Something was copied, or is on its way."""
        return bool(self.blocks_sent or self._copying)

    def rest(self) -> int:
        """Blocks that may have to travel, as far as is known without counting them."""
        return self._candidates + self._unsent

    def expected(self) -> Expected:
        """What is still to be done."""
        unknown = [*self._trees.items(), *(asked for asked in self._comparing.values() if asked[0])]
        above = sum(count * span_of(level) for level, nodes in unknown for _, count in nodes)
        hidden = self._shares_above.of(min(above, self.size_blocks))
        known = self._share.of(self._candidates)
        deeper = self._share.of(hidden.high)
        likely = known.likely + (deeper.likely * hidden.likely // hidden.high if hidden.high else 0)
        flying = self._unsent + sum(count for ranges in self._copying.values() for _, count in ranges)
        pieces = len(self._differing) + sum(map(len, self._copying.values()))
        compared = self._candidates + hidden.likely

        def work(unknown: int) -> Work:
            return Work(unknown + flying, self._share.pieces(unknown) + pieces, compared)

        return work(known.low), work(likely), work(known.high + deeper.high)

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
        while len(self._comparing) < COMPARES_IN_FLIGHT and (self._trees or self.todo):
            level, ranges = self._next_comparison()
            self._number += 1
            self._comparing[self._number] = (level, ranges)
            out.append(Tell((self.peer,), Digest(self._number, level, ranges)))
        return out

    def _next_comparison(self) -> tuple[int, tuple[Range, ...]]:
        """The highest nodes first: what will have to travel is known the sooner."""
        if not self._trees:
            sample = not self.sampled()
            most = MAPPED_SAMPLE_BLOCKS if sample and not self.everything else COMPARE_BLOCKS
            return 0, tuple(self.todo.take(most, spread=sample))
        level = max(self._trees, key=span_of)
        taken = _taken(self._trees[level], max(1, min(COMPARE_BLOCKS, COMPARE_SPAN // span_of(level))))
        if not self._trees[level]:
            del self._trees[level]
        return level, taken

    def _next_copy(self, most: int) -> tuple[Range, ...]:
        taken = _taken(self._differing, most)
        self._unsent -= sum(count for _, count in taken)
        return taken

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
        if level == 0:
            compared = sum(count for _, count in ranges)
            self.blocks_compared += compared
            self._candidates -= compared
            self._samples += 1
            self._share.add(compared, self._differs(differing), len(differing))
            return
        below = self._below(level)
        limit, children = nodes_over(below, 0, self.size_blocks)[1], span_of(level) // span_of(below)
        self._shares_above.add(sum(count for _, count in ranges), sum(count for _, count in differing), len(differing))
        for node, count in differing:
            start = node * children
            end = min((node + count) * children, limit)
            if below == 0:
                self.todo.add(start, end - start)
                self._candidates += end - start
                continue
            self._ask_for(below, (start, end - start))

    def _below(self, level: int) -> int:
        if level == 1 and self._groups:
            return GROUPS
        return 0 if level == GROUPS else level - 1

    def _ask_for(self, level: int, nodes: Range) -> None:
        self._trees.setdefault(level, deque()).append(nodes)

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


def _taken(queue: deque[Range], most: int) -> tuple[Range, ...]:
    """At most so many from its head, which are not in it any more."""
    taken: list[Range] = []
    while queue and most:
        first, count = queue.popleft()
        if count > most:
            queue.appendleft((first + most, count - most))
            count = most
        taken.append((first, count))
        most -= count
    return tuple(taken)
