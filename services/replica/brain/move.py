"""Whether the primary may move, and to whom: one judgement. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from services.replica.brain.decisions import Verdict, recorded
from services.replica.brain.record import Record, Voter

Why = Literal["asked", "failed", "offered", "sought"]


@recorded
@dataclass(frozen=True, slots=True)
class Move:
    """Whether the primary may move, and to whom."""

    me: Voter
    record: Record
    why: Why
    wanted: str
    """The node that shall lead; "": whoever can."""
    linked: tuple[str, ...]
    majority_linked: bool
    """We reach a majority of the voters by links."""
    reason: str = ""

    def successor(self) -> Voter | None:
        return None if self.refusal()[0] else self._first()

    def judge(self) -> Verdict:
        code, refusal = self.refusal()
        if code:
            return Verdict("refuse", f"the primary stays: {refusal}")
        successor = self._first()
        if successor is None or successor == self.me:
            return Verdict("", "")
        others = tuple(f"{voter.node}, in sync as well" for voter in self._candidates() if voter != successor)
        return Verdict("move", f"{successor.node} shall lead: {self._told()}", others)

    def refusal(self) -> tuple[str, str]:
        """(code, reason) why the primary stays; ("", "") when it may move, or is there already."""
        name = self.wanted
        voter = self.record.member_on(name) if name else None
        if self.record.deleted:
            return "FAILED_PRECONDITION", f"volume {self.record.name} is being deleted"
        if self.why == "offered" and self.majority_linked:
            return "FAILED_PRECONDITION", "it reaches a majority by its own links"
        if not name:
            told = "no other copy is in sync and can be reached"
            return ("", "") if self._first() is not None else ("FAILED_PRECONDITION", told)
        if voter is None:
            return "NOT_FOUND", f"node {name} holds no copy of volume {self.record.name}"
        if voter.kind != "data":
            return "FAILED_PRECONDITION", f"node {name} is a witness: it votes and holds no data"
        if voter not in self.record.in_sync:
            return "FAILED_PRECONDITION", f"the copy on node {name} is not in sync"
        if voter != self.me and name not in self.linked and self.why != "offered":
            return "FAILED_PRECONDITION", f"node {name} can't be reached from node {self.me.node}"
        return "", ""

    def _first(self) -> Voter | None:
        if self.wanted:
            return self.record.member_on(self.wanted)
        return next(iter(self._candidates()), None)

    def _candidates(self) -> tuple[Voter, ...]:
        return tuple(voter for voter in self.record.in_sync if voter != self.me and voter.node in self.linked)

    def _told(self) -> str:
        match self.why:
            case "asked":
                return self.reason or "asked for"
            case "failed":
                return f"the disk of {self.me.node} failed: {self.reason}"
            case "offered":
                return f"it reaches a majority by links and {self.me.node} does not"
            case "sought":
                node = self.record.attachment.node if self.record.attachment is not None else "nobody"
                return f"{node}, which uses the volume, reaches it and has no link with {self.me.node}"
