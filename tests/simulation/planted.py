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
from services.replica.brain import agenda, candidacy, local, membership, promises, voting
from services.replica.brain.promises import FOREVER_NS, BeatAnswer
from services.replica.driver.volume import Pending
from services.replica.replication import effects as fx
from services.replica.replication import gate, primary, replica
from tests.simulation.machine import Machine

Patch = Any


def counted_from_receipt() -> Patch:
    """P2: the leader counts a promise from when the answer came."""
    real = driver.Node.pair_message

    def pair_message(self: driver.Node, node: str, message: Any, now_ns: int) -> None:
        if isinstance(message, BeatAnswer):
            sent = self.promises._claimed[node].sent if node in self.promises._claimed else {}
            if message.number in sent:
                sent[message.number] = now_ns, sent[message.number][1]
        real(self, node, message, now_ns)

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
    quiet = patch.object(gate, "QUIET_NS", 50_000_000)
    unmark = patch.object(gate.Gate, "unmark", lambda self, synced, commit: real(self, synced, 1 << 62))

    class Both:
        def __enter__(self) -> None:
            quiet.start()
            unmark.start()

        def __exit__(self, *_: object) -> None:
            unmark.stop()
            quiet.stop()

    return Both()


def gate_not_resent() -> Patch:
    """A write that waits for its mark while a peer joins reaches neither the comparison nor the peer."""
    return patch.object(gate.Gate, "waiting_ops", lambda self: [])


def copies_not_noted() -> Patch:
    """T2: a copy leaves no note in the tail, so nobody compares it after its primary died in mid-take-over."""
    real = Machine._store_copy

    def store_copy(self: Machine, disk: Any, effect: fx.StoreCopy) -> None:
        real(self, disk, replace(effect, seq=0))

    return patch.object(Machine, "_store_copy", store_copy)


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
    real = voting.refusal

    def refusal(state: Any, asked: Any, **facts: Any) -> str:
        return real(state, replace(asked, stamp=state.slot.stamp) if state.slot else asked, **facts)

    return patch.object(voting, "refusal", refusal)


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
    )
}
