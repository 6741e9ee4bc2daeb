"""CSI's Controller service: volumes are made, listed, given to a node, changed, taken from it and deleted.

It keeps nothing: every call becomes requests to the volume's own brain, all of them idempotent, so a call
may be repeated to this process, to a restarted one or to another one. A `volume_id` is the volume's random
id, never its name: an id is not reused, so a late DeleteVolume can't hit a newer volume.
"""

from __future__ import annotations

from typing import Any

from services.csi import listing, parameters, snapshot_listing, snapshot_names, topology, validate
from services.csi.calls import remaining_s
from services.csi.condition import condition
from services.csi.pending import Pending
from services.csi.placing import Placing
from services.csi.port import VolumesPort
from stoscore.errors import Code, StosError, invalid, not_found
from stoscore.limits import VOLUME_BYTES_MIN, valid_node_name, valid_volume_id
from stoscore.messages import FS_LABEL, RecordModel
from stoscore.proto import csi_pb2 as pb
from stoscore.proto import csi_pb2_grpc as rpc
from stoscore.volumes.groups import CompleteGroups

CAPABILITIES = (
    pb.ControllerServiceCapability.RPC.CREATE_DELETE_VOLUME,
    pb.ControllerServiceCapability.RPC.PUBLISH_UNPUBLISH_VOLUME,
    pb.ControllerServiceCapability.RPC.LIST_VOLUMES,
    pb.ControllerServiceCapability.RPC.LIST_VOLUMES_PUBLISHED_NODES,
    pb.ControllerServiceCapability.RPC.GET_VOLUME,
    pb.ControllerServiceCapability.RPC.VOLUME_CONDITION,
    pb.ControllerServiceCapability.RPC.GET_CAPACITY,
    pb.ControllerServiceCapability.RPC.EXPAND_VOLUME,
    pb.ControllerServiceCapability.RPC.MODIFY_VOLUME,
    pb.ControllerServiceCapability.RPC.SINGLE_NODE_MULTI_WRITER,
    pb.ControllerServiceCapability.RPC.CREATE_DELETE_SNAPSHOT,
    pb.ControllerServiceCapability.RPC.LIST_SNAPSHOTS,
    pb.ControllerServiceCapability.RPC.GET_SNAPSHOT,
    pb.ControllerServiceCapability.RPC.CLONE_VOLUME,
)


class Controller(rpc.ControllerServicer):  # type: ignore[misc, unused-ignore]  # generated without types
    """The RPCs. `request_timeout_s` is for callers that set no deadline; `volumes_max` is how many volumes a node may
    have, 0 for any number."""

    def __init__(self, volumes: VolumesPort, pending: Pending, *, request_timeout_s: float, volumes_max: int):
        self._volumes = volumes
        self._pending = pending
        self._placing = Placing(volumes, volumes_max)
        self._named = snapshot_names.Named(volumes)
        self._timeout_s = request_timeout_s

    # ---- make and delete ------------------------------------------------------------------------------

    async def CreateVolume(self, request: pb.CreateVolumeRequest, context: Any) -> pb.CreateVolumeResponse:
        wanted = validate.create(request)
        timeout_s = self._remaining_s(context)
        record = await self._pending.run(f"the name {wanted.name}", lambda: self._placing.create(wanted, timeout_s))
        volume = listing.volume(record.volume, record.name, record.size_bytes, record.labels)
        if wanted.source is not None:
            volume.content_source.CopyFrom(request.volume_content_source)
        return pb.CreateVolumeResponse(volume=volume)

    async def DeleteVolume(self, request: pb.DeleteVolumeRequest, context: Any) -> pb.DeleteVolumeResponse:
        if not request.volume_id:
            raise invalid("volume_id is empty")
        volume = request.volume_id
        # What no volume can be called is gone already; above all it must not be taken for a name.
        if valid_volume_id(volume):
            timeout_s = self._remaining_s(context)
            await self._pending.run(volume, lambda: self._volumes.delete(volume, timeout_s=timeout_s))
        return pb.DeleteVolumeResponse()

    async def ControllerModifyVolume(
        self, request: pb.ControllerModifyVolumeRequest, context: Any
    ) -> pb.ControllerModifyVolumeResponse:
        volume = validate.volume_id(request.volume_id)
        asked = parameters.changes(request.mutable_parameters)
        timeout_s = self._remaining_s(context)

        async def modify() -> RecordModel | None:
            if asked.nothing:
                await self._volumes.survey(volume)
                return None
            return await self._volumes.set_policy(
                volume,
                replicas=asked.replicas,
                failure_mode=asked.failure_mode,
                on_unavailable=asked.on_unavailable,
                timeout_s=timeout_s,
            )

        await self._pending.run(volume, modify)
        return pb.ControllerModifyVolumeResponse()

    async def ControllerExpandVolume(
        self, request: pb.ControllerExpandVolumeRequest, context: Any
    ) -> pb.ControllerExpandVolumeResponse:
        """The node has work in any case: its device learns the new size there."""
        volume = validate.volume_id(request.volume_id)
        sizes = validate.expansion(request)
        timeout_s = self._remaining_s(context)
        grown = await self._pending.run(volume, lambda: self._placing.expand(volume, sizes, timeout_s))
        return pb.ControllerExpandVolumeResponse(capacity_bytes=grown.size_bytes, node_expansion_required=True)

    # ---- give to a node and take back -----------------------------------------------------------------

    async def ControllerPublishVolume(
        self, request: pb.ControllerPublishVolumeRequest, context: Any
    ) -> pb.ControllerPublishVolumeResponse:
        if not request.HasField("volume_capability"):
            raise invalid("volume_capability is missing")
        validate.access(request.volume_capability)
        if request.readonly:
            raise invalid("readonly is not supported here", next_step="publish it read-only on the node")
        volume, node = validate.volume_id(request.volume_id), validate.node_id(request.node_id)
        timeout_s = self._remaining_s(context)
        attached = await self._pending.run(volume, lambda: self._placing.attach(volume, node, timeout_s))
        return pb.ControllerPublishVolumeResponse(
            publish_context={"attachEpoch": str(attached.attach_epoch), "volumeName": attached.record.name}
        )

    async def ControllerUnpublishVolume(
        self, request: pb.ControllerUnpublishVolumeRequest, context: Any
    ) -> pb.ControllerUnpublishVolumeResponse:
        if not request.volume_id:
            raise invalid("volume_id is empty")
        volume, node = request.volume_id, request.node_id or None
        timeout_s = self._remaining_s(context)

        async def detach() -> None:
            try:
                await self._volumes.detach(volume, node, timeout_s=timeout_s)
            except StosError as error:
                if error.code is not Code.NOT_FOUND:
                    raise

        # A volume or a node that can't exist has no attachment.
        if valid_volume_id(volume) and (node is None or valid_node_name(node)):
            await self._pending.run(volume, detach)
        return pb.ControllerUnpublishVolumeResponse()

    # ---- snapshots ------------------------------------------------------------------------------------

    async def CreateSnapshot(self, request: pb.CreateSnapshotRequest, context: Any) -> pb.CreateSnapshotResponse:
        name = snapshot_names.of_request(request.name)
        if not request.source_volume_id:
            raise invalid("source_volume_id is empty")
        volume = validate.volume_id(request.source_volume_id)
        parameters.of_snapshot(request.parameters)
        timeout_s = self._remaining_s(context)
        view = await self._pending.run(f"snapshot {name}", lambda: self._named.create(name, volume, timeout_s))
        return pb.CreateSnapshotResponse(snapshot=snapshot_listing.described(view))

    async def DeleteSnapshot(self, request: pb.DeleteSnapshotRequest, context: Any) -> pb.DeleteSnapshotResponse:
        if not request.snapshot_id:
            raise invalid("snapshot_id is empty")
        named = snapshot_names.of_id(request.snapshot_id)
        if named is not None:  # what no snapshot can be called is gone already
            volume, name = named
            timeout_s = self._remaining_s(context)

            async def delete() -> None:
                await self._check_alone(volume, name, timeout_s)
                await self._named.delete(volume, name, timeout_s)

            await self._pending.run(f"snapshot {name}", delete)
        return pb.DeleteSnapshotResponse()

    async def _check_alone(self, volume: str, name: str, timeout_s: float) -> None:
        """Raises INVALID_ARGUMENT for a part of a group, as the specification wants it."""
        try:
            view = await self._volumes.snapshots.get(volume, name, timeout_s=timeout_s)
        except StosError as error:
            if error.code is not Code.NOT_FOUND:
                raise
            return
        if view.group and await self._is_complete(view.group):
            raise invalid(
                f"snapshot {name} is part of the group snapshot {view.group}",
                next_step="delete the group snapshot; its snapshots go with it",
            )

    async def _is_complete(self, group: str) -> bool:
        return await CompleteGroups(self._volumes.groups.find).has(group)

    async def ListSnapshots(self, request: pb.ListSnapshotsRequest, context: Any) -> pb.ListSnapshotsResponse:
        return await snapshot_listing.page(self._volumes, request, self._remaining_s(context))

    async def GetSnapshot(self, request: pb.GetSnapshotRequest, context: Any) -> pb.GetSnapshotResponse:
        if not request.snapshot_id:
            raise invalid("snapshot_id is empty")
        named = snapshot_names.of_id(request.snapshot_id)
        if named is None:
            raise not_found(f"there is no snapshot {request.snapshot_id[:64]!r}")
        view = await self._volumes.snapshots.get(*named, timeout_s=self._remaining_s(context))
        if view.group and not await self._is_complete(view.group):
            raise not_found(f"there is no snapshot {request.snapshot_id[:64]!r}")
        return pb.GetSnapshotResponse(snapshot=snapshot_listing.described(view))

    # ---- look -----------------------------------------------------------------------------------------

    async def ValidateVolumeCapabilities(
        self, request: pb.ValidateVolumeCapabilitiesRequest, context: Any
    ) -> pb.ValidateVolumeCapabilitiesResponse:
        volume = validate.volume_id(request.volume_id)
        if not request.volume_capabilities:
            raise invalid("volume_capabilities is empty")
        entry, _ = await self._volumes.survey(volume)
        try:
            uses = validate.capabilities(request.volume_capabilities)
            parameters.of_class(request.parameters, request.mutable_parameters)
        except StosError as error:
            return pb.ValidateVolumeCapabilitiesResponse(message=str(error))
        has = entry.labels.get(FS_LABEL, "")
        for use in uses:
            if has and use.fs_type and use.fs_type != has:
                return pb.ValidateVolumeCapabilitiesResponse(message=f"the volume is for {has}, not for {use.fs_type}")
        return pb.ValidateVolumeCapabilitiesResponse(
            confirmed=pb.ValidateVolumeCapabilitiesResponse.Confirmed(
                volume_context=request.volume_context,
                volume_capabilities=request.volume_capabilities,
                parameters=request.parameters,
                mutable_parameters=request.mutable_parameters,
            )
        )

    async def ListVolumes(self, request: pb.ListVolumesRequest, context: Any) -> pb.ListVolumesResponse:
        return await listing.page(
            self._volumes, request.max_entries, request.starting_token, timeout_s=self._remaining_s(context)
        )

    async def ControllerGetVolume(
        self, request: pb.ControllerGetVolumeRequest, context: Any
    ) -> pb.ControllerGetVolumeResponse:
        entry, survey = await self._volumes.survey(validate.volume_id(request.volume_id))
        return pb.ControllerGetVolumeResponse(
            volume=listing.described(entry, survey),
            status=pb.ControllerGetVolumeResponse.VolumeStatus(
                published_node_ids=listing.published(survey), volume_condition=condition(survey)
            ),
        )

    async def GetCapacity(self, request: pb.GetCapacityRequest, context: Any) -> pb.GetCapacityResponse:
        """What CreateVolume with these parameters and this topology could have now."""
        asked = parameters.of_class(request.parameters)
        uses = validate.capabilities(request.volume_capabilities) if request.volume_capabilities else []
        fs_type = validate.one_fs_type(uses, asked.fs_type) if uses else asked.fs_type
        zones = topology.zones([request.accessible_topology] if request.HasField("accessible_topology") else [])
        found = await self._volumes.capacity(
            asked.replicas, zones=zones, apart=asked.apart, timeout_s=self._remaining_s(context)
        )
        answer = pb.GetCapacityResponse(available_capacity=found.available_bytes)
        answer.maximum_volume_size.value = found.largest_bytes
        answer.minimum_volume_size.value = parameters.FS_BYTES_MIN.get(fs_type, VOLUME_BYTES_MIN)
        return answer

    async def ControllerGetCapabilities(
        self, request: pb.ControllerGetCapabilitiesRequest, context: Any
    ) -> pb.ControllerGetCapabilitiesResponse:
        capability = pb.ControllerServiceCapability
        return pb.ControllerGetCapabilitiesResponse(
            capabilities=[capability(rpc=capability.RPC(type=kind)) for kind in CAPABILITIES]
        )

    def _remaining_s(self, context: Any) -> float:
        return remaining_s(context, self._timeout_s)
