"""Majorities as plain arithmetic: who is enough, and until when a majority promises."""

from __future__ import annotations

from collections.abc import Iterable


def majority(voters: int) -> int:
    """The smallest number whose every two sets of voters overlap."""
    return voters // 2 + 1


def majority_until(promises_ns: Iterable[int], voters: int) -> int:
    """The moment until which a majority of `voters` promises, given each promise's end: 0 for none.

    The majority-th latest end: one moment later, fewer than a majority are left."""
    ends = sorted(promises_ns, reverse=True)
    needed = majority(voters)
    return ends[needed - 1] if len(ends) >= needed else 0
