"""CSI's Node service: requests are checked here and carried out by `Staging`, one at a time per volume."""

from __future__ import annotations

from typing import Any

from services.csi import host, topology, validate
from services.csi.commands import run
from services.csi.mounts import Device
from services.csi.pending import Pending
from services.csi.staging import Staging
from stoscore.errors import Code, StosError, invalid, not_found, precondition
from stoscore.limits import valid_volume_id
from stoscore.proto import csi_pb2 as pb
from stoscore.proto import csi_pb2_grpc as rpc

CAPABILITIES = (
    pb.NodeServiceCapability.RPC.STAGE_UNSTAGE_VOLUME,
    pb.NodeServiceCapability.RPC.GET_VOLUME_STATS,
    pb.NodeServiceCapability.RPC.VOLUME_CONDITION,
    pb.NodeServiceCapability.RPC.EXPAND_VOLUME,
    pb.NodeServiceCapability.RPC.SINGLE_NODE_MULTI_WRITER,
)
# size and counts of blocks, then of inodes, by `stat --file-system`
_STAT_FORMAT = "%S %b %f %a %c %d"


class Node(rpc.NodeServicer):  # type: ignore[misc, unused-ignore]  # generated without types
    """The RPCs of the node that is called `node`."""

    def __init__(
        self,
        staging: Staging,
        pending: Pending,
        *,
        node: str,
        zone: str,
        request_timeout_s: float,
        volumes_max: int,
    ):
        self._staging = staging
        self._pending = pending
        self._node = node
        self._zone = zone
        self._timeout_s = request_timeout_s
        self._volumes_max = volumes_max

    async def NodeStageVolume(self, request: pb.NodeStageVolumeRequest, context: Any) -> pb.NodeStageVolumeResponse:
        """`publish_context` is not believed: the volume's record says whether it is attached to this node,
        and a context may be older than the attachment."""
        use = _use(request)
        path = validate.path(request.staging_target_path, "staging_target_path")
        volume = validate.volume_id(request.volume_id)
        fs_type = "" if use.block else use.fs_type or validate.fs_of_context(request.volume_context)
        larger = "source" in request.volume_context
        await self._pending.run(
            volume, lambda: self._staging.stage(volume, path, use, fs_type, larger=larger, timeout_s=self._timeout_s)
        )
        return pb.NodeStageVolumeResponse()

    async def NodeUnstageVolume(
        self, request: pb.NodeUnstageVolumeRequest, context: Any
    ) -> pb.NodeUnstageVolumeResponse:
        volume = _some_volume(request.volume_id)
        path = validate.path(request.staging_target_path, "staging_target_path")
        if valid_volume_id(volume):
            await self._pending.run(volume, lambda: self._staging.unstage(volume, path, timeout_s=self._timeout_s))
        return pb.NodeUnstageVolumeResponse()

    async def NodePublishVolume(
        self, request: pb.NodePublishVolumeRequest, context: Any
    ) -> pb.NodePublishVolumeResponse:
        use = _use(request)
        target = validate.path(request.target_path, "target_path")
        volume = validate.volume_id(request.volume_id)
        if not request.staging_target_path:
            raise precondition("staging_target_path is empty", "stage the volume first")
        staging = validate.path(request.staging_target_path, "staging_target_path")
        readonly = request.readonly or use.readonly
        await self._pending.run(volume, lambda: self._staging.publish(volume, staging, target, use, readonly=readonly))
        return pb.NodePublishVolumeResponse()

    async def NodeUnpublishVolume(
        self, request: pb.NodeUnpublishVolumeRequest, context: Any
    ) -> pb.NodeUnpublishVolumeResponse:
        volume = _some_volume(request.volume_id)
        target = validate.path(request.target_path, "target_path")
        if valid_volume_id(volume):
            await self._pending.run(volume, lambda: self._staging.unpublish(volume, target))
        return pb.NodeUnpublishVolumeResponse()

    async def NodeGetVolumeStats(
        self, request: pb.NodeGetVolumeStatsRequest, context: Any
    ) -> pb.NodeGetVolumeStatsResponse:
        if not request.volume_id or not request.volume_path:
            raise invalid(f"{'volume_path' if request.volume_id else 'volume_id'} is empty")
        volume = validate.volume_id(request.volume_id)
        try:
            path = validate.path(request.volume_path, "volume_path")
        except StosError as error:
            raise not_found(f"volume {volume} can be nowhere but at an absolute path: {error.message}") from error
        device, as_block = await self._staging.shown_at(volume, path)
        condition = await self._staging.condition(volume, device)
        usage = _block_usage(device) if as_block else await _filesystem_usage(path)
        return pb.NodeGetVolumeStatsResponse(usage=usage, volume_condition=condition)

    async def NodeExpandVolume(self, request: pb.NodeExpandVolumeRequest, context: Any) -> pb.NodeExpandVolumeResponse:
        if not request.volume_id or not request.volume_path:
            raise invalid(f"{'volume_path' if request.volume_id else 'volume_id'} is empty")
        volume = validate.volume_id(request.volume_id)
        path = validate.path(request.volume_path, "volume_path")
        if request.HasField("volume_capability"):
            validate.access(request.volume_capability, refusal=Code.FAILED_PRECONDITION)
        wanted = request.capacity_range
        least_bytes = validate.size(wanted) if request.HasField("capacity_range") and wanted.required_bytes else 0
        size_bytes = await self._pending.run(
            volume, lambda: self._staging.expand(volume, path, least_bytes, timeout_s=self._timeout_s)
        )
        return pb.NodeExpandVolumeResponse(capacity_bytes=size_bytes)

    async def NodeGetCapabilities(
        self, request: pb.NodeGetCapabilitiesRequest, context: Any
    ) -> pb.NodeGetCapabilitiesResponse:
        capability = pb.NodeServiceCapability
        return pb.NodeGetCapabilitiesResponse(
            capabilities=[capability(rpc=capability.RPC(type=kind)) for kind in CAPABILITIES]
        )

    async def NodeGetInfo(self, request: pb.NodeGetInfoRequest, context: Any) -> pb.NodeGetInfoResponse:
        info = pb.NodeGetInfoResponse(node_id=self._node, max_volumes_per_node=self._volumes_max)
        info.accessible_topology.segments.update(topology.segments(self._node, self._zone))
        return info


def _block_usage(device: Device) -> list[pb.VolumeUsage]:
    return [pb.VolumeUsage(total=host.size_of(device), unit=pb.VolumeUsage.BYTES)]


async def _filesystem_usage(path: str) -> list[pb.VolumeUsage]:
    """By a program of its own, because a filesystem whose volume waits makes its caller wait too."""
    told = (await run(["stat", "--file-system", "--format", _STAT_FORMAT, path])).check().output
    size, blocks, free, available, inodes, inodes_free = (int(number) for number in told.split())
    return [
        pb.VolumeUsage(
            total=blocks * size, used=(blocks - free) * size, available=available * size, unit=pb.VolumeUsage.BYTES
        ),
        pb.VolumeUsage(total=inodes, used=inodes - inodes_free, available=inodes_free, unit=pb.VolumeUsage.INODES),
    ]


def _use(request: pb.NodeStageVolumeRequest | pb.NodePublishVolumeRequest) -> validate.Access:
    if not request.volume_id:
        raise invalid("volume_id is empty")
    if not request.HasField("volume_capability"):
        raise invalid("volume_capability is missing")
    return validate.access(request.volume_capability, refusal=Code.FAILED_PRECONDITION)


def _some_volume(text: str) -> str:
    """For taking back: an id that no volume can have was never staged, so it needs no work and no error."""
    if not text:
        raise invalid("volume_id is empty")
    return text
