"""Members that a committed record excludes: they are told, and only then remove their directory (I3).

    record without C committed --> EXCLUDED(record) --> C: is it newer than mine, from a member of mine? --> removes
                                        ^                                                                   itself
              C, when no leader has claimed it for a while: ENQUIRE --> anybody who knows better

The leader says it when the record is committed and a few times more. Should all of that be lost, or C be away for
weeks, C asks by itself. It believes only a member of its own last record: whoever holds some other node's identity must
not be able to make it throw data away.

A new generation (I4) excludes all voters but one of the generation before, also those that lead there.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.replica.brain import events as ev
from services.replica.brain import messages as ms
from services.replica.brain.decisions import Verdict, recorded
from services.replica.brain.local import Local
from services.replica.brain.messages import BrainMessage
from services.replica.brain.record import Record, Slot, Stamp, Voter, newer
from stoscore.units import SECOND

TOLD_TIMES_MAX = 6
ENQUIRE_NS_MIN = 5 * SECOND
ENQUIRE_NS_MAX = 300 * SECOND
ENQUIRE_LEASES = 3


@recorded
@dataclass(frozen=True, slots=True)
class Exclusion:
    """Somebody says that a committed record excludes us. A refusal may have brought us that record already (A3)."""

    me: Voter
    members: tuple[Voter, ...]
    stamp: Stamp
    told_by: Voter
    told_stamp: Stamp
    told_members: tuple[Voter, ...]

    def believed(self) -> bool:
        return (
            self.told_stamp >= self.stamp
            and self.me not in self.told_members
            and self.told_by in self.members
            and self.told_by in self.told_members
        )

    def judge(self) -> Verdict:
        if not self.believed():
            return Verdict("", "")
        there = ", ".join(member.node for member in self.told_members)
        record = f"version {self.told_stamp.version} of epoch {self.told_stamp.epoch}"
        return Verdict("leave", f"removes itself: record {record}, told by {self.told_by.node}, names {there}")


class Parting:
    """Both sides: whom we still have to tell, and whether we should ask."""

    def __init__(self, local: Local, now_ns: int):
        self._local = local
        self._untold: dict[Voter, int] = {}
        """Excluded while we lead -> how often it was told."""
        self._slot: Slot | None = None
        """The latest committed record that excluded somebody."""
        self._superseded: tuple[Voter, ...] = ()
        """Members of the generation before, until the first record of ours is committed."""
        self._tell_at_ns = 0
        self._enquire_at_ns: int | None = now_ns + ENQUIRE_NS_MIN
        self._pause_ns = ENQUIRE_NS_MIN

    # ---- who stays ------------------------------------------------------------------------------------

    def committed(self, before: Record, slot: Slot) -> None:
        """We lead, and this record is committed now."""
        members = (*before.members, *self._superseded)
        gone = [member for member in members if member not in slot.record.members]
        self._superseded = ()
        if gone:
            self._untold.update(dict.fromkeys(gone, 0))
            self._slot = slot
            self._tell()

    def superseded(self, members: tuple[Voter, ...]) -> None:
        """We begin a generation without them."""
        self._superseded = members

    def over(self, message: BrainMessage) -> None:
        """Said in an older generation: of it nothing is heard any more, and whoever speaks of it is told so."""
        local, slot = self._local, self._local.state.slot
        if slot is not None and local.committed == slot.stamp and message.sender not in slot.record.members:
            local.send(ms.Excluded(message.volume, local.me, message.sender, local.epoch, slot))

    def answered(self, member: Voter) -> None:
        """Its node has no such member any more."""
        self._untold.pop(member, None)

    def stop(self) -> None:
        """We lead no more; the next leader may exclude us."""
        self._untold.clear()
        self.leaderless()

    def _tell(self) -> None:
        local, slot = self._local, self._slot
        assert slot is not None
        most = 0
        for member, times in list(self._untold.items()):
            local.send(ms.Excluded(slot.record.volume, local.me, member, local.epoch, slot))
            self._untold[member] = times + 1
            most = max(most, times)
            if times + 1 == TOLD_TIMES_MAX:
                del self._untold[member]  # it will ask
        self._tell_at_ns = local.now_ns + (local.timing.resend_ns << most)

    def enquired(self, message: ms.Enquire) -> None:
        """Only who knows that its record is committed may say that it excludes somebody. A member gets what is newer
        than its own record (A3). *{A,B,W}: A and W commit that B is in sync again, B has not stored that, A dies. W
        never stands, and by its own record B may not: nobody asked for a vote, so nobody was refused with a record.*"""
        local, slot = self._local, self._local.state.slot
        if slot is None:
            return
        if slot.stamp < message.stamp:
            if message.sender in slot.record.in_sync:  # its own may leave it out, and never come to a majority
                local.send(ms.Refused(message.volume, local.me, message.sender, local.epoch, slot))
            return
        if message.sender not in slot.record.members:
            if local.committed == slot.stamp:
                local.send(ms.Excluded(message.volume, local.me, message.sender, local.epoch, slot))
        elif (mine := newer(slot, message.stamp)) is not None:
            local.send(ms.Refused(message.volume, local.me, message.sender, local.epoch, mine))

    # ---- who goes -------------------------------------------------------------------------------------

    def leaderless(self) -> None:
        """Our leader is gone, or claims us no more. Where we only do not know that we are in sync, nobody may lead
        before we ask: that is not put off for longer than an election takes."""
        local = self._local
        may_be_in_sync = local.me.kind == "data" and bool(local.may_not_stand()) and not local.failure
        first_ns = ENQUIRE_LEASES * local.timing.lease_ns if may_be_in_sync else ENQUIRE_NS_MIN
        self._pause_ns = min(first_ns, ENQUIRE_NS_MIN)
        self._enquire_at_ns = local.now_ns + self._pause_ns

    def excluded(self, message: ms.Excluded) -> bool:
        """True: we are to remove ourselves."""
        local, slot = self._local, self._local.state.slot
        told = message.slot
        if slot is None or (local.role == "leader" and told.stamp.generation <= slot.stamp.generation):
            return False
        question = Exclusion(local.me, slot.record.members, slot.stamp, message.sender, told.stamp, told.record.members)
        if not question.believed():
            return False
        local.decide(question)
        local.when_durable(ev.ForgetVolume())
        return True

    def _enquire(self) -> None:
        local, slot = self._local, self._local.state.slot
        if slot is None:
            return
        for member in slot.record.members:
            if member != local.me:
                local.send(ms.Enquire(slot.record.volume, local.me, member, local.epoch, slot.stamp))

    # ---- time -----------------------------------------------------------------------------------------

    def next_deadline_ns(self) -> int | None:
        if self._local.role == "leader":
            return self._tell_at_ns if self._untold else None
        return self._enquire_at_ns

    def time_passed(self) -> None:
        local = self._local
        if local.role == "leader":
            if self._untold and local.now_ns >= self._tell_at_ns:
                self._tell()
            return
        if self._enquire_at_ns is None or local.now_ns < self._enquire_at_ns:
            return
        if local.facts.promised_until_ns > local.now_ns or local.alone():
            self._enquire_at_ns = None  # a leader claims us
            return
        self._enquire()
        self._pause_ns = min(2 * self._pause_ns, ENQUIRE_NS_MAX)
        self._enquire_at_ns = local.now_ns + self._pause_ns
