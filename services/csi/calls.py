"""How long one gRPC call may take."""

from __future__ import annotations

from typing import Any

DEADLINE_MARGIN_S = 0.5
"""The cluster gets a little less time than the caller, so that its reason arrives and not a bare timeout."""


def remaining_s(context: Any, default_s: float) -> float:
    """`default_s`: for callers that set no deadline."""
    left_s = context.time_remaining()
    return default_s if left_s is None else max(float(left_s) - DEADLINE_MARGIN_S, 0.1)
