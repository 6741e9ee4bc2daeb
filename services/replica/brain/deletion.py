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

    def __init__(self, local: Local, *, erased: bool):
        self._local = local
        self.erased = erased
        self.erased_voters: set[Voter] = set()
        self._gone: set[Voter] = set()
        """Voters of the tombstone whose nodes have nothing of the volume any more."""

    def begin(self) -> None:
        """The tombstone is committed."""
        if self.erased:
            self.say_erased()
        else:
            self._local.when_durable(ev.EraseData())

    def data_erased(self) -> None:
        self.erased = True
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
        elif self.erased_voters == set(record.members):
            for voter in local.other_members():
                local.send(ms.Forget(record.volume, local.me, voter, local.epoch))
            local.when_durable(ev.ForgetVolume())

    def peer_knows_nothing(self, voter: Voter) -> None:
        """It has forgotten the volume, or was never told of it. When a majority has, no other record than our tombstone
        can be committed any more. *Two of five missed the last word and were started again: neither knew that the
        tombstone was ever committed, so neither erased, and each waited for the other.*"""
        record = self._local.record
        if record is None or not record.deleted or voter not in record.members:
            return
        self.erased_voters.add(voter)
        if self._forget_alone() or self.erased or voter in self._gone or voter not in record.voters:
            return
        self._gone.add(voter)
        if len(self._gone) >= majority(len(record.voters)):
            self.begin()

    def enquired(self, message: ms.Enquire) -> None:
        """Another one that was not told the last word asks. *Two of five missed it: each knew that three had forgotten,
        neither that the other had nothing left to erase, and both kept the tombstone for ever.*"""
        local, record = self._local, self._local.record
        if record is not None and record.deleted and self.erased and message.sender in record.members:
            local.send(ms.Erased(record.volume, local.me, message.sender, local.epoch))

    def _forget_alone(self) -> bool:
        """The last word of a deletion was lost: when nobody else has any data left, our tombstone serves nobody."""
        alone = self.erased_voters >= set(self._local.other_members())
        if alone:
            self._local.at_once(ev.ForgetVolume())
        return alone

    def told_to_forget(self) -> None:
        record = self._local.record
        if record is not None and record.deleted and self.erased:
            self._local.at_once(ev.ForgetVolume())
