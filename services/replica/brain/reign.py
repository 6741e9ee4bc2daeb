"""When a reign ends: every reason that a leader has to stop, in one judgement (A5)."""

from __future__ import annotations

from dataclasses import dataclass

from services.replica.brain.decisions import Verdict, recorded
from stoscore.units import in_seconds

BARREN_MAX = 6
"""Doublings of a leader's patience."""


@recorded
@dataclass(frozen=True, slots=True)
class Reign:
    """A leader, and what may end it."""

    me: str
    epoch: int
    lease_ns: int
    lease_over_ns: int
    """How long ago the last majority of promises ended; 0: it holds."""
    absent: tuple[str, ...]
    """Nodes of voters that are not there."""
    unpromised: tuple[str, ...]
    """Nodes of voters that promise nothing, though they may be there: *their directories were gone, they answered every
    beat, and a leader that nobody followed any more led on for ever.*"""
    disk_stalled: bool
    heard_epoch: int = 0
    """A higher epoch that we heard of."""
    heard_from: str = ""
    newer_generation: int = 0
    """That an operator began without us (I4); 0: none."""
    successor: str = ""
    """The node that we have named (P5)."""
    failure: str = ""
    stopping: bool = False
    barren: int = 0
    """How many reigns of this voter in a row have ended without ever a lease: it has had none in this one either."""

    @property
    def patience_ns(self) -> int:
        """How long it may be without a lease. *Four hundred volumes were elected at once on busy nodes, and promises
        came after more than a lease. Every leader had resigned by then, and each election was work for all the others:
        two minutes later nobody led any of them.*"""
        return self.lease_ns << min(self.barren, BARREN_MAX)

    def judge(self) -> Verdict:
        reason = self.reason()
        return Verdict("step-down" if reason else "", reason)

    def reason(self) -> str:
        """Why the reign ends, or "" to go on."""
        if self.successor:
            return f"it named {self.successor} its successor"
        if self.failure:
            return f"its disk failed: {self.failure}"
        if self.stopping:
            return "its process ends"
        if self.newer_generation:
            return f"{self.heard_from} is in generation {self.newer_generation}, which an operator began"
        if self.heard_epoch > self.epoch:
            return f"{self.heard_from or 'a voter'} knows epoch {self.heard_epoch}, above {self.epoch}"
        if self.disk_stalled:
            return "its disk makes no progress"  # its beats would keep it alive for ever
        if (self.absent or self.unpromised) and self.lease_over_ns >= self.patience_ns:
            return f"a majority of voters has made no promise for {in_seconds(self.lease_over_ns)}"
        return ""
