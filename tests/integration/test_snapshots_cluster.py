"""Real processes: snapshots of a volume in use, one of them while its primary is killed; and each is, read as a volume
of its own, one moment of the volume that it was taken of."""

from __future__ import annotations

import asyncio
import time

import pytest

from services.dev.nbd_client import NbdClient
from stoscore.units import BLOCK_BYTES
from tests.support.cluster import RunningCluster
from tests.support.moments import BLOCKS, DEPTH, WITHIN_S, Load, check_moment

pytestmark = [pytest.mark.long, pytest.mark.slow]
VOLUME = "data"
KILL_AFTER_S = 0.6
"""What the command itself takes before it asks, more or less: the primary dies somewhere around the seal."""


async def content(running: RunningCluster, name: str) -> bytes:
    """What a snapshot holds, read from a volume of one copy that begins as it."""
    source = f"{VOLUME}/{name}"
    made = await asyncio.to_thread(running.stos, "volume", "create", name, "--from-snapshot", source, "--replicas", "0")
    assert made.code == 0, made.errors
    opened = await asyncio.to_thread(running.json, "volume", "connect", name, "--node", "app")
    async with await NbdClient.connect(opened["socket"], name) as client:
        return await client.read(0, BLOCKS * BLOCK_BYTES)


async def test_each_is_one_moment_also_with_a_failover_in_its_middle(running: RunningCluster) -> None:
    created = running.stos("volume", "create", VOLUME, "--size", "64MiB")
    assert created.code == 0, created.errors
    opened = await asyncio.to_thread(running.json, "volume", "connect", VOLUME, "--node", "app")
    taken: dict[str, tuple[float, float]] = {}
    async with await NbdClient.connect(opened["socket"], VOLUME) as client:
        load = Load(client)
        task = asyncio.create_task(load.run())
        await load.more(4 * DEPTH)
        for name in ("one", "two", "three", "killed"):
            load.begin()
            since_s = time.monotonic()
            asked = asyncio.create_task(
                asyncio.to_thread(running.json, "snapshot", "create", VOLUME, name, "--timeout", "60")
            )
            if name == "killed":
                primary = running.json("volume", "show", VOLUME)["primary"]
                await asyncio.sleep(KILL_AFTER_S)
                running.cluster.kill(primary)
            view = await asked
            taken[name] = since_s, time.monotonic()
            assert view["state"] == "ready"
            await load.more(DEPTH)
            print(f"{name}: held by {view['held_by']}, longest pause {load.longest_s * 1000:.0f} ms")
        load.end()
        await asyncio.wait_for(task, WITHIN_S)
    for name, (since_s, until_s) in taken.items():
        check_moment(load, await content(running, name), since_s, until_s)
