"""What befalls the voter itself: it is founded, its disk fails, its process ends, it is not understood."""

from __future__ import annotations

from services.replica.brain import messages as ms
from services.replica.brain.candidacy import Candidacy
from services.replica.brain.handover import HandOver
from services.replica.brain.leading import Leading
from services.replica.brain.local import Local
from services.replica.brain.record import InvalidRecord, Record, Slot, Stamp, Voter
from services.replica.brain.told import Failed, Founding, Misunderstood

MISUNDERSTOOD_MAX = 64


class Condition:
    """Whether it can do its part."""

    def __init__(self, local: Local, leading: Leading, candidacy: Candidacy, handover: HandOver):
        self._local = local
        self._leading = leading
        self._candidacy = candidacy
        self._handover = handover
        self.silent = False
        """Its hard state can't be stored any more, or its process ends: it says nothing until it is started again."""
        self._misunderstood: set[tuple[str, str]] = set()

    def founded(self, record: Record, cause: str) -> None:
        local = self._local
        if local.state.slot is not None:
            return  # idempotent: the first record stays
        record.validate()
        if local.me not in record.voters:
            raise InvalidRecord("this replica is no voter of the record")
        local.cause = cause
        local.store(Slot(Stamp(0, 0, 1), record))
        self._candidacy.stand_from(local.now_ns)
        local.decide(Founding(local.me, record))

    def excluded(self, by: Voter, generation: int) -> None:
        """A committed record does without us. Only one of a newer generation may say so to a leader."""
        if self._local.role == "leader":
            self._leading.stop(heard_from=by.node, newer_generation=generation)
        self.silent = True

    def stopping(self) -> None:
        if self._local.role == "leader":
            self._leading.stop(stopping=True)
        self.silent = True

    def store_changed(self, unclean: bool, failure: str, *, votes: bool) -> None:
        """A disk that failed takes the copy away, not the vote: without it a volume of three would have lost its
        spare majority to a full disk. Only who can't store a vote any more must not give one (A4)."""
        local = self._local
        local.unclean = unclean
        if not failure:
            return
        if local.role == "leader" and not (votes and self._handover.disk_failed(failure)):
            self._leading.stop(failure=failure)
        local.failure = failure
        if local.role in ("pre-voting", "voting"):
            local.role = "follower"
        self.silent = self.silent or not votes
        local.decide_at_once(Failed(local.me, failure, votes))

    def not_understood(self, message: ms.NotUnderstood) -> None:
        """Told once: it will say so to every message of that kind until it is brought to our version."""
        known = (message.sender.node, message.what)
        if known not in self._misunderstood and len(self._misunderstood) < MISUNDERSTOOD_MAX:
            self._misunderstood.add(known)
            self._local.decide(Misunderstood(message.sender.node, message.what, message.speaks, ms.VERSION))
