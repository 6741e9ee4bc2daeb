"""The csi service: Kubernetes' requests for volumes, over gRPC on Unix sockets.

    kubelet, sidecars ──gRPC──> Edge ──> Controller ──┐
                                    └──> Node ─> Staging ─> attachers, mounts
                                                      └──> Volumes ──NATS──> the volume's brain

It is stateless and may be killed at any time: mounted volumes go on without it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from services.csi import attachers
from services.csi.controller import Controller
from services.csi.figures import Figures
from services.csi.freezing import Freezing
from services.csi.group_controller import GroupController
from services.csi.identity import Identity
from services.csi.node import Node
from services.csi.pending import Pending
from services.csi.port import VolumesPort
from services.csi.server import listen
from services.csi.settings import CsiSettings
from services.csi.staging import Staging
from stoscore import metrics, settings, subjects
from stoscore.catalogue import Catalogue
from stoscore.errors import StosError
from stoscore.messages import FreezeVolume, Frozen, Thawed, ThawVolume
from stoscore.proto import csi_pb2_grpc as rpc
from stoscore.telemetry import get_logger
from stoscore.volumes import Volumes

if TYPE_CHECKING:
    from stoscore.bus import Bus, RequestContext
    from stoscore.host import HostContext

_log = get_logger("csi")
_TEND_AGAIN_S = 1.0
_CONNECT_S = 5.0
"""So long a process that starts lets nobody in while it has no connection to NATS: who asked the one before it is told
nothing of the restart. Without NATS it serves what needs none."""


class Servers:
    """The gRPC servers of one process and the operations under way in them."""

    def __init__(self, settings: CsiSettings, volumes: VolumesPort, ready: Callable[[], bool]):
        self._settings = settings
        self._volumes = volumes
        self._identity = Identity(ready)
        self._pending: list[Pending] = []
        self._servers: list[Any] = []
        self._tending: list[asyncio.Task[None]] = []
        self._figures: Figures | None = None
        self._freezing: Freezing | None = None

    async def serve_bus(self, bus: Bus) -> None:
        """What others ask of this node's mounts. Raises StosError when the bus refuses it."""
        freezing, node = self._freezing, self._settings.node
        if freezing is None:
            return
        await freezing.thaw_left()

        async def freeze(request: FreezeVolume, context: RequestContext) -> Frozen:
            return await freezing.freeze(request.volume, request.limit_ms / 1000)

        async def thaw(request: ThawVolume, context: RequestContext) -> Thawed:
            return await freezing.thaw(request.volume, request.token)

        await bus.serve(subjects.csi_node(node, "freeze"), FreezeVolume, freeze)
        await bus.serve(subjects.csi_node(node, "thaw"), ThawVolume, thaw)

    async def start(self) -> None:
        """Raises StosError when a socket can't be had or an attacher is unknown."""
        if self._settings.serves_controller:
            await self._serve("controller", self._settings.controller_socket, self._add_controller)
        if self._settings.serves_node:
            await self._serve("node", self._settings.node_socket, self._add_node)

    async def stop(self) -> None:
        """No new requests; what is under way may end."""
        for server in self._servers:
            await server.stop(grace=min(1.0, self._settings.stop_timeout_s))
        if self._figures is not None:
            metrics.unregister(self._figures.samples)
        for task in self._tending:
            task.cancel()
        await asyncio.gather(*self._tending, return_exceptions=True)
        for pending in self._pending:
            if not await pending.settle(self._settings.stop_timeout_s):
                _log.warning("stopped with operations under way; they are safe to repeat")

    async def _serve(self, half: str, path: Any, add: Callable[[Any], None]) -> None:
        def register(server: Any) -> None:
            rpc.add_IdentityServicer_to_server(self._identity, server)
            add(server)

        self._servers.append(await listen(path, register))
        _log.info("csi %s listens", half, extra={"socket": str(path)})

    def _add_controller(self, server: Any) -> None:
        controller = Controller(
            self._volumes,
            self._new_pending(),
            request_timeout_s=self._settings.request_timeout_s,
            volumes_max=self._settings.max_volumes_per_node,
        )
        rpc.add_ControllerServicer_to_server(controller, server)
        groups = GroupController(self._volumes, self._new_pending(), request_timeout_s=self._settings.request_timeout_s)
        rpc.add_GroupControllerServicer_to_server(groups, server)

    def _add_node(self, server: Any) -> None:
        chosen = self._settings
        usable = attachers.load(chosen.attachers, chosen.state_dir)
        for attacher in usable:
            obstacle = attacher.obstacle()
            _log.info("attacher %s: %s", attacher.name, obstacle or "can be used")
        self._tending = [asyncio.create_task(_tend(attacher)) for attacher in usable]
        self._freezing = Freezing(usable, chosen.state_dir / "frozen")
        self._figures = Figures(usable)
        metrics.register(self._figures.samples)
        staging = Staging(self._volumes, usable, node=chosen.node, format_timeout_s=chosen.format_timeout_s)
        node = Node(
            staging,
            self._new_pending(),
            node=chosen.node,
            zone=chosen.zone,
            request_timeout_s=chosen.request_timeout_s,
            volumes_max=chosen.max_volumes_per_node,
        )
        rpc.add_NodeServicer_to_server(node, server)

    def _new_pending(self) -> Pending:
        """Each half has its own: a volume may be unstaged on a node while it is listed or published."""
        self._pending.append(Pending())
        return self._pending[-1]


async def _tend(attacher: attachers.Attacher) -> None:
    """An attacher that can't look after its devices is reported and tried again; the service goes on."""
    while True:
        try:
            return await attacher.tend()
        except (StosError, OSError) as error:
            _log.error("attacher %s can't look after its devices: %s", attacher.name, error)
        await asyncio.sleep(_TEND_AGAIN_S)


class CsiService:
    """The plugin of the group `stos.services`."""

    name = "csi"

    async def run(self, context: HostContext) -> None:
        chosen = settings.load(CsiSettings, self.name)
        volumes = Volumes(context.bus, Catalogue(context.bus))
        servers = Servers(chosen, volumes, ready=lambda: context.bus.connected)
        await context.bus.wait_connected(_CONNECT_S)
        try:
            await servers.start()
            await servers.serve_bus(context.bus)
            context.ready()
            await context.stopping.wait()
        finally:
            await servers.stop()


service = CsiService()
