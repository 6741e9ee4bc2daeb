"""Planted bugs of replication: who has to confirm, in which order writes apply, take-over, delta sync, sessions."""

from __future__ import annotations

from dataclasses import replace
from errno import EIO
from typing import Any
from unittest.mock import patch

from services.replica.brain import membership, snapshots
from services.replica.replication import budget, gate, healing, primary, replica, resync
from services.replica.replication import effects as fx
from services.replica.replication.budget import Budget
from services.replica.replication.catch_up import CatchUp
from services.replica.replication.flushes import Flushes
from services.replica.replication.frontend_order import Unanswered
from services.replica.replication.giving import Giver
from services.replica.replication.mending import Mending
from services.replica.replication.messages import Ack, Done, Rooted, Zero
from services.replica.replication.peer import Peer
from services.replica.replication.peers import SELF_BIT
from services.replica.replication.sessions import Sessions
from services.replica.replication.withheld import Writes
from services.replica.store import Cure
from tests.simulation.orders import Orders
from tests.simulation.patches import Patch, Plant, both
from tests.simulation.wires import Wires


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
    real = CatchUp.joined

    def joined(self: CatchUp, peer: Any, message: Any) -> Any:
        return real(self, peer, replace(message, share=()))

    return patch.object(CatchUp, "joined", joined)


def own_share_not_compared() -> Patch:
    """T2: what the new primary itself holds unconfirmed is not compared."""
    real = primary.Primary.__init__

    def init(self: primary.Primary, **given: Any) -> None:
        given["share"] = replace(given["share"], ranges=())
        real(self, **given)

    return patch.object(primary.Primary, "__init__", init)


def tail_not_told_during_take_over() -> Patch:
    """T2: who is admitted while others are still taken over is not copied what the new primary's tail names."""
    real = CatchUp._not_noted

    def not_noted(self: CatchUp, peer: Peer) -> Any:
        with patch.object(self._reign, "share", replace(self._reign.share, ranges=())):
            return real(self, peer)

    return patch.object(CatchUp, "_not_noted", not_noted)


def cleaned_once() -> Patch:
    """S3: what a member did of the sync that cleans all counts though it is lost before the others have."""
    return patch.object(Flushes, "clean_again", lambda self: None)


def copied_as_of_before() -> Patch:
    """T2: a copy is noted as of before the oldest write that waits for its mark, wherever that is."""

    def first(self: gate.Gate, ranges: Any) -> int | None:
        return min((op.seq for op in self.waiting_ops()), default=None)

    return patch.object(gate.Gate, "first_waiting_seq", first)


def admitted_unsynced() -> Patch:
    """S4: a replica enters the set without fdatasync."""
    real = CatchUp.flush_settled

    def flush_settled(self: CatchUp, peer: Any) -> Any:
        out = real(self, peer)
        return [*out, *self.caught_up(peer)] if out else out

    return patch.object(CatchUp, "flush_settled", flush_settled)


def unmarked_early() -> Patch:
    """T3: regions are unmarked whatever the commit point says."""
    real = gate.Gate.unmark
    return patch.object(gate.Gate, "unmark", lambda self, synced, commit: real(self, synced, 1 << 62))


def unmarked_unsettled() -> Patch:
    """T3: regions are unmarked after a sync of their data alone."""
    real = Flushes.unmark

    def unmark(self: Flushes, now_ns: int) -> list[fx.Effect]:
        return [replace(effect, settles=False) for effect in real(self, now_ns) if isinstance(effect, fx.SyncStore)]

    return patch.object(Flushes, "unmark", unmark)


def budget_not_given_back() -> Patch:
    """Recovery: a copy that has arrived goes on counting as under way, so the next one is never allowed."""
    return both(patch.object(Budget, "arrived", lambda self, key, now_ns: None), stuck_keeps_its_place())


def stuck_keeps_its_place() -> Patch:
    """Recovery: a copy that confirms nothing any more, on a disk that hangs, keeps all others waiting."""
    return patch.object(budget, "STUCK_NS", 1 << 62)


def refused_is_forgotten() -> Patch:
    """Recovery: whoever the budget refused is not told when there is room again."""
    real = Budget.turn

    def turn(self: Budget, now_ns: int) -> None:
        real(self, now_ns)

    return patch.object(Budget, "turn", turn)


def gate_not_resent() -> Patch:
    """A write that waits for its mark while a peer joins reaches neither the comparison nor the peer."""
    return patch.object(gate.Gate, "waiting_ops", lambda self: [])


def copies_not_noted() -> Patch:
    """T2: a copy leaves no note in the tail, so nobody compares it after its primary died in mid-take-over."""
    real = Orders.note_copy

    def note_copy(self: Orders, disk: Any, effect: fx.StoreCopy, block: int, contents: Any) -> None:
        real(self, disk, replace(effect, seq=0), block, contents)

    return patch.object(Orders, "note_copy", note_copy)


def unclean_confirms() -> Patch:
    """S3: what an unclean peer confirms counts."""
    real = CatchUp.joined

    def joined(self: CatchUp, peer: Any, message: Any) -> Any:
        return real(self, peer, replace(message, unclean=False))

    return patch.object(CatchUp, "joined", joined)


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
        return [] if self.sessions.opening is None else self.sessions.open()

    return patch.object(primary.Primary, "_open_when_settled", open_now)


def older_link_heard() -> Patch:
    """W5: a new link does not end the old one of the same node, and a replica takes data from both."""
    real = replica.Replica.receive

    def receive(self: replica.Replica, link: int, message: Any, epoch: int, now_ns: int) -> Any:
        return real(self, self.link if self.link is not None else link, message, epoch, now_ns)

    def accepted(self: Wires, link: Any) -> None:
        self.incoming[link.number] = link

    return both(
        patch.object(Wires, "accepted", accepted),
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


def told_is_forgotten() -> Patch:
    """T2: a replica forgets its tail when it has told it, not when the take-over that asked for it is completed."""
    real = replica.Replica.join

    def join(self: replica.Replica, link: int, message: Any, epoch: int, share: replica.Share) -> Any:
        out = real(self, link, message, epoch, share)
        return [*out, fx.CommitTail(share.last_seq)] if out else out

    return patch.object(replica.Replica, "join", join)


def attachment_not_compared() -> Patch:
    """W1, invariant 5: a frontend is served whatever its attach epoch is."""
    real = Sessions.ask

    def ask(self: Sessions, link: int, node: str, session: int, attach_epoch: int, *, serving: bool) -> Any:
        return real(self, link, self.attached_node or node, session, self.attach_epoch, serving=serving)

    def attach(self: Sessions, node: str | None, attach_epoch: int) -> bool:
        self.attached_node, self.attach_epoch = node, attach_epoch
        return False

    def is_open(self: Sessions, link: int, session: int, attach_epoch: int) -> bool:
        return session == self.session and link == self.link

    return both(
        patch.object(Sessions, "ask", ask),
        patch.object(Sessions, "attach", attach),
        patch.object(Sessions, "is_open", is_open),
    )


def trim_is_a_hint() -> Patch:
    """W1: a replica confirms a trim and does not store it."""
    real = replica.Replica._store

    def store(self: replica.Replica, op: Any) -> Any:
        if isinstance(op.message, Zero) and self.link is not None:
            return [fx.Answer(self.link, Ack((op.seq,)))]
        return real(self, op)

    return patch.object(replica.Replica, "_store", store)


def overlapping_sent() -> Patch:
    """W3: a frontend sends what overlaps an unanswered write."""
    return patch.object(Unanswered, "conflicts", lambda self, other: False)


def failed_write_left_unequal() -> Patch:
    """W4: what fails by the policy is answered at once, and the commit point passes it wherever it is."""
    real = primary.Primary.require

    def require(self: primary.Primary, nodes: Any, writes: Writes = Writes.OPEN) -> Any:
        out = real(self, nodes, writes)
        if writes is Writes.FAILED:
            for entry in self.window.entries.values():
                if entry.acked & SELF_BIT and not entry.settled:
                    entry.settled = True
                    out += [fx.Answer(entry.link, Done(entry.session, request, EIO)) for request in entry.requests]
            out += self.window.advance()
        return out

    return patch.object(primary.Primary, "require", require)


def heals_unverified() -> Patch:
    """K3: whatever another copy offers is taken for the content of a rotten block."""
    return patch("tests.simulation.store.judge", lambda *found, **named: Cure.DATA)


def heals_unsettled() -> Patch:
    """K3: what another copy offers counts although a write of the block is under way."""
    return both(
        patch.object(Mending, "is_settled", lambda self, peer, ranges: True),
        patch.object(healing.Healing, "written", lambda self, block, count: []),
    )


def sealed_under_its_name() -> Patch:
    """K4: a seal is named by its snapshot alone, so a deposed primary's, or a dropped one's, is taken for it."""

    def layer_name(snapshot: str, seal: int) -> str:
        return f"{snapshot}-{'f' * 16}"

    return both(
        patch("services.replica.brain.record.layer_name", layer_name),
        patch("tests.simulation.orders.layer_name", layer_name),
    )


def sealed_with_writes_under_way() -> Patch:
    """K4: the seal does not wait until every write before it is everywhere."""
    return patch.object(primary.Primary, "_is_quiet", lambda self: True)


def written_while_sealed() -> Patch:
    """K4: a store takes writes while it is sealed."""
    return both(patch.object(gate.Gate, "close", lambda self: None), patch.object(gate.Gate, "open", lambda self: []))


def older_seal_is_ready() -> Patch:
    """K4: what was sealed for a snapshot that was dropped meanwhile makes the next one of its name ready."""
    return patch.object(snapshots, "_is_of", lambda known, report: known is not None and known.state == "pending")


def seal_under_way_dropped() -> Patch:
    """K4: a layer that is not ready by the committed record is not needed."""

    def unwanted(layers: Any, committed: Any, stored: Any) -> list[str]:
        ready = {known.layer for known in committed.record.snapshots if known.state == "ready"}
        return [layer for layer in layers if layer not in ready]

    return patch("tests.simulation.orders.unwanted", unwanted)


def hole_in_a_given_layer() -> Patch:
    """K4: who was given a snapshot is one of its holders, whatever its root hash says; and it has a hole."""
    given, compared = Giver.given, resync.Resync.compared

    def counts(self: Giver, peer: Peer, giving: Any, message: Any, now_ns: int) -> Any:
        if isinstance(message, Rooted):
            message = Rooted(message.seq, giving.past.root)
        return given(self, peer, giving, message, now_ns)

    def misses(self: resync.Resync, number: int, differing: Any) -> None:
        asked, found = self.asked(number), list(differing)
        compared(self, number, found[1:] if self.of and asked and not asked[0] else found)

    return both(
        patch.object(Giver, "given", counts),
        patch.object(resync.Resync, "compared", misses),
    )


def given_untold() -> Patch:
    """K4: a copy is given a snapshot before it has stored the record that lists it, and drops it again."""
    return patch.object(Giver, "lacks", lambda self, peer: next(iter(self.missing(peer)), None))


def set_back_and_not_compared() -> Patch:
    """D1: what a copy lacks that was set back to a snapshot is what was written since."""
    give = Giver.give

    def gives(self: Giver, peer: Peer, past: Any) -> Any:
        out = give(self, peer, past)
        peer.missed_all = False
        return out

    return patch.object(Giver, "give", gives)


def set_back_in_sync() -> Patch:
    """S1: a copy is given what it lacks though writes may need it."""
    return patch.object(Giver, "may_wait", lambda self, peer: peer.takes_past and not peer.takes_none)


DATA: tuple[Plant, ...] = (
    latest_set_only,
    latest_proposal_only,
    copy_replaces_write,
    old_epoch_stored,
    share_not_compared,
    own_share_not_compared,
    tail_not_told_during_take_over,
    cleaned_once,
    copied_as_of_before,
    admitted_unsynced,
    unmarked_early,
    unmarked_unsettled,
    gate_not_resent,
    copies_not_noted,
    unclean_confirms,
    order_at_the_gate,
    opened_unsettled,
    older_link_heard,
    map_starts_at_sent,
    not_told_while_syncing,
    told_is_forgotten,
    attachment_not_compared,
    trim_is_a_hint,
    overlapping_sent,
    failed_write_left_unequal,
    heals_unverified,
    heals_unsettled,
    sealed_under_its_name,
    sealed_with_writes_under_way,
    written_while_sealed,
    older_seal_is_ready,
    seal_under_way_dropped,
    hole_in_a_given_layer,
    given_untold,
    set_back_and_not_compared,
    set_back_in_sync,
    budget_not_given_back,
    stuck_keeps_its_place,
    refused_is_forgotten,
)
