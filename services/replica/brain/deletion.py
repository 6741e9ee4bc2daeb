"""Deletion: a committed tombstone, kept until every voter of the last record gave its data back (I3).

tombstone committed --> each voter erases --ERASED--> leader --all of them--> FORGET, directories go
"""

from __future__ import annotations

from services.replica.brain import events as ev
from services.replica.brain import messages as ms
from services.replica.brain.local import Local
from services.replica.brain.quorum import majority
from services.replica.brain.record import Voter


class Deletion:
    """How far one voter, and the others as far as it heard, are with giving their data back."""

    def __init__(self, local: Local):
        self._local = local
        self.erased_voters: set[Voter] = set()
        self._gone: set[Voter] = set()
        """Members whose nodes have nothing of the volume any more."""
        self._holding: set[Voter] = set()
        """Members that hold the same tombstone."""
        self._ended = False
        """The last word is said, once: voters repeat theirs while our hard state is on its way to the disk."""

    @property
    def erased(self) -> bool:
        """Our own data are gone. A witness has none."""
        local = self._local
        is_witness = local.me.kind == "witness" and local.record is not None and local.record.deleted
        return local.state.erased or is_witness

    def begin(self) -> None:
        """The tombstone is committed."""
        if self.erased:
            self.say_erased()
        else:
            self._local.when_durable(ev.EraseData())

    def data_erased(self) -> None:
        self._local.give_back()
        self.say_erased()

    def say_erased(self) -> None:
        """To the leader: who has voted since and heard of no leader, tells the one that the tombstone names."""
        local, record = self._local, self._local.record
        if record is None:
            return
        leader = local.me if local.role == "leader" else local.leader or record.primary
        if leader is not None:
            local.send(ms.Erased(record.volume, local.me, leader, local.epoch))

    def peer_erased(self, message: ms.Erased) -> None:
        local, record = self._local, self._local.record
        if record is None or not record.deleted or message.sender not in record.members:
            return
        self.erased_voters.add(message.sender)
        if local.role != "leader":
            self._forget_alone()
        elif self.erased_voters == set(record.members) and not self._ended:
            self._ended = True
            for voter in local.other_members():
                local.send(ms.Forget(record.volume, local.me, voter, local.epoch))
            local.when_durable(ev.ForgetVolume())

    def peer_knows_nothing(self, voter: Voter) -> None:
        """It has forgotten the volume, or was never told of it."""
        record = self._local.record
        if record is not None and record.deleted and voter in record.members:
            self.erased_voters.add(voter)
            self._gone.add(voter)
            self._forget_alone()

    def enquired(self, message: ms.Enquire) -> None:
        """Another one that was not told the last word asks. *Two of five missed it: each knew that three had forgotten,
        neither that the other had nothing left to erase, and both kept the tombstone for ever.*"""
        local, slot = self._local, self._local.state.slot
        if slot is None or not slot.record.deleted or message.sender not in slot.record.members:
            return
        if self.erased:
            local.send(ms.Erased(message.volume, local.me, message.sender, local.epoch))
        if message.stamp == slot.stamp:
            self._holding.add(message.sender)
            self._forget_alone()

    def _forget_alone(self) -> None:
        """The last word of a deletion was lost: when nobody else has any data left, our tombstone serves nobody. Nor
        does it when who is left holds it as well and a majority of voters knows nothing any more: no other record can
        be committed. *Two of five missed the last word and were started again: whether the tombstone was ever committed
        neither knew, so neither erased. To erase would not do: should the volume live on all the same, we were a member
        with empty blocks; without a directory we are none (I1).*"""
        record, others = self._local.record, set(self._local.other_members())
        assert record is not None
        settled = len(self._gone & set(record.voters)) >= majority(len(record.voters))
        if others <= self.erased_voters | (self._holding if settled else set()):
            self._local.at_once(ev.ForgetVolume())

    def told_to_forget(self) -> None:
        record = self._local.record
        if record is not None and record.deleted and self.erased:
            self._local.at_once(ev.ForgetVolume())
