"""What a placement policy is: one reason to refuse a node, one preference among the rest.

The plan asks every policy twice for each node and each copy still to be placed. `filter` says why the node
may not take it, or None; `score` says how good it would be, and why. A policy sees which nodes were chosen
already, so that it can spread; it keeps no state and reads no clock, so that the same bids give the same
ranking. Scores add up; by convention `capacity` stays within 0..1, and a preference that must win over it
is worth more than 1.

A policy registers under the entry point group `stos.placement_policies` as a function from the service's
settings to a `Policy`, and is switched on by its name in the setting `policies`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from stoscore.messages import Bid, RankRequest


@dataclass(frozen=True, slots=True)
class Ask:
    """One copy, or the witness, to be placed: what it needs, and which nodes have a member of the volume or have been
    chosen before it."""

    request: RankRequest
    kind: Literal["data", "witness"]
    chosen: tuple[Bid, ...]

    @property
    def size_bytes(self) -> int:
        """What the node has to hold: a witness holds no data."""
        return self.request.size_bytes if self.kind == "data" else 0


@dataclass(frozen=True, slots=True)
class Score:
    points: float
    reason: str


class Policy(Protocol):
    """See the module's head."""

    @property
    def name(self) -> str:
        """As it is told in reasons."""

    def filter(self, bid: Bid, ask: Ask) -> str | None:
        """Why this node may not take it; None when it may."""

    def score(self, bid: Bid, ask: Ask) -> Score:
        """How good this node would be, more is better, with the reason in words."""
