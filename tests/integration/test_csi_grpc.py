"""The csi service over real gRPC on real Unix sockets: every RPC, and every bad input that it must survive."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import uvloop

from services.csi.app import Servers
from services.csi.listing import ENTRIES_MAX
from services.csi.server import listen
from services.csi.topology import ZONE_KEY
from stoscore.errors import Code, StosError
from stoscore.messages import ReplicaStatus, VoterModel
from stoscore.proto import csi_pb2 as pb
from stoscore.proto import csi_pb2_grpc as rpc
from stoscore.telemetry import current_traceparent
from stoscore.units import GIB, MIB, TIB
from tests.support.csi import block, create_request, mounted
from tests.support.csi_service import Csi, served

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture")
INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
EXISTS = grpc.StatusCode.ALREADY_EXISTS
OUT_OF_RANGE = grpc.StatusCode.OUT_OF_RANGE
NOBODY = "f" * 32


@pytest.fixture(scope="module")
def event_loop_policy() -> uvloop.EventLoopPolicy:
    """As in production: gRPC, uvloop and child processes have to get along in one process."""
    return uvloop.EventLoopPolicy()


@pytest.fixture
async def csi(tmp_path: Path) -> AsyncIterator[Csi]:
    async with served(tmp_path) as csi:
        yield csi


async def refused(call: Awaitable[Any], code: grpc.StatusCode, says: str = "") -> str:
    """The call fails with that code and says so."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    text = caught.value.details() or ""
    assert caught.value.code() is code, text
    assert says in text
    return text


# ---- identity ----------------------------------------------------------------------------------------


async def test_who_it_is(csi: Csi) -> None:
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)
    for identity in (csi.identity, csi.node_identity):
        info = await identity.GetPluginInfo(pb.GetPluginInfoRequest())
        assert info.name == "csi.stos.dev"
        assert info.vendor_version
    offered = (await csi.identity.GetPluginCapabilities(pb.GetPluginCapabilitiesRequest())).capabilities
    service, expansion = pb.PluginCapability.Service, pb.PluginCapability.VolumeExpansion
    assert {capability.service.type for capability in offered if capability.HasField("service")} == {
        service.CONTROLLER_SERVICE,
        service.VOLUME_ACCESSIBILITY_CONSTRAINTS,
        service.GROUP_CONTROLLER_SERVICE,
    }
    (online,) = (capability for capability in offered if capability.HasField("volume_expansion"))
    assert online.volume_expansion.type == expansion.ONLINE


async def test_it_is_ready_while_it_reaches_the_cluster(csi: Csi) -> None:
    assert (await csi.identity.Probe(pb.ProbeRequest())).ready.value
    csi.ready = False
    assert not (await csi.identity.Probe(pb.ProbeRequest())).ready.value


async def test_the_node_tells_its_id_and_zone(csi: Csi) -> None:
    info = await csi.node.NodeGetInfo(pb.NodeGetInfoRequest())
    assert info.node_id == "app"
    assert dict(info.accessible_topology.segments) == {
        "topology.stos.dev/zone": "zone-a",
        "topology.stos.dev/node": "app",
    }
    assert info.max_volumes_per_node == 3


async def test_what_is_offered_is_what_is_there(csi: Csi) -> None:
    offers = pb.ControllerServiceCapability.RPC
    controller = await csi.controller.ControllerGetCapabilities(pb.ControllerGetCapabilitiesRequest())
    offered = {capability.rpc.type for capability in controller.capabilities}
    assert {offers.CREATE_DELETE_VOLUME, offers.CREATE_DELETE_SNAPSHOT, offers.LIST_SNAPSHOTS} <= offered
    groups = rpc.GroupControllerStub(csi.channel(csi.settings.controller_socket))
    found = await groups.GroupControllerGetCapabilities(pb.GroupControllerGetCapabilitiesRequest())
    of_groups = pb.GroupControllerServiceCapability.RPC
    assert [it.rpc.type for it in found.capabilities] == [of_groups.CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT]
    node = await csi.node.NodeGetCapabilities(pb.NodeGetCapabilitiesRequest())
    assert pb.NodeServiceCapability.RPC.STAGE_UNSTAGE_VOLUME in {
        capability.rpc.type for capability in node.capabilities
    }
    await refused(csi.controller.CreateSnapshot(pb.CreateSnapshotRequest()), grpc.StatusCode.INVALID_ARGUMENT, "name")
    await refused(
        groups.CreateVolumeGroupSnapshot(pb.CreateVolumeGroupSnapshotRequest()),
        grpc.StatusCode.INVALID_ARGUMENT,
        "name",
    )


# ---- create and delete -------------------------------------------------------------------------------


async def test_a_volume_is_created_once(csi: Csi) -> None:
    request = create_request("pvc-1", GIB, replicas="1", fsType="xfs")
    first = await csi.create(request)
    assert first.capacity_bytes == GIB
    assert dict(first.volume_context) == {"volumeName": "pvc-1", "fsType": "xfs"}
    assert not first.accessible_topology
    assert (await csi.create(request)).volume_id == first.volume_id
    assert csi.volumes.records[first.volume_id].replicas == 1


async def test_zones_reach_the_cluster(csi: Csi) -> None:
    request = create_request()
    request.accessibility_requirements.requisite.add().segments["topology.stos.dev/zone"] = "b"
    await csi.create(request)
    assert csi.volumes.asked == ["create pvc-1 zones=b"]


@pytest.mark.parametrize(
    ("request_", "code", "says"),
    [
        (create_request("v", 0), INVALID, "0 bytes"),
        (create_request("v", -1), INVALID, "negative"),
        (create_request("v", 2 * GIB, GIB), OUT_OF_RANGE, "below required_bytes"),
        (create_request("v", 64 * TIB + 1), OUT_OF_RANGE, "more than a volume can have"),
        (create_request("v", TIB), grpc.StatusCode.RESOURCE_EXHAUSTED, "no node has room"),
        (create_request("v", colour="blue"), INVALID, "colour"),
        (create_request("v", replicas="9"), INVALID, "replicas"),
        (create_request("v", fsType="ntfs"), INVALID, "ntfs"),
        (create_request("v", capability=mounted("xfs"), fsType="ext4"), INVALID, "several filesystems"),
        (create_request("v", capability=block(), fsType="ext4"), INVALID, "no filesystem"),
        (create_request("v", capability=mounted(mode=5)), INVALID, "MULTI_NODE_MULTI_WRITER"),
        (create_request(""), INVALID, "name is empty"),
        (create_request("a\nb"), INVALID, "control characters"),
        (pb.CreateVolumeRequest(), INVALID, "name is empty"),
        (pb.CreateVolumeRequest(name="v"), INVALID, "volume_capabilities"),
    ],
    ids=lambda value: value if isinstance(value, str) and value else None,
)
async def test_impossible_volumes(csi: Csi, request_: Any, code: grpc.StatusCode, says: str) -> None:
    await refused(csi.controller.CreateVolume(request_), code, says)
    assert not csi.volumes.records
    assert await csi.create()  # the service lives on


async def test_a_name_in_use(csi: Csi) -> None:
    await csi.create(create_request("v", GIB))
    await refused(csi.create(create_request("v", 2 * GIB)), EXISTS)
    await refused(csi.create(create_request("v", GIB, replicas="0")), EXISTS)
    await refused(csi.create(create_request("v", GIB, capability=block())), EXISTS, "ext4")
    await refused(csi.create(create_request("v", GIB, fsType="xfs")), EXISTS, "ext4")
    assert len(csi.volumes.records) == 1


async def test_deleting_is_idempotent_and_never_by_name(csi: Csi) -> None:
    volume = (await csi.create(create_request("precious"))).volume_id
    for absent in ("precious", NOBODY, "../../etc", "x" * 10_000):
        await csi.controller.DeleteVolume(pb.DeleteVolumeRequest(volume_id=absent))
    assert volume in csi.volumes.records
    for _ in range(2):
        await csi.controller.DeleteVolume(pb.DeleteVolumeRequest(volume_id=volume))
    assert not csi.volumes.records
    await refused(csi.controller.DeleteVolume(pb.DeleteVolumeRequest()), INVALID, "volume_id")


async def test_a_volume_in_use_is_not_deleted(csi: Csi) -> None:
    volume = (await csi.create()).volume_id
    await csi.publish(volume)
    await refused(csi.controller.DeleteVolume(pb.DeleteVolumeRequest(volume_id=volume)), PRECONDITION, "app")


# ---- publish to a node -------------------------------------------------------------------------------


async def test_publishing_to_a_node_and_back(csi: Csi) -> None:
    volume = (await csi.create()).volume_id
    for _ in range(2):
        context = (await csi.publish(volume)).publish_context
        assert dict(context) == {"attachEpoch": "1", "volumeName": "pvc-1"}
    await refused(csi.publish(volume, "n1"), PRECONDITION, "attached to app")
    unpublish = csi.controller.ControllerUnpublishVolume
    await unpublish(pb.ControllerUnpublishVolumeRequest(volume_id=volume, node_id="n1"))  # not the holder
    await refused(csi.publish(volume, "n1"), PRECONDITION)
    for _ in range(2):
        await unpublish(pb.ControllerUnpublishVolumeRequest(volume_id=volume, node_id="app"))
    assert (await csi.publish(volume, "n1")).publish_context["attachEpoch"] == "2"
    await unpublish(pb.ControllerUnpublishVolumeRequest(volume_id=volume))  # from all nodes
    assert csi.volumes.records[volume].attachment is None


async def test_publishing_what_is_not_there(csi: Csi) -> None:
    volume = (await csi.create()).volume_id
    await refused(csi.publish(NOBODY), NOT_FOUND, NOBODY)
    await refused(csi.publish("pvc-1"), NOT_FOUND, "pvc-1")
    await refused(csi.publish(volume, "n9"), NOT_FOUND, "n9")
    await refused(csi.publish(volume, "No Node"), NOT_FOUND, "No Node")
    await refused(csi.publish(""), INVALID, "volume_id")
    await refused(csi.publish(volume, ""), INVALID, "node_id")
    await refused(csi.publish(volume, readonly=True), INVALID, "readonly")
    bare = pb.ControllerPublishVolumeRequest(volume_id=volume, node_id="app")
    await refused(csi.controller.ControllerPublishVolume(bare), INVALID, "volume_capability")
    for absent in (NOBODY, "pvc-1"):
        request = pb.ControllerUnpublishVolumeRequest(volume_id=absent, node_id="app")
        await csi.controller.ControllerUnpublishVolume(request)
    await refused(csi.controller.ControllerUnpublishVolume(pb.ControllerUnpublishVolumeRequest()), INVALID)


# ---- look --------------------------------------------------------------------------------------------


async def test_validating_capabilities(csi: Csi) -> None:
    volume = (await csi.create()).volume_id

    async def ask(capability: pb.VolumeCapability, volume_id: str = volume) -> Any:
        request = pb.ValidateVolumeCapabilitiesRequest(volume_id=volume_id, volume_capabilities=[capability])
        return await csi.controller.ValidateVolumeCapabilities(request)

    assert len((await ask(mounted("ext4"))).confirmed.volume_capabilities) == 1
    for capability, says in ((mounted("xfs"), "ext4"), (mounted(mode=3), "MULTI_NODE_READER_ONLY")):
        answer = await ask(capability)
        assert not answer.HasField("confirmed")
        assert says in answer.message
    await refused(ask(mounted(), NOBODY), NOT_FOUND)
    empty = pb.ValidateVolumeCapabilitiesRequest(volume_id=volume)
    await refused(csi.controller.ValidateVolumeCapabilities(empty), INVALID)


async def test_listing_in_pages(csi: Csi) -> None:
    made = {(await csi.create(create_request(f"v{number}"))).volume_id for number in range(5)}
    listed: list[str] = []
    token = ""
    for _ in range(3):
        page = await csi.controller.ListVolumes(pb.ListVolumesRequest(max_entries=2, starting_token=token))
        listed += [entry.volume.volume_id for entry in page.entries]
        token = page.next_token
    assert token == ""
    assert len(listed) == 5
    assert set(listed) == made
    everything = await csi.controller.ListVolumes(pb.ListVolumesRequest())
    assert len(everything.entries) == 5
    await refused(csi.controller.ListVolumes(pb.ListVolumesRequest(max_entries=-1)), INVALID)
    for token in ("page two", "v1", "after:", "after:../x", "after:*", "after:a\n"):
        bad = pb.ListVolumesRequest(starting_token=token)
        await refused(csi.controller.ListVolumes(bad), grpc.StatusCode.ABORTED)


async def test_a_page_is_bounded_whatever_is_asked_for(csi: Csi) -> None:
    made = {(await csi.create(create_request(f"v{number}"))).volume_id for number in range(ENTRIES_MAX + 3)}
    listed: list[str] = []
    token = ""
    for count in (ENTRIES_MAX, 3):
        page = await csi.controller.ListVolumes(pb.ListVolumesRequest(max_entries=5000, starting_token=token))
        assert len(page.entries) == count
        listed += [entry.volume.volume_id for entry in page.entries]
        token = page.next_token
    assert token == ""
    assert set(listed) == made


async def test_a_token_outlives_the_volume_that_it_names(csi: Csi) -> None:
    for name in ("a", "b", "c"):
        await csi.create(create_request(name))
    first = await csi.controller.ListVolumes(pb.ListVolumesRequest(max_entries=2))
    for entry in first.entries:
        await csi.controller.DeleteVolume(pb.DeleteVolumeRequest(volume_id=entry.volume.volume_id))
    rest = await csi.controller.ListVolumes(pb.ListVolumesRequest(starting_token=first.next_token))
    assert [entry.volume.volume_context["volumeName"] for entry in rest.entries] == ["c"]


async def test_where_a_volume_is_and_how_it_is(csi: Csi) -> None:
    volume = (await csi.create(create_request(replicas="0"))).volume_id
    await csi.publish(volume)
    got = await csi.controller.ControllerGetVolume(pb.ControllerGetVolumeRequest(volume_id=volume))
    (listed,) = (await csi.controller.ListVolumes(pb.ListVolumesRequest())).entries
    assert listed.volume == got.volume
    for status in (got.status, listed.status):
        assert list(status.published_node_ids) == ["app"]
        assert not status.volume_condition.abnormal
        assert "1 of 1 copies in sync" in status.volume_condition.message
    csi.volumes.unserved.add(volume)
    got = await csi.controller.ControllerGetVolume(pb.ControllerGetVolumeRequest(volume_id=volume))
    assert got.status.volume_condition.abnormal
    assert "no answer" in got.status.volume_condition.message
    await refused(csi.controller.ControllerGetVolume(pb.ControllerGetVolumeRequest(volume_id=NOBODY)), NOT_FOUND)
    await refused(csi.controller.ControllerGetVolume(pb.ControllerGetVolumeRequest()), INVALID)


async def test_capacity_is_asked_for_by_class_and_zone(csi: Csi) -> None:
    request = pb.GetCapacityRequest(parameters={"replicas": "1", "fsType": "xfs", "topologyKey": ZONE_KEY})
    request.accessible_topology.segments[ZONE_KEY] = "b"
    answer = await csi.controller.GetCapacity(request)
    assert csi.volumes.asked == ["capacity replicas=1 zones=b apart=zone"]
    assert (answer.available_capacity, answer.maximum_volume_size.value) == (200 * GIB, 100 * GIB)
    assert answer.minimum_volume_size.value == 300 * MIB
    await csi.controller.GetCapacity(pb.GetCapacityRequest())
    assert csi.volumes.asked[-1] == "capacity replicas=2 zones= apart="
    await refused(csi.controller.GetCapacity(pb.GetCapacityRequest(parameters={"colour": "blue"})), INVALID, "colour")


async def test_a_live_volume_is_changed(csi: Csi) -> None:
    volume = (await csi.create()).volume_id

    def modify(volume_id: str, **parameters: str) -> Awaitable[Any]:
        request = pb.ControllerModifyVolumeRequest(volume_id=volume_id, mutable_parameters=parameters)
        return csi.controller.ControllerModifyVolume(request)  # type: ignore[no-any-return]

    for _ in range(2):
        await modify(volume, replicas="1", failureMode="hard")
    record = csi.volumes.records[volume]
    assert (record.replicas, record.failure_mode, record.on_unavailable) == (1, "hard", "suspend")
    await modify(volume)
    await refused(modify(volume, fsType="xfs"), INVALID, "fsType")
    await refused(modify(volume, replicas="9"), INVALID, "replicas")
    await refused(modify(NOBODY, replicas="1"), NOT_FOUND)
    await refused(modify(NOBODY), NOT_FOUND)
    await refused(modify(""), INVALID)


async def test_a_volume_grows_and_never_shrinks(csi: Csi) -> None:
    volume = (await csi.create(create_request("v", GIB))).volume_id

    async def expand(required: int, limit: int = 0, volume_id: str = volume) -> Any:
        sizes = pb.CapacityRange(required_bytes=required, limit_bytes=limit)
        request = pb.ControllerExpandVolumeRequest(volume_id=volume_id, capacity_range=sizes)
        return await csi.controller.ControllerExpandVolume(request)

    for _ in range(2):
        grown = await expand(2 * GIB - 1)
        assert (grown.capacity_bytes, grown.node_expansion_required) == (2 * GIB, True)
    assert (await expand(GIB)).capacity_bytes == 2 * GIB
    await refused(expand(GIB, GIB), OUT_OF_RANGE, "never shrinks")
    await refused(expand(64 * TIB + 1), OUT_OF_RANGE)
    await refused(expand(TIB), grpc.StatusCode.RESOURCE_EXHAUSTED)
    await refused(expand(-1), INVALID, "negative")
    await refused(expand(0), INVALID, "0 bytes")
    await refused(expand(GIB, volume_id=NOBODY), NOT_FOUND)
    await refused(expand(GIB, volume_id=""), INVALID)
    bare = pb.ControllerExpandVolumeRequest(volume_id=volume)
    await refused(csi.controller.ControllerExpandVolume(bare), INVALID, "capacity_range")
    assert (await csi.create(create_request("v", GIB))).capacity_bytes == 2 * GIB


async def test_bad_requests_to_expand_on_the_node(csi: Csi, tmp_path: Path) -> None:
    volume = (await csi.create()).volume_id

    def expand(volume_id: str = volume, path: str = str(tmp_path)) -> Awaitable[Any]:
        request = pb.NodeExpandVolumeRequest(volume_id=volume_id, volume_path=path)
        return csi.node.NodeExpandVolume(request)  # type: ignore[no-any-return]

    await refused(expand(), NOT_FOUND, "is not at")
    await refused(expand(volume_id=""), INVALID, "volume_id")
    await refused(expand(path=""), INVALID, "volume_path")
    await refused(expand(path="relative"), INVALID, "volume_path")
    await refused(expand(volume_id=NOBODY), NOT_FOUND)


async def test_a_node_has_no_more_volumes_than_it_may(csi: Csi) -> None:
    volumes = [(await csi.create(create_request(f"v{number}"))).volume_id for number in range(4)]
    for volume in volumes[:3]:
        await csi.publish(volume)
    text = await refused(csi.publish(volumes[3]), grpc.StatusCode.RESOURCE_EXHAUSTED, "3 volumes")
    assert "app" in text
    await csi.publish(volumes[0])  # is there already
    await csi.publish(volumes[3], "n1")


async def test_attaching_at_once_does_not_exceed_the_limit(csi: Csi) -> None:
    volumes = [(await csi.create(create_request(f"v{number}"))).volume_id for number in range(12)]
    results = await asyncio.gather(*(csi.publish(volume) for volume in volumes), return_exceptions=True)
    assert 1 <= sum(not isinstance(result, BaseException) for result in results) <= 3
    attached = [record for record in csi.volumes.records.values() if record.attachment is not None]
    assert len(attached) <= 3


async def test_the_primary_comes_to_who_uses_the_volume(csi: Csi) -> None:
    volume = (await csi.create(create_request("near", dataLocality="best-effort"))).volume_id
    await csi.publish(volume, "app")  # no copy there: nothing to do
    assert "move" not in csi.volumes.asked[-1]
    record = csi.volumes.records[volume]
    here = VoterModel(node="app", incarnation="1" * 16)
    csi.volumes.records[volume] = record.model_copy(update={"in_sync": [*record.in_sync, here]})
    await csi.publish(volume, "app")
    assert csi.volumes.asked[-1] == "move near to app"


async def test_a_create_that_any_size_of_a_range_satisfies(csi: Csi) -> None:
    first = await csi.create(create_request("v", GIB, 4 * GIB))
    again = await csi.create(create_request("v", GIB // 2, 2 * GIB))
    assert (again.volume_id, again.capacity_bytes) == (first.volume_id, GIB)
    await refused(csi.create(create_request("v", 2 * GIB)), EXISTS)
    await refused(csi.create(create_request("v", 1, GIB // 2)), EXISTS)
    await refused(csi.create(create_request("v", GIB, topologyKey=ZONE_KEY)), EXISTS, "topologyKey")


# ---- the node half -----------------------------------------------------------------------------------


def stage_request(volume: str, path: Path | str, capability: Any = None) -> pb.NodeStageVolumeRequest:
    return pb.NodeStageVolumeRequest(
        volume_id=volume, staging_target_path=str(path), volume_capability=capability or mounted()
    )


@pytest.mark.skipif(os.path.exists("/sys/module/nbd"), reason="needs a node that can't attach")
async def test_staging_where_nothing_can_attach(csi: Csi, tmp_path: Path) -> None:
    volume = (await csi.create()).volume_id
    await csi.publish(volume)
    text = await refused(csi.node.NodeStageVolume(stage_request(volume, tmp_path / "s")), PRECONDITION, "kernel-nbd")
    assert "nbd" in text
    assert not csi.volumes.frontends
    assert not (tmp_path / "s").exists()
    await refused(csi.node.NodeStageVolume(stage_request(NOBODY, tmp_path / "s")), NOT_FOUND)


async def test_bad_stage_requests(csi: Csi, tmp_path: Path) -> None:
    stage = csi.node.NodeStageVolume
    volume = (await csi.create()).volume_id
    await refused(stage(stage_request("", tmp_path)), INVALID, "volume_id")
    await refused(stage(stage_request(volume, "")), INVALID, "staging_target_path")
    await refused(stage(stage_request(volume, "relative")), INVALID, "staging_target_path")
    await refused(stage(stage_request(volume, "/a/../b")), INVALID, "relative parts")
    await refused(stage(stage_request("pvc-1", tmp_path)), NOT_FOUND)
    await refused(stage(stage_request(volume, tmp_path, mounted(mode=5))), PRECONDITION, "MULTI_NODE")
    await refused(stage(stage_request(volume, tmp_path, mounted("ntfs"))), PRECONDITION, "ntfs")
    await refused(stage(stage_request(volume, tmp_path, pb.VolumeCapability())), INVALID, "access type")
    bare = pb.NodeStageVolumeRequest(volume_id=volume, staging_target_path=str(tmp_path))
    await refused(stage(bare), INVALID, "volume_capability")


async def test_bad_publish_requests(csi: Csi, tmp_path: Path) -> None:
    volume = (await csi.create()).volume_id

    def publish(volume_id: str = volume, staging: str = "/s", target: str = "/t") -> Awaitable[Any]:
        request = pb.NodePublishVolumeRequest(
            volume_id=volume_id, staging_target_path=staging, target_path=target, volume_capability=mounted()
        )
        return csi.node.NodePublishVolume(request)  # type: ignore[no-any-return]

    await refused(publish(), PRECONDITION, "not staged")
    await refused(publish(NOBODY), NOT_FOUND)
    await refused(publish(""), INVALID, "volume_id")
    await refused(publish(target=""), INVALID, "target_path")
    await refused(publish(staging=""), PRECONDITION, "staging_target_path")
    await refused(csi.node.NodePublishVolume(pb.NodePublishVolumeRequest(volume_id=volume)), INVALID)


async def test_taking_back_what_was_never_given(csi: Csi, tmp_path: Path) -> None:
    for volume in (NOBODY, "no-such-id"):
        target = str(tmp_path / "t")
        await csi.node.NodeUnpublishVolume(pb.NodeUnpublishVolumeRequest(volume_id=volume, target_path=target))
        unstage = pb.NodeUnstageVolumeRequest(volume_id=volume, staging_target_path=target)
        await csi.node.NodeUnstageVolume(unstage)
    await refused(csi.node.NodeUnpublishVolume(pb.NodeUnpublishVolumeRequest()), INVALID)
    await refused(csi.node.NodeUnstageVolume(pb.NodeUnstageVolumeRequest(volume_id=NOBODY)), INVALID)


async def test_unpublishing_keeps_what_is_not_empty(csi: Csi, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("data")
    for path in (kept, kept / "file"):
        request = pb.NodeUnpublishVolumeRequest(volume_id=NOBODY, target_path=str(path))
        await refused(csi.node.NodeUnpublishVolume(request), PRECONDITION)
    assert (kept / "file").read_text() == "data"


async def test_stats_of_what_is_not_there(csi: Csi, tmp_path: Path) -> None:
    request = pb.NodeGetVolumeStatsRequest(volume_id=NOBODY, volume_path=str(tmp_path))
    await refused(csi.node.NodeGetVolumeStats(request), NOT_FOUND)
    await refused(csi.node.NodeGetVolumeStats(pb.NodeGetVolumeStatsRequest()), INVALID, "volume_id")
    await refused(csi.node.NodeGetVolumeStats(pb.NodeGetVolumeStatsRequest(volume_id=NOBODY)), INVALID, "volume_path")
    for path in ("relative", "/a/../b", "/a\n"):
        request = pb.NodeGetVolumeStatsRequest(volume_id=NOBODY, volume_path=path)
        await refused(csi.node.NodeGetVolumeStats(request), NOT_FOUND)


# ---- the wire ----------------------------------------------------------------------------------------


def raw(channel: Any, method: str) -> Callable[[bytes], Awaitable[bytes]]:
    call: Callable[[bytes], Awaitable[bytes]] = channel.unary_unary(method)
    return call


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x02\xc3\x28", os.urandom(64) + b"\xff"])
async def test_bytes_that_are_no_request(csi: Csi, data: bytes) -> None:
    channel = csi.channel(csi.settings.controller_socket)
    await refused(raw(channel, "/csi.v1.Controller/CreateVolume")(data), INVALID, "CreateVolume")
    assert await csi.create()


async def test_methods_and_services_that_do_not_exist(csi: Csi) -> None:
    controller, node = (csi.channel(path) for path in (csi.settings.controller_socket, csi.settings.node_socket))
    for channel, method in (
        (controller, "/csi.v1.Controller/Explode"),
        (controller, "/csi.v2.Controller/CreateVolume"),
        (controller, "/csi.v1.Node/NodeGetInfo"),
        (node, "/csi.v1.Controller/CreateVolume"),
    ):
        await refused(raw(channel, method)(b""), grpc.StatusCode.UNIMPLEMENTED)


async def test_a_request_that_is_too_large(csi: Csi) -> None:
    request = create_request("x" * (2 << 20))
    await refused(csi.controller.CreateVolume(request), grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert await csi.create()


async def test_junk_on_the_socket(csi: Csi) -> None:
    for junk in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(4096), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(csi.settings.controller_socket))
            client.sendall(junk)
    assert await csi.create()


async def test_a_defect_is_an_answer_and_not_an_end(csi: Csi, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any, **__: Any) -> ReplicaStatus:
        raise RuntimeError("a secret detail")

    with monkeypatch.context() as patch:
        patch.setattr(csi.volumes, "create", broken)
        text = await refused(csi.create(), grpc.StatusCode.INTERNAL, "RuntimeError")
        assert "secret" not in text
    assert await csi.create()


async def test_a_caller_that_gives_up_leaves_the_operation_running(csi: Csi, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, create = asyncio.Event(), csi.volumes.create

    async def slow(*arguments: Any, **more: Any) -> ReplicaStatus:
        await gate.wait()
        return await create(*arguments, **more)

    monkeypatch.setattr(csi.volumes, "create", slow)
    call = csi.controller.CreateVolume(create_request(), timeout=0.2)
    await refused(call, grpc.StatusCode.DEADLINE_EXCEEDED)
    await refused(csi.create(), grpc.StatusCode.ABORTED, "pending")
    other = asyncio.create_task(csi.create(create_request("other")))
    gate.set()
    assert (await other).volume_id
    assert (await csi.create()).volume_id in csi.volumes.records


async def test_the_cluster_gets_less_time_than_the_caller(csi: Csi, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    create = csi.volumes.create

    async def noted(*arguments: Any, timeout_s: float, **more: Any) -> ReplicaStatus:
        given.append(timeout_s)
        return await create(*arguments, timeout_s=timeout_s, **more)

    monkeypatch.setattr(csi.volumes, "create", noted)
    await csi.controller.CreateVolume(create_request("a"), timeout=5.0)
    await csi.controller.CreateVolume(create_request("b"))
    assert 3.0 < given[0] < 5.0
    assert given[1] == csi.settings.request_timeout_s


async def test_the_callers_trace_goes_on(csi: Csi, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    create = csi.volumes.create

    async def noted(*arguments: Any, **more: Any) -> ReplicaStatus:
        seen.append(current_traceparent())
        return await create(*arguments, **more)

    monkeypatch.setattr(csi.volumes, "create", noted)
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    for traceparent in (f"00-{trace}-00f067aa0ba902b7-01", "00-junk"):
        metadata = (("traceparent", traceparent),)
        await csi.controller.CreateVolume(create_request(), metadata=metadata)
    assert seen[0][3:35] == trace
    assert seen[1][3:35] != trace  # one of its own


async def test_what_the_cluster_refuses_arrives_as_it_is(csi: Csi, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: Any, **__: Any) -> ReplicaStatus:
        raise StosError(Code.UNAVAILABLE, "no primary serves", next_step="wait for its nodes")

    monkeypatch.setattr(csi.volumes, "create", away)
    await refused(csi.create(), grpc.StatusCode.UNAVAILABLE, "no primary serves (wait for its nodes)")


# ---- the sockets -------------------------------------------------------------------------------------


async def test_the_sockets_are_not_for_everybody(csi: Csi) -> None:
    for path in (csi.settings.controller_socket, csi.settings.node_socket):
        mode = path.stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600


async def test_a_socket_in_use_is_not_taken_over(csi: Csi) -> None:
    second = Servers(csi.settings, csi.volumes, ready=lambda: True)
    with pytest.raises(StosError) as caught:
        await second.start()
    assert caught.value.code is Code.ALREADY_EXISTS
    await second.stop()
    assert await csi.create()


async def test_what_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "left.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
        left.listen()
    server = await listen(path, lambda _: None)
    await server.stop(None)


async def test_a_file_in_the_way_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("data")
    with pytest.raises(StosError) as caught:
        await listen(path, lambda _: None)
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert path.read_text() == "data"
