"""The changes that wait at a leader: one at a time, in the order in which they were asked for.

A failed member waits apart as long as it may be us who are cut off (`changes.must_wait`), a larger size as long as a
snapshot is being sealed.
"""

from __future__ import annotations

from collections import deque

from services.replica.brain import events as ev
from services.replica.brain.changes import (
    UNSTAMPED,
    Change,
    Changed,
    Circumstances,
    Requested,
    must_wait,
    outcome_of,
)
from services.replica.brain.decisions import Verdict
from services.replica.brain.local import Local
from services.replica.brain.record import Record, Voter
from services.replica.brain.snapshots import Snapshots


class Agenda:
    """What one leader has been asked for and has not proposed, or has proposed and not answered."""

    def __init__(self, local: Local, snapshots: Snapshots):
        self._local = local
        self._snapshots = snapshots
        self.waiting: deque[Change] = deque()
        self.deferred: list[ev.MemberFailed] = []
        """Members that failed while it may have been us who are cut off."""
        self.growing: list[ev.ExpandAsked] = []
        """While a snapshot is being sealed. *Copies grew between their Prepare and the Seal: the snapshot was a file
        system larger than its device, and they made their layers anew while writes were held.*"""
        self.again_at_ns = 0
        """When to look at them again."""
        self.asked: list[int] = []
        """Requests that are answered when the record on its way is committed."""

    def ask(self, change: Change) -> None:
        if isinstance(change, ev.MemberFailed):
            # It may have caught up while another change was on its way, and be lost again before its turn: admitted
            # now, it would be in sync without the writes since.
            caught_up = ev.MemberCaughtUp(change.member)
            self.waiting = deque(waiting for waiting in self.waiting if waiting != caught_up)
        elif isinstance(change, ev.MemberCaughtUp):
            # It holds everything again: let go for what happened before, it would never be said to have caught up. *Its
            # turn came, had to wait all the same, and the word that it caught up was taken meanwhile.*
            self.deferred = [failed for failed in self.deferred if failed.member != change.member]
            self.waiting = deque(waiting for waiting in self.waiting if not _is_failure_of(waiting, change.member))
        self.waiting.append(change)

    def refuse(self, change: Change) -> None:
        """Asked of a voter that does not lead."""
        if isinstance(change, Requested):
            self._local.at_once(ev.Reply(change.request, "NOT_PRIMARY", "this voter is not the primary"))

    def reconsider(self, node: str) -> None:
        """A voter is back: whoever failed while there was no majority is looked at again, but for itself."""
        failed, self.deferred = self.deferred, []
        self.waiting.extend(change for change in failed if change.member.node != node)

    def next_record(self, record: Record) -> Record | None:
        """The record that the next change makes of the committed one; None when there is nothing left to propose.

        Of what is so already the same record is committed once more before it is said: only who leads knows. *A leader
        that had slept was asked for a snapshot that its record had, and said that it is there; its successor had
        dropped it meanwhile.*"""
        local = self._local
        sealing = self._snapshots.is_sealing(record)
        if not sealing:
            self.waiting.extend(self.growing)
            self.growing = []
        while self.waiting:
            change = self.waiting.popleft()
            if sealing and isinstance(change, ev.ExpandAsked):
                self.growing.append(change)
                continue
            around = self._circumstances(change, record)
            if isinstance(change, ev.MemberFailed) and must_wait(change, record, around):
                self.deferred.append(change)
                self.again_at_ns = local.now_ns + local.timing.lease_ns
                continue
            local.cause = getattr(change, "cause", "") or local.cause
            outcome = outcome_of(change, record, around)
            verdict = Verdict(outcome.kind, outcome.outcome, outcome.alternatives)
            came_of_itself = isinstance(change, ev.MemberFailed | ev.MemberCaughtUp)
            local.tell(Changed(change, record, around), verdict, unasked=came_of_itself)
            request = change.request if isinstance(change, Requested) else None
            proposed = outcome.record
            if isinstance(change, Requested) and proposed is None and not outcome.code and not record.deleted:
                proposed = record
            if isinstance(change, ev.SealFailed) and proposed is not None:
                self._snapshots.fails(change)
            if proposed is not None:
                if isinstance(change, Requested):
                    self._answer_when_committed(change)
                self._take_along(proposed)
                return proposed
            if request is not None:
                local.when_durable(ev.Reply(request, outcome.code, outcome.error))
            elif isinstance(change, ev.MemberCaughtUp):
                local.when_durable(ev.Require())  # it never left the set: its failure was never committed
        return None

    def _answer_when_committed(self, change: Requested) -> None:
        if isinstance(change, ev.TakeAsked):
            self._snapshots.wait(change)
        else:
            self.asked.append(change.request)

    def _take_along(self, proposed: Record) -> None:
        """Who waits next for what is so by this record needs no commit of his own. *Disks were slow, and what was asked
        for was asked for again sooner than a record was committed, one for each time: the queue only grew, and who
        wanted to attach waited behind half a minute of requests that nobody wanted to hear of any more.*"""
        while self.waiting and not proposed.deleted:
            change = self.waiting[0]
            if not isinstance(change, Requested):
                return
            outcome = outcome_of(change, proposed, self._circumstances(change, proposed))
            if outcome.record is not None or outcome.code:
                return
            self.waiting.popleft()
            self._answer_when_committed(change)

    def committed(self) -> None:
        """The record on its way is committed: whoever asked for it is answered."""
        for request in self.asked:
            self._local.when_durable(ev.Reply(request))
        self.asked = []

    def drop(self) -> None:
        """We stopped leading: whoever waits asks the next leader."""
        waiting = (*self.waiting, *self.growing)
        requests = [change.request for change in waiting if isinstance(change, Requested)]
        for request in [*requests, *self.asked]:
            self._local.at_once(ev.Reply(request, "NOT_PRIMARY", "it stopped being the primary"))
        self._snapshots.drop()
        self.waiting.clear()
        self.deferred, self.growing = [], []
        self.asked = []

    def _circumstances(self, change: Change, record: Record) -> Circumstances:
        local = self._local
        absent_ns = 0
        if isinstance(change, ev.MemberFailed):
            absent_ns = local.absent_ns(change.member.node)
        elif isinstance(change, ev.AttachAsked) and record.attachment is not None:
            absent_ns = local.attached_absent_ns()
        stamp = local.state.slot.stamp if local.state.slot is not None else UNSTAMPED
        return Circumstances(
            local.me.node,
            tuple(sorted(local.up)),
            tuple(sorted(local.heard)),
            absent_ns,
            local.timing.lease_ns,
            stamp,
        )


def _is_failure_of(change: Change, member: Voter) -> bool:
    return isinstance(change, ev.MemberFailed) and change.member == member
