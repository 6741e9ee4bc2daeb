"""Leading: the first act is to re-propose the record, then one change at a time, and an end without a majority.
How a record gets to the others is `proposing`'s.

win --> PROPOSE own record --majority stored it--> committed: Lead, serve --> next change --> PROPOSE ...
                                                        |
                                 no majority of promises for one lease, a stalled disk, a higher epoch --> stop
"""

from __future__ import annotations

from dataclasses import replace

from services.replica.brain import events as ev
from services.replica.brain import messages as ms
from services.replica.brain.agenda import Agenda
from services.replica.brain.agreement import Proposal
from services.replica.brain.changes import Change
from services.replica.brain.deletion import Deletion
from services.replica.brain.election import Election, Facts
from services.replica.brain.local import Local
from services.replica.brain.membership import Required
from services.replica.brain.parting import Parting
from services.replica.brain.policy import Counted, WriteState, write_state
from services.replica.brain.proposing import Proposing
from services.replica.brain.record import Record, Voter
from services.replica.brain.reign import Reign
from services.replica.brain.repair import Repair
from services.replica.brain.snapshots import Snapshots, only_asked


class Leading:
    """The leader's side of agreement. `proposal` and `required` are there while this voter leads."""

    def __init__(self, local: Local, agenda: Agenda, deletion: Deletion, parting: Parting, snapshots: Snapshots):
        self._local = local
        self._agenda = agenda
        self._deletion = deletion
        self._parting = parting
        self._snapshots = snapshots
        self._proposing = Proposing(local, deletion)
        self._repair: Repair | None = None
        self._before: Record | None = None
        """The last committed record, as far as we know."""
        self.writes: WriteState = "open"
        self._led_first = False
        self._lease_seen_ns = 0
        self._had_lease = False
        self._barren = 0
        """How many reigns in a row, this one not counted, have ended without ever a lease."""

    @property
    def proposal(self) -> Proposal | None:
        return self._proposing.proposal

    @property
    def required(self) -> Required | None:
        return self._proposing.required

    # ---- begin and end --------------------------------------------------------------------------------

    def win(self, election: Election, now_ns: int) -> None:
        """Elected: the first act is to re-propose the record under our own epoch (A1)."""
        local = self._local
        assert local.state.slot is not None
        old = local.state.slot
        local.role = "leader"
        local.leader = local.me
        self._led_first = False
        local.led_since_ns = now_ns
        self._lease_seen_ns, self._had_lease = 0, False
        self._deletion.erased_voters = set()
        self._proposing.begin(old.record)
        self._repair = Repair(local, self._proposing, old.record)
        self._before = old.record
        self.writes = "open"
        self._snapshots.begin()
        local.at_once(ev.Claim(local.epoch))
        local.decide(election)
        self._proposing.put(replace(old.record, primary=local.me))

    def stop(
        self,
        *,
        heard_epoch: int = 0,
        heard_from: str = "",
        newer_generation: int = 0,
        successor: str = "",
        failure: str = "",
        stopping: bool = False,
    ) -> None:
        """Without a reason of the caller's: the one that `must_resign` saw."""
        local = self._local
        assert local.role == "leader"
        reign = replace(
            self._reign(local.now_ns, local.facts),
            heard_epoch=heard_epoch,
            heard_from=heard_from,
            newer_generation=newer_generation,
            successor=successor,
            failure=failure,
            stopping=stopping,
        )
        local.at_once(ev.StopLeading(reign.reason(), successor))
        self._barren = 0 if self._had_lease else self._barren + 1
        self._agenda.drop()
        local.role = "follower"
        local.leader = None
        self._proposing.end()
        if self._repair is not None:
            self._repair.end()
            self._repair = None
        self._parting.stop()
        local.decide(reign)

    def idle(self) -> bool:
        """The record is committed and nobody waits for another one."""
        return self.proposal is not None and self.proposal.committed and not self._agenda.waiting

    def yield_to(self, epoch: int, node: str) -> None:
        """A higher epoch is about to be stored, which that node told."""
        if self._local.role == "leader":
            self.stop(heard_epoch=epoch, heard_from=node)

    def must_resign(self, now_ns: int, facts: Facts) -> bool:
        return bool(self._reign(now_ns, facts).reason())

    def _reign(self, now_ns: int, facts: Facts) -> Reign:
        local = self._local
        return Reign(
            me=local.me.node,
            epoch=local.epoch,
            lease_ns=local.timing.lease_ns,
            lease_over_ns=max(0, now_ns - self._lease_end_ns(facts)),
            absent=tuple(voter.node for voter in self._absent()),
            unpromised=facts.unpromised,
            disk_stalled=facts.disk_stalled,
            barren=0 if self._had_lease else self._barren,
        )

    def _absent(self) -> tuple[Voter, ...]:
        """Voters without a link: also who is heard over the bus counts as lost while no lease holds."""
        return tuple(voter for voter in self._local.others() if voter.node not in self._local.up)

    def _lease_end_ns(self, facts: Facts) -> int:
        return max(facts.lease_until_ns, self._lease_seen_ns, self._local.led_since_ns)

    # ---- time -----------------------------------------------------------------------------------------

    def see_lease(self, facts: Facts) -> None:
        self._lease_seen_ns = max(self._lease_seen_ns, facts.lease_until_ns)
        self._had_lease = self._had_lease or facts.lease_until_ns > self._local.now_ns

    def promise_ended(self, now_ns: int) -> None:
        """Until now it counted, though nobody looked while nothing happened."""
        self._lease_seen_ns = max(self._lease_seen_ns, now_ns)

    def next_deadline_ns(self, facts: Facts) -> int | None:
        due: list[int] = []
        if self._absent() or facts.unpromised:
            due.append(self._lease_end_ns(facts) + self._reign(self._local.now_ns, facts).patience_ns)
        resend_ns = self._proposing.next_deadline_ns()
        if resend_ns is not None:
            due.append(resend_ns)
        if self._agenda.deferred:
            due.append(self._agenda.again_at_ns)
        repair_ns = self._repair_at_ns()
        if repair_ns is not None:
            due.append(repair_ns)
        seal_ns = self._snapshots.next_deadline_ns()
        if seal_ns is not None and self.idle():
            due.append(seal_ns)
        return min(due) if due else None

    def _repair_at_ns(self) -> int | None:
        proposal, repair = self.proposal, self._repair
        if proposal is None or repair is None or not proposal.committed:
            return None
        return repair.next_deadline_ns(proposal.slot.record)

    def time_passed(self, now_ns: int) -> None:
        lagging = self._proposing.time_passed()
        if self._repair is not None:
            self._repair.stores_nothing(lagging)
        self._take_back()
        if now_ns >= self._agenda.again_at_ns:
            self._look_again(now_ns)
        repair_ns = self._repair_at_ns()
        seal_ns = self._snapshots.next_deadline_ns()
        if (repair_ns is not None and now_ns >= repair_ns) or (seal_ns is not None and now_ns >= seal_ns):
            self._next_change(now_ns)

    def peer_up(self, node: str, now_ns: int) -> None:
        """What it missed is said again; what waited for a majority is looked at again. Whoever was heard over the bus
        all the time may be another process by now. *Killed, its directory lost, back before the bus was silent: nobody
        asked it for anything, and a member that was gone for good kept its place, on the only node for another one.*"""
        self._proposing.gone(node)
        self._send_again(node)
        if self.proposal is not None and self.proposal.slot.record.deleted and self.proposal.committed:
            members = tuple(member for member in self._local.other_members() if member.node == node)
            self._proposing.tell_committed(members)
        self._agenda.reconsider(node)
        self.seen(node, now_ns)

    def heard(self, node: str, now_ns: int) -> None:
        """It answers over the bus: it can store what it missed, and it may be the one that a majority lacks."""
        self._send_again(node)
        self._agenda.reconsider("")
        self.seen(node, now_ns)

    def _send_again(self, node: str) -> None:
        self._proposing.send(tuple(member for member in self._proposing.lagging() if member.node == node))

    def seen(self, node: str, now_ns: int) -> None:
        """A node came or went."""
        if not self._local.reaches(node):
            self._proposing.gone(node)
            self._take_back()
        if self._repair is not None and self.proposal is not None:
            self._repair.seen(node, self.proposal.slot.record)
            self._next_change(now_ns)

    # ---- members --------------------------------------------------------------------------------------

    def follows(self, member: Voter, now_ns: int) -> None:
        if self._repair is not None and self._local.record is not None:
            self._repair.follows(member, self._local.record)
            self._next_change(now_ns)

    def unknown(self, member: Voter) -> None:
        """Its node has no such member (any more)."""
        self._parting.answered(member)
        if self._repair is not None and self._local.record is not None and member in self._local.record.members:
            self._repair.unknown(member)

    def home_found(self, found: ev.HomeFound, now_ns: int) -> None:
        if self._repair is None:
            self._local.at_once(ev.DropHome(found.home))  # asked for by us when we led; nobody knows of it
            return
        self._repair.found(found.home, found.others)
        self._next_change(now_ns)

    def home_refused(self, refused: ev.HomeRefused, now_ns: int) -> None:
        if self._repair is not None:
            self._repair.refused(refused.reason, full=refused.full)
            self._next_change(now_ns)

    def _look_again(self, now_ns: int) -> None:
        if self._agenda.deferred:
            self._agenda.reconsider("")
            self._next_change(now_ns)

    # ---- agreement ------------------------------------------------------------------------------------

    def change(self, change: Change, now_ns: int) -> None:
        repair, record = self._repair, self._local.record
        assert repair is not None
        assert record is not None
        if isinstance(change, ev.MemberFailed):
            repair.failed(change.member, record)
        elif isinstance(change, ev.MemberCaughtUp):
            repair.caught_up(change.member, record)
        self._agenda.ask(change)
        self._next_change(now_ns)

    def _next_change(self, now_ns: int) -> None:
        """One change at a time, and none before our own first commit (A1)."""
        if self.proposal is None or self._repair is None or not self.proposal.committed:
            return
        committed = self.proposal.slot.record
        self._agenda.waiting.extend(self._snapshots.orphans(committed))
        record = self._agenda.next_record(committed) or self._repair.next_record(committed)
        if record is None or record.size_bytes == committed.size_bytes:
            # Also when there is more to propose: who waits for a snapshot may ask again sooner than all is committed.
            self._snapshots.order(committed, self._proposing.has_stored)
        if record is not None:
            self._proposing.put(record)

    def step_of_snapshot(self, event: ev.StepAsked | ev.StepReached) -> None:
        committed = self.proposal is not None and self.proposal.committed
        record = self.proposal.slot.record if self.proposal is not None and committed else self._before
        known = record if self._led_first else None
        if isinstance(event, ev.StepAsked):
            self._snapshots.step(event, known)
        else:
            self._snapshots.reached(event)
        if known is not None and committed:
            self._snapshots.answer(known)

    def accepted(self, message: ms.Accepted, now_ns: int) -> None:
        if not self._proposing.is_answer(message):
            return
        assert self.proposal is not None
        if self._repair is not None:
            self._repair.stored(message.sender, self.proposal.slot.record)
        if self._proposing.stored_by(message.sender):
            self._commit(now_ns)
        elif self.proposal.committed and message.sender != self._local.me:
            self._proposing.tell_committed((message.sender,))
            self._next_change(now_ns)

    def not_understood(self, message: ms.NotUnderstood, now_ns: int) -> None:
        """A member of a version from before snapshots can't store what is asked for, which would never be committed, or
        which it could not store for the next leader either. Nothing was built on it and nobody was told of it, and the
        voters are the same: whoever leads next goes on from either record."""
        proposal = self.proposal
        if proposal is None or not message.what.startswith("propose "):
            return
        record, before = proposal.slot.record, self._before
        if message.sender not in record.members:
            return
        failed = self._snapshots.unreadable(message.sender.node, record)
        if self._led_first and not proposal.committed and before is not None and only_asked(before, record):
            self._proposing.put(before)
        elif failed:
            self._agenda.waiting.extend(failed)
            self._next_change(now_ns)

    def _take_back(self) -> None:
        """Before our first commit we don't know which record was committed last."""
        if self._led_first and self._before is not None:
            self._proposing.take_back(self._before)

    def _commit(self, now_ns: int) -> None:
        local = self._local
        assert self.proposal is not None
        slot = self.proposal.slot
        self._proposing.commit()
        self._count(slot.record)
        first, self._led_first = not self._led_first, True
        if first:
            local.when_durable(ev.Lead(slot))
        local.when_durable(ev.Require())
        local.when_durable(ev.RecordCommitted(slot))
        self._agenda.committed()
        self._snapshots.committed(self._before, slot.record)
        self._proposing.tell_committed(tuple(v for v in local.other_members() if v in self.proposal.accepted))
        before, self._before = self._before, slot.record
        if before is not None:
            self._parting.committed(before, slot)
        if slot.record.deleted:
            self._deletion.begin()
        self._next_change(now_ns)

    def _count(self, record: Record) -> None:
        """Enough copies for writes?"""
        before, self.writes = self.writes, write_state(record)
        in_sync = tuple(voter.node for voter in record.in_sync)
        counted = Counted(before, in_sync, record.copies, record.failure_mode, record.on_unavailable, self.writes)
        self._local.decide(counted)
