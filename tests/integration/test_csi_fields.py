"""Every field of every CSI request, with what nobody should send: each answer is one of the specification's refusals,
the service lives on, and what was there is as it was.

The requests come from the descriptors, so a new call or field is tried without anybody thinking of it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from stoscore.proto import csi_pb2 as pb
from stoscore.proto import csi_pb2_grpc as rpc
from stoscore.units import MIB
from tests.support.csi import block, create_request, mounted
from tests.support.csi_service import Csi, served

TEXTS = (
    "",
    "x" * 129,
    "x" * 70_000,
    "a\nb",
    "nul\0",
    "\x1b[2J",
    "*",
    ">",
    "a.b.>",
    "../../etc/passwd",
    "/",
    "//",
    "/a/../b",
    "-rf",
    "$(reboot)",
    "Ω" * 40,
    "\u202eabc",
    "0" * 32,
    "f" * 32 + ".x",
)
NUMBERS = (-(1 << 63), -1, 0, 1, (1 << 63) - 1)
SMALL = (-(1 << 31), -1, 0, (1 << 31) - 1)
ANSWERS = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
}
METHODS = [
    (service.name, method.name) for service in pb.DESCRIPTOR.services_by_name.values() for method in service.methods
]


@pytest.fixture
async def csi(tmp_path: Path) -> AsyncIterator[Csi]:
    async with served(tmp_path) as csi:
        yield csi


def good(csi: Csi, directory: Path, volume: str, snapshot: str, group: str) -> dict[str, Any]:
    """A request of each kind that makes sense, as far as it can without a device."""
    paths = {"staging_target_path": str(directory / "staging"), "volume_capability": mounted()}
    return {
        "CreateVolume": create_request("another", 16 * MIB),
        "ControllerPublishVolume": pb.ControllerPublishVolumeRequest(
            volume_id=volume, node_id="app", volume_capability=block()
        ),
        "ValidateVolumeCapabilities": pb.ValidateVolumeCapabilitiesRequest(
            volume_id=volume, volume_capabilities=[mounted()]
        ),
        "ControllerExpandVolume": pb.ControllerExpandVolumeRequest(
            volume_id=volume, capacity_range=pb.CapacityRange(required_bytes=32 * MIB)
        ),
        "CreateSnapshot": pb.CreateSnapshotRequest(source_volume_id=volume, name="another"),
        "CreateVolumeGroupSnapshot": pb.CreateVolumeGroupSnapshotRequest(name="another", source_volume_ids=[volume]),
        "GetVolumeGroupSnapshot": pb.GetVolumeGroupSnapshotRequest(group_snapshot_id=group),
        "GetSnapshot": pb.GetSnapshotRequest(snapshot_id=snapshot),
        "NodeStageVolume": pb.NodeStageVolumeRequest(volume_id=volume, **paths),
        "NodePublishVolume": pb.NodePublishVolumeRequest(
            volume_id=volume, target_path=str(directory / "target"), **paths
        ),
        "NodeUnstageVolume": pb.NodeUnstageVolumeRequest(
            volume_id=volume, staging_target_path=paths["staging_target_path"]
        ),
        "NodeGetVolumeStats": pb.NodeGetVolumeStatsRequest(volume_id=volume, volume_path=str(directory)),
    }


def spoilt(request: Any) -> Iterator[tuple[str, Any]]:
    """The request with one field that is missing, or is something else; messages inside it as well."""
    for field in request.DESCRIPTOR.fields:
        without = type(request)()
        without.CopyFrom(request)
        without.ClearField(field.name)
        yield f"no {field.name}", without
        for told, value in _values(field, request):
            changed = type(request)()
            changed.CopyFrom(without)
            _put(changed, field, value)
            yield f"{field.name}={told[:40]!r}", changed


def _values(field: Any, request: Any) -> Iterator[tuple[str, Any]]:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        for text in TEXTS:
            yield f"key {text}", {text: "1"}
            yield f"value {text}", {"fsType": text, "replicas": text}
    elif field.message_type is not None:
        now = getattr(request, field.name)
        first = (now[0] if now else field.message_type._concrete_class()) if field.is_repeated else now
        yield "empty", field.message_type._concrete_class()
        if field.message_type.full_name.startswith("csi."):
            yield from spoilt(first)
    elif field.cpp_type == field.CPPTYPE_STRING:
        yield from ((text, text) for text in TEXTS)
    elif field.cpp_type == field.CPPTYPE_ENUM:
        yield from ((str(number), number) for number in (0, 2, 3, 4, 5, 99))
    elif field.cpp_type == field.CPPTYPE_BOOL:
        yield "true", True
    else:
        numbers = NUMBERS if field.cpp_type == field.CPPTYPE_INT64 else SMALL
        yield from ((str(number), number) for number in numbers)


def _put(message: Any, field: Any, value: Any) -> None:
    if isinstance(value, dict):
        getattr(message, field.name).update(value)
    elif field.is_repeated:
        getattr(message, field.name).append(value)
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(value)
        getattr(message, field.name).SetInParent()
    else:
        setattr(message, field.name, value)


@pytest.mark.parametrize(("service", "method"), METHODS)
async def test_whatever_a_field_says(csi: Csi, tmp_path: Path, service: str, method: str) -> None:
    channel = csi.channel(csi.settings.node_socket if service == "Node" else csi.settings.controller_socket)
    groups = rpc.GroupControllerStub(csi.channel(csi.settings.controller_socket))
    kept = (await csi.controller.CreateVolume(create_request("kept", 16 * MIB))).volume.volume_id
    taken = await csi.controller.CreateSnapshot(pb.CreateSnapshotRequest(source_volume_id=kept, name="kept"))
    group = await groups.CreateVolumeGroupSnapshot(
        pb.CreateVolumeGroupSnapshotRequest(name="kept", source_volume_ids=[kept])
    )
    requests = good(csi, tmp_path, kept, taken.snapshot.snapshot_id, group.group_snapshot.group_snapshot_id)
    empty = getattr(pb, pb.DESCRIPTOR.services_by_name[service].methods_by_name[method].input_type.name)()
    call = getattr(getattr(rpc, f"{service}Stub")(channel), method)
    for told, request in spoilt(requests.get(method, empty)):
        code, details = grpc.StatusCode.OK, ""
        try:
            await call(request, timeout=30)
        except grpc.aio.AioRpcError as error:
            code, details = error.code(), error.details() or ""
        assert code in ANSWERS, f"{method} with {told}: {code.name}: {details}"
        assert len(details) < 2000, f"{method} with {told}: what was sent comes back"
    still = await csi.controller.ControllerGetVolume(pb.ControllerGetVolumeRequest(volume_id=kept))
    assert still.volume.volume_id == kept
    request = pb.GetVolumeGroupSnapshotRequest(group_snapshot_id=group.group_snapshot.group_snapshot_id)
    assert (await groups.GetVolumeGroupSnapshot(request)).group_snapshot == group.group_snapshot
    strange = {path.name for path in tmp_path.rglob("*")} - {"controller.sock", "node.sock", "state", "kernel-nbd"}
    assert not strange, "a path was made of what was sent"
