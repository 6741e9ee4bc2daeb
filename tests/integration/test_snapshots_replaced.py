"""Real processes: a volume's copies are lost for good one after the other, each is made anew elsewhere, and in the end
no disk is left that was there when its snapshots were taken. They are what they were, block by block."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator

import pytest

from services.dev.cluster import Cluster
from services.dev.nbd_client import NbdClient
from stoscore.units import BLOCK_BYTES, KIB, MIB
from tests.support.cluster import RunningCluster, running_cluster

pytestmark = [pytest.mark.long, pytest.mark.slow]
VOLUME, SIZE = "data", 16 * MIB
NODES = ("n1", "n2", "n3", "n4")
REPAIRED_S = 90.0


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    cluster = Cluster(tmp_path_factory.mktemp("stos") / "dev")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("STOS_REPLICA_GRACE_S", "2")
        with running_cluster(cluster, len(NODES)) as running:
            yield running


async def content(client: NbdClient) -> bytes:
    return b"".join([await client.read(at, MIB) for at in range(0, SIZE, MIB)])


async def as_a_volume(running: RunningCluster, snapshot: str) -> bytes:
    """Read from a volume of one copy that begins as it."""
    source = f"{VOLUME}/{snapshot}"
    made = await asyncio.to_thread(
        running.stos, "volume", "create", snapshot, "--from-snapshot", source, "--replicas", "0"
    )
    assert made.code == 0, made.errors
    opened = await asyncio.to_thread(running.json, "volume", "connect", snapshot, "--node", "app")
    async with await NbdClient.connect(opened["socket"], snapshot) as client:
        return await content(client)


async def test_snapshots_outlive_every_copy_that_sealed_them(running: RunningCluster) -> None:
    made = running.json("volume", "create", VOLUME, "--size", "16MiB")
    originals = {voter["node"] for voter in made["voters"]}
    opened = running.json("volume", "connect", VOLUME, "--node", "app")
    taken: dict[str, bytes] = {}
    async with await NbdClient.connect(opened["socket"], VOLUME) as client:
        for name, at in (("one", 0), ("two", 3 * MIB)):
            for offset in range(at, at + 6 * MIB, 256 * KIB):
                await client.write(offset, os.urandom(256 * KIB))
            taken[name] = await content(client)
            view = await asyncio.to_thread(running.json, "snapshot", "create", VOLUME, name)
            assert len(view["held_by"]) == 3
        await client.write(BLOCK_BYTES, os.urandom(8 * MIB)[: 8 * MIB - BLOCK_BYTES])
        present = await content(client)

    for victim in sorted(originals):
        await asyncio.to_thread(running.cluster.kill, victim)
        await running.wait(
            f"all copies and snapshots without {victim}", lambda victim=victim: whole(running, victim), REPAIRED_S
        )
        shutil.rmtree(running.cluster.layout.data(victim))
        await asyncio.to_thread(running.cluster.start, victim)

    for name in taken:
        view = running.json("snapshot", "show", VOLUME, name)
        print(name, "is held by", view["held_by"], "of", view["copies"], "copies")
        assert len(view["held_by"]) == view["copies"] == 3
        assert await as_a_volume(running, name) == taken[name]
    async with await NbdClient.connect(opened["socket"], VOLUME) as client:
        assert await content(client) == present


def whole(running: RunningCluster, without: str) -> bool:
    """Three copies are in sync, and hold every snapshot, none of them on that node."""
    view = running.json("volume", "show", VOLUME)
    copies = set(view["in_sync"])
    held = [set(row["held_by"]) for row in running.json("snapshot", "ls", VOLUME)]
    return without not in copies and len(copies) == 3 and not view["joining"] and all(by == copies for by in held)
