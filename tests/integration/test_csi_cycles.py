"""Two hundred volumes from their creation to their deletion, many at once: every byte is read back, nothing is left."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from services.cli.asking import ask_all
from services.cli.cluster import connect, find
from services.dev import leftovers
from services.dev.demo.csi import CsiClient, mounted_as, raw_block
from services.dev.demo.tools import why_no_mount
from stoscore.process_messages import MetricsPage, MetricsRequest
from stoscore.units import MIB
from tests.support.cluster import RunningCluster

pytestmark = [
    pytest.mark.long,
    pytest.mark.root,
    pytest.mark.skipif(bool(why_no_mount()), reason=why_no_mount() or "can mount"),
]
CYCLES = int(os.environ.get("STOS_TEST_CYCLES", "200"))
WORKERS = 4
SIZE_BYTES = 64 * MIB


def write(target: Path, content: bytes) -> None:
    """To the file system, or to the device itself; on the disks when it returns."""
    path = target / "content" if target.is_dir() else target
    file = os.open(path, os.O_WRONLY | (os.O_CREAT if target.is_dir() else 0), 0o600)
    try:
        assert os.pwrite(file, content, 0) == len(content)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)


def read(target: Path, count: int) -> bytes:
    with (target / "content" if target.is_dir() else target).open("rb") as file:
        return file.read(count)


async def cycle(csi: CsiClient, directory: Path, number: int) -> None:
    capability = raw_block() if number % 2 else mounted_as("ext4")
    staging, target = directory / f"{number}-staging", directory / f"{number}-target"
    staging.mkdir()
    volume = await csi.create(f"cycle-{number}", SIZE_BYTES, capability, {"replicas": "2"})
    context = await csi.controller_publish(volume, "app", capability)
    await csi.stage(volume, context, staging, capability)
    await csi.publish(volume, context, staging, target, capability)
    content = os.urandom(MIB)
    await asyncio.to_thread(write, target, content)
    assert await asyncio.to_thread(read, target, MIB) == content
    await csi.unpublish(volume.volume_id, target)
    await csi.unstage(volume.volume_id, staging)
    await csi.controller_unpublish(volume.volume_id, "app")
    await csi.delete(volume.volume_id)
    assert not target.exists()
    staging.rmdir()


async def subscriptions(root: Path) -> dict[str, dict[str, float]]:
    """What every process of the cluster listens to on NATS."""
    name = "stos.bus.subscriptions"
    async with connect(find(root)) as session:
        pages = await ask_all(session.bus, "metrics", MetricsRequest(prefixes=[name]), MetricsPage)
    return {process: {sample.name: sample.value for sample in page.samples} for process, page in pages.items()}


def replicas(running: RunningCluster) -> list[str]:
    layout = running.cluster.layout
    return sorted(str(path) for node in ("n1", "n2", "n3") for path in layout.data(node).glob("replicas/*"))


def left(running: RunningCluster, directory: Path) -> dict[str, Any]:
    """What there is on this machine and in the cluster that only a volume makes."""
    layout = running.cluster.layout
    places = (layout.root, layout.run, directory)
    return {
        "mounts": [mount.target for mount in leftovers.mounts(*places)],
        "loops": leftovers.loop_devices(*places),
        "sockets": leftovers.unix_sockets(*places),
        "daemons": [line for _, line in leftovers.programs(*places) if "qemu" in line],
        "attached": sorted(path.name for path in layout.csi.glob("*/*")),
        "files": sorted(str(path) for path in layout.run.rglob("*") if not path.is_dir()),
        "directories": sorted(path.name for path in directory.iterdir()),
        "volumes": running.json("volume", "ls"),
        "subscriptions": asyncio.run(subscriptions(layout.root)),
        "replicas": replicas(running),
    }


async def test_nothing_is_left(running: RunningCluster, tmp_path: Path) -> None:
    layout = running.cluster.layout
    before = await asyncio.to_thread(left, running, tmp_path)
    csi = CsiClient(layout.csi_socket("controller"), layout.csi_socket("node"))
    numbers = iter(range(CYCLES))

    async def work() -> None:
        for number in numbers:
            await cycle(csi, tmp_path, number)

    async with asyncio.TaskGroup() as group:
        for _ in range(WORKERS):
            group.create_task(work())
    await csi.close()
    await running.wait("the copies gone", lambda: replicas(running) == before["replicas"])
    assert await asyncio.to_thread(left, running, tmp_path) == before
