"""What each asked-for change makes of the record: the next one to propose, or why there is none."""

from __future__ import annotations

from dataclasses import dataclass, replace

from services.replica.brain import events as ev
from services.replica.brain import snapshots
from services.replica.brain.attachment import AttachedElsewhere, attach, detach, is_dead
from services.replica.brain.decisions import Verdict, recorded
from services.replica.brain.membership import with_member, without
from services.replica.brain.policy import needed_copies
from services.replica.brain.quorum import majority
from services.replica.brain.record import InvalidRecord, Record, Stamp
from stoscore.limits import OWN_SNAPSHOT
from stoscore.units import format_size, in_seconds

Requested = (
    ev.AttachAsked | ev.DetachAsked | ev.DeleteAsked | ev.PolicyAsked | ev.ExpandAsked | ev.TakeAsked | ev.DropAsked
)
"""Changes that somebody waits for: they are answered with `ev.Reply`."""
Change = ev.MemberFailed | ev.MemberCaughtUp | ev.SnapshotSealed | ev.SnapshotGiven | ev.SealFailed | Requested


UNSTAMPED = Stamp(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Outcome:
    """`record` None: nothing to propose; then `code` and `error` are what a request is answered with, "" for "it is
    so already". `kind` and `outcome` tell the decision, "" when there was nothing to decide."""

    record: Record | None = None
    kind: str = ""
    outcome: str = ""
    code: str = ""
    error: str = ""
    alternatives: tuple[str, ...] = ()


@recorded
@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a change rests on besides the record. Nodes are sorted."""

    me: str
    linked: tuple[str, ...] = ()
    """Nodes that answer beats on our links."""
    heard: tuple[str, ...] = ()
    """Nodes of which we hear over the bus alone."""
    absent_ns: int = 0
    """How long the member, or the attached node, that the change is about has been silent on every way."""
    lease_ns: int = 0
    stamp: Stamp = UNSTAMPED
    """Of the record."""


@recorded
@dataclass(frozen=True, slots=True)
class Changed:
    """What a leader makes of one change."""

    change: Change
    record: Record
    around: Circumstances

    def judge(self) -> Verdict:
        outcome = outcome_of(self.change, self.record, self.around)
        return Verdict(outcome.kind, outcome.outcome, outcome.alternatives)


def must_wait(change: ev.MemberFailed, record: Record, around: Circumstances) -> bool:
    """A cut-off leader shrinks nobody. Without a majority on its links it may be the leader itself that is cut off, and
    a record that leaves only it in sync would still get through over the bus: then the copies that clients reach could
    not lead. A member that has been silent on every way for a lease is no witness to that: it is not there."""
    nodes = {voter.node for voter in record.voters}
    linked = nodes & {around.me, *around.linked}
    if len(linked) >= majority(len(nodes)):
        return False
    reached = linked | nodes & set(around.heard)
    return len(reached) < majority(len(nodes)) or change.member.node in reached or around.absent_ns < around.lease_ns


def outcome_of(change: Change, record: Record, around: Circumstances) -> Outcome:
    match change:
        case ev.MemberFailed(member, reason):
            # Nobody writes to a deleted volume, and whoever is in sync may lead it to its end.
            smaller = without(record, member) if not record.deleted else None
            if smaller is not None:
                waiting = f"to wait for {member.node}: every write would wait as well"
                return Outcome(
                    smaller, "shrink", f"{member.node} leaves the in-sync set: {reason}", alternatives=(waiting,)
                )
            return Outcome()
        case ev.MemberCaughtUp(member):
            larger = with_member(record, member)
            if larger is None:
                return Outcome()
            return Outcome(larger, "admit", f"{member.node} is in sync again")
        case ev.AttachAsked():
            return _attached(change, record, around)
        case ev.DetachAsked(_, wanted):
            detached = detach(record, wanted)
            if detached is None:
                return Outcome()
            return Outcome(detached, "detach", "no frontend may do I/O any more")
        case ev.DeleteAsked():
            return _deleted(record)
        case ev.PolicyAsked():
            return _with_policy(change, record)
        case ev.ExpandAsked():
            return _expanded(change, record)
        case ev.TakeAsked() | ev.DropAsked() | ev.SnapshotSealed() | ev.SnapshotGiven() | ev.SealFailed():
            return _with_snapshots(change, record, around)


def _with_snapshots(change: snapshots.SnapshotChange, record: Record, around: Circumstances) -> Outcome:
    try:
        found = snapshots.changed(change, record, around.stamp)
    except snapshots.Refused as refused:
        return Outcome(None, "refuse", f"no snapshot {change.name}: {refused}", code=refused.code, error=str(refused))
    if found is None:
        return Outcome()
    return Outcome(found[0], found[1].kind, found[1].outcome)


def _attached(asked: ev.AttachAsked, record: Record, around: Circumstances) -> Outcome:
    if record.deleted:
        return Outcome(code="NOT_FOUND", error=f"volume {record.name} is being deleted")
    holder = record.attachment.node if record.attachment is not None else ""
    dead = is_dead(around.absent_ns, around.lease_ns)
    fencing = holder not in ("", asked.node) and (dead or bool(asked.force))
    try:
        attached = attach(record, asked.node, fencing=fencing)
    except AttachedElsewhere as elsewhere:
        error = f"volume {record.name} is attached to node {elsewhere.node}, which is alive"
        return Outcome(
            None,
            "refuse",
            f"not attached to {asked.node}: {error}",
            code="FAILED_PRECONDITION",
            error=error,
            alternatives=(f"to fence {elsewhere.node}: its absence for one lease, or an operator, would do it",),
        )
    if attached is None:
        return Outcome()
    if fencing:
        why = f"silent for {in_seconds(around.absent_ns)}" if dead else f"an operator says: {asked.force}"
        outcome = f"{holder} is fenced by attach epoch {attached.attach_epoch} ({why}); attached to {asked.node}"
        return Outcome(attached, "fence", outcome, alternatives=(f"to refuse {asked.node} until {holder} detaches",))
    return Outcome(attached, "attach", f"attached to {asked.node} with attach epoch {attached.attach_epoch}")


def _with_policy(asked: ev.PolicyAsked, record: Record) -> Outcome:
    if record.deleted:
        return Outcome(code="NOT_FOUND", error=f"volume {record.name} is being deleted")
    wanted = replace(
        record,
        replicas=record.replicas if asked.replicas is None else asked.replicas,
        failure_mode=record.failure_mode if asked.failure_mode is None else asked.failure_mode,
        on_unavailable=record.on_unavailable if asked.on_unavailable is None else asked.on_unavailable,
    )
    try:
        wanted.validate()
    except InvalidRecord as broken:
        return Outcome(None, "refuse", f"the policy stays: {broken}", code="INVALID_ARGUMENT", error=str(broken))
    if wanted == record:
        return Outcome()
    needed = needed_copies(wanted.failure_mode, wanted.copies)
    told = f"{wanted.copies} copies, a write needs {needed} ({wanted.failure_mode}), else {wanted.on_unavailable}"
    return Outcome(wanted, "policy", told)


def _expanded(asked: ev.ExpandAsked, record: Record) -> Outcome:
    """Voters grow their stores before they say that they accepted the record, so whoever counts for a majority has the
    room by then, and a copy that lags behind refuses what lies beyond its end."""
    if record.deleted:
        return Outcome(code="NOT_FOUND", error=f"volume {record.name} is being deleted")
    if asked.size_bytes <= record.size_bytes:
        return Outcome()
    wanted = replace(record, size_bytes=asked.size_bytes)
    try:
        wanted.validate()
    except InvalidRecord as broken:
        return Outcome(None, "refuse", f"the size stays: {broken}", code="INVALID_ARGUMENT", error=str(broken))
    return Outcome(wanted, "expand", f"{format_size(record.size_bytes)} become {format_size(asked.size_bytes)}")


def _deleted(record: Record) -> Outcome:
    if record.attachment is not None:
        error = f"volume {record.name} is attached to node {record.attachment.node}"
        return Outcome(None, "refuse", f"not deleted: {error}", code="FAILED_PRECONDITION", error=error)
    if record.deleted:
        return Outcome()
    of_people = [snapshot for snapshot in record.snapshots if not snapshot.name.startswith(OWN_SNAPSHOT)]
    if of_people:
        names = ", ".join(snapshot.name for snapshot in of_people[:3]) + (", …" if of_people[3:] else "")
        error = f"volume {record.name} has snapshots, which are part of it ({names}): delete them first"
        return Outcome(None, "refuse", f"not deleted: {error}", code="FAILED_PRECONDITION", error=error)
    return Outcome(replace(record, deleted=True, snapshots=()), "delete", "commits the tombstone")
