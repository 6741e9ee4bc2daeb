"""CSI against the real cluster: what is refused, in gRPC's own terms, and what a repeated call does."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.dev.demo.csi import CsiClient, mounted_as, raw_block
from services.dev.demo.tools import why_no_mount
from stoscore.proto import csi_pb2
from stoscore.units import MIB
from tests.support.cluster import RunningCluster

pytestmark = pytest.mark.slow
SIZE_BYTES = 64 * MIB
NOWHERE = "0" * 32


@pytest.fixture
async def volume(csi: CsiClient) -> Any:
    return await csi.create("claim", SIZE_BYTES, mounted_as("ext4"), {"replicas": "2"})


async def refused(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.details()
    return caught.value.code()


async def test_create_is_idempotent(csi: CsiClient, volume: Any) -> None:
    again = await csi.create("claim", SIZE_BYTES, mounted_as("ext4"), {"replicas": "2"})
    assert again.volume_id == volume.volume_id
    assert again.capacity_bytes == SIZE_BYTES


@pytest.mark.parametrize(
    ("name", "size", "parameters", "codes"),
    [
        ("negative", -1, {}, ("INVALID_ARGUMENT", "OUT_OF_RANGE")),
        ("above-the-limit", 1 << 62, {}, ("OUT_OF_RANGE",)),
        ("above-the-pool", 10 << 40, {}, ("RESOURCE_EXHAUSTED", "OUT_OF_RANGE")),
        ("unknown", SIZE_BYTES, {"colour": "blue"}, ("INVALID_ARGUMENT",)),
        ("impossible", SIZE_BYTES, {"replicas": "many"}, ("INVALID_ARGUMENT",)),
        ("too-many", SIZE_BYTES, {"replicas": "6"}, ("INVALID_ARGUMENT",)),
        ("", SIZE_BYTES, {}, ("INVALID_ARGUMENT",)),
    ],
)
async def test_bad_creates_leave_nothing(
    running: RunningCluster, csi: CsiClient, name: str, size: int, parameters: dict[str, str], codes: tuple[str, ...]
) -> None:
    code = await refused(csi.create(name, size, raw_block(), parameters))
    assert code.name in codes
    assert [row for row in running.json("volume", "ls") if row["name"] == name] == []


async def test_a_name_in_use_with_another_size(csi: CsiClient, volume: Any) -> None:
    code = await refused(csi.create("claim", 2 * SIZE_BYTES, mounted_as("ext4"), {"replicas": "2"}))
    assert code is grpc.StatusCode.ALREADY_EXISTS
    other = csi.create("claim", SIZE_BYTES, mounted_as("ext4"), {"replicas": "1"})
    assert await refused(other) is grpc.StatusCode.ALREADY_EXISTS


async def test_what_does_not_exist(csi: CsiClient, tmp_path: Path) -> None:
    nowhere = csi_pb2.Volume(volume_id=NOWHERE)
    await csi.delete(NOWHERE)
    await csi.controller_unpublish(NOWHERE, "app")
    await csi.unpublish(NOWHERE, tmp_path / "target")
    await csi.unstage(NOWHERE, tmp_path)
    assert await refused(csi.controller_publish(nowhere, "app", raw_block())) is grpc.StatusCode.NOT_FOUND
    (tmp_path / "staging").mkdir()
    code = await refused(csi.stage(nowhere, {}, tmp_path / "staging", raw_block()))
    assert code.name in ("NOT_FOUND", "INVALID_ARGUMENT", "FAILED_PRECONDITION")


async def test_an_unknown_node(csi: CsiClient, volume: Any) -> None:
    assert await refused(csi.controller_publish(volume, "n99", mounted_as("ext4"))) is grpc.StatusCode.NOT_FOUND


async def test_one_node_at_a_time_and_no_delete_while_attached(csi: CsiClient, volume: Any) -> None:
    await csi.controller_publish(volume, "app", mounted_as("ext4"))
    await csi.controller_publish(volume, "app", mounted_as("ext4"))
    elsewhere = csi.controller_publish(volume, "n1", mounted_as("ext4"))
    assert await refused(elsewhere) is grpc.StatusCode.FAILED_PRECONDITION
    assert await refused(csi.delete(volume.volume_id)) is grpc.StatusCode.FAILED_PRECONDITION
    await csi.controller_unpublish(volume.volume_id, "app")
    await csi.controller_unpublish(volume.volume_id, "app")


@pytest.mark.root
@pytest.mark.skipif(bool(why_no_mount()), reason=why_no_mount() or "can mount")
async def test_a_filesystem_lives_through_its_node_services_death(
    running: RunningCluster, csi: CsiClient, volume: Any, tmp_path: Path
) -> None:
    capability = mounted_as("ext4")
    staging, target = tmp_path / "staging", tmp_path / "target"
    staging.mkdir()
    context = await csi.controller_publish(volume, "app", capability)
    await csi.stage(volume, context, staging, capability)
    await csi.publish(volume, context, staging, target, capability)
    (target / "before").write_text("written before")
    await asyncio.to_thread(running.cluster.kill, "csi")
    (target / "during").write_text("written while csi is dead")
    await asyncio.to_thread(running.cluster.start, "csi")
    await csi.stage(volume, context, staging, capability)
    await csi.publish(volume, context, staging, target, capability)
    assert (target / "before").read_text() == "written before"
    assert (target / "during").read_text() == "written while csi is dead"
    await csi.unpublish(volume.volume_id, target)
    await csi.unstage(volume.volume_id, staging)
    await csi.controller_unpublish(volume.volume_id, "app")
    assert not target.exists()


async def test_delete_is_idempotent_and_gives_the_space_back(
    running: RunningCluster, csi: CsiClient, volume: Any
) -> None:
    await csi.delete(volume.volume_id)
    await csi.delete(volume.volume_id)
    assert [row for row in running.json("volume", "ls") if row["name"] == "claim"] == []
    data = running.cluster.layout.data("n1").parent

    def gone() -> bool:
        return not [path for path in data.rglob("format.json") if volume.volume_id in str(path)]

    await running.wait("replicas removed", gone)
