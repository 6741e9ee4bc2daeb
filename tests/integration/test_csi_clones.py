"""Clones with file systems: mounted beside their source, larger than it, with what was in it."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from services.dev.demo.csi import CsiClient, mounted_as
from services.dev.demo.tools import why_no_mount
from stoscore.proto import csi_pb2 as pb
from stoscore.proto import csi_pb2_grpc as rpc
from stoscore.units import MIB
from tests.support.cluster import RunningCluster
from tests.support.csi import create_request, mounted

pytestmark = [
    pytest.mark.long,
    pytest.mark.root,
    pytest.mark.skipif(bool(why_no_mount()), reason=why_no_mount() or "can mount"),
]
SIZE, LARGER = 320 * MIB, 512 * MIB
TIMEOUT_S = 60.0


@pytest.fixture
async def controller(running: RunningCluster) -> AsyncIterator[Any]:
    path = running.cluster.layout.csi_socket("controller")
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        yield rpc.ControllerStub(channel)


class Mounted:
    """A volume that a pod would see at `path`."""

    def __init__(self, csi: CsiClient, volume: pb.Volume, path: Path, fs_type: str):
        self._csi, self.volume, self.path, self._fs_type = csi, volume, path, fs_type

    async def __aenter__(self) -> Path:
        self.path.mkdir()
        context = await self._csi.controller_publish(self.volume, "app", mounted_as(self._fs_type))
        await self._csi.stage(self.volume, context, self.path, mounted_as(self._fs_type))
        return self.path

    async def __aexit__(self, *_: object) -> None:
        await self._csi.unstage(self.volume.volume_id, self.path)
        await self._csi.controller_unpublish(self.volume.volume_id, "app")


def size_of(path: Path) -> int:
    found = os.statvfs(path)
    return found.f_blocks * found.f_frsize


@pytest.mark.parametrize("fs_type", ["xfs", "ext4"])
async def test_a_clone_is_mounted_beside_its_source(
    csi: CsiClient, controller: Any, tmp_path: Path, fs_type: str
) -> None:
    request = create_request(f"source-{fs_type}", SIZE, capability=mounted(fs_type))
    source = (await controller.CreateVolume(request, timeout=TIMEOUT_S)).volume
    async with Mounted(csi, source, tmp_path / "source", fs_type) as path:
        (path / "before").write_bytes(b"before" * 100_000)
        await asyncio.to_thread(subprocess.run, ["sync", "--file-system", str(path)], check=True, timeout=60)
        taken = await controller.CreateSnapshot(
            pb.CreateSnapshotRequest(name=f"snap-{fs_type}", source_volume_id=source.volume_id), timeout=TIMEOUT_S
        )
        (path / "after").write_text("after")
        larger = fs_type == "xfs"  # mounted ext4 grows only for who has CAP_SYS_RESOURCE
        request = create_request(f"clone-{fs_type}", LARGER if larger else SIZE, capability=mounted(fs_type))
        request.volume_content_source.snapshot.snapshot_id = taken.snapshot.snapshot_id
        clone = (await controller.CreateVolume(request, timeout=TIMEOUT_S)).volume
        async with Mounted(csi, clone, tmp_path / "clone", fs_type) as copy:
            assert (copy / "before").read_bytes() == b"before" * 100_000
            assert not (copy / "after").exists()
            assert (size_of(copy) > SIZE) is larger, "it has grown to its volume"
            (copy / "own").write_text("own")
        assert not (path / "own").exists()
        assert (path / "after").read_text() == "after"
    snapshot = taken.snapshot.snapshot_id
    await controller.DeleteSnapshot(pb.DeleteSnapshotRequest(snapshot_id=snapshot), timeout=TIMEOUT_S)
    await controller.DeleteVolume(pb.DeleteVolumeRequest(volume_id=source.volume_id), timeout=TIMEOUT_S)
    async with Mounted(csi, clone, tmp_path / "again", fs_type) as copy:
        assert (copy / "own").read_text() == "own"
        assert (copy / "before").read_bytes() == b"before" * 100_000
