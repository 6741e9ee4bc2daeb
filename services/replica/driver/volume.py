"""One voter of one volume on this node: its cores, and what they wait for."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from services.replica.brain import Brain, HardState, Slot, Voter
from services.replica.brain import events as ev
from services.replica.replication import effects as fx
from services.replica.replication.messages import Join
from services.replica.replication.primary import Primary
from services.replica.replication.replica import Replica
from stoscore.units import SECOND

DISK_PATIENCE_NS = 8 * SECOND
"""A disk that has not finished a save, mark or sync for so long counts as stalled."""


@dataclass(slots=True)
class Pending:
    """A save on its way to the disk and what waits for it."""

    ticket: int
    epoch: int
    after: list[ev.Effect]


@dataclass(frozen=True, slots=True)
class EarlyJoin:
    """A primary asked us to follow before its epoch was durable here."""

    link: int
    node: str
    epoch: int
    message: Join


class Lease(NamedTuple):
    """What is promised to us for one volume, and what that follows from: changes of promises, epoch and record."""

    changes: int
    state: HardState
    until_ns: int
    """Until when a majority of its voters promises."""
    unpromised: tuple[str, ...]
    """Nodes of the other voters that promise nothing."""


@dataclass(slots=True)
class Volume:
    """One voter of one volume on this node."""

    id: str
    brain: Brain
    replica: Replica | None
    """None for a witness."""
    durable_epoch: int
    primary: Primary | None = None
    committed: Slot | None = None
    pending: deque[Pending] = field(default_factory=deque)
    tickets: int = 0
    early_join: EarlyJoin | None = None
    lease: Lease | None = None
    """The last that was looked at."""
    parked: list[fx.AnswerRead | fx.AnswerReadMany | fx.AnswerStatus] = field(default_factory=list)
    """Reads that wait for the lease to hold again."""
    disk_waits: dict[tuple[str, int, int], int] = field(default_factory=dict)
    """What the disk was asked for and has not finished, oldest first: (kind, owner, ticket or region) -> since."""

    def disk_asked(self, key: tuple[str, int, int], now_ns: int) -> None:
        self.disk_waits.setdefault(key, now_ns)

    def disk_answered(self, key: tuple[str, int, int]) -> None:
        self.disk_waits.pop(key, None)

    def disk_stalled(self, now_ns: int) -> bool:
        oldest = next(iter(self.disk_waits.values()), None)
        return oldest is not None and now_ns - oldest > DISK_PATIENCE_NS

    def shares_with(self, node: str) -> bool:
        return self.member_on(node) is not None

    def member_on(self, node: str) -> Voter | None:
        """Also when only the last committed record names it: a change on its way may be taken back. *A copy that was to
        go caught up meanwhile, nobody was told, and when it was to stay after all nobody admitted it.*"""
        for slot in (self.brain.state.slot, self.committed):
            member = slot.record.member_on(node) if slot is not None else None
            if member is not None:
                return member
        return None
