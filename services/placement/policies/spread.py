"""Spread: two copies in one zone are lost together, so zones without a copy come first.

`prefer` takes a node in a used zone when there is no other, `require` refuses instead, `off` ignores zones.
A node without a zone counts as a zone of its own: nothing is known to be shared. A request that says what its copies
may not share is obeyed instead of the setting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from services.placement.policies import Ask, Policy, Score
from services.placement.settings import PlacementSettings
from stoscore.messages import Apart, Bid

Mode = Literal["off", "prefer", "require"]
ASKED: dict[Apart, Mode] = {"zone": "require", "node": "off"}
ZONE_POINTS = 2.0
"""Per voter already in the zone; above 1, so that no emptier disk outweighs a shared zone."""


@dataclass(frozen=True, slots=True)
class Spread:
    mode: Mode
    name: str = "spread"

    def filter(self, bid: Bid, ask: Ask) -> str | None:
        if self._mode(ask) != "require":
            return None
        shared = self._shared(bid, ask)
        return f"zone {bid.zone} already has {', '.join(shared)}" if shared else None

    def score(self, bid: Bid, ask: Ask) -> Score:
        if self._mode(ask) == "off":
            return Score(0.0, "zones ignored")
        shared = self._shared(bid, ask)
        if shared:
            return Score(-ZONE_POINTS * len(shared), f"shares zone {bid.zone} with {', '.join(shared)}")
        return Score(0.0, f"only one in zone {bid.zone}" if bid.zone else "zone unknown")

    def _mode(self, ask: Ask) -> Mode:
        return ASKED.get(ask.request.apart, self.mode)

    def _shared(self, bid: Bid, ask: Ask) -> list[str]:
        return [other.node for other in ask.chosen if bid.zone and other.zone == bid.zone]


def policy(settings: PlacementSettings) -> Policy:
    return Spread(settings.zone_spread)
