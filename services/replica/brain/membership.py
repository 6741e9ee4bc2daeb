"""The in-sync set: who must confirm a write, and the next record when a member fails or has caught up."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from services.replica.brain.record import Record, Voter


@dataclass(slots=True)
class Required:
    """Who must confirm a write or a flush: the last committed in-sync set *and every set proposed since* (S1).

    {P,B,C} is proposed and C stored it, so it is committed, but the answer is lost; if P acknowledged with
    {P,B} and died, C would win without the write."""

    committed: frozenset[Voter]
    proposed: frozenset[Voter] = field(default_factory=frozenset)

    def propose(self, in_sync: tuple[Voter, ...]) -> None:
        self.proposed |= frozenset(in_sync)

    def commit(self, in_sync: tuple[Voter, ...]) -> None:
        self.committed = frozenset(in_sync)
        self.proposed = frozenset()

    def union(self) -> frozenset[Voter]:
        return self.committed | self.proposed


def without(record: Record, member: Voter) -> Record | None:
    """The record after `member` failed; None when nothing changes. The last member stays: then writes wait (S2)."""
    if member not in record.in_sync or member == record.primary or len(record.in_sync) == 1:
        return None
    return replace(record, in_sync=tuple(voter for voter in record.in_sync if voter != member))


def with_member(record: Record, member: Voter) -> Record | None:
    """The record after `member` caught up; None when nothing changes or it is no data voter of the volume."""
    if member in record.in_sync or member not in record.voters or member.kind != "data":
        return None
    return replace(record, in_sync=(*record.in_sync, member))
