"""What each asked-for change makes of the record: the next one to propose, or why there is none."""

from __future__ import annotations

from dataclasses import dataclass, replace

from services.replica.brain import events as ev
from services.replica.brain.attachment import AttachedElsewhere, attach, detach
from services.replica.brain.membership import with_member, without
from services.replica.brain.record import Record

Change = ev.MemberFailed | ev.MemberCaughtUp | ev.AttachAsked | ev.DetachAsked | ev.DeleteAsked


@dataclass(frozen=True, slots=True)
class Outcome:
    """`record` None: nothing to propose; then `code` and `error` are what a request is answered with, "" for "it is
    so already". `kind` and `outcome` tell the decision, "" when there was nothing to decide."""

    record: Record | None = None
    kind: str = ""
    outcome: str = ""
    inputs: tuple[tuple[str, object], ...] = ()
    code: str = ""
    error: str = ""


def outcome_of(change: Change, record: Record) -> Outcome:
    match change:
        case ev.MemberFailed(member, reason):
            smaller = without(record, member)
            if smaller is not None:
                left = [voter.node for voter in smaller.in_sync]
                return Outcome(
                    smaller, "shrink", f"{member.node} leaves the in-sync set: {reason}", inputs=(("left", left),)
                )
            if member in record.in_sync:
                waits = "writes wait: the last in-sync copy stays"
                return Outcome(None, "suspend", waits, inputs=(("reason", reason),))
            return Outcome()
        case ev.MemberCaughtUp(member):
            larger = with_member(record, member)
            if larger is None:
                return Outcome()
            now_in = [voter.node for voter in larger.in_sync]
            return Outcome(larger, "admit", f"{member.node} is in sync again", inputs=(("in_sync", now_in),))
        case ev.AttachAsked(_, node):
            return _attached(node, record)
        case ev.DetachAsked(_, wanted):
            detached = detach(record, wanted)
            if detached is None:
                return Outcome()
            return Outcome(detached, "detach", "no frontend may do I/O any more", inputs=(("node", wanted),))
        case ev.DeleteAsked():
            return _deleted(record)


def _attached(node: str, record: Record) -> Outcome:
    if record.deleted:
        return Outcome(code="NOT_FOUND", error=f"volume {record.name} is being deleted")
    try:
        attached = attach(record, node)
    except AttachedElsewhere as elsewhere:
        error = f"volume {record.name} is attached to node {elsewhere.node}"
        refused = f"not attached to {node}: {error}"
        return Outcome(None, "refuse", refused, code="FAILED_PRECONDITION", error=error)
    if attached is None:
        return Outcome()
    return Outcome(attached, "attach", f"attached to {node}", inputs=(("attach_epoch", attached.attach_epoch),))


def _deleted(record: Record) -> Outcome:
    if record.attachment is not None:
        error = f"volume {record.name} is attached to node {record.attachment.node}"
        return Outcome(code="FAILED_PRECONDITION", error=error)
    if record.deleted:
        return Outcome()
    return Outcome(replace(record, deleted=True), "delete", "commits the tombstone")
