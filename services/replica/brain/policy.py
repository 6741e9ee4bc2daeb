"""How many in-sync copies a write needs, and what becomes of it below that. A policy only counts copies: none of them
replaces the majority of voters (I4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from services.replica.brain.decisions import Verdict, recorded
from services.replica.brain.record import FailureMode, OnUnavailable, Record

WriteState = Literal["open", "suspended", "failing"]


def needed_copies(mode: FailureMode, copies: int) -> int:
    """`copies`: data copies asked for."""
    match mode:
        case "hard":
            return copies
        case "soft":
            return copies // 2 + 1
        case "alwayson":
            return 1
        case _:
            return mode


def write_state(record: Record) -> WriteState:
    """What becomes of writes while this record is the last committed one.

    A write is answered when the last committed set has it (S1), so as many copies hold it as that set has members; a
    set that is only proposed counts for nothing yet."""
    if len(record.in_sync) >= needed_copies(record.failure_mode, record.copies):
        return "open"
    return "suspended" if record.on_unavailable == "suspend" else "failing"


@recorded
@dataclass(frozen=True, slots=True)
class Counted:
    """The committed record names so many in-sync copies: may writes be answered?"""

    before: WriteState
    in_sync: tuple[str, ...]
    copies: int
    failure_mode: FailureMode
    on_unavailable: OnUnavailable
    after: WriteState

    def judge(self) -> Verdict:
        if self.before == self.after:
            return Verdict("", "")
        needed = needed_copies(self.failure_mode, self.copies)
        told = f"{len(self.in_sync)} of {self.copies} copies in sync, a write needs {needed} ({self.failure_mode})"
        if self.after == "open":
            return Verdict("resume", f"writes are answered again: {told}")
        if self.after == "failing":
            return Verdict("suspend", f"writes fail: {told}", ("to let them wait: on-unavailable says error",))
        return Verdict("suspend", f"writes wait: {told}", ("to answer with fewer copies: the failure mode forbids it",))
