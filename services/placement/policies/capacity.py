"""Capacity: no node promises more than it has, and the emptier node is the better one.

A volume is thin, so what counts is what was promised (provisioned), not what is used. The overcommit ratio
says how much more than the disk may be promised; a nearly full disk takes nothing new whatever was promised,
because a replica that can't store a write leaves the in-sync set.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.placement.policies import Ask, Policy, Score
from services.placement.settings import PlacementSettings
from stoscore.messages import Bid
from stoscore.units import format_size


@dataclass(frozen=True, slots=True)
class Capacity:
    overcommit_ratio: float
    disk_reserve_bytes: int
    name: str = "capacity"

    def filter(self, bid: Bid, ask: Ask) -> str | None:
        if bid.free_disk_bytes < self.disk_reserve_bytes:
            free, kept = format_size(bid.free_disk_bytes), format_size(self.disk_reserve_bytes)
            return f"disk nearly full: {free} free, {kept} are kept free"
        if ask.kind == "witness":
            return None
        if ask.size_bytes > bid.capacity_bytes:
            whole = format_size(bid.capacity_bytes)
            return f"{format_size(ask.size_bytes)} is above its whole capacity of {whole}"
        promised = bid.provisioned_bytes + ask.size_bytes
        if promised > self._limit_bytes(bid):
            return (
                f"{format_size(bid.provisioned_bytes)} of {format_size(self._limit_bytes(bid))} promised, "
                f"no room for {format_size(ask.size_bytes)}"
            )
        return None

    def score(self, bid: Bid, ask: Ask) -> Score:
        limit = self._limit_bytes(bid)
        left = max(0, limit - bid.provisioned_bytes - ask.size_bytes)
        share = left / limit if limit else 0.0
        return Score(share, f"{format_size(left)} of {format_size(limit)} left to promise")

    def _limit_bytes(self, bid: Bid) -> int:
        return int(bid.capacity_bytes * self.overcommit_ratio)


def policy(settings: PlacementSettings) -> Policy:
    return Capacity(settings.overcommit_ratio, settings.disk_reserve_bytes)
