"""Moving the primary on purpose: settle, name a successor, let go (P5).

    asked --> settling --nothing under way, record committed--> HAND_OVER to the successor, RELEASED to the others, stop
                 |                                                          |
                 +-- not in time: go on as before                           +-- it leads: whoever asked is answered
                                                                            +-- it does not: we stand in a new epoch

Naming ends our service in the epoch for good, before the name leaves; that is why the other voters may forget at once
what they promised us in it, and the successor need not wait for a lease to end. It stands like anybody else: pre-vote,
durable vote, first commit. Should every word of this be lost, the volume is as after the death of its primary.

More roads lead here: a process that ends, a disk that failed, and a follower that offers itself. It reaches a majority
by links while its leader, which it hears over the bus alone, may not; or the frontend that uses the volume asks it for
a session and has no link with the leader.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.replica.brain import events as ev
from services.replica.brain import messages as ms
from services.replica.brain.candidacy import Candidacy
from services.replica.brain.leading import Leading
from services.replica.brain.local import Local
from services.replica.brain.move import Move, Why
from services.replica.brain.record import Attachment, Record, Voter
from stoscore.units import in_seconds


@dataclass(slots=True)
class _Settling:
    """A move that waits for what is under way."""

    request: int
    successor: Voter
    until_ns: int
    settled: bool = False


@dataclass(slots=True)
class _Named:
    """A successor that has not led yet."""

    request: int
    successor: Voter
    epoch: int
    until_ns: int


class HandOver:
    """Both ends of a hand-over, and what the other voters hear of it."""

    def __init__(self, local: Local, leading: Leading, candidacy: Candidacy):
        self._local = local
        self._leading = leading
        self._candidacy = candidacy
        self._settling: _Settling | None = None
        self._named: _Named | None = None
        self._offer_at_ns = 0

    @property
    def under_way(self) -> bool:
        """Somebody waits for the end of a move that begins here."""
        return self._settling is not None or self._named is not None

    # ---- the primary ----------------------------------------------------------------------------------

    def asked(self, event: ev.MoveAsked) -> None:
        local, record = self._local, self._local.record
        if local.role != "leader" or record is None:
            self._reply(event.request, "NOT_PRIMARY", "this voter is not the primary")
            return
        if self._settling is not None:
            self._reply(event.request, "ABORTED", f"the primary is about to move to {self._settling.successor.node}")
            return
        local.cause = event.cause or local.cause
        move = self._move(record, "asked", event.wanted, event.reason)
        code, refusal = move.refusal()
        successor = move.successor()
        local.decide(move)
        if successor is None or successor == local.me:
            self._reply(event.request, code, refusal)
            return
        self._settling = _Settling(event.request, successor, local.now_ns + local.timing.settle_ns)
        local.at_once(ev.Settle())

    def settled(self) -> None:
        """Replication: nothing is under way any more, and nothing new begins."""
        if self._settling is not None:
            self._settling.settled = True

    def disk_failed(self, reason: str) -> bool:
        """A primary whose disk failed has somebody go on (S2). What was under way is sent again by the frontend."""
        record = self._local.record
        if self._local.role != "leader" or record is None:
            return False
        move = self._move(record, "failed", "", reason)
        successor = move.successor()
        if successor is None or not self._leading.idle():
            return False
        self._local.decide(move)
        self._name(successor, 0)
        return True

    def offered(self, message: ms.Offer) -> None:
        """A follower whose link to us is down reaches a majority. If we do not, we can't even let go of a member that
        does not confirm: it had better lead. Or the frontend reaches it. If it does not reach us, we serve nobody."""
        local, record = self._local, self._local.record
        if local.role != "leader" or record is None or message.epoch != local.epoch or not self._leading.idle():
            return
        if record.member_on(message.sender.node) != message.sender:
            return
        if message.sought:
            why: Why | None = "sought" if local.attached_unlinked_ns() >= local.timing.lease_ns else None
        else:
            why = "offered" if not local.reaches_majority() else None
        if why is None:
            return
        move = self._move(record, why, message.sender.node, "")
        if move.successor() is not None:
            local.decide(move)
            self._name(message.sender, 0)

    def _move(self, record: Record, why: Why, wanted: str, reason: str) -> Move:
        local = self._local
        return Move(local.me, record, why, wanted, tuple(sorted(local.up)), local.reaches_majority(), reason)

    def _name(self, successor: Voter, request: int) -> None:
        """From here on this epoch is over for us. The name leaves before our claim is withdrawn, so that nobody takes
        the one for a death who is about to hear the other."""
        local, slot = self._local, self._local.state.slot
        assert slot is not None
        volume, epoch = slot.record.volume, local.epoch
        self._settling = None
        local.at_once(ev.Send(ms.HandOver(volume, local.me, successor, epoch, slot)))
        for voter in local.others():
            if voter != successor:
                local.at_once(ev.Send(ms.Released(volume, local.me, voter, epoch, successor)))
        self._leading.stop(successor=successor.node)
        local.leader = successor
        self._named = _Named(request, successor, epoch, local.now_ns + 4 * local.timing.lease_ns)
        if not self._candidacy.may_not_stand():
            self._candidacy.stand_from(local.now_ns + local.timing.lease_ns)

    # ---- the others -----------------------------------------------------------------------------------

    def named(self, message: ms.HandOver) -> None:
        """We are the successor."""
        local, slot = self._local, self._local.state.slot
        if slot is None or not self._is_of_leader(message.sender, message.epoch):
            return
        if message.slot.stamp > slot.stamp:
            local.store(message.slot)
        local.lift_promise(message.sender.node, message.epoch)
        self._candidacy.stand_named(message.epoch, local.now_ns, local.facts)

    def released(self, message: ms.Released) -> None:
        """Our leader named somebody else: wait for that one, and stand if it does not lead soon."""
        local = self._local
        if not self._is_of_leader(message.sender, message.epoch):
            return
        local.lift_promise(message.sender.node, message.epoch)
        local.leader = message.successor
        if not self._candidacy.may_not_stand():
            start_ns = local.now_ns + local.timing.lease_ns
            self._candidacy.election_at_ns = self._candidacy.start_ns(start_ns, message.successor)

    def _is_of_leader(self, sender: Voter, epoch: int) -> bool:
        local = self._local
        leader = local.leader or (local.record.primary if local.record else None)
        return local.role == "follower" and epoch == local.epoch and sender == leader

    # ---- time -----------------------------------------------------------------------------------------

    def look(self) -> None:
        """After every step: what waits may go on, or has waited long enough."""
        if self._settling is not None:
            self._look_at_settling(self._settling)
        if self._named is not None:
            self._look_for_successor(self._named)
        if self._offers() and self._local.now_ns >= self._offer_at_ns:
            self._offer()

    def _look_at_settling(self, settling: _Settling) -> None:
        local, record = self._local, self._local.record
        successor = settling.successor
        if local.role != "leader" or record is None:
            self._settling = None
            self._reply(settling.request, "NOT_PRIMARY", "it stopped being the primary")
        elif successor not in record.in_sync or successor.node not in local.up:
            self._go_on(settling, f"node {successor.node} was lost before it could take over")
        elif settling.settled and self._leading.idle():
            self._name(successor, settling.request)
        elif local.now_ns >= settling.until_ns:
            waited = in_seconds(local.timing.settle_ns)
            self._go_on(settling, f"what was under way has not ended within {waited}")

    def _go_on(self, settling: _Settling, reason: str) -> None:
        self._settling = None
        self._local.at_once(ev.GoOn())
        self._reply(settling.request, "UNAVAILABLE", reason)

    def _look_for_successor(self, named: _Named) -> None:
        local = self._local
        if local.epoch > named.epoch and local.leader == named.successor and local.role == "follower":
            self._end(named, "", "")
        elif local.role == "leader":
            self._end(named, "ABORTED", f"{named.successor.node} did not take over: {local.me.node} leads again")
        elif local.epoch > named.epoch and local.leader is not None:
            self._end(named, "ABORTED", f"{named.successor.node} did not take over: {local.leader.node} leads")
        elif local.now_ns >= named.until_ns:
            self._end(named, "UNAVAILABLE", f"{named.successor.node} has not taken over yet")

    def _end(self, named: _Named, code: str, error: str) -> None:
        self._named = None
        self._reply(named.request, code, error)

    def _offers(self) -> bool:
        """We could serve, and our leader is heard over the bus alone."""
        local, leader = self._local, self._local.leader
        if leader is None or leader.node not in local.heard or local.role != "follower":
            return False
        return not local.unclean and not local.may_not_stand() and local.reaches_majority()

    def _offer(self, *, sought: bool = False) -> None:
        local = self._local
        assert local.leader is not None
        assert local.record is not None
        self._offer_at_ns = local.now_ns + local.timing.lease_ns
        local.send(ms.Offer(local.record.volume, local.me, local.leader, local.epoch, sought))

    def sought(self, event: ev.SessionRefused) -> None:
        """The frontend that uses the volume asked us for a session. It asks everybody while it looks for the primary,
        so most of the time this means nothing: the leader knows whether it is the one that can't be reached. *The
        frontend's link with the leader is cut, nobody else's is: the leader keeps a majority and serves nobody.*"""
        local, record, leader = self._local, self._local.record, self._local.leader
        if record is None or record.attachment != Attachment(event.node, event.attach_epoch) or leader is None:
            return
        if local.role != "follower" or leader.node not in local.up or event.node == leader.node:
            return
        if not local.unclean and not local.may_not_stand() and local.now_ns >= self._offer_at_ns:
            self._offer(sought=True)

    def next_deadline_ns(self) -> int | None:
        due = [waiting.until_ns for waiting in (self._settling, self._named) if waiting is not None]
        if self._offers():
            due.append(self._offer_at_ns)
        return min(due) if due else None

    def _reply(self, request: int, code: str, error: str) -> None:
        if request:
            self._local.at_once(ev.Reply(request, code, error))
