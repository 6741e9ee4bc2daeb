"""Who may stand, when, and who gets a vote. Pure judgements over facts; the machine acts on them."""

from __future__ import annotations

from dataclasses import dataclass

from services.replica.brain.record import HardState, Record, Stamp, Voter


@dataclass(frozen=True, slots=True)
class Timing:
    """The clockwork of elections and leases. `drift_ppm` bounds how much two machines' monotonic clocks differ
    in speed."""

    lease_ns: int = 500_000_000
    drift_ppm: int = 10_000
    beat_ns: int = 100_000_000
    suspect_ns: int = 450_000_000
    election_step_ns: int = 120_000_000
    resend_ns: int = 150_000_000

    def counted_ns(self, promised_ns: int) -> int:
        """How long a leader counts on a promise of that length, from when it sent the beat (P2)."""
        return promised_ns - promised_ns * self.drift_ppm // 1_000_000

    def silence_ns(self, lease_max_ns: int) -> int:
        """How long a voter keeps silent after its process starts (P3)."""
        return lease_max_ns + lease_max_ns * self.drift_ppm // 1_000_000

    def validate(self) -> None:
        assert 0 < self.beat_ns * 3 <= self.lease_ns, "a lease must survive two lost beats"
        assert 0 <= self.drift_ppm < 500_000
        assert self.suspect_ns <= self.lease_ns


@dataclass(frozen=True, slots=True)
class Facts:
    """What the node knows at this moment about one volume: until when its own promise to another leader binds
    it, and until when a majority promises to it."""

    promised_until_ns: int = 0
    lease_until_ns: int = 0
    promised_to: str = ""
    """The node that holds our promise, "" for none or for a process that has been replaced."""
    disk_stalled: bool = False
    """The volume's disk has not finished what it was asked for within a bound (A5)."""


def rank(record: Record, me: Voter, gone: Voter | None) -> int:
    """Position among the in-sync members that could stand; the first tries first and wins."""
    standing = [voter for voter in record.in_sync if voter != gone]
    return standing.index(me) if me in standing else len(standing)


def may_stand(state: HardState) -> str:
    """Why this voter may not stand, or "": only an in-sync data replica by its own last record (invariant 3)."""
    if state.slot is None:
        return "it has no record"
    if state.me.kind != "data":
        return "a witness never stands"
    if state.me not in state.slot.record.in_sync:
        return "it is not in sync"
    return ""


@dataclass(frozen=True, slots=True)
class Asked:
    """A vote or pre-vote request as the judge sees it."""

    candidate: Voter
    epoch: int
    stamp: Stamp
    unclean: bool


def refusal(
    state: HardState, asked: Asked, *, now_ns: int, silent_until_ns: int, facts: Facts, leading: bool, unclean: bool
) -> str:
    """Why the vote is refused, or "" to grant it."""
    if state.slot is None:
        return "no record yet"
    if now_ns < silent_until_ns:
        return "started too recently: a promise of the process before may still bind (P3)"
    if asked.epoch < state.epoch or (asked.epoch == state.epoch and state.voted_for not in (None, asked.candidate)):
        return f"epoch {asked.epoch} is not above {state.epoch}"
    if facts.promised_until_ns > now_ns:
        return "another leader holds a live promise (P1)"
    if leading and facts.lease_until_ns > now_ns:
        return "it leads with a live lease"
    if asked.stamp < state.slot.stamp:
        return "the candidate's record is older (A1)"
    if asked.candidate.kind != "data":
        return "a witness never stands"
    if asked.unclean and not unclean and state.me in state.slot.record.in_sync:
        return "the candidate may have lost unflushed writes and this in-sync voter has not (S3)"
    return ""
