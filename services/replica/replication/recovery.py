"""What a node's primaries share when they bring copies up to date: one budget, one pace, and what was learned."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.replica.replication.budget import COPIES_IN_FLIGHT, COPY_BYTES_MAX, Budget, Key, Limits, Rank
from services.replica.replication.estimate import Allowance, Estimate, Expected, Speed, Took, Work, estimate
from services.replica.replication.pace import Pace, PaceLimits
from services.replica.replication.resync import COPY_BLOCKS, SMALL_COPY_BLOCKS
from stoscore.units import BLOCK_BYTES


@dataclass(frozen=True, slots=True)
class RecoveryLimits:
    pace: PaceLimits = field(default_factory=PaceLimits)
    copies_in_flight: int = COPIES_IN_FLIGHT


class Recovery:
    """One node's."""

    def __init__(self, limits: RecoveryLimits):
        self.pace = Pace(limits.pace)
        self.budget = Budget(Limits(self.pace.bytes_per_s, limits.copies_in_flight))
        self._speeds: dict[str, Speed] = {}
        self._anywhere = Speed()

    def may_send(self, key: Key, rank: Rank, blocks: int, now_ns: int) -> bool:
        self.look(now_ns)
        return self.budget.ask(key, rank, blocks, now_ns)

    @property
    def copy_blocks(self) -> int:
        return SMALL_COPY_BLOCKS if self.pace.held else COPY_BLOCKS

    def look(self, now_ns: int) -> None:
        """A copy is about to be sent: the budget is what the pace says now."""
        rate = self.pace.recovering(now_ns)
        if rate != self.budget.bytes_per_s:
            self.budget.set_rate(rate, now_ns)

    def estimate(self, key: Key, rank: Rank, expected: Expected) -> Estimate:
        budget = self.budget
        # The last one leaves as soon as anything is left to spend, so it may leave ahead of its time.
        at_once = budget.burst + min(rank[1] * BLOCK_BYTES, COPY_BYTES_MAX)
        allowed = Allowance(budget.bytes_per_s, at_once, budget.blocks_ahead(key, rank) * BLOCK_BYTES)
        return estimate(expected, self.speed(key[1]), allowed)

    def speed(self, node: str) -> Speed:
        """Of a node that never came back before nothing is known but what the others were like. That is looked at once:
        it has to be fitted to the last truths, which takes milliseconds."""
        known = self._speeds.get(node)
        if known is None:
            known = self._speeds[node] = Speed(self._anywhere)
        return known

    def learn(self, node: str, work: Work, took: Took, foretold_ns: int) -> None:
        """A copy on that node has come back."""
        for speed in (self.speed(node), self._anywhere):
            speed.learn(work, took, foretold_ns)
