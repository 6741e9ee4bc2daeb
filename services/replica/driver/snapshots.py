"""Between the record's snapshots and the replication's seals and layers. Pure.

A layer on the disk is one of a snapshot by its name, which has the number of the step that sealed it. What is wanted of
a copy's layers follows from records alone: the last one that is known to be committed, and the one that is stored.
"""

from __future__ import annotations

from collections.abc import Iterable

from services.replica.brain import Record, Slot, Voter
from services.replica.brain import events as ev
from services.replica.replication import effects as fx
from services.replica.replication.messages import SEQ_BITS
from services.replica.replication.past import Moment, Past
from stoscore.units import BLOCK_BYTES


def pending(record: Record) -> list[tuple[str, int]]:
    return [(snapshot.name, snapshot.asked) for snapshot in record.snapshots if snapshot.state == "pending"]


def pasts(record: Record, me: Voter) -> tuple[Past, ...]:
    """The snapshots that our own copy holds, and who lacks each."""
    copies = [member for member in record.members if member.kind == "data"]
    return tuple(
        Past(
            Moment(snapshot.name, snapshot.seal),
            snapshot.size_bytes // BLOCK_BYTES,
            int(snapshot.root, 16),
            frozenset(copy.node for copy in copies if copy.incarnation not in snapshot.holders),
        )
        for snapshot in record.snapshots
        if snapshot.state == "ready" and me.incarnation in snapshot.holders
    )


def snapshot_event(report: fx.ReportSealed | fx.ReportNotSealed, record: Record | None) -> ev.Event:
    if isinstance(report, fx.ReportNotSealed):
        return ev.SealFailed(report.name, report.asked, report.reason, report.lapsed)
    found = [record.member_on(node) for node in report.nodes] if record is not None else []
    holders = tuple(member for member in found if member is not None)
    size_bytes = report.size_blocks * BLOCK_BYTES
    return ev.SnapshotSealed(report.name, report.asked, report.seq, size_bytes, f"{report.root:016x}", holders)


def unwanted(layers: Iterable[str], committed: Slot, stored: Slot) -> list[str]:
    """The sealed layers that no snapshot needs. One that was sealed in the committed record's epoch, or later, may be
    about to become ready, as long as a snapshot of its name is pending; one of an earlier epoch that the committed
    record does not list never will be, for every record to come descends from that one.

    When a later record is stored than the one that we know to be committed, one between them may be in force. *A copy
    held a snapshot by the committed record, which it had not heard to be committed, and stored the next one, without
    it. That one was never committed; the copy had dropped the layer, and went on as one of its holders.*

    An epoch that we only voted in says nothing: who wins it may have stored a record of the epoch before that makes the
    snapshot ready, and that we have not heard of."""
    records = (committed.record, stored.record)
    ready = {known.layer for record in records for known in record.snapshots if known.state == "ready"}
    names, latest = {name for name, _ in pending(committed.record)}, stored.stamp == committed.stamp
    return [
        layer
        for layer in layers
        if layer not in ready and (_epoch(layer) < committed.stamp.epoch or (latest and _name(layer) not in names))
    ]


def _name(layer: str) -> str:
    return layer.rpartition("-")[0]


def _epoch(layer: str) -> int:
    number = layer.rpartition("-")[2]
    try:
        return int(number, 16) >> SEQ_BITS
    except ValueError:
        return 0
