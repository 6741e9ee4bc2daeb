"""CSI's GroupController service: snapshots of several volumes at one moment (`stoscore/volumes/groups.py`).

A group's id is its name and the attempt that it was taken in: a late deletion never hits one that was taken again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from services.csi import parameters, snapshot_listing, snapshot_names, validate
from services.csi.calls import remaining_s
from services.csi.pending import Pending
from services.csi.port import VolumesPort
from stoscore.errors import Code, StosError, invalid, not_found
from stoscore.limits import GROUP_VOLUMES_MAX, valid_group_id
from stoscore.messages import GroupClaim, SnapshotView
from stoscore.proto import csi_pb2 as pb
from stoscore.proto import csi_pb2_grpc as rpc
from stoscore.volumes.groups import group_id, parts_of


class GroupController(rpc.GroupControllerServicer):  # type: ignore[misc, unused-ignore]  # generated without types
    def __init__(self, volumes: VolumesPort, pending: Pending, *, request_timeout_s: float):
        self._groups = volumes.groups
        self._pending = pending
        self._timeout_s = request_timeout_s

    async def GroupControllerGetCapabilities(
        self, request: pb.GroupControllerGetCapabilitiesRequest, context: Any
    ) -> pb.GroupControllerGetCapabilitiesResponse:
        capability = pb.GroupControllerServiceCapability
        kind = capability.RPC.CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT
        return pb.GroupControllerGetCapabilitiesResponse(capabilities=[capability(rpc=capability.RPC(type=kind))])

    async def CreateVolumeGroupSnapshot(
        self, request: pb.CreateVolumeGroupSnapshotRequest, context: Any
    ) -> pb.CreateVolumeGroupSnapshotResponse:
        name = snapshot_names.of_request(request.name)
        volumes = [validate.volume_id(volume) for volume in dict.fromkeys(request.source_volume_ids)]
        if not 1 <= len(volumes) <= GROUP_VOLUMES_MAX:
            raise invalid(f"source_volume_ids names {len(volumes)} volumes", f"name 1 to {GROUP_VOLUMES_MAX}")
        parameters.of_snapshot(request.parameters)
        timeout_s = remaining_s(context, self._timeout_s)
        claim, views = await self._pending.run(
            f"group snapshot {name}", lambda: self._groups.take(name, volumes, timeout_s=timeout_s)
        )
        return pb.CreateVolumeGroupSnapshotResponse(group_snapshot=described(claim, views))

    async def DeleteVolumeGroupSnapshot(
        self, request: pb.DeleteVolumeGroupSnapshotRequest, context: Any
    ) -> pb.DeleteVolumeGroupSnapshotResponse:
        if not request.group_snapshot_id:
            raise invalid("group_snapshot_id is empty")
        answer = pb.DeleteVolumeGroupSnapshotResponse()
        if not valid_group_id(request.group_snapshot_id):
            return answer  # what none can have is gone already
        name, attempt = parts_of(request.group_snapshot_id)
        known = await self._groups.find(name)
        if known is None or known.attempt != attempt:
            return answer
        _check_members(known, request.snapshot_ids)
        timeout_s = remaining_s(context, self._timeout_s)
        await self._pending.run(f"group snapshot {name}", lambda: self._groups.drop(name, attempt, timeout_s=timeout_s))
        return answer

    async def GetVolumeGroupSnapshot(
        self, request: pb.GetVolumeGroupSnapshotRequest, context: Any
    ) -> pb.GetVolumeGroupSnapshotResponse:
        if not request.group_snapshot_id:
            raise invalid("group_snapshot_id is empty")
        if not valid_group_id(request.group_snapshot_id):
            raise not_found(f"there is no group snapshot {request.group_snapshot_id[:96]!r}")
        claim = await self._groups.get(*parts_of(request.group_snapshot_id))
        _check_members(claim, request.snapshot_ids)
        views = await self._groups.of(claim, timeout_s=remaining_s(context, self._timeout_s))
        return pb.GetVolumeGroupSnapshotResponse(group_snapshot=described(claim, views))


def described(claim: GroupClaim, views: Iterable[SnapshotView]) -> pb.VolumeGroupSnapshot:
    snapshots = [snapshot_listing.described(view) for view in views]
    found = pb.VolumeGroupSnapshot(
        group_snapshot_id=group_id(claim),
        snapshots=snapshots,
        ready_to_use=all(snapshot.ready_to_use for snapshot in snapshots),
    )
    found.creation_time.FromMilliseconds(claim.created_ms)
    return found


def _check_members(claim: GroupClaim, snapshot_ids: Iterable[str]) -> None:
    """A caller may leave them out. Raises INVALID_ARGUMENT."""
    told = set(snapshot_ids)
    named = {snapshot_names.of_id(snapshot_id) for snapshot_id in told}
    volumes = {known[0] for known in named if known is not None and known[1].endswith(claim.attempt)}
    if told and (len(volumes) != len(told) or volumes != set(claim.volumes)):
        raise StosError(
            Code.INVALID_ARGUMENT,
            f"snapshot_ids are not those of the group snapshot {claim.name}",
            next_step="leave them out, or name all of them",
        )
