"""One record on its way to the other members: sent, sent again, stored by a majority, told to be committed.

put --> PROPOSE to all members --ACCEPTED--> a majority of voters: committed --> COMMITTED to whoever stored it
                ^                   |
                +------ again ------+   to who is there and has not said that it stored the record since it came
"""

from __future__ import annotations

from services.replica.brain import events as ev
from services.replica.brain import messages as ms
from services.replica.brain.agreement import Proposal
from services.replica.brain.deletion import Deletion
from services.replica.brain.local import Local
from services.replica.brain.membership import Required
from services.replica.brain.record import Record, Voter
from services.replica.brain.retreat import Retreat
from services.replica.brain.snapshots import held_by_members


class Proposing:
    """The leader's latest record. `proposal` and `required` are there while this voter leads."""

    def __init__(self, local: Local, deletion: Deletion):
        self._local = local
        self._deletion = deletion
        self.proposal: Proposal | None = None
        self.required: Required | None = None
        self._stored: set[Voter] = set()
        """Members that said so, and have been there ever since."""
        self._resend_at_ns = 0
        self._put_ns = 0

    def begin(self, record: Record) -> None:
        self.required = Required(frozenset(record.in_sync))

    def end(self) -> None:
        self.proposal = None
        self.required = None

    def put(self, record: Record) -> None:
        """Propose `record`: its in-sync set counts from before the first message leaves (S1)."""
        local = self._local
        assert self.required is not None
        assert local.state.slot is not None
        record = held_by_members(record)
        slot = local.state.slot.next(local.epoch, record)
        self._put_ns = local.now_ns
        self._stored = {local.me}
        self.required.propose(record.in_sync)
        local.at_once(ev.Require())
        self.proposal = Proposal(slot)
        local.store(slot)
        self.send(local.other_members())
        local.send(ms.Accepted(record.volume, local.me, local.me, local.epoch, slot.stamp))

    def send(self, members: tuple[Voter, ...]) -> None:
        local = self._local
        assert self.proposal is not None
        slot = self.proposal.slot
        self._resend_at_ns = local.now_ns + local.timing.resend_ns
        for member in members:
            local.send(ms.Propose(slot.record.volume, local.me, member, local.epoch, slot, local.committed))

    def tell_committed(self, members: tuple[Voter, ...]) -> None:
        local = self._local
        assert self.proposal is not None
        slot = self.proposal.slot
        for member in members:
            local.send(ms.Committed(slot.record.volume, local.me, member, local.epoch, slot.stamp))

    def take_back(self, committed: Record) -> None:
        """Propose the committed record anew when the change of its voters does not get through."""
        local, proposal = self._local, self.proposal
        if proposal is None or proposal.committed:
            return
        proposed = proposal.slot.record.voters
        reached = tuple(voter.node for voter in proposed if local.reaches(voter.node))
        waited_ns = local.now_ns - self._put_ns
        retreat = Retreat(local.me, committed.voters, proposed, reached, waited_ns, local.timing.lease_ns)
        if retreat.is_due():
            local.decide(retreat)
            self.put(committed)

    # ---- who has it -----------------------------------------------------------------------------------

    def is_answer(self, message: ms.Accepted) -> bool:
        """It is about the latest record, from somebody whom that names."""
        proposal = self.proposal
        if proposal is None or message.epoch != self._local.epoch or message.stamp != proposal.slot.stamp:
            return False
        return message.sender in proposal.slot.record.members

    def stored_by(self, member: Voter) -> bool:
        """True at the answer that commits the record."""
        assert self.proposal is not None
        self._stored.add(member)
        return self.proposal.accept(member)

    def commit(self) -> None:
        assert self.proposal is not None
        assert self.required is not None
        self._local.committed = self.proposal.slot.stamp
        self.required.commit(self.proposal.slot.record.in_sync)

    def gone(self, node: str) -> None:
        """Neither link nor bus brings a word of it."""
        self._stored = {member for member in self._stored if member.node != node}

    def has_stored(self, member: Voter) -> bool:
        """It said so, and has been there ever since. *B stored the record, lost its disk and is back: {A,B} without C
        could be proposed, never committed and never taken back.*"""
        return member in self._stored

    def lagging(self) -> tuple[Voter, ...]:
        """Reachable members that have not said, since they came, that they have stored the latest record."""
        local = self._local
        if self.proposal is None:
            return ()
        return tuple(v for v in local.other_members() if local.reaches(v.node) and v not in self._stored)

    def not_erased(self) -> tuple[Voter, ...]:
        """Reachable members that have stored the committed tombstone and have not said that their data are gone. *The
        word was lost with a link of theirs, ours stood: nobody said anything any more, and nothing was removed.*"""
        proposal, local = self.proposal, self._local
        if proposal is None or not proposal.committed or not proposal.slot.record.deleted:
            return ()
        told = [v for v in local.other_members() if local.reaches(v.node) and v in proposal.accepted]
        return tuple(voter for voter in told if voter not in self._deletion.erased_voters)

    # ---- time -----------------------------------------------------------------------------------------

    def next_deadline_ns(self) -> int | None:
        return self._resend_at_ns if self.lagging() or self.not_erased() else None

    def time_passed(self) -> tuple[Voter, ...]:
        """Who was there and had not stored the record by now; they are sent it again."""
        local = self._local
        if local.now_ns < self._resend_at_ns:
            return ()
        lagging = self.lagging()
        if lagging:
            self.send(lagging)
        elif waiting := self.not_erased():
            self._resend_at_ns = local.now_ns + local.timing.resend_ns
            self.tell_committed(waiting)
        return lagging
