"""CSI's Controller service: volumes are made, listed, given to a node, taken from it and deleted.

It keeps nothing: every call becomes requests to the volume's own brain, all of them idempotent, so a call
may be repeated to this process, to a restarted one or to another one. A `volume_id` is the volume's random
id, never its name: an id is not reused, so a late DeleteVolume can't hit a newer volume.
"""

from __future__ import annotations

from typing import Any

from services.csi import validate
from services.csi.pending import Pending
from services.csi.port import VolumesPort
from stoscore.errors import Code, StosError, invalid, unavailable
from stoscore.limits import valid_node_name, valid_volume_id
from stoscore.messages import CatalogueEntry, RecordModel
from stoscore.proto import csi_pb2 as pb
from stoscore.proto import csi_pb2_grpc as rpc

CAPABILITIES = (
    pb.ControllerServiceCapability.RPC.CREATE_DELETE_VOLUME,
    pb.ControllerServiceCapability.RPC.PUBLISH_UNPUBLISH_VOLUME,
    pb.ControllerServiceCapability.RPC.LIST_VOLUMES,
    pb.ControllerServiceCapability.RPC.SINGLE_NODE_MULTI_WRITER,
)
DEADLINE_MARGIN_S = 0.5
"""The cluster gets a little less time than the caller, so that its reason arrives and not a bare timeout."""


class Controller(rpc.ControllerServicer):  # type: ignore[misc, unused-ignore]  # generated without types
    """The RPCs. `request_timeout_s` is for callers that set no deadline."""

    def __init__(self, volumes: VolumesPort, pending: Pending, *, request_timeout_s: float):
        self._volumes = volumes
        self._pending = pending
        self._timeout_s = request_timeout_s

    async def CreateVolume(self, request: pb.CreateVolumeRequest, context: Any) -> pb.CreateVolumeResponse:
        wanted = validate.create(request)
        timeout_s = self._remaining_s(context)

        async def make() -> RecordModel:
            status = await self._volumes.create(
                wanted.name,
                wanted.size_bytes,
                replicas=wanted.replicas,
                zones=list(wanted.zones),
                labels=wanted.labels,
                timeout_s=timeout_s,
            )
            if status.record is None:
                raise unavailable(f"volume {wanted.name} has no record yet", "ask again")
            return status.record

        record = await self._pending.run(f"the name {wanted.name}", make)
        made_for = record.labels.get(validate.FS_LABEL, "")
        if made_for != wanted.fs_type:
            raise StosError(
                Code.ALREADY_EXISTS,
                f"volume {wanted.name} exists for {made_for or 'block use'}, not for {wanted.fs_type or 'block use'}",
                next_step="use another name",
            )
        return pb.CreateVolumeResponse(volume=_volume(record.volume, record.name, record.size_bytes, record.labels))

    async def DeleteVolume(self, request: pb.DeleteVolumeRequest, context: Any) -> pb.DeleteVolumeResponse:
        if not request.volume_id:
            raise invalid("volume_id is empty")
        volume = request.volume_id
        # What no volume can be called is gone already; above all it must not be taken for a name.
        if valid_volume_id(volume):
            timeout_s = self._remaining_s(context)
            await self._pending.run(volume, lambda: self._volumes.delete(volume, timeout_s=timeout_s))
        return pb.DeleteVolumeResponse()

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
        attached = await self._pending.run(volume, lambda: self._volumes.attach(volume, node, timeout_s=timeout_s))
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

    async def ValidateVolumeCapabilities(
        self, request: pb.ValidateVolumeCapabilitiesRequest, context: Any
    ) -> pb.ValidateVolumeCapabilitiesResponse:
        volume = validate.volume_id(request.volume_id)
        if not request.volume_capabilities:
            raise invalid("volume_capabilities is empty")
        entry, _ = await self._volumes.get(volume)
        try:
            uses = validate.capabilities(request.volume_capabilities)
            validate.parameters(request.parameters)
        except StosError as error:
            return pb.ValidateVolumeCapabilitiesResponse(message=str(error))
        has = entry.labels.get(validate.FS_LABEL, "")
        for use in uses:
            if has and use.fs_type and use.fs_type != has:
                return pb.ValidateVolumeCapabilitiesResponse(message=f"the volume is for {has}, not for {use.fs_type}")
        return pb.ValidateVolumeCapabilitiesResponse(
            confirmed=pb.ValidateVolumeCapabilitiesResponse.Confirmed(
                volume_context=request.volume_context,
                volume_capabilities=request.volume_capabilities,
                parameters=request.parameters,
            )
        )

    async def ListVolumes(self, request: pb.ListVolumesRequest, context: Any) -> pb.ListVolumesResponse:
        """Pages in the order of ids; a token is the last id of the page before, so that it stays right while
        volumes come and go, and in every process."""
        if request.max_entries < 0:
            raise invalid(f"max_entries is negative: {request.max_entries}")
        after = request.starting_token
        if after and not valid_volume_id(after):
            raise StosError(
                Code.ABORTED,
                f"starting_token {after[:64]!r} is none of ours",
                next_step="start again without",
            )
        listed = sorted((entry for entry, _ in await self._volumes.list()), key=lambda entry: entry.volume)
        rest = [entry for entry in listed if entry.volume > after and entry.state == "ready"]
        page = rest[: request.max_entries] if request.max_entries else rest
        return pb.ListVolumesResponse(
            entries=[pb.ListVolumesResponse.Entry(volume=_listed(entry)) for entry in page],
            next_token=page[-1].volume if len(page) < len(rest) else "",
        )

    async def ControllerGetCapabilities(
        self, request: pb.ControllerGetCapabilitiesRequest, context: Any
    ) -> pb.ControllerGetCapabilitiesResponse:
        capability = pb.ControllerServiceCapability
        return pb.ControllerGetCapabilitiesResponse(
            capabilities=[capability(rpc=capability.RPC(type=kind)) for kind in CAPABILITIES]
        )

    def _remaining_s(self, context: Any) -> float:
        remaining_s = context.time_remaining()
        if remaining_s is None:
            return self._timeout_s
        return max(float(remaining_s) - DEADLINE_MARGIN_S, 0.1)


def _volume(volume: str, name: str, size_bytes: int, labels: dict[str, str]) -> pb.Volume:
    """No accessible_topology: a volume can be used on every node, wherever its copies are."""
    context = {"volumeName": name}
    if validate.FS_LABEL in labels:
        context["fsType"] = labels[validate.FS_LABEL]
    return pb.Volume(volume_id=volume, capacity_bytes=size_bytes, volume_context=context)


def _listed(entry: CatalogueEntry) -> pb.Volume:
    return _volume(entry.volume, entry.name, entry.size_bytes, entry.labels)
