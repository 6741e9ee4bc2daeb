"""The intent gate: no write reaches the store before its regions are marked, durably.

Writes to marked regions pass at once. The first write to a region waits for the mark; whatever touches one of its
regions afterwards waits behind it, so overlapping writes keep their order (W1). A region is unmarked when all its
writes are synced and at or below the commit point (T3), after a quiet while.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import repeat
from operator import floordiv
from typing import NamedTuple

from services.replica.replication.blockmap import Range, regions_of
from services.replica.replication.messages import Copy, Write, WriteMany, Zero
from stoscore.units import REGION_BLOCKS, SECOND

QUIET_NS = 60 * SECOND
"""Longer than the pauses between what a file system writes back (5 and 30 s on Linux): each region whose mark was taken
away costs its next write an fdatasync, on every copy. What a longer time costs is a comparison after a power loss."""


class Op(NamedTuple):
    """One change of the store on its way in. A copy counts as the latest write that it may hold."""

    message: Write | WriteMany | Zero | Copy
    seq: int
    regions: tuple[int, ...]


def op_of(message: Write | WriteMany | Zero | Copy) -> Op:
    if isinstance(message, WriteMany):
        blocks, counts = zip(*message.ranges, strict=True)
        touched = set(map(floordiv, blocks, repeat(REGION_BLOCKS)))
        if max(counts) > 1:  # none of them reaches further than from one region into the next
            touched |= {(block + count - 1) // REGION_BLOCKS for block, count in message.ranges}
        return Op(message, message.seq, tuple(sorted(touched)))
    if isinstance(message, Copy):
        touched = {region for block, count in message.ranges for region in regions_of(block, count)}
        return Op(message, message.as_of, tuple(sorted(touched)))
    first, last = message.block // REGION_BLOCKS, (message.block + message.count - 1) // REGION_BLOCKS
    return Op(message, message.seq, (first,) if first == last else tuple(range(first, last + 1)))


def ranges_of(message: Write | WriteMany | Zero) -> tuple[Range, ...]:
    return message.ranges if isinstance(message, WriteMany) else ((message.block, message.count),)


class Gate:
    """One store's marks and the operations that wait for them."""

    def __init__(self, marked: Iterable[int]):
        self.marked = set(marked)
        self.passed = 0
        """How many operations reached the store; a sync covers those that passed before it began."""
        self._marking: set[int] = set()
        self._waiting: deque[Op] = deque()
        self._blocked: set[int] = set()
        """Regions that a waiting operation touches."""
        self._latest: dict[int, tuple[int, int]] = dict.fromkeys(self.marked, (0, 0))
        """Region -> (number of its latest operation, highest seq)."""
        self._highest = 0
        """No seq in there is above it."""
        self._unsettled = set(self.marked)
        """Regions marked before this process: how high the writes in them go is not known yet."""
        self._last_write_ns = 0
        self._closed = 0
        """Seals under way: nothing is written until they are done."""

    def submit(self, op: Op, now_ns: int) -> tuple[bool, tuple[int, ...]]:
        """(pass at once?, regions to mark now)."""
        self._last_write_ns = now_ns
        free = not self._blocked or self._blocked.isdisjoint(op.regions)
        if free and not self._closed and self.marked.issuperset(op.regions):
            self._pass(op)
            return True, ()
        missing = tuple(r for r in op.regions if r not in self.marked and r not in self._marking)
        self._marking.update(missing)
        self._waiting.append(op)
        self._blocked.update(op.regions)
        return False, missing

    def expect(self, regions: Iterable[int]) -> tuple[int, ...]:
        """Writes to these regions are on their way: the marks to make ahead of them, all in one go."""
        missing = tuple(sorted(set(regions) - self.marked - self._marking))
        self._marking.update(missing)
        return missing

    def _pass(self, op: Op) -> None:
        self.passed += 1
        latest, passed, seq = self._latest, self.passed, op.seq
        if seq >= self._highest:
            self._highest = seq
            latest.update(dict.fromkeys(op.regions, (passed, seq)))
            return
        for region in op.regions:
            before = latest.get(region)
            latest[region] = (passed, seq if before is None or before[1] < seq else before[1])

    def on_marked(self, regions: Iterable[int]) -> list[Op]:
        """The operations that pass now, in order."""
        done = set(regions)
        self._marking -= done
        self.marked |= done
        for region in done:
            self._latest.setdefault(region, (self.passed, 0))
        return self._ready()

    def close(self) -> None:
        """The store is about to be sealed: what comes waits, whoever leads meanwhile."""
        self._closed += 1

    def open(self) -> list[Op]:
        """It is sealed: the operations that pass now, in order."""
        self._closed -= 1
        return self._ready()

    def _ready(self) -> list[Op]:
        if self._closed:
            return []
        ready: list[Op] = []
        left: deque[Op] = deque()
        blocked: set[int] = set()
        for op in self._waiting:
            if self.marked.issuperset(op.regions) and blocked.isdisjoint(op.regions):
                self._pass(op)
                ready.append(op)
            else:
                left.append(op)
                blocked.update(op.regions)
        self._waiting, self._blocked = left, blocked
        return ready

    def drop_waiting(self) -> list[Op]:
        """T1: what waits is not stored and never will be."""
        dropped = list(self._waiting)
        self._waiting.clear()
        self._blocked.clear()
        return dropped

    def waiting(self) -> bool:
        return bool(self._waiting)

    def waiting_ops(self) -> list[Op]:
        return list(self._waiting)

    def first_waiting_seq(self, ranges: Iterable[Range]) -> int | None:
        """Of the operations that touch a region of these. What came after it for that region waits behind it, so
        everything that the store holds there is older."""
        if not self._waiting:
            return None
        regions = {region for block, count in ranges for region in regions_of(block, count)}
        return min((op.seq for op in self._waiting if not regions.isdisjoint(op.regions)), default=None)

    def quiet_at_ns(self) -> int | None:
        """When the marks have been quiet long enough to be worth a sync; None with no marks."""
        return self._last_write_ns + QUIET_NS if self.marked and not self._waiting else None

    def touch(self, now_ns: int) -> None:
        """Starts the quiet while again: what could not be unmarked is tried after another one."""
        self._last_write_ns = now_ns

    def settle(self, seq: int) -> None:
        """No write of before this process has a number above `seq`. *Killed with w in hand, back and brought up to
        date, a replica unmarked the region as if w were old; it lost power, the primary died, nobody compared w.*"""
        self._highest = max(self._highest, seq)
        for region in self._unsettled:
            if region in self._latest:
                passed, latest = self._latest[region]
                self._latest[region] = (passed, max(latest, seq))
        self._unsettled.clear()

    def unmark(self, synced: int, commit: int) -> tuple[int, ...]:
        """Unmarks the regions whose operations all passed by `synced` and lie at or below `commit` (T3)."""
        if self._unsettled:
            return ()
        done = tuple(
            sorted(
                region
                for region, (number, seq) in self._latest.items()
                if region in self.marked and number <= synced and seq <= commit and region not in self._blocked
            )
        )
        for region in done:
            self.marked.discard(region)
            del self._latest[region]
        return done
