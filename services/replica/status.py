"""What a node tells about its voters: for `stos volume show`, for finding a primary, for people who watch."""

from __future__ import annotations

from collections.abc import Iterable

from services.replica.brain import Record
from services.replica.brain.policy import write_state
from services.replica.driver import Node, Volume
from services.replica.hosted import Hosted
from services.replica.records import to_model
from services.replica.replication.estimate import Estimate
from services.replica.replication.peer import Peer
from services.replica.replication.primary import Primary
from stoscore.messages import ReplicaStatus, ResyncEstimate, ResyncStatus, SnapshotView
from stoscore.units import BLOCK_BYTES, KIB, MS

PAGE_BYTES = 384 * KIB
"""of a message of a MiB; the rest is for frontends"""


def replica_status(node: Node, volume: Volume, hosted: Hosted, now_ns: int) -> ReplicaStatus:
    brain, primary = volume.brain, volume.primary
    hint = brain.leader.node if brain.leader is not None else None
    slot = brain.state.slot
    return ReplicaStatus(
        node=node.name,
        incarnation=hosted.incarnation,
        role=node.role(volume),
        epoch=brain.epoch,
        serving=serves(node, volume, now_ns),
        primary_hint=hint,
        record=to_model(slot) if slot is not None else None,
        allocated_bytes=hosted.store.allocated_bytes() if hosted.store is not None and not hosted.erased else 0,
        unclean=brain.unclean,
        failure=brain.failure,
        writes=primary.writes if primary else 0,
        reads=primary.reads if primary else 0,
        rotten_blocks=hosted.health.found,
        healed_blocks=hosted.health.healed,
        lost_blocks=hosted.health.lost,
        scrubbed_unix_ms=hosted.scrubbed_unix_ms,
        resyncs=_resyncs(primary, now_ns) if primary else [],
        write_state=write_state(slot.record) if slot is not None else "open",
        snapshots=snapshot_views(slot.record) if slot is not None else (),
    )


def serves(node: Node, volume: Volume, now_ns: int) -> bool:
    primary = volume.primary
    return primary is not None and primary.serving and node.leases.until(volume) > now_ns


def snapshot_views(record: Record) -> tuple[SnapshotView, ...]:
    return tuple(
        SnapshotView(
            volume=record.volume,
            snapshot=snapshot.name,
            size_bytes=snapshot.size_bytes,
            created_ms=snapshot.created_ms,
            ready=snapshot.state == "ready",
            holders=tuple(holder.node for holder in record.holders(snapshot)),
            root=snapshot.root,
            group=snapshot.group,
        )
        for snapshot in record.snapshots
    )


def page(statuses: Iterable[tuple[str, ReplicaStatus]], after: str | None) -> tuple[list[ReplicaStatus], str | None]:
    """What one message carries of (volume, status) in the order of ids: a node may hold more than NATS takes at once.
    With it what to ask after for the rest."""
    told: list[ReplicaStatus] = []
    last, size = None, 0
    for volume, status in statuses:
        if after is not None and volume <= after:
            continue
        size += len(status.model_dump_json())
        if told and size > PAGE_BYTES:
            return told, last
        told.append(status)
        last = volume
    return told, None


def in_short(status: ReplicaStatus) -> ReplicaStatus:
    """Without snapshots, without what only the volume's maker chose and what may be long."""
    if status.record is None:
        return status
    record = status.record.model_copy(update={"labels": {}, "zones": []})
    return status.model_copy(update={"record": record, "snapshots": ()})


def unfinished(peer: Peer) -> bool:
    return peer.phase not in ("live", "synced")


def resyncing(volume: Volume) -> bool:
    return volume.primary is not None and any(map(unfinished, volume.primary.peers.values()))


def _resyncs(primary: Primary, now_ns: int) -> list[ResyncStatus]:
    return [_resync(primary, peer, now_ns) for peer in primary.peers.values() if unfinished(peer)]


def _resync(primary: Primary, peer: Peer, now_ns: int) -> ResyncStatus:
    resync, catching_up = peer.resync, peer.catching_up
    left = resync.blocks_left() if resync is not None else len(peer.missed)
    sent = resync.blocks_sent if resync is not None else 0
    return ResyncStatus(
        node=peer.node,
        phase=peer.phase,
        blocks_left=left,
        bytes_left=left * BLOCK_BYTES,
        blocks_sent=sent,
        bytes_sent=sent * BLOCK_BYTES,
        estimate=_estimate(primary.catch_up.estimate(peer)),
        foretold=_estimate(catching_up.estimate) if catching_up is not None else None,
        elapsed_ms=(now_ns - catching_up.began_ns) // MS if catching_up is not None else 0,
    )


def _estimate(found: Estimate | None) -> ResyncEstimate | None:
    if found is None:
        return None
    size, time = found.bytes, found.duration_ns
    return ResyncEstimate(
        bytes=size.likely,
        bytes_low=size.low,
        bytes_high=size.high,
        ms=time.likely // MS,
        ms_low=time.low // MS,
        ms_high=time.high // MS,
    )
