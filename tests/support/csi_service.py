"""The csi service in the test's own process, as a caller sees it: real gRPC on real sockets, volumes in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from services.csi.app import Servers
from services.csi.settings import CsiSettings
from stoscore.proto import csi_pb2 as pb
from stoscore.proto import csi_pb2_grpc as rpc
from tests.support.csi import MemoryVolumes, create_request, mounted


class Csi:
    """Both of its sockets; `ready`: what Probe is answered."""

    def __init__(self, directory: Path) -> None:
        self.settings = CsiSettings(
            controller_socket=directory / "controller.sock",
            node_socket=directory / "node.sock",
            node="app",
            zone="zone-a",
            state_dir=directory / "state",
            attachers=["kernel-nbd"],
            max_volumes_per_node=3,
        )
        self.volumes = MemoryVolumes()
        self.ready = True
        self.servers = Servers(self.settings, self.volumes, ready=lambda: self.ready)
        self.channels: list[Any] = []

    async def start(self) -> None:
        await self.servers.start()
        controller, node = (self.channel(path) for path in (self.settings.controller_socket, self.settings.node_socket))
        self.identity = rpc.IdentityStub(controller)
        self.node_identity = rpc.IdentityStub(node)
        self.controller = rpc.ControllerStub(controller)
        self.node = rpc.NodeStub(node)

    def channel(self, path: Path) -> Any:
        self.channels.append(grpc.aio.insecure_channel(f"unix:{path}"))
        return self.channels[-1]

    async def stop(self) -> None:
        for channel in self.channels:
            await channel.close()
        await self.servers.stop()

    async def create(self, request: pb.CreateVolumeRequest | None = None) -> Any:
        return (await self.controller.CreateVolume(request or create_request())).volume

    async def publish(self, volume: str, node: str = "app", **more: Any) -> Any:
        request = pb.ControllerPublishVolumeRequest(volume_id=volume, node_id=node, volume_capability=mounted(), **more)
        return await self.controller.ControllerPublishVolume(request)


@asynccontextmanager
async def served(directory: Path) -> AsyncIterator[Csi]:
    csi = Csi(directory)
    await csi.start()
    try:
        yield csi
    finally:
        await csi.stop()
