"""Who may stand and when, who has won, which refusal teaches: judgements over facts; the machine acts on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from services.replica.brain.decisions import Verdict, recorded
from services.replica.brain.quorum import majority
from services.replica.brain.record import HardState, Record, Slot, Stamp, Voter
from stoscore.units import in_seconds


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
    grace_ns: int = 60_000_000_000
    """How long a lost member may come back before another one is made: a delta costs less than a copy."""
    home_retry_ns: int = 2_000_000_000
    """The pause before placement is asked again, doubled with each refusal."""
    settle_ns: int = 500_000_000
    """How long an orderly move waits for what is under way before it is given up."""

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


class Facts(NamedTuple):
    """What the node knows at this moment about one volume: until when its own promise to another leader binds
    it, and until when a majority promises to it. A tuple, because every step of every brain takes one."""

    promised_until_ns: int = 0
    lease_until_ns: int = 0
    promised_to: str = ""
    """The node that holds our promise, "" for none or for a process that has been replaced."""
    disk_stalled: bool = False
    """The volume's disk has not finished what it was asked for within a bound (A5)."""
    other_promise_until_ns: int = 0
    """Like `promised_until_ns`, without the promise to the leader of the epoch that this voter stores."""
    awake_since_ns: int = 0
    """When this process last woke from a pause; 0: never."""
    attached_heard_ns: int = 0
    """When the node that the volume is attached to was last heard (P6); 0: never."""
    unpromised: tuple[str, ...] = ()
    """While we lead: nodes of other voters that promise us nothing in our epoch, whether they are there or not (A5)."""
    leader_heard_ns: int = 0
    """When the node of the leader that this voter follows, or followed last, was last heard; 0: never."""
    attached_linked_ns: int = 0
    """The same, over a link."""
    claimed_by: str = ""
    """The node that claims to lead, in the highest epoch of which we were told; "" for none."""


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


@recorded
@dataclass(frozen=True, slots=True)
class Standing:
    """Whether to ask for votes at this moment."""

    me: Voter
    in_sync: tuple[Voter, ...]
    failure: str
    """Why our copy counts for nothing, "" when it is sound."""
    unclean: bool
    epoch: int
    asked_epoch: int
    leader: Voter | None
    """Whom we follow, or followed last."""
    absent_ns: int
    """How long the leader's node has been silent on every way."""
    named: bool
    """The leader of the epoch that we store named us its successor (P5)."""
    linked: tuple[str, ...]
    heard: tuple[str, ...]
    """Nodes of which we hear over the bus alone."""
    promised_ns: int
    """How long a promise to another leader binds us still."""
    promised_to: str
    silent_ns: int
    """How long we have to keep silent still after our start (P3)."""
    disk_stalled: bool

    def course(self) -> Literal["never", "stalled", "follow", "later", "stand"]:
        if self.failure or self.me.kind != "data" or self.me not in self.in_sync:
            return "never"
        if self.disk_stalled:
            return "stalled"
        if self.promised_ns > 0 and self.promised_to in (*self.linked, *self.heard):
            return "follow"
        return "later" if self.promised_ns > 0 or self.silent_ns > 0 else "stand"

    def judge(self) -> Verdict:
        if self.course() != "stand":
            return Verdict("", "")
        others = tuple(voter.node for voter in self.in_sync if voter != self.me)
        waiting = tuple(f"to leave it to {node}, in sync as well" for node in others if node in self.linked)
        if self.leader is not None and self.leader != self.me and not self.named:
            waiting = (f"to wait for {self.leader.node}, silent for {in_seconds(self.absent_ns)}", *waiting)
        return Verdict("stand", f"asks for votes in epoch {self.asked_epoch}", waiting)


def votes_needed(voters: int, *, regained: bool) -> int:
    """Our own among them. With a record that is older than what we hold, so many besides us that those who are left
    are no majority: who votes has stored nothing newer and never will, so nothing newer is committed (A1)."""
    return max(majority(voters), voters - majority(voters) + 2) if regained else majority(voters)


@recorded
@dataclass(frozen=True, slots=True)
class Election:
    """Whether a candidate has won."""

    me: Voter
    epoch: int
    voters: tuple[Voter, ...]
    granted: tuple[Voter, ...]
    """Who voted for us; our own vote is among them when it is durable."""
    refused: tuple[tuple[str, str], ...]
    """(node, reason)"""
    must_be_unclean: tuple[Voter, ...] = ()
    """Whose pre-vote said that it is unclean, as we are: it may be clean by now, and its vote says so (S3)."""
    unclean: tuple[Voter, ...] = ()
    """Whose vote, given or not, says so too."""
    regained: bool = False
    """We stand with an older record than we hold."""

    def judge(self) -> Verdict:
        if self.me not in self.granted or len(self.granted) < votes_needed(len(self.voters), regained=self.regained):
            return Verdict("", "")
        if not set(self.must_be_unclean) <= set(self.unclean):
            return Verdict("", "")
        votes = ", ".join(voter.node for voter in self.granted)
        turned_down = tuple(f"{node}: {reason}" for node, reason in self.refused)
        return Verdict("lead", f"elected in epoch {self.epoch} by {votes}", turned_down)


@recorded
@dataclass(frozen=True, slots=True)
class Adoption:
    """What becomes of a newer record that a refusal brought: it is never taken for committed (A3), unless a majority is
    known to have it.

    Who led it stored it first, and whoever else tells of it has it. Of those who make a majority it is stored. With any
    other one whoever it names in sync only stands, and stores it together with the first record that it proposes when
    it is elected: else a majority could hold what nobody ever stored as an answer to a leader, and when those have lost
    power, one of them would lead by that (A1, S3). *{A,B,C} in sync, A stores "in sync {A,B}" alone and loses power. B
    took that from A's refusal, and lost power before it led: two of three held it, and A led beside C, clean, with
    acknowledged writes that A and B had lost. Or C, a voter that was behind, asked A for its record. Or B, whose own
    record was older than the one that made C a member, was handed A's.*"""

    me: Voter
    mine: Stamp
    newer: Slot
    tellers: tuple[Voter, ...]
    """Who told of it, the latest last."""

    @property
    def stored(self) -> bool:
        record = self.newer.record
        if record.deleted or self.newer.stamp.generation != self.mine.generation:
            return True  # nobody loses data by a tombstone; of another generation nothing that was before counts (I4)
        holders = {*self.tellers, record.primary}
        return sum(voter in holders for voter in record.voters) >= majority(len(record.voters))

    def judge(self) -> Verdict:
        stamp, by = self.newer.stamp, self.tellers[-1].node
        if stamp <= self.mine:
            return Verdict("", "")
        turned_down = f"to stand with version {self.mine.version} of epoch {self.mine.epoch}"
        version = f"version {stamp.version} of epoch {stamp.epoch}"
        if self.stored:
            return Verdict("adopt", f"stores {version}, which {by} has and we had not", (turned_down,))
        if self.me not in self.newer.record.in_sync:
            return Verdict("", "")
        alone = f"to store it: {by} may be alone with it"
        return Verdict("adopt", f"stands with {version}, of which {by} told", (turned_down, alone))


@recorded
@dataclass(frozen=True, slots=True)
class Regaining:
    """Whether to stand with a record that is older than our own: it names us in sync, our own leaves us out, and as far
    as we know that one has never been committed.

    We hold every acknowledged write if it has not, and may be the only one that is sure to (S1). Whether it has, those
    tell who vote for us (`votes_needed`). *Five voters, A and B in sync; A proposed to go on without B, which only B
    stored, and all lost power. A, which had lost writes, waited for B, in sync and clean by what the other three held;
    and B, left out by its own record, never stood.*"""

    me: Voter
    mine: Stamp
    voters: int
    in_sync: tuple[Voter, ...]
    """By our own record."""
    older: Stamp
    by: Voter
    """Who told of it."""
    committed: Stamp | None
    """The latest that is, as far as we were told."""
    unclean: bool
    failure: str

    def judge(self) -> Verdict:
        if self.unclean or self.failure or self.me in self.in_sync or self.older >= self.mine:
            return Verdict("", "")
        if self.committed is not None and self.older < self.committed:
            return Verdict("", "")
        if self.voters - 1 < votes_needed(self.voters, regained=True):
            return Verdict("", "")  # our own record is on its leader as well, who won't vote for us
        version = f"version {self.older.version} of epoch {self.older.epoch}"
        own = f"version {self.mine.version} of epoch {self.mine.epoch}"
        return Verdict(
            "adopt", f"stands with {version}, of which {self.by.node} told", (f"to take {own} for committed",)
        )
