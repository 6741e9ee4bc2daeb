"""A volume in use grows: its copies, its frontend, its device and its file system; nothing that was there changes."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from services.dev.demo.csi import CsiClient, mounted_as, raw_block
from services.dev.demo.tools import why_no_mount
from stoscore.units import MIB
from tests.support.cluster import RunningCluster

pytestmark = [
    pytest.mark.long,
    pytest.mark.root,
    pytest.mark.skipif(bool(why_no_mount()), reason=why_no_mount() or "can mount"),
]
BEFORE, AFTER = 320 * MIB, 448 * MIB


class Used:
    """A volume that is staged and published below a directory."""

    def __init__(self, csi: CsiClient, directory: Path, capability: Any) -> None:
        self.csi, self.capability = csi, capability
        self.staging, self.target = directory / "staging", directory / "target"
        self.staging.mkdir()

    async def begin(self, name: str) -> None:
        self.volume = await self.csi.create(name, BEFORE, self.capability, {"replicas": "2"})
        context = await self.csi.controller_publish(self.volume, "app", self.capability)
        await self.csi.stage(self.volume, context, self.staging, self.capability)
        await self.csi.publish(self.volume, context, self.staging, self.target, self.capability)

    async def end(self) -> None:
        await self.csi.unpublish(self.volume.volume_id, self.target)
        await self.csi.unstage(self.volume.volume_id, self.staging)
        await self.csi.controller_unpublish(self.volume.volume_id, "app")
        await self.csi.delete(self.volume.volume_id)

    async def expand(self) -> None:
        for _ in range(2):
            assert await self.csi.expand(self.volume.volume_id, AFTER) == AFTER
        for _ in range(2):
            assert await self.csi.expand_on_node(self.volume.volume_id, self.target) == AFTER


async def test_a_mounted_file_system_grows_under_load(running: RunningCluster, csi: CsiClient, tmp_path: Path) -> None:
    """While one of the copies is away; it grows when it comes back."""
    used = Used(csi, tmp_path, mounted_as("xfs"))
    await used.begin("mounted")
    kept = os.urandom(8 * MIB)
    (used.target / "kept").write_bytes(kept)
    before = os.statvfs(used.target)
    view = await asyncio.to_thread(running.json, "volume", "show", "mounted")
    away = next(node for node in view["in_sync"] if node != view["primary"])
    await asyncio.to_thread(running.cluster.kill, away)
    stop = asyncio.Event()
    writing = asyncio.create_task(_write_on(used.target / "busy", stop))
    await used.expand()
    after = os.statvfs(used.target)
    assert after.f_blocks * after.f_frsize > before.f_blocks * before.f_frsize + 100 * MIB
    large = os.urandom(BEFORE // 2)
    (used.target / "large").write_bytes(large)
    (used.target / "larger").write_bytes(large[: 128 * MIB])
    await asyncio.to_thread(os.sync)
    stop.set()
    assert await writing > 0
    await asyncio.to_thread(running.cluster.start, away)
    await running.wait(
        "all of it copied", lambda: len(running.json("volume", "show", "mounted")["in_sync"]) == 3, 300.0
    )
    assert (used.target / "kept").read_bytes() == kept
    assert (used.target / "large").read_bytes() == large
    copies = await asyncio.to_thread(running.copies, "mounted")
    assert len({copy.sums for copy in copies}) == 1
    await used.end()


async def _write_on(path: Path, stop: asyncio.Event) -> int:
    """Synchronous writes, one after the other, without an error; how many there were."""

    def write(file: int, count: int) -> None:
        os.pwrite(file, count.to_bytes(8, "little") * 512, (count % 64) * 4096)
        os.fdatasync(file)

    file, count = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), 0
    try:
        while not stop.is_set():
            await asyncio.to_thread(write, file, count)
            count += 1
    finally:
        os.close(file)
    return count


async def test_a_block_device_grows(running: RunningCluster, csi: CsiClient, tmp_path: Path) -> None:
    used = Used(csi, tmp_path, raw_block())
    await used.begin("block")
    device = os.open(used.target, os.O_RDWR)
    try:
        os.pwrite(device, b"a" * 4096, BEFORE - 4096)
        os.fsync(device)
        assert os.lseek(device, 0, os.SEEK_END) == BEFORE
        await used.expand()
        assert os.lseek(device, 0, os.SEEK_END) == AFTER
        os.pwrite(device, b"b" * 4096, AFTER - 4096)
        os.fsync(device)
        assert os.pread(device, 4096, BEFORE - 4096) == b"a" * 4096
        assert os.pread(device, 4096, BEFORE) == bytes(4096)
        assert os.pread(device, 4096, AFTER - 4096) == b"b" * 4096
    finally:
        os.close(device)
    await used.end()
