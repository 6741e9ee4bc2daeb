"""A CSI client as Kubernetes has one: generated stubs, gRPC over the service's Unix sockets, no shortcut."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc

from stoscore.proto import csi_pb2, csi_pb2_grpc

_TIMEOUT_S = 60.0
_SINGLE_WRITER = csi_pb2.VolumeCapability.AccessMode.SINGLE_NODE_WRITER


def mounted_as(filesystem: str) -> Any:
    """The capability of a volume that is used as a mounted filesystem."""
    return csi_pb2.VolumeCapability(
        mount=csi_pb2.VolumeCapability.MountVolume(fs_type=filesystem),
        access_mode=csi_pb2.VolumeCapability.AccessMode(mode=_SINGLE_WRITER),
    )


def raw_block() -> Any:
    """The capability of a volume that is used as a block device."""
    return csi_pb2.VolumeCapability(
        block=csi_pb2.VolumeCapability.BlockVolume(),
        access_mode=csi_pb2.VolumeCapability.AccessMode(mode=_SINGLE_WRITER),
    )


class CsiClient:
    """The calls of one volume's life, in the words of the CSI specification. Raises grpc.aio.AioRpcError."""

    def __init__(self, controller_socket: Path, node_socket: Path):
        self._channels = [grpc.aio.insecure_channel(f"unix:{path}") for path in (controller_socket, node_socket)]
        self._controller = csi_pb2_grpc.ControllerStub(self._channels[0])
        self._node = csi_pb2_grpc.NodeStub(self._channels[1])

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close(None)

    async def create(self, name: str, size_bytes: int, capability: Any, parameters: Mapping[str, str]) -> Any:
        """Returns the csi.v1.Volume."""
        request = csi_pb2.CreateVolumeRequest(
            name=name,
            capacity_range=csi_pb2.CapacityRange(required_bytes=size_bytes),
            volume_capabilities=[capability],
            parameters=dict(parameters),
        )
        return (await self._controller.CreateVolume(request, timeout=_TIMEOUT_S)).volume

    async def delete(self, volume_id: str) -> None:
        request = csi_pb2.DeleteVolumeRequest(volume_id=volume_id)
        await self._controller.DeleteVolume(request, timeout=_TIMEOUT_S)

    async def controller_publish(self, volume: Any, node: str, capability: Any) -> dict[str, str]:
        """Returns the publish context."""
        request = csi_pb2.ControllerPublishVolumeRequest(
            volume_id=volume.volume_id,
            node_id=node,
            volume_capability=capability,
            volume_context=volume.volume_context,
        )
        response = await self._controller.ControllerPublishVolume(request, timeout=_TIMEOUT_S)
        return dict(response.publish_context)

    async def controller_unpublish(self, volume_id: str, node: str) -> None:
        request = csi_pb2.ControllerUnpublishVolumeRequest(volume_id=volume_id, node_id=node)
        await self._controller.ControllerUnpublishVolume(request, timeout=_TIMEOUT_S)

    async def expand(self, volume_id: str, size_bytes: int) -> int:
        """Returns the size that the volume has in the cluster."""
        sizes = csi_pb2.CapacityRange(required_bytes=size_bytes)
        request = csi_pb2.ControllerExpandVolumeRequest(volume_id=volume_id, capacity_range=sizes)
        return int((await self._controller.ControllerExpandVolume(request, timeout=_TIMEOUT_S)).capacity_bytes)

    async def expand_on_node(self, volume_id: str, path: Path) -> int:
        """Returns the size that it has where it is used."""
        request = csi_pb2.NodeExpandVolumeRequest(volume_id=volume_id, volume_path=str(path))
        return int((await self._node.NodeExpandVolume(request, timeout=_TIMEOUT_S)).capacity_bytes)

    async def stage(self, volume: Any, context: Mapping[str, str], staging: Path, capability: Any) -> None:
        request = csi_pb2.NodeStageVolumeRequest(
            volume_id=volume.volume_id,
            publish_context=dict(context),
            staging_target_path=str(staging),
            volume_capability=capability,
            volume_context=volume.volume_context,
        )
        await self._node.NodeStageVolume(request, timeout=_TIMEOUT_S)

    async def unstage(self, volume_id: str, staging: Path) -> None:
        request = csi_pb2.NodeUnstageVolumeRequest(volume_id=volume_id, staging_target_path=str(staging))
        await self._node.NodeUnstageVolume(request, timeout=_TIMEOUT_S)

    async def publish(
        self, volume: Any, context: Mapping[str, str], staging: Path, target: Path, capability: Any
    ) -> None:
        request = csi_pb2.NodePublishVolumeRequest(
            volume_id=volume.volume_id,
            publish_context=dict(context),
            staging_target_path=str(staging),
            target_path=str(target),
            volume_capability=capability,
            volume_context=volume.volume_context,
        )
        await self._node.NodePublishVolume(request, timeout=_TIMEOUT_S)

    async def unpublish(self, volume_id: str, target: Path) -> None:
        request = csi_pb2.NodeUnpublishVolumeRequest(volume_id=volume_id, target_path=str(target))
        await self._node.NodeUnpublishVolume(request, timeout=_TIMEOUT_S)
