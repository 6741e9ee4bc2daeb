"""Snapshots of file systems in use, through the whole cluster: they stand still for each, and what a clone holds is
whole without its journal being replayed."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from services.dev.demo.csi import CsiClient, mounted_as, raw_block
from services.dev.demo.tools import why_no_mount
from stoscore.proto import csi_pb2 as pb
from stoscore.proto import csi_pb2_grpc as rpc
from stoscore.units import MIB
from tests.support.cluster import RunningCluster
from tests.support.csi import block, create_request, mounted

pytestmark = [
    pytest.mark.long,
    pytest.mark.root,
    pytest.mark.skipif(bool(why_no_mount()), reason=why_no_mount() or "can mount"),
]
SIZE = 320 * MIB
TIMEOUT_S = 60.0
SNAPSHOTS = 5
WITHOUT_REPLAY = {"ext4": "ro,noload", "xfs": "ro,norecovery,nouuid"}


@pytest.fixture
async def channel(running: RunningCluster) -> AsyncIterator[Any]:
    path = running.cluster.layout.csi_socket("controller")
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        yield channel


async def command(*words: str | Path) -> str:
    done = await asyncio.to_thread(subprocess.run, words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


class Files:
    """One file after the other is written and forgotten: nothing is synced but by the kernel, or by who freezes."""

    def __init__(self, path: Path):
        self._path = path
        self.count = 0
        self.longest_s = 0.0
        self.ends = False

    async def run(self) -> None:
        while not self.ends:
            since_s = time.monotonic()
            await asyncio.to_thread(self._write)
            self.longest_s = max(self.longest_s, time.monotonic() - since_s)

    def _write(self) -> None:
        (self._path / f"new-{self.count % 500}").write_bytes(content(self.count))
        (self._path / f"new-{self.count % 500}").rename(self._path / f"file-{self.count % 500}")
        self.count += 1


def content(number: int) -> bytes:
    return b"%016d" % number * 2048


@pytest.mark.parametrize("fs_type", ["ext4", "xfs"])
async def test_a_clone_is_whole_without_its_journal(
    running: RunningCluster, csi: CsiClient, channel: Any, tmp_path: Path, fs_type: str
) -> None:
    controller, groups = rpc.ControllerStub(channel), rpc.GroupControllerStub(channel)
    request = create_request(f"source-{fs_type}", SIZE, capability=mounted(fs_type))
    source = (await controller.CreateVolume(request, timeout=TIMEOUT_S)).volume
    staging = tmp_path / "source"
    staging.mkdir()
    context = await csi.controller_publish(source, "app", mounted_as(fs_type))
    await csi.stage(source, context, staging, mounted_as(fs_type))
    files = Files(staging)
    task = asyncio.create_task(files.run())
    taken: dict[str, int] = {}
    try:
        for number in range(SNAPSHOTS):
            until = files.count + 20
            while files.count < until:
                await asyncio.sleep(0.01)
            before = files.count
            if number % 2:
                name = f"group-{fs_type}-{number}"
                asked = pb.CreateVolumeGroupSnapshotRequest(name=name, source_volume_ids=[source.volume_id])
                answer = await groups.CreateVolumeGroupSnapshot(asked, timeout=TIMEOUT_S)
                (snapshot,) = answer.group_snapshot.snapshots
            else:
                one = pb.CreateSnapshotRequest(name=f"snap-{fs_type}-{number}", source_volume_id=source.volume_id)
                snapshot = (await controller.CreateSnapshot(one, timeout=TIMEOUT_S)).snapshot
            taken[snapshot.snapshot_id] = before
    finally:
        files.ends = True
        await asyncio.wait_for(task, TIMEOUT_S)
    log = (running.cluster.layout.logs / "csi-node.log").read_text()
    still = [line for line in log.splitlines() if "stood still" in line and source.volume_id in line]
    assert len(still) == SNAPSHOTS, "it was frozen for each"
    print(f"{fs_type}: longest write of a file {files.longest_s * 1000:.0f} ms")
    for line in still:
        print(line[line.index("its file system") :][:50])
    for number, (snapshot_id, before) in enumerate(taken.items()):
        await check_clone(csi, controller, snapshot_id, before, tmp_path / f"clone-{number}", fs_type)
    await csi.unstage(source.volume_id, staging)
    await csi.controller_unpublish(source.volume_id, "app")


async def check_clone(csi: CsiClient, controller: Any, snapshot_id: str, before: int, path: Path, fs_type: str) -> None:
    """`before`: so many files were written when the snapshot was asked for."""
    request = create_request(f"clone-{fs_type}-{path.name}", SIZE, capability=block())
    request.volume_content_source.snapshot.snapshot_id = snapshot_id
    clone = (await controller.CreateVolume(request, timeout=TIMEOUT_S)).volume
    staging, device = path.with_suffix(".staging"), path.with_suffix(".device")
    staging.mkdir()
    context = await csi.controller_publish(clone, "app", raw_block())
    await csi.stage(clone, context, staging, raw_block())
    await csi.publish(clone, context, staging, device, raw_block())
    path.mkdir()
    if fs_type == "ext4":
        assert "needs_recovery" not in await command("dumpe2fs", "-h", device)
        await command("e2fsck", "-fn", device)
    await command("mount", "-t", fs_type, "-o", WITHOUT_REPLAY[fs_type], device, path)
    try:
        held = sorted((found.read_bytes() for found in path.glob("file-*")), reverse=True)
        newest = int(held[0][:16])
        assert newest >= before - 1, "what was written before it was asked for"
        for one in held:
            assert one == content(int(one[:16]))
        assert len(held) == min(newest + 1, 500)
    finally:
        await command("umount", path)
    if fs_type == "xfs":  # its log is replayed by a mount alone, also after a freeze
        await command("mount", "-t", "xfs", "-o", "nouuid", device, path)
        await command("umount", path)
        await command("xfs_repair", "-n", device)
    await csi.unpublish(clone.volume_id, device)
    await csi.unstage(clone.volume_id, staging)
    await csi.controller_unpublish(clone.volume_id, "app")
