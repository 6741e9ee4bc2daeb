"""Repair at the leader: who is away and for how long, which home was asked for, and what to do about it next.

    away --grace--> lost --> AskHome --> (shell: placement ranks, the node makes the member) --> HomeFound --> joins
      ^                         ^                                                  |
      +-- it follows again      +----- pause, twice as long each time <------ HomeRefused

No central part decides anything: a leader that dies forgets what it asked for, and the next one sees the same record
and the same members and asks again. What was made and is in no record is removed by its own node.

A copy is away from when it fails until it follows again, whatever its node says: a node may be well and its disk not.
While it follows its grace stands still, and begins anew only when it has caught up. *A process that is killed in the
middle of every resync follows for a moment between two deaths: were each to begin the grace anew, its volume would lack
that copy for ever.* Who is joining has a new grace each time: given up, it would lose what it has got so far.
A witness is away while its node is, and has caught up when it has stored the record. Who answers beats and does not
store the record is as good as away.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.replica.brain import events as ev
from services.replica.brain.decisions import Verdict, recorded
from services.replica.brain.local import Local
from services.replica.brain.plan import Kind, Membership, Step, next_step
from services.replica.brain.proposing import Proposing
from services.replica.brain.record import Record, Voter
from stoscore.units import in_seconds

PAUSE_DOUBLINGS_MAX = 6
ARRIVAL_LEASES = 4
"""How long a leader that has just won waits at least for whoever was away before, in leases."""


@recorded
@dataclass(frozen=True, slots=True)
class NoHome:
    """Placement, or the node that it chose, refused."""

    reason: str
    pause_ns: int

    def judge(self) -> Verdict:
        return Verdict("place", f"no home: {self.reason}; asks again in {in_seconds(self.pause_ns)}")


class Repair:
    """What one leader knows of the other members, from when it won until it stops."""

    def __init__(self, local: Local, proposing: Proposing, record: Record):
        """Who is in sync is reported should it not follow; the other copies are away until they do."""
        self._local = local
        self._proposing = proposing
        self._away_ns: dict[Voter, int] = {}
        """Member -> since when it does not follow, or is silent; what we saw before we led counts."""
        self._spent_ns: dict[Voter, int] = {}
        """Member that follows -> how much of its grace it has used up since it was in sync."""
        self._mute_ns: dict[Voter, int] = {}
        """Member -> since when it answers beats and does not store the record."""
        self._gone: set[Voter] = set()
        self._ready: set[Voter] = set()
        self._full = False
        self._home: Voter | None = None
        self._others_told: tuple[str, ...] = ()
        self._asked: Kind | None = None
        self._needed: Kind | None = None
        self._ask_at_ns = 0
        self._refusals = 0
        self._looked_ns = 0
        for member in self._others(record):
            if member not in record.in_sync and (member.kind == "data" or not local.reaches(member.node)):
                self._away_ns[member] = self._gone_ns(member)

    def end(self) -> None:
        """We lead no more, and the next leader does not know of a home that no record names."""
        if self._home is not None:
            self._local.at_once(ev.DropHome(self._home))

    # ---- what the leader sees ---------------------------------------------------------------------------

    def failed(self, member: Voter, record: Record) -> None:
        """It does not confirm what it should."""
        self._ready.discard(member)
        if member in record.in_sync:
            self._away_ns[member] = self._gone_ns(member)
        else:
            self._is_away(member)

    def _is_away(self, member: Voter) -> None:
        if member in self._away_ns:
            return
        now_ns = self._local.now_ns
        since_ns = min(now_ns - self._spent_ns.pop(member, 0), self._mute_ns.get(member, now_ns))
        self._away_ns[member] = since_ns
        # Its grace may have ended before we last looked, when it seemed to be back.
        self._looked_ns = min(self._looked_ns, since_ns + self._local.timing.grace_ns - 1)

    def follows(self, member: Voter, record: Record) -> None:
        """It is being brought up to date."""
        since_ns = self._away_ns.pop(member, None)
        if since_ns is not None and member in record.voters:
            self._spent_ns[member] = self._local.now_ns - since_ns

    def caught_up(self, member: Voter, record: Record) -> None:
        self._away_ns.pop(member, None)
        self._spent_ns.pop(member, None)
        if member in record.joining:
            self._ready.add(member)

    def seen(self, node: str, record: Record) -> None:
        """A node came or went, by link or bus."""
        member = record.member_on(node)
        if member is None or member in record.in_sync:
            return  # that one in sync fails is told by replication
        if not self._local.reaches(node):
            self._is_away(member)
            self._mute_ns.pop(member, None)
            if member.kind == "data":
                self._ready.discard(member)
        elif member.kind == "witness":
            self.follows(member, record)

    def stored(self, member: Voter, record: Record) -> None:
        """It has the latest record; that is all that a witness has to do."""
        self._mute_ns.pop(member, None)
        if member.kind == "witness":
            self._spent_ns.pop(member, None)
        if member.kind == "witness" and member in record.joining:
            self._ready.add(member)

    def stores_nothing(self, members: tuple[Voter, ...]) -> None:
        """They are there and have not stored the latest record."""
        for member in members:
            self._mute_ns.setdefault(member, self._local.now_ns)

    def unknown(self, member: Voter) -> None:
        """Its node has no such member (any more): it can't come back."""
        self._gone.add(member)
        self._ready.discard(member)
        self._is_away(member)

    # ---- homes ------------------------------------------------------------------------------------------

    def found(self, home: Voter, others: tuple[str, ...]) -> None:
        if self._home not in (None, home):
            self._local.at_once(ev.DropHome(home))
            return
        self._asked, self._refusals, self._full = None, 0, False
        self._home, self._others_told = home, others

    def refused(self, reason: str, *, full: bool) -> None:
        self._asked, self._full = None, full
        pause_ns = self._local.timing.home_retry_ns << min(self._refusals, PAUSE_DOUBLINGS_MAX)
        self._refusals += 1
        self._ask_at_ns = self._local.now_ns + pause_ns
        self._local.decide(NoHome(reason, pause_ns))

    # ---- the next step ----------------------------------------------------------------------------------

    def next_record(self, record: Record) -> Record | None:
        """The record that brings the members of this committed one a step on; None for nothing to propose."""
        local = self._local
        self._looked_ns = local.now_ns
        self._needed = None
        if not local.reaches_majority():
            return None  # it may be us who are cut off: who seems lost may be well
        members = self._members(record)
        step = next_step(members)
        if self._home is not None and (step.drop_home or step.record is not None):
            if step.drop_home:
                local.when_durable(ev.DropHome(self._home))
                self._home = None
            elif step.record is not None and self._home in step.record.joining:
                self._home = None
        if step.record is not None:
            local.tell(members, step.verdict)
            return step.record
        self._needed = step.home
        if step.home is not None and self._asked is None and local.now_ns >= self._ask_at_ns:
            self._ask(members, step, step.home)
        return None

    def _ask(self, members: Membership, step: Step, kind: Kind) -> None:
        record = members.record
        self._asked = kind
        self._full = False
        self._local.tell(members, step.verdict)
        taken = tuple(member.node for member in record.members)
        asked = ev.AskHome(kind, record.name, record.size_bytes, taken, record.zones, self._local.cause)
        self._local.when_durable(asked)

    def _members(self, record: Record) -> Membership:
        local = self._local
        others = self._others(record)
        lost = sorted((m for m in others if m not in record.in_sync and self._is_lost(m)), key=self._since)
        return Membership(
            record=record,
            me=local.me,
            answering=tuple(
                m for m in record.members if self._proposing.has_stored(m) and (m == local.me or local.reaches(m.node))
            ),
            lost=tuple(lost),
            gone=tuple(member for member in lost if member in self._gone),
            ready=tuple(member for member in others if member in self._ready),
            full=self._full,
            home=self._home,
            turned_down=self._others_told if self._home is not None else (),
        )

    def _others(self, record: Record) -> tuple[Voter, ...]:
        return tuple(member for member in record.members if member != self._local.me)

    def _since_ns(self, member: Voter) -> int | None:
        since = [known[member] for known in (self._away_ns, self._mute_ns) if member in known]
        return min(since, default=None)

    def _is_lost(self, member: Voter) -> bool:
        since_ns = self._since_ns(member)
        return since_ns is not None and self._local.now_ns - since_ns >= self._local.timing.grace_ns

    def _since(self, member: Voter) -> tuple[int, Voter]:
        return (self._since_ns(member) or 0, member)

    def _gone_ns(self, member: Voter) -> int:
        """Since when it is away, with what we saw before we led: else leaders that follow each other within the grace
        would repair nothing. Whoever is only slow to find a new leader has a little longer."""
        local = self._local
        credit_ns = max(0, local.timing.grace_ns - ARRIVAL_LEASES * local.timing.lease_ns)
        return local.now_ns - min(local.absent_ns(member.node), credit_ns)

    # ---- time -------------------------------------------------------------------------------------------

    def next_deadline_ns(self, record: Record) -> int | None:
        """When somebody's grace ends that had not ended when we last looked, or a home is to be asked for again."""
        if record.deleted:
            return None
        ends = [
            since_ns + self._local.timing.grace_ns
            for member in self._others(record)
            if (since_ns := self._since_ns(member)) is not None
        ]
        due = [end for end in ends if end > self._looked_ns]
        if self._needed is not None and self._asked is None:
            due.append(self._ask_at_ns)
        return min(due, default=None)
