"""CSI's Identity service: who the plugin is, what it has, whether it is ready."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from stoscore.proto import csi_pb2 as pb
from stoscore.proto import csi_pb2_grpc as rpc

PLUGIN_NAME = "csi.stos.dev"


def vendor_version() -> str:
    try:
        return version("stos")
    except PackageNotFoundError:
        return "0"


class Identity(rpc.IdentityServicer):  # type: ignore[misc, unused-ignore]  # generated without types
    """`ready` says whether requests can reach the cluster now."""

    def __init__(self, ready: Callable[[], bool]):
        self._ready = ready

    async def GetPluginInfo(self, request: pb.GetPluginInfoRequest, context: Any) -> pb.GetPluginInfoResponse:
        return pb.GetPluginInfoResponse(name=PLUGIN_NAME, vendor_version=vendor_version())

    async def GetPluginCapabilities(
        self, request: pb.GetPluginCapabilitiesRequest, context: Any
    ) -> pb.GetPluginCapabilitiesResponse:
        services = pb.PluginCapability.Service
        offered = (
            services.CONTROLLER_SERVICE,
            services.VOLUME_ACCESSIBILITY_CONSTRAINTS,
            services.GROUP_CONTROLLER_SERVICE,
        )
        expansion = pb.PluginCapability.VolumeExpansion
        return pb.GetPluginCapabilitiesResponse(
            capabilities=[
                *(pb.PluginCapability(service=services(type=kind)) for kind in offered),
                pb.PluginCapability(volume_expansion=expansion(type=expansion.ONLINE)),
            ]
        )

    async def Probe(self, request: pb.ProbeRequest, context: Any) -> pb.ProbeResponse:
        answer = pb.ProbeResponse()
        answer.ready.value = self._ready()
        return answer
