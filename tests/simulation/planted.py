"""Bugs that the simulation must find: each takes one rule out of the production cores.

test_planted_bugs.py says within how many seeds the default fault mix finds which. A fault mix that no longer finds one
has become too weak, whatever it says about the real code. The others are rare, and told by tests of the cores.
"""

from __future__ import annotations

from collections.abc import Callable
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
    membership,
    promises,
    repair,
    voting,
)
from services.replica.brain import events as ev
from services.replica.brain.promises import FOREVER_NS, BeatAnswer
from services.replica.driver.volume import Pending
from services.replica.replication import effects as fx
from services.replica.replication import gate, healing, primary, replica
from services.replica.replication.peer import Peer
from services.replica.store import Cure
from tests.simulation.machine import Machine
from tests.simulation.orders import Orders

Patch = Any


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

    def step_now(self: driver.Node, volume: driver.Volume, event: Any, now_ns: int) -> None:
        batch = volume.brain.step(event, now_ns, self._facts(volume, now_ns))
        self._touched.add(volume.id)
        for effect in (*batch.now, *batch.after):
            self._perform(volume, effect, now_ns)
        if batch.durable is not None:
            volume.tickets += 1
            volume.pending.append(Pending(volume.tickets, batch.durable.epoch, []))
            self._orders.append(driver.Save(volume.id, volume.tickets, batch.durable))

    return patch.object(driver.Node, "_step_now", step_now)


def latest_set_only() -> Patch:
    """S1: only the latest proposed set has to confirm."""
    return patch.object(membership.Required, "union", lambda self: self.proposed or self.committed)


def latest_proposal_only() -> Patch:
    """S1: a later proposal replaces an earlier one, and the committed set counts for nothing."""

    def propose(self: membership.Required, in_sync: Any) -> None:
        self.committed = self.proposed = frozenset(in_sync)

    return patch.object(membership.Required, "propose", propose)


def copy_replaces_write() -> Patch:
    """T4: a copy replaces a later write."""
    return patch.object(replica.Replica, "_not_replaced", lambda self, as_of, ranges: ranges)


def old_epoch_stored() -> Patch:
    """T1: what waits at the gate is stored after its epoch has ended."""
    return patch.object(gate.Gate, "drop_waiting", lambda self: [])


def share_not_compared() -> Patch:
    """D1, T2: what the peer itself may hold unconfirmed is not compared."""
    real = primary.Primary._joined

    def joined(self: primary.Primary, peer: Any, message: Any) -> Any:
        return real(self, peer, replace(message, share=()))

    return patch.object(primary.Primary, "_joined", joined)


def own_share_not_compared() -> Patch:
    """T2: what the new primary itself holds unconfirmed is not compared."""
    real = primary.Primary.__init__

    def init(self: primary.Primary, **given: Any) -> None:
        given["share"] = replace(given["share"], ranges=())
        real(self, **given)

    return patch.object(primary.Primary, "__init__", init)


def reads_without_lease() -> Patch:
    """P4: reads are answered whether the lease holds or not."""
    return patch.object(driver.Node, "lease_until", lambda self, volume: FOREVER_NS)


def vote_after_restart() -> Patch:
    """P3: a voter votes at once after its process started."""
    real = local.Local.__init__

    def init(self: local.Local, *given: Any, **named: Any) -> None:
        real(self, *given, **named)
        self.silent_until_ns = 0

    return patch.object(local.Local, "__init__", init)


def promises_forgotten() -> Patch:
    """P1: a live promise does not keep a voter from voting for somebody else."""
    return patch.object(promises.Promises, "promised_until", lambda self, volume: 0)


def admitted_unsynced() -> Patch:
    """S4: a replica enters the set without fdatasync."""
    real = primary.Primary._settle

    def settle(self: primary.Primary, peer: Any) -> Any:
        out = real(self, peer)
        return [*out, *self._caught_up(peer, peer.flush_ticket)] if out else out

    return patch.object(primary.Primary, "_settle", settle)


def unmarked_early() -> Patch:
    """T3: regions are unmarked whatever the commit point says."""
    real = gate.Gate.unmark
    return patch.object(gate.Gate, "unmark", lambda self, synced, commit: real(self, synced, 1 << 62))


def gate_not_resent() -> Patch:
    """A write that waits for its mark while a peer joins reaches neither the comparison nor the peer."""
    return patch.object(gate.Gate, "waiting_ops", lambda self: [])


def copies_not_noted() -> Patch:
    """T2: a copy leaves no note in the tail, so nobody compares it after its primary died in mid-take-over."""
    real = Orders.note_copy

    def note_copy(self: Orders, disk: Any, effect: fx.StoreCopy, block: int, contents: Any) -> None:
        real(self, disk, replace(effect, seq=0), block, contents)

    return patch.object(Orders, "note_copy", note_copy)


def forgotten_uncovered() -> Patch:
    """T2, T3: a replica that is still being compared forgets its tail and its marks."""
    return patch.object(replica.Replica, "covered", property(lambda self: True, lambda self, value: None), create=True)


def unclean_confirms() -> Patch:
    """S3: what an unclean peer confirms counts."""
    real = primary.Primary._joined

    def joined(self: primary.Primary, peer: Any, message: Any) -> Any:
        out = real(self, peer, message)
        peer.unclean = False
        return out

    return patch.object(primary.Primary, "_joined", joined)


def lost_while_waiting() -> Patch:
    """A member that caught up and was lost before its turn is admitted all the same."""

    return patch.object(agenda.Agenda, "ask", lambda self, change: self.waiting.append(change))


def unclean_by_own_record() -> Patch:
    """S3: an unclean candidate believes its own record, committed or not."""

    def may_win(me: Any, slot: Any, answers: Any) -> bool:
        return all(voter == me or (voter in answers and answers[voter].unclean) for voter in slot.record.in_sync)

    return patch.object(candidacy, "may_win", may_win)


def record_not_compared() -> Patch:
    """A1: a vote does not look at the candidate's record."""
    real = ballot.refusal

    def refusal(asked: Any) -> str:
        return real(replace(asked, candidate_stamp=max(asked.candidate_stamp, asked.stamp)))

    return _both(patch.object(ballot, "refusal", refusal), patch.object(voting, "newer", lambda slot, stamp: None))


def refusal_without_record() -> Patch:
    """A3: a refusal does not carry the refuser's record."""
    return _both(
        patch.object(voting, "newer", lambda slot, stamp: None),
        patch.object(following, "newer", lambda slot, stamp: None),
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
    return _both(
        patch.object(election, "majority", lambda voters: voters // 2),
        patch.object(candidacy, "majority", lambda voters: voters // 2),
    )


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


def order_at_the_gate() -> Patch:
    """W1: a write passes an earlier one that waits for a mark."""

    def submit(self: gate.Gate, op: Any, now_ns: int) -> Any:
        self._blocked.clear()
        return real(self, op, now_ns)

    real = gate.Gate.submit
    return patch.object(gate.Gate, "submit", submit)


def opened_unsettled() -> Patch:
    """W2: a newer session begins before the older one's writes are settled."""

    def open_now(self: primary.Primary) -> Any:
        return [] if self._sessions.opening is None else self._sessions.open()

    return patch.object(primary.Primary, "_open_when_settled", open_now)


def older_link_heard() -> Patch:
    """W5: a replica takes data from a link that another one has replaced."""
    real = replica.Replica.receive

    def receive(self: replica.Replica, link: int, message: Any, epoch: int, now_ns: int) -> Any:
        return real(self, self.link if self.link is not None else link, message, epoch, now_ns)

    return _both(
        patch.object(replica.Replica, "receive", receive),
        patch.object(replica.Replica, "link_lost", lambda self, link: []),
    )


def map_starts_at_sent() -> Patch:
    """D1: the map of what a peer misses starts at the last write sent to it, not at the last confirmed."""
    real = Peer.lose

    def lose(self: Peer) -> None:
        self.unacked.clear()
        real(self)

    return patch.object(Peer, "lose", lose)


def not_told_while_syncing() -> Patch:
    """D2: a peer that is being brought up to date does not get the new writes."""
    return patch.object(Peer, "receives", lambda self: self.phase not in ("away", "joining", "syncing"))


def store_comes_back_empty() -> Patch:
    """I1: a replica that lost its store comes back empty under its old name."""

    def lose_store(self: Machine, volume: str, *, unreadable: bool) -> None:
        me, size_blocks = self.disks[volume].me, self.disks[volume].size_blocks
        self.make_replica(volume, me, size_blocks)

    return patch.object(Machine, "lose_store", lose_store)


def tombstone_not_kept() -> Patch:
    """I3: a voter forgets the tombstone as soon as its own data are gone."""

    def data_erased(self: deletion.Deletion) -> None:
        self.erased = True
        self._local.at_once(ev.ForgetVolume())

    return patch.object(deletion.Deletion, "data_erased", data_erased)


def heals_unverified() -> Patch:
    """K3: whatever another copy offers is taken for the content of a rotten block."""
    return patch("tests.simulation.store.judge", lambda *found, **named: Cure.DATA)


def heals_unsettled() -> Patch:
    """K3: what another copy offers counts although a write of the block is under way."""
    return _both(
        patch.object(primary.Primary, "_is_settled", lambda self, peer, ranges: True),
        patch.object(healing.Healing, "written", lambda self, block, count: None),
    )


class _Both:
    def __init__(self, patches: tuple[Any, ...]):
        self._patches = patches

    def __enter__(self) -> None:
        for each in self._patches:
            each.start()

    def __exit__(self, *_: object) -> None:
        for each in reversed(self._patches):
            each.stop()


def _both(*patches: Any) -> Patch:
    return _Both(patches)


PLANTED: dict[str, Callable[[], Patch]] = {
    plant.__name__: plant
    for plant in (
        counted_from_receipt,
        vote_before_durable,
        latest_set_only,
        latest_proposal_only,
        copy_replaces_write,
        old_epoch_stored,
        share_not_compared,
        own_share_not_compared,
        reads_without_lease,
        vote_after_restart,
        promises_forgotten,
        admitted_unsynced,
        unmarked_early,
        gate_not_resent,
        copies_not_noted,
        forgotten_uncovered,
        unclean_confirms,
        lost_while_waiting,
        unclean_by_own_record,
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
        order_at_the_gate,
        opened_unsettled,
        older_link_heard,
        map_starts_at_sent,
        not_told_while_syncing,
        store_comes_back_empty,
        tombstone_not_kept,
        heals_unverified,
        heals_unsettled,
    )
}
