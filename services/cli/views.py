"""How volumes and nodes look as JSON: flat, with names that stay."""

from __future__ import annotations

from typing import Any

from services.cli.story import Chapter
from stoscore.errors import StosError
from stoscore.messages import CatalogueEntry, NodeEntry, NodeStatus, RecordModel, ReplicaStatus
from stoscore.volumes import Survey
from stoscore.volumes.naming import copies_of

RESYNC_LEFT_OUT: dict[str, Any] = {"v": True, "estimate": {"v"}, "foretold": {"v"}}
_COPY_LEFT_OUT: dict[str, Any] = {"v": True, "record": True, "resyncs": {"__all__": RESYNC_LEFT_OUT}}
_NODE_LEFT_OUT: dict[str, Any] = {
    **dict.fromkeys(("v", "node", "zone", "replicas", "next"), True),
    "scrub": {"v"},
    "frontends": {"__all__": {"v": True, "remote": {"v"}}},
}
"""The bus's version numbers, what is told otherwise, and pages."""


def volume(entry: CatalogueEntry, status: ReplicaStatus | None) -> dict[str, Any]:
    """One volume: what the catalogue knows, and what its primary says when it has one."""
    record = status.record if status is not None else None
    return {
        "volume": entry.volume,
        "name": entry.name,
        "size_bytes": record.size_bytes if record else entry.size_bytes,
        **policy(record or entry),
        "copies": copies_of(record.replicas if record else entry.replicas),
        "state": entry.state,
        "health": health(entry, status),
        "lost_blocks": status.lost_blocks if status is not None else 0,
        "primary": status.node if status is not None and status.serving else None,
        "generation": record.generation if record else None,
        "epoch": status.epoch if status is not None else None,
        "voters": _voters(entry, record),
        "in_sync": [voter.node for voter in record.in_sync] if record else [],
        "joining": [member.node for member in record.joining] if record else [],
        "attached": record.attachment.node if record and record.attachment else None,
        "attach_epoch": record.attachment.attach_epoch if record and record.attachment else None,
        "labels": dict(entry.labels),
    }


def policy(of: RecordModel | CatalogueEntry) -> dict[str, Any]:
    return {"replicas": of.replicas, "failure_mode": of.failure_mode, "on_unavailable": of.on_unavailable}


def health(entry: CatalogueEntry, status: ReplicaStatus | None) -> str:
    """creating, deleting, unavailable (nobody serves), damaged (blocks that nobody has), degraded (copies missing or
    behind), or healthy."""
    if entry.state != "ready":
        return entry.state
    if status is None or status.record is None or not status.serving:
        return "unavailable"
    if status.lost_blocks:
        return "damaged"
    return "healthy" if len(status.record.in_sync) >= copies_of(status.record.replicas) else "degraded"


def _voters(entry: CatalogueEntry, record: RecordModel | None) -> list[dict[str, str]]:
    if record is not None:
        return [{"node": voter.node, "kind": voter.kind} for voter in record.voters]
    data = [{"node": node, "kind": "data"} for node in entry.nodes]
    return data + [{"node": node, "kind": "witness"} for node in entry.witness_nodes]


def replicas(survey: Survey) -> list[dict[str, Any]]:
    """Each node's own word on a volume."""
    rows: list[dict[str, Any]] = [
        {
            **status.model_dump(mode="json", exclude=_COPY_LEFT_OUT),
            "generation": status.record.generation if status.record is not None else None,
            "over": survey.is_over(status),
        }
        for status in survey.statuses.values()
    ]
    rows += [{"node": node, "error": error.to_wire()} for node, error in survey.failures.items()]
    return sorted(rows, key=lambda row: str(row["node"]))


def node(entry: NodeEntry, status: NodeStatus | StosError) -> dict[str, Any]:
    """One node: up with its figures, or down with the reason."""
    base: dict[str, Any] = {"node": entry.node, "zone": entry.zone, "address": entry.address}
    if isinstance(status, StosError):
        return {**base, "up": False, "error": status.to_wire()}
    told = status.model_dump(mode="json", exclude=_NODE_LEFT_OUT)
    held = [
        {
            **replica.model_dump(mode="json", exclude=_COPY_LEFT_OUT | {"node": True}),
            "volume": replica.record.volume if replica.record else None,
            "name": replica.record.name if replica.record else None,
        }
        for replica in status.replicas
    ]
    return {**base, "up": True, **told, "replicas": held}


def chapter(told: Chapter) -> dict[str, Any]:
    """One decision with everything that it rested on."""
    event = told.event.model_dump(mode="json", exclude={"v", "volume", "name"})
    return {"about_epoch": told.epoch, "text": told.text, "times": told.times, **event}
