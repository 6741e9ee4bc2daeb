"""CSI is stateless: each call is repeated to another controller process, after the first one was killed.

Killed after its answer (which may have got lost) and in the middle of the call: the repeated call finds what was done,
or does it, and says the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest

from stoscore.proto import csi_pb2 as pb
from stoscore.proto import csi_pb2_grpc as rpc
from stoscore.units import MIB
from tests.support.cluster import RunningCluster
from tests.support.csi import block, create_request

pytestmark = pytest.mark.long
CONTROLLER = "csi-controller"
TIMEOUT_S = 60.0


class Instances:
    """The cluster's controller, each time another process of it."""

    def __init__(self, running: RunningCluster) -> None:
        self.running = running
        self.cluster = running.cluster

    async def call(self, method: str, request: Any) -> Any:
        """To whoever serves on the socket now; a connection of its own, so that nothing is remembered."""
        path = self.cluster.layout.csi_socket("controller")
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            stub = rpc.GroupControllerStub(channel) if "Group" in method else rpc.ControllerStub(channel)
            return await getattr(stub, method)(request, timeout=TIMEOUT_S, wait_for_ready=True)

    async def another(self) -> None:
        await asyncio.to_thread(self.cluster.kill, CONTROLLER)
        await asyncio.to_thread(self.cluster.start, CONTROLLER)

    async def twice(self, method: str, request: Any) -> Any:
        """The answer of the first instance, and the same of its successor."""
        first = await self.call(method, request)
        await self.another()
        second = await self.call(method, request)
        assert first == second
        return second

    async def cut_off(self, method: str, request: Any, after_s: float) -> Any:
        """The first instance is killed so long after it was asked; the answer of its successor."""
        asked = asyncio.create_task(self.call(method, request))
        await asyncio.sleep(after_s)
        await self.another()
        await asyncio.gather(asked, return_exceptions=True)
        return await self.call(method, request)

    def names(self) -> list[str]:
        return [row["name"] for row in self.running.json("volume", "ls")]


@pytest.fixture
def instances(running: RunningCluster) -> Instances:
    return Instances(running)


def publish(volume: str) -> pb.ControllerPublishVolumeRequest:
    return pb.ControllerPublishVolumeRequest(volume_id=volume, node_id="app", volume_capability=block())


Life = Callable[[str, Any], Awaitable[Any]]


async def whole_life(instances: Instances, name: str, ask: Life) -> None:
    volume = (await ask("CreateVolume", create_request(name, 64 * MIB, capability=block()))).volume.volume_id
    changes = {"replicas": "1", "failureMode": "soft"}
    await ask("ControllerModifyVolume", pb.ControllerModifyVolumeRequest(volume_id=volume, mutable_parameters=changes))
    view = await asyncio.to_thread(instances.running.json, "volume", "show", name)
    assert (view["replicas"], view["failure_mode"]) == (1, "soft")
    attached = await ask("ControllerPublishVolume", publish(volume))
    assert attached.publish_context["attachEpoch"] == "1"
    got = await ask("ControllerGetVolume", pb.ControllerGetVolumeRequest(volume_id=volume))
    assert list(got.status.published_node_ids) == ["app"]
    listed = await ask("ListVolumes", pb.ListVolumesRequest())
    assert [list(entry.status.published_node_ids) for entry in listed.entries] == [["app"]]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await instances.call("DeleteVolume", pb.DeleteVolumeRequest(volume_id=volume))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    await snapshots(name, volume, ask)
    await groups(name, volume, ask)
    unpublish = pb.ControllerUnpublishVolumeRequest(volume_id=volume, node_id="app")
    await ask("ControllerUnpublishVolume", unpublish)
    await ask("DeleteVolume", pb.DeleteVolumeRequest(volume_id=volume))
    assert await asyncio.to_thread(instances.names) == []


async def snapshots(name: str, volume: str, ask: Life) -> None:
    """One is taken while the volume is published; two volumes begin, as it and as the volume."""
    taken = await ask("CreateSnapshot", pb.CreateSnapshotRequest(name=f"Snap of {name}", source_volume_id=volume))
    snapshot = taken.snapshot.snapshot_id
    assert taken.snapshot.ready_to_use
    from_snapshot = create_request(f"{name}-restored", 64 * MIB, capability=block())
    from_snapshot.volume_content_source.snapshot.snapshot_id = snapshot
    clone = create_request(f"{name}-clone", 64 * MIB, capability=block())
    clone.volume_content_source.volume.volume_id = volume
    made = [(await ask("CreateVolume", request)).volume.volume_id for request in (from_snapshot, clone)]
    listed = await ask("ListSnapshots", pb.ListSnapshotsRequest())
    assert [entry.snapshot.snapshot_id for entry in listed.entries] == [snapshot]
    await ask("DeleteSnapshot", pb.DeleteSnapshotRequest(snapshot_id=snapshot))
    assert not (await ask("ListSnapshots", pb.ListSnapshotsRequest())).entries
    for one in made:
        await ask("DeleteVolume", pb.DeleteVolumeRequest(volume_id=one))


async def groups(name: str, volume: str, ask: Life) -> None:
    """Of the published volume and another one; one that is cut off is taken by whoever is asked next."""
    other = (await ask("CreateVolume", create_request(f"{name}-other", 16 * MIB, capability=block()))).volume.volume_id
    request = pb.CreateVolumeGroupSnapshotRequest(name=f"Group of {name}", source_volume_ids=[volume, other])
    group = (await ask("CreateVolumeGroupSnapshot", request)).group_snapshot
    assert group.ready_to_use
    parts = [snapshot.snapshot_id for snapshot in group.snapshots]
    assert {snapshot.source_volume_id for snapshot in group.snapshots} == {volume, other}
    got = await ask(
        "GetVolumeGroupSnapshot", pb.GetVolumeGroupSnapshotRequest(group_snapshot_id=group.group_snapshot_id)
    )
    assert got.group_snapshot == group
    listed = await ask("ListSnapshots", pb.ListSnapshotsRequest())
    assert sorted(entry.snapshot.snapshot_id for entry in listed.entries) == sorted(parts)
    delete = pb.DeleteVolumeGroupSnapshotRequest(group_snapshot_id=group.group_snapshot_id, snapshot_ids=parts)
    await ask("DeleteVolumeGroupSnapshot", delete)
    assert not (await ask("ListSnapshots", pb.ListSnapshotsRequest())).entries
    await ask("DeleteVolume", pb.DeleteVolumeRequest(volume_id=other))


async def test_each_call_is_repeated_to_another_instance(instances: Instances) -> None:
    async def ask(method: str, request: Any) -> Any:
        if method in ("ControllerGetVolume", "ListVolumes"):  # a condition may change meanwhile
            return await instances.call(method, request)
        return await instances.twice(method, request)

    await whole_life(instances, "twice", ask)


async def test_each_call_is_cut_off_in_the_middle(instances: Instances) -> None:
    for number, after_s in enumerate((0.005, 0.05)):

        async def ask(method: str, request: Any, after_s: float = after_s) -> Any:
            if method in ("ControllerGetVolume", "ListVolumes"):
                return await instances.call(method, request)
            return await instances.cut_off(method, request, after_s)

        await whole_life(instances, f"cut-{number}", ask)


async def test_two_creates_of_one_name_make_one_volume(instances: Instances) -> None:
    request = create_request("same", 64 * MIB, capability=block())
    answers = await asyncio.gather(*(instances.call("CreateVolume", request) for _ in range(8)), return_exceptions=True)
    made = {answer.volume.volume_id for answer in answers if not isinstance(answer, BaseException)}
    refused = [answer for answer in answers if isinstance(answer, BaseException)]
    assert all(isinstance(r, grpc.aio.AioRpcError) and r.code() is grpc.StatusCode.ABORTED for r in refused)
    assert len(made) == 1
    await instances.call("DeleteVolume", pb.DeleteVolumeRequest(volume_id=made.pop()))
