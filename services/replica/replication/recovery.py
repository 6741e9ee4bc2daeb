"""What a node's primaries share when they bring copies up to date: one budget, one pace, and what was learned."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.replica.replication.budget import COPIES_IN_FLIGHT, Budget, Key, Limits, Rank
from services.replica.replication.estimate import Estimate, Expected, Speed, Work, estimate
from services.replica.replication.pace import Pace, PaceLimits

SAMPLED = 7
"""Of eight writes one is timed: those whose number has none of these bits."""


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
        rate = self.pace.recovering(now_ns)
        if rate != self.budget.bytes_per_s:
            self.budget.set_rate(rate, now_ns)
        return self.budget.ask(key, rank, blocks, now_ns)

    def estimate(self, node: str, expected: Expected) -> Estimate:
        return estimate(expected, self.speed(node), self.budget.bytes_per_s)

    def speed(self, node: str) -> Speed:
        """Of a node that never came back before nothing is known but what the others were like."""
        return self._speeds.setdefault(node, Speed(self._anywhere.rates))

    def learn(self, node: str, work: Work, took_ns: int, foretold_ns: int, *, held_back: bool) -> None:
        """A copy on that node has come back."""
        for speed in (self.speed(node), self._anywhere):
            speed.learn(work, took_ns, foretold_ns, held_back=held_back)
