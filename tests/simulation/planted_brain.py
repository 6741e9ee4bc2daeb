"""Planted bugs of the brain and of what carries it: identity, agreement, promises, the in-sync set."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import patch

from services.replica import driver
from services.replica.brain import (
    Timing,
    agenda,
    agreement,
    ballot,
    candidacy,
    changes,
    deletion,
    election,
    following,
    leading,
    local,
    machine,
    override,
    parting,
    promises,
    repair,
    voting,
)
from services.replica.brain import events as ev
from services.replica.brain.promises import FOREVER_NS, BeatAnswer
from services.replica.driver.leases import Leases
from services.replica.driver.stepping import Stepping
from services.replica.driver.volume import Pending
from tests.simulation.machine import Machine
from tests.simulation.patches import Patch, Plant, both


def counted_from_receipt() -> Patch:
    """P2: the leader counts a promise from when the answer came."""
    real = driver.Node.pair_message

    def pair_message(self: driver.Node, node: str, message: Any, now_ns: int, **way: Any) -> None:
        if isinstance(message, BeatAnswer):
            sent = self.promises._claimed[node].sent if node in self.promises._claimed else {}
            if message.number in sent:
                sent[message.number] = now_ns, sent[message.number][1]
        real(self, node, message, now_ns, **way)

    return patch.object(driver.Node, "pair_message", pair_message)


def vote_before_durable() -> Patch:
    """A4: what depends on the hard state leaves before it is durable."""

    def step_now(self: Stepping, volume: driver.Volume, event: Any, now_ns: int) -> None:
        batch = volume.brain.step(event, now_ns, self._facts(volume, now_ns))
        self._deadlines.touched.add(volume.id)
        for effect in (*batch.now, *batch.after):
            self._perform(volume, effect, now_ns)
        if batch.durable is not None:
            volume.tickets += 1
            volume.pending.append(Pending(volume.tickets, batch.durable.epoch, []))
            self._order(driver.Save(volume.id, volume.tickets, batch.durable))

    return patch.object(Stepping, "_step_now", step_now)


def reads_without_lease() -> Patch:
    """P4: reads are answered whether the lease holds or not."""
    return patch.object(Leases, "until", lambda self, volume: FOREVER_NS)


def vote_after_restart() -> Patch:
    """P3: a voter votes at once after its process started."""
    real = local.Local.__init__

    def init(self: local.Local, *given: Any, **named: Any) -> None:
        real(self, *given, **named)
        self.silent_until_ns = 0

    return patch.object(local.Local, "__init__", init)


def promises_forgotten() -> Patch:
    """P1: a live promise does not keep a voter from voting for somebody else."""
    real = promises.Promises.bound

    def bound(self: promises.Promises, volume: str, epoch: int) -> promises.Bound:
        return real(self, volume, epoch)._replace(until_ns=0)

    return patch.object(promises.Promises, "bound", bound)


def lost_while_waiting() -> Patch:
    """A member that caught up and was lost before its turn is admitted all the same."""

    return patch.object(agenda.Agenda, "ask", lambda self, change: self.waiting.append(change))


def lent_is_stored() -> Patch:
    """S3: a record that somebody told of is stored before anybody is elected by it."""
    return patch.object(election.Adoption, "stored", True)


def unclean_by_own_record() -> Patch:
    """S3: an unclean candidate believes its own record, committed or not."""

    def may_win(me: Any, own: Any, lent: Any, voters: Any, answers: Any, besides: Any) -> bool:
        return all(voter == me or (voter in answers and answers[voter].unclean) for voter in own.in_sync)

    return patch.object(candidacy, "may_win", may_win)


def regained_votes_for_itself() -> Patch:
    """S3: who stands with an older record than it holds counts its own vote."""
    real = election.votes_needed

    def votes_needed(voters: int, *, regained: bool) -> int:
        return real(voters, regained=False)

    return both(
        patch.object(election, "votes_needed", votes_needed), patch.object(candidacy, "votes_needed", votes_needed)
    )


def record_not_compared() -> Patch:
    """A1: a vote does not look at the candidate's record."""
    real = ballot.refusal

    def refusal(asked: Any) -> str:
        return real(replace(asked, candidate_stamp=max(asked.candidate_stamp, asked.stamp)))

    return both(patch.object(ballot, "refusal", refusal), patch.object(voting, "newer", lambda slot, stamp: None))


def refusal_without_record() -> Patch:
    """A3: a refusal does not carry the refuser's record, nor does the answer to who asks for a newer one."""
    return both(
        patch.object(voting, "newer", lambda slot, stamp: None),
        patch.object(following, "newer", lambda slot, stamp: None),
        patch.object(parting, "newer", lambda slot, stamp: None),
    )


def two_changes_at_once() -> Patch:
    """A2: a swap of two voters in one record."""
    real = repair.next_step

    def next_step(members: Any) -> Any:
        step = real(members)
        if step.record is None:
            return step
        second = real(replace(members, record=step.record, home=None))
        return second if second.record is not None else step

    return patch.object(repair, "next_step", next_step)


def one_vote_is_enough() -> Patch:
    """Votes are counted as if one less were a majority."""
    return patch.object(election, "majority", lambda voters: voters // 2)


def own_copy_commits() -> Patch:
    """A1: a record counts as committed when its leader has stored it."""
    return patch.object(agreement, "majority", lambda voters: 1)


def never_resigns() -> Patch:
    """A5: a leader goes on without promises, and with a disk that hangs."""
    return patch.object(leading.Leading, "must_resign", lambda self, now_ns, facts: False)


def drift_forgotten() -> Patch:
    """P2: the drift bound is not taken off."""
    return patch.object(Timing, "counted_ns", lambda self, promised_ns: promised_ns)


def promise_outlives_vote() -> Patch:
    """P1: raising an epoch withdraws no promise."""
    return patch.object(promises.Promises, "raised", lambda self, volume, epoch: [])


def taken_for_dead() -> Patch:
    """P6: the node that has the volume is fenced though it lives."""
    return patch.object(changes, "is_dead", lambda absent_ns, lease_ns: True)


def last_member_leaves() -> Patch:
    """S2: the last member leaves the in-sync set."""

    def without(record: Any, member: Any) -> Any:
        return replace(record, in_sync=tuple(voter for voter in record.in_sync if voter != record.primary))

    return patch.object(changes, "without", without)


def store_comes_back_empty() -> Patch:
    """I1: a replica that lost its store comes back empty under its old name."""

    def lose_store(self: Machine, volume: str, *, unreadable: bool) -> None:
        me, size_blocks = self.disks[volume].me, self.disks[volume].size_blocks
        self.make_replica(volume, me, size_blocks)

    return patch.object(Machine, "lose_store", lose_store)


def tombstone_not_kept() -> Patch:
    """I3: a voter forgets the tombstone as soon as its own data are gone."""

    def data_erased(self: deletion.Deletion) -> None:
        self._local.give_back()
        self._local.at_once(ev.ForgetVolume())

    return patch.object(deletion.Deletion, "data_erased", data_erased)


def own_vote_counted_twice() -> Patch:
    """A1: the candidate's own vote counts twice."""
    real = election.Election.judge

    def judge(self: election.Election) -> Any:
        return real(replace(self, granted=(*self.granted, self.me)))

    return patch.object(election.Election, "judge", judge)


def behind_replica_stands() -> Patch:
    """Invariant 3: a replica that is not in sync stands, and says to itself that it may."""
    real = election.Standing.course

    def course(self: election.Standing) -> Any:
        return real(replace(self, in_sync=(self.me,)))

    return both(
        patch.object(election.Standing, "course", course),
        patch.object(local, "may_stand", lambda state: "" if state.me.kind == "data" else "a witness"),
        patch.object(machine.Brain, "validate", lambda self: None),
    )


def refusal_is_a_failed_copy() -> Patch:
    """A6, A5: a leader takes who refuses its old epoch for a failed copy, and goes on."""
    real = candidacy.Candidacy.refused

    def refused(self: candidacy.Candidacy, message: Any, now_ns: int) -> None:
        if self._local.role == "leader" and message.epoch > self._local.epoch:
            self._leading.change(ev.MemberFailed(message.sender, "it refuses"), now_ns)
        else:
            real(self, message, now_ns)

    return patch.object(candidacy.Candidacy, "refused", refused)


def goes_on_after_naming() -> Patch:
    """P5: the primary names a successor and serves until that one leads."""
    real = leading.Leading.stop

    def stop(self: leading.Leading, *, successor: str = "", **why: Any) -> None:
        if not successor:
            real(self, **why)

    return patch.object(leading.Leading, "stop", stop)


def survivors_keep_their_votes() -> Patch:
    """I4: whoever is left of the old generation is a voter of the new one."""
    real = override.alone

    def alone(record: Any, me: Any) -> Any:
        return replace(real(record, me), voters=record.voters)

    return patch.object(override, "alone", alone)


def generation_not_compared() -> Patch:
    """I4: what is said in an older generation is heard, and a voter of it follows nobody out."""
    return both(
        patch.object(machine.Brain, "_crosses", lambda self, message, generation: True),
        patch.object(parting.Exclusion, "believed", lambda self: self.told_stamp.generation == self.stamp.generation),
    )


def override_beside_a_majority() -> Patch:
    """I4: an operator's word is taken while the volume can elect by itself."""
    return patch.object(override.Overriding, "objection", lambda self: self._unfit())


BRAIN: tuple[Plant, ...] = (
    survivors_keep_their_votes,
    generation_not_compared,
    override_beside_a_majority,
    counted_from_receipt,
    vote_before_durable,
    reads_without_lease,
    vote_after_restart,
    promises_forgotten,
    lost_while_waiting,
    lent_is_stored,
    unclean_by_own_record,
    regained_votes_for_itself,
    record_not_compared,
    refusal_without_record,
    two_changes_at_once,
    one_vote_is_enough,
    own_copy_commits,
    never_resigns,
    drift_forgotten,
    promise_outlives_vote,
    taken_for_dead,
    last_member_leaves,
    store_comes_back_empty,
    tombstone_not_kept,
    own_vote_counted_twice,
    behind_replica_stands,
    refusal_is_a_failed_copy,
    goes_on_after_naming,
)
