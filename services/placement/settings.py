"""What can be set on the placement service, each with its unit, default and reason."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from stoscore.settings import ServiceSettings, Words, split_words
from stoscore.units import MIB


class PlacementSettings(ServiceSettings):
    """Environment `STOS_PLACEMENT_*`, or the table `[placement]` of the configuration file."""

    service = "placement"

    policies: Words = Field(
        default=["capacity", "spread"],
        min_length=1,
        description="Names of the policies that decide, in the order in which their reasons are told "
        "(see `stos plugins`).",
    )
    overcommit_ratio: float = Field(
        default=1.0,
        ge=0.1,
        le=100.0,
        description="Promised bytes per byte of a node's capacity. 1: every thin volume can be filled. Above "
        "it, full disks drop copies out of sync when the promises are called in.",
    )
    zone_spread: Literal["off", "prefer", "require"] = Field(
        default="prefer",
        description="Copies in zones of their own: preferred, required, or zones ignored. Preferred by "
        "default, because a copy in a shared zone protects better than no copy.",
    )
    disk_reserve_bytes: int = Field(
        default=64 * MIB,
        ge=0,
        description="Bytes of free disk below which a node takes nothing new: room for intent logs and for "
        "writes under way.",
    )
    bid_wait_ms: int = Field(
        default=250,
        ge=10,
        le=10_000,
        description="Milliseconds to wait for bids. Long against a round trip, short for somebody who waits "
        "for a volume.",
    )
    bid_patience_ms: int = Field(
        default=1500,
        ge=10,
        le=60_000,
        description="Milliseconds to wait in the second round, which a request gets that the first could not "
        "meet: a busy node may be late.",
    )

    @field_validator("policies", mode="before")
    @classmethod
    def _split_policies(cls, value: object) -> object:
        return split_words(value)
