"""What the tests of the csi service share: volumes kept in memory, and messages that are right."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from stoscore.errors import Code, StosError, not_found, precondition
from stoscore.messages import (
    Apart,
    Attached,
    AttachmentModel,
    Capacity,
    CatalogueEntry,
    FailureMode,
    FrontendOpened,
    GroupClaim,
    OnUnavailable,
    RecordModel,
    ReplicaStatus,
    SnapshotClaim,
    SnapshotView,
    StampModel,
    VoterModel,
)
from stoscore.proto import csi_pb2 as pb
from stoscore.units import GIB
from stoscore.volumes import SourceSpec, Survey
from stoscore.volumes.groups import group_id, member_name
from stoscore.volumes.snapshots import Listed, OfVolume

VOTER = VoterModel(node="n1", incarnation="0" * 16)
SINGLE = pb.VolumeCapability.AccessMode.SINGLE_NODE_WRITER


class Context:
    """Of a caller without a deadline."""

    def time_remaining(self) -> None:
        return None


def mounted(fs_type: str = "", mode: Any = SINGLE, flags: Sequence[str] = ()) -> pb.VolumeCapability:
    capability = pb.VolumeCapability(mount=pb.VolumeCapability.MountVolume(fs_type=fs_type, mount_flags=flags))
    capability.access_mode.mode = mode
    return capability


def block(mode: Any = SINGLE) -> pb.VolumeCapability:
    capability = pb.VolumeCapability(block=pb.VolumeCapability.BlockVolume())
    capability.access_mode.mode = mode
    return capability


def create_request(
    name: str = "pvc-1",
    required_bytes: int = GIB,
    limit_bytes: int = 0,
    capability: pb.VolumeCapability | None = None,
    **parameters: str,
) -> pb.CreateVolumeRequest:
    return pb.CreateVolumeRequest(
        name=name,
        capacity_range=pb.CapacityRange(required_bytes=required_bytes, limit_bytes=limit_bytes),
        volume_capabilities=[capability or mounted()],
        parameters=parameters,
    )


class MemorySnapshots:
    """Snapshots of `MemoryVolumes`, and whose their names are by the rules that `services/nats/catalogue.py` keeps."""

    def __init__(self, records: dict[str, RecordModel]) -> None:
        self._records = records
        self.views: dict[tuple[str, str], SnapshotView] = {}
        self.claims: dict[str, SnapshotClaim] = {}
        self._fences: dict[str, StampModel] = {}
        self._moments = 1_700_000_000_000

    async def take(
        self, volume: str, snapshot: str, *, since: StampModel | None = None, timeout_s: float = 30.0
    ) -> SnapshotView:
        record = self._changed(volume)
        if (volume, snapshot) not in self.views:
            fence = self._fences.get(volume)
            if since is not None and fence is not None and since.version <= fence.version:
                raise StosError(Code.ABORTED, "a fence was set since")
            self._moments += 1
            self.views[volume, snapshot] = SnapshotView(
                volume=volume,
                snapshot=snapshot,
                size_bytes=record.size_bytes,
                created_ms=self._moments,
                ready=True,
                holders=("n1",),
                root="0" * 16,
            )
        return self.views[volume, snapshot]

    async def drop(
        self,
        volume: str,
        snapshot: str,
        *,
        created_ms: int | None = None,
        fence: bool = False,
        timeout_s: float = 30.0,
    ) -> None:
        if fence:
            self._fences[volume] = StampModel(generation=0, epoch=1, version=self._record(volume).version)
        self._changed(volume)
        view = self.views.get((volume, snapshot))
        if view is not None and created_ms in (None, view.created_ms):
            del self.views[volume, snapshot]

    async def of(self, volume: str, *, timeout_s: float = 30.0) -> tuple[SnapshotView, ...]:
        self._record(volume)
        return tuple(view for (of, _), view in self.views.items() if of == volume)

    async def get(self, volume: str, snapshot: str, *, timeout_s: float = 30.0) -> SnapshotView:
        self._record(volume)
        if (volume, snapshot) not in self.views:
            raise not_found(f"there is no snapshot {snapshot}")
        return self.views[volume, snapshot]

    async def listed(self, volume: str, *, timeout_s: float = 30.0) -> Listed:
        return [OfVolume(_entry(self._record(volume)), await self.of(volume), 0)]

    async def page(self, after: str, limit: int, *, timeout_s: float = 30.0) -> tuple[Listed, str]:
        rest = sorted((record for record in self._records.values() if record.name > after), key=lambda r: r.name)
        rows = [OfVolume(_entry(record), await self.of(record.volume), 0) for record in rest[:limit]]
        return rows, rows[-1][0].name if len(rest) > limit else ""

    async def claim(self, claim: SnapshotClaim) -> SnapshotClaim | None:
        existing = self.claims.get(claim.snapshot)
        if existing not in (None, claim) and (existing.volume != claim.volume or existing.stage == "dropping"):
            return existing
        self.claims[claim.snapshot] = claim
        return None

    async def claimed(self, snapshot: str) -> SnapshotClaim | None:
        return self.claims.get(snapshot)

    async def release(self, claim: SnapshotClaim) -> None:
        existing = self.claims.get(claim.snapshot)
        if existing == claim and existing.stage == "dropping":
            del self.claims[claim.snapshot]

    def _changed(self, volume: str) -> RecordModel:
        record = self._record(volume)
        self._records[volume] = record.model_copy(update={"version": record.version + 1})
        return record

    def _record(self, volume: str) -> RecordModel:
        if volume not in self._records:
            raise not_found(f"there is no volume {volume}")
        return self._records[volume]


class MemoryGroups:
    """Snapshots of groups of `MemoryVolumes`: a claim for each, as `stoscore.volumes.Groups` has them."""

    def __init__(self, snapshots: MemorySnapshots) -> None:
        self._snapshots = snapshots
        self.claims: dict[str, GroupClaim] = {}

    async def take(
        self, name: str, volumes: Sequence[str], *, timeout_s: float = 30.0
    ) -> tuple[GroupClaim, tuple[SnapshotView, ...]]:
        for volume in volumes:
            await self._snapshots.of(volume)
        known = self.claims.get(name)
        if known is None:
            known = GroupClaim(name=name, attempt=secrets.token_hex(8), volumes=tuple(sorted(volumes)), stage="ready")
            for volume in known.volumes:
                view = await self._snapshots.take(volume, member_name(known))
                self._snapshots.views[volume, view.snapshot] = view.model_copy(update={"group": group_id(known)})
            self.claims[name] = known
        if set(known.volumes) != set(volumes):
            raise StosError(Code.ALREADY_EXISTS, "it is of other volumes")
        return known, await self.of(known)

    async def drop(self, name: str, attempt: str, *, timeout_s: float = 30.0) -> None:
        known = self.claims.get(name)
        if known is not None and known.attempt == attempt:
            for volume in known.volumes:
                await self._snapshots.drop(volume, member_name(known))
            del self.claims[name]

    async def find(self, name: str) -> GroupClaim | None:
        return self.claims.get(name)

    async def get(self, name: str, attempt: str = "") -> GroupClaim:
        known = self.claims.get(name)
        if known is None or attempt not in ("", known.attempt):
            raise not_found(f"there is no group snapshot {name}")
        return known

    async def of(self, claim: GroupClaim, *, timeout_s: float = 30.0) -> tuple[SnapshotView, ...]:
        return tuple([await self._snapshots.get(volume, member_name(claim)) for volume in claim.volumes])


class MemoryVolumes:
    """The volumes of a cluster with a pool of `pool_bytes`, by the rules that `stoscore.volumes.Volumes`
    keeps; a frontend is served where `export` says."""

    def __init__(self, *, nodes: Sequence[str] = ("n1", "app"), pool_bytes: int = 100 * GIB) -> None:
        self.records: dict[str, RecordModel] = {}
        self.frontends: set[tuple[str, str]] = set()
        self.sockets: dict[str, str] = {}
        """volume -> path of the NBD socket that serves it"""
        self.asked: list[str] = []
        self.unserved: set[str] = set()
        self._made_bytes: dict[str, int] = {}
        self.sources: dict[str, SourceSpec | None] = {}
        self.snapshots = MemorySnapshots(self.records)
        self.groups = MemoryGroups(self.snapshots)
        self._nodes = nodes
        self._pool_bytes = pool_bytes

    async def create(
        self,
        name: str,
        size_bytes: int,
        *,
        replicas: int = 2,
        zones: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        failure_mode: FailureMode = "alwayson",
        on_unavailable: OnUnavailable = "suspend",
        near: str | None = None,
        source: SourceSpec | None = None,
        timeout_s: float = 30.0,
    ) -> ReplicaStatus:
        self.asked.append(f"create {name} zones={','.join(zones)}" + (f" near={near}" if near else ""))
        for record in self.records.values():
            if record.name == name:
                if self.sources[record.volume] != source:
                    raise StosError(Code.ALREADY_EXISTS, f"volume {name} began as something else")
                made_as = (self._made_bytes[record.volume], record.replicas, record.failure_mode, record.on_unavailable)
                if made_as != (size_bytes, replicas, failure_mode, on_unavailable):
                    raise StosError(
                        Code.ALREADY_EXISTS,
                        f"volume {name} has {record.size_bytes} bytes",
                        details={"size_bytes": record.size_bytes},
                    )
                return _status(record)
        if size_bytes > self._pool_bytes:
            raise StosError(Code.RESOURCE_EXHAUSTED, "no node has room for it")
        if source is not None:
            await self._check_source(source, size_bytes)
        record = RecordModel(
            volume=secrets.token_hex(16),
            name=name,
            size_bytes=size_bytes,
            replicas=replicas,
            generation=0,
            epoch=1,
            version=1,
            voters=[VOTER],
            in_sync=[VOTER],
            primary=VOTER,
            labels=dict(labels or {}),
            failure_mode=failure_mode,
            on_unavailable=on_unavailable,
            zones=list(zones),
        )
        self.records[record.volume] = record
        self._made_bytes[record.volume] = size_bytes
        self.sources[record.volume] = source
        return _status(record)

    async def _check_source(self, source: SourceSpec, size_bytes: int) -> None:
        has_bytes = self._record(source.volume).size_bytes
        if source.snapshot:
            has_bytes = (await self.snapshots.get(source.volume, source.snapshot)).size_bytes
        if size_bytes < has_bytes:
            raise StosError(Code.OUT_OF_RANGE, f"the source has {has_bytes} bytes")

    async def get(self, name_or_id: str) -> tuple[CatalogueEntry, ReplicaStatus | None]:
        record = self._record(name_or_id)
        return _entry(record), _status(record)

    async def survey(self, name_or_id: str) -> tuple[CatalogueEntry, Survey]:
        named = next((record for record in self.records.values() if record.name == name_or_id), None)
        record = named or self._record(name_or_id)
        return _entry(record), self._survey(record)

    async def page(
        self, after: str, limit: int, *, timeout_s: float = 30.0
    ) -> tuple[list[tuple[CatalogueEntry, Survey]], str]:
        rest = sorted((record for record in self.records.values() if record.name > after), key=lambda r: r.name)
        rows = [(_entry(record), self._survey(record)) for record in rest[:limit]]
        return rows, rows[-1][0].name if len(rest) > limit else ""

    async def capacity(
        self, replicas: int, *, zones: Sequence[str] = (), apart: Apart = "", timeout_s: float = 30.0
    ) -> Capacity:
        self.asked.append(f"capacity replicas={replicas} zones={','.join(zones)} apart={apart}")
        return Capacity(largest_bytes=self._pool_bytes, available_bytes=2 * self._pool_bytes, bids=3)

    async def attached_to(self, node: str, *, timeout_s: float = 30.0) -> int:
        return sum(record.attachment is not None and record.attachment.node == node for record in self.records.values())

    async def set_policy(
        self,
        volume: str,
        *,
        replicas: int | None = None,
        failure_mode: FailureMode | None = None,
        on_unavailable: OnUnavailable | None = None,
        timeout_s: float = 30.0,
    ) -> RecordModel:
        asked = {"replicas": replicas, "failure_mode": failure_mode, "on_unavailable": on_unavailable}
        changes = {key: value for key, value in asked.items() if value is not None}
        self.records[volume] = self._record(volume).model_copy(update=changes)
        return self.records[volume]

    async def expand(self, volume: str, size_bytes: int, *, timeout_s: float = 30.0) -> RecordModel:
        record = self._record(volume)
        if size_bytes > self._pool_bytes:
            raise StosError(Code.RESOURCE_EXHAUSTED, "no room for more")
        self.records[volume] = record.model_copy(update={"size_bytes": max(size_bytes, record.size_bytes)})
        return self.records[volume]

    async def move_primary(self, volume: str, to: str | None = None, *, timeout_s: float = 30.0) -> ReplicaStatus:
        self.asked.append(f"move {self._record(volume).name} to {to}")
        return _status(self._record(volume))

    def _survey(self, record: RecordModel) -> Survey:
        survey = Survey()
        if record.volume in self.unserved:
            survey.add("n1", StosError(Code.UNAVAILABLE, "no answer"))
        else:
            survey.add("n1", _status(record))
        return survey

    async def attach(self, volume: str, node: str, *, timeout_s: float = 30.0) -> Attached:
        record = self._record(volume)
        if node not in self._nodes:
            raise not_found(f"there is no node {node}")
        if record.attachment is None:
            epoch = record.attach_epoch + 1
            attachment = AttachmentModel(node=node, attach_epoch=epoch)
            record = record.model_copy(update={"attachment": attachment, "attach_epoch": epoch})
            self.records[volume] = record
        assert record.attachment is not None
        if record.attachment.node != node:
            raise precondition(f"the volume is attached to {record.attachment.node}")
        return Attached(record=record, attach_epoch=record.attach_epoch)

    async def detach(self, volume: str, node: str | None = None, *, timeout_s: float = 30.0) -> None:
        record = self._record(volume)
        if record.attachment is not None and node in (None, record.attachment.node):
            self.records[volume] = record.model_copy(update={"attachment": None})

    async def delete(self, name_or_id: str, *, timeout_s: float = 30.0) -> bool:
        self.asked.append(f"delete {name_or_id}")
        record = self.records.get(name_or_id)
        if record is not None and record.attachment is not None:
            raise precondition(f"the volume is attached to {record.attachment.node}")
        if any(volume == name_or_id for volume, _ in self.snapshots.views):
            raise precondition("the volume has snapshots")
        return self.records.pop(name_or_id, None) is not None

    async def open_frontend(self, volume: str, node: str, *, timeout_s: float = 30.0) -> FrontendOpened:
        record = self._record(volume)
        if record.attachment is None or record.attachment.node != node:
            raise precondition(f"the volume is not attached to {node}")
        self.frontends.add((volume, node))
        path = self.sockets.get(volume, f"/run/{volume}.sock")
        return FrontendOpened(node=node, socket=path, uri=f"nbd+unix:///{record.name}?socket={path}")

    async def close_frontend(self, volume: str, node: str, *, timeout_s: float = 30.0) -> None:
        self._record(volume)
        self.frontends.discard((volume, node))

    def _record(self, volume: str) -> RecordModel:
        if volume not in self.records:
            raise not_found(f"there is no volume {volume}")
        return self.records[volume]


def _status(record: RecordModel) -> ReplicaStatus:
    return ReplicaStatus(
        node="n1", incarnation="0" * 16, role="primary", epoch=record.epoch, serving=True, record=record
    )


def _entry(record: RecordModel) -> CatalogueEntry:
    return CatalogueEntry(
        volume=record.volume,
        name=record.name,
        size_bytes=record.size_bytes,
        replicas=record.replicas,
        nodes=["n1"],
        labels=record.labels,
        state="ready",
    )
