"""Following a leader: storing what it proposes, and learning what is committed."""

from __future__ import annotations

from services.replica.brain import events as ev
from services.replica.brain import messages as ms
from services.replica.brain.candidacy import Candidacy
from services.replica.brain.deletion import Deletion
from services.replica.brain.leading import Leading
from services.replica.brain.local import Local
from services.replica.brain.record import Stamp, newer


class Following:
    """The acceptor's side of agreement."""

    def __init__(self, local: Local, leading: Leading, candidacy: Candidacy, deletion: Deletion):
        self._local = local
        self._leading = leading
        self._candidacy = candidacy
        self._deletion = deletion

    def propose(self, message: ms.Propose, now_ns: int) -> None:
        local, slot = self._local, message.slot
        if message.epoch < local.epoch or slot.stamp.epoch != message.epoch:
            mine = newer(local.state.slot, slot.stamp)
            local.send(ms.Refused(message.volume, local.me, message.sender, local.epoch, mine))
            return
        if local.me not in slot.record.members or slot.record.primary != message.sender:
            return
        if message.epoch > local.epoch:
            self._leading.yield_to(message.epoch, message.sender.node)
            local.raise_epoch(message.epoch, None)
        assert local.role != "leader", "two leaders in one epoch"
        stored = local.state.slot
        if stored is not None and slot.stamp < stored.stamp:
            return  # a late copy of an older proposal of this leader
        local.role = "follower"
        local.leader = message.sender
        if stored is None or slot.stamp > stored.stamp:
            # Of the record that is replaced nobody else may tell us. *One change came after the other, and a follower
            # that had stored all of them knew of none that it was committed.*
            self.told_committed(message.committed)
            local.store(slot)
        self._candidacy.follow(message.sender, now_ns)
        self.told_committed(message.committed)
        local.send(ms.Accepted(message.volume, local.me, message.sender, local.epoch, slot.stamp))

    def told_committed(self, stamp: Stamp | None) -> None:
        local, slot = self._local, self._local.state.slot
        if slot is None or slot.stamp != stamp:
            return
        if local.role != "leader" and local.committed != stamp:
            local.committed = stamp
            local.when_durable(ev.RecordCommitted(slot))
            if slot.record.deleted:
                self._deletion.begin()
        elif slot.record.deleted and self._deletion.erased:
            self._deletion.say_erased()  # what we said before was lost
