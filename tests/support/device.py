"""A volume of a running cluster as a block device of this machine, with a file system on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.csi.attachers import Export
from services.csi.attachers.fuse import FuseAttacher
from tests.support.cluster import RunningCluster
from tests.support.nbd import run

needs_devices = pytest.mark.skipif(
    FuseAttacher(Path("/nonexistent")).obstacle() is not None, reason="needs root, FUSE and loop devices"
)
COMMAND_S = 600.0


async def ran(*command: str) -> str:
    code, output = await run(*command, timeout_s=COMMAND_S)
    assert code == 0, f"{' '.join(command)}: {output}"
    return output


@asynccontextmanager
async def device(running: RunningCluster, volume: str, state: Path) -> AsyncIterator[str]:
    """Its path, on the node without a copy."""
    opened = await asyncio.to_thread(running.json, "volume", "connect", volume, "--node", "app")
    attacher = FuseAttacher(state)
    volume_id = (await asyncio.to_thread(running.json, "volume", "show", volume))["volume"]
    try:
        yield await attacher.attach(volume_id, Export(socket=opened["socket"], name=volume))
    finally:
        await attacher.detach(volume_id)
        await asyncio.to_thread(running.stos, "volume", "disconnect", volume)


@asynccontextmanager
async def mounted(path: str, filesystem: str, where: Path) -> AsyncIterator[Path]:
    where.mkdir(exist_ok=True)
    await ran("mount", "-t", filesystem, "-o", "noatime", path, str(where))
    try:
        yield where
    finally:
        await ran("umount", str(where))
