"""Two controllers over the same volumes, asked by many callers at once, in any order, cancelled in the middle.

Whatever they are asked: a volume is attached to one node at most and never deleted while it is, a name means one
volume, an answer is a success or one of the codes that the specification names for it, and in the end everything can be
taken back by repeating the calls.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from services.csi.controller import Controller
from services.csi.pending import Pending
from stoscore.errors import Code, StosError
from stoscore.messages import Attached
from stoscore.proto import csi_pb2 as pb
from stoscore.units import GIB
from tests.support.csi import Context, MemoryVolumes, create_request, mounted

NAMES, NODES = ("a", "b"), ("n1", "app")
EXPECTED = {
    "create": {Code.ABORTED, Code.ALREADY_EXISTS},
    "delete": {Code.ABORTED, Code.FAILED_PRECONDITION},
    "publish": {Code.ABORTED, Code.NOT_FOUND, Code.FAILED_PRECONDITION},
    "unpublish": {Code.ABORTED},
    "modify": {Code.ABORTED, Code.NOT_FOUND},
    "get": {Code.NOT_FOUND},
    "list": set(),
}
CALLS = st.tuples(
    st.sampled_from(sorted(EXPECTED)),
    st.sampled_from(NAMES),
    st.sampled_from(NODES),
    st.integers(0, 1),  # which controller
    st.integers(0, 6),  # turns of the loop before the caller gives up; 0: never
)


class SlowVolumes(MemoryVolumes):
    """Every request takes a few turns of the loop before it is carried out and a few before it is answered."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__()
        self._dice = dice
        self.ids: dict[str, str] = {}

    async def _turns(self) -> None:
        for _ in range(self._dice.randint(0, 4)):
            await asyncio.sleep(0)

    async def create(self, name: str, *arguments: Any, **more: Any) -> Any:
        await self._turns()
        status = await super().create(name, *arguments, **more)
        assert status.record is not None
        self.ids[name] = status.record.volume
        await self._turns()
        return status

    async def attach(self, volume: str, node: str, *, timeout_s: float = 30.0) -> Attached:
        await self._turns()
        before = self.records.get(volume)
        attached = await super().attach(volume, node, timeout_s=timeout_s)
        assert before is not None
        assert before.attachment is None or before.attachment.node == node
        await self._turns()
        return attached

    async def detach(self, volume: str, node: str | None = None, *, timeout_s: float = 30.0) -> None:
        await self._turns()
        await super().detach(volume, node, timeout_s=timeout_s)
        await self._turns()

    async def delete(self, name_or_id: str, *, timeout_s: float = 30.0) -> bool:
        await self._turns()
        deleted = await super().delete(name_or_id, timeout_s=timeout_s)
        await self._turns()
        return deleted


def call(controller: Controller, volumes: SlowVolumes, kind: str, name: str, node: str) -> Awaitable[Any]:
    volume, context = volumes.ids.get(name, "0" * 32), Context()
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "create": lambda: controller.CreateVolume(create_request(name, GIB), context),
        "delete": lambda: controller.DeleteVolume(pb.DeleteVolumeRequest(volume_id=volume), context),
        "publish": lambda: controller.ControllerPublishVolume(
            pb.ControllerPublishVolumeRequest(volume_id=volume, node_id=node, volume_capability=mounted()), context
        ),
        "unpublish": lambda: controller.ControllerUnpublishVolume(
            pb.ControllerUnpublishVolumeRequest(volume_id=volume, node_id=node), context
        ),
        "modify": lambda: controller.ControllerModifyVolume(
            pb.ControllerModifyVolumeRequest(volume_id=volume, mutable_parameters={"failureMode": "soft"}), context
        ),
        "get": lambda: controller.ControllerGetVolume(pb.ControllerGetVolumeRequest(volume_id=volume), context),
        "list": lambda: controller.ListVolumes(pb.ListVolumesRequest(max_entries=1), context),
    }
    return calls[kind]()


async def caller(
    controllers: list[Controller], volumes: SlowVolumes, kind: str, name: str, node: str, which: int, patience: int
) -> None:
    task = asyncio.ensure_future(call(controllers[which], volumes, kind, name, node))
    if patience:
        for _ in range(patience):
            await asyncio.sleep(0)
        task.cancel()
    try:
        await task
    except StosError as error:
        assert error.code in EXPECTED[kind], f"{kind}: {error}"
    except asyncio.CancelledError:
        assert patience


async def everything_can_be_taken_back(controller: Controller, volumes: SlowVolumes) -> None:
    for record in list(volumes.records.values()):
        for _ in range(2):
            unpublish = pb.ControllerUnpublishVolumeRequest(volume_id=record.volume)
            await controller.ControllerUnpublishVolume(unpublish, Context())
        for _ in range(2):
            await controller.DeleteVolume(pb.DeleteVolumeRequest(volume_id=record.volume), Context())
    assert not volumes.records


@settings(max_examples=150, deadline=None)
@given(batches=st.lists(st.lists(CALLS, min_size=1, max_size=8), min_size=1, max_size=4), seed=st.integers(0, 1 << 32))
def test_calls_in_any_order_at_once_and_given_up(batches: list[list[Any]], seed: int) -> None:
    async def run() -> None:
        volumes = SlowVolumes(random.Random(seed))
        pendings = [Pending(), Pending()]
        controllers = [Controller(volumes, pending, request_timeout_s=5.0, volumes_max=2) for pending in pendings]
        for batch in batches:
            await asyncio.gather(*(caller(controllers, volumes, *one) for one in batch))
            assert len({record.name for record in volumes.records.values()}) == len(volumes.records)
        for pending in pendings:
            assert await pending.settle(5.0), "what a caller left behind ends by itself"
        await everything_can_be_taken_back(controllers[seed % 2], volumes)

    asyncio.run(run())
