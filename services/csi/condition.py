"""A volume's condition in one sentence: whether somebody has to look at it, and why."""

from __future__ import annotations

from stoscore.messages import RecordModel, ReplicaStatus
from stoscore.proto import csi_pb2 as pb
from stoscore.units import format_size
from stoscore.volumes import Survey


def condition(survey: Survey) -> pb.VolumeCondition:
    """Abnormal: fewer copies in sync than asked for, blocks that nobody has, or nobody serves. Rot that was healed is
    told and is nobody's concern: a disk with too much of it loses its copies by itself."""
    status = survey.serving
    if status is None or status.record is None:
        return pb.VolumeCondition(
            abnormal=True, message=f"no copy serves, I/O waits: {survey.told() or 'none is known'}"
        )
    reasons = [reason for reason in (_copies(status.record, status), _writes(status), _lost(survey)) if reason]
    if reasons:
        return pb.VolumeCondition(abnormal=True, message="; ".join(reasons))
    count = len(status.record.in_sync)
    healed = sum(copy.healed_blocks for copy in survey.statuses.values())
    told = f"; {healed} rotten blocks healed" if healed else ""
    return pb.VolumeCondition(message=f"{count} of {count} copies in sync, served by {status.node}{told}")


def _copies(record: RecordModel, status: ReplicaStatus) -> str:
    wanted = record.replicas + 1
    if len(record.in_sync) >= wanted:
        return ""
    in_sync = {voter.node for voter in record.in_sync}
    catching_up = {resync.node: f"{resync.node} lacks {format_size(resync.bytes_left)}" for resync in status.resyncs}
    told = list(catching_up.values())
    behind = [voter.node for voter in (*record.voters, *record.joining) if voter.kind == "data"]
    told += [f"{node} is not in sync" for node in behind if node not in in_sync and node not in catching_up]
    return f"{len(in_sync)} of {wanted} copies in sync" + (f" ({', '.join(told)})" if told else "")


def _writes(status: ReplicaStatus) -> str:
    match status.write_state:
        case "suspended":
            return "writes wait: fewer copies in sync than the failure mode asks for"
        case "failing":
            return "writes fail: fewer copies in sync than the failure mode asks for"
    return ""


def _lost(survey: Survey) -> str:
    """By their primary: a backup's rot is healed from it."""
    lost = survey.serving.lost_blocks if survey.serving is not None else 0
    return f"{lost} rotten blocks that no other copy has: reading them fails" if lost else ""
