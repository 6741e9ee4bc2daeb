"""Bytes flip on the disks of a running volume: its user reads what was written, and the copies are whole again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.dev.demo.verify import disagreements
from services.dev.nbd_client import NbdClient
from stoscore.units import BLOCK_BYTES, MIB
from tests.crash.rot import flip
from tests.support.cluster import AlteredCluster, RunningCluster, running_cluster

pytestmark = [pytest.mark.slow, pytest.mark.long]
SIZE = 16 * MIB
BLOCKS = 512
WORN_OUT = 40
READER = "n1"
"""Its scrub takes a week: what it heals, it heals because somebody reads. The others read everything all the time."""
HEALED_S = 60.0


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    busy = {"STOS_REPLICA_SCRUB_PERIOD_S": "1", "STOS_REPLICA_ROTTEN_BLOCKS_MAX": str(WORN_OUT)}
    grace = {"STOS_REPLICA_GRACE_S": "1"}
    nodes = {f"n{number}": grace | ({} if f"n{number}" == READER else busy) for number in range(1, 5)}
    cluster = AlteredCluster(tmp_path_factory.mktemp("stos") / "dev", settings=nodes)
    with running_cluster(cluster, 4) as running:
        yield running


@pytest.fixture(scope="module")
def content() -> bytes:
    return random.Random(1).randbytes(BLOCKS * BLOCK_BYTES)


@pytest.fixture(scope="module")
def volume(running: RunningCluster, content: bytes) -> str:
    """Three copies, one of them on the reader, which leads; everything written and flushed."""
    for attempt in range(20):
        name = f"data{attempt}"
        made = running.json("volume", "create", name, "--size", "16MiB")
        if READER in made["in_sync"]:
            break
        running.json("volume", "rm", name)
    asyncio.run(_write(running, name, content))
    if made["primary"] != READER:
        running.json("volume", "move-primary", name, "--to", READER)
    return name


async def _write(running: RunningCluster, name: str, content: bytes) -> None:
    async with await connect(running, name) as client:
        await client.write(0, content)
        await client.flush()


async def connect(running: RunningCluster, name: str) -> NbdClient:
    opened = await asyncio.to_thread(running.json, "volume", "connect", name, "--node", "app")
    return await NbdClient.connect(opened["socket"], name)


def show(running: RunningCluster, name: str) -> dict[str, Any]:
    found: dict[str, Any] = running.json("volume", "show", name)
    return found


def word_of(running: RunningCluster, name: str, node: str) -> dict[str, Any]:
    (word,) = [row for row in show(running, name)["nodes"] if row["node"] == node]
    return word


def data_file(running: RunningCluster, name: str, node: str) -> Path:
    volume = show(running, name)["volume"]
    (found,) = [path for path in running.cluster.layout.data(node).rglob(volume) if path.is_dir()]
    return found / "layers/0001/data"


def rot(running: RunningCluster, name: str, node: str, blocks: range) -> None:
    path = data_file(running, name, node)
    for block in blocks:
        flip(path, block * BLOCK_BYTES + block % BLOCK_BYTES)


async def test_a_read_heals_what_has_rotten_at_the_primary(
    running: RunningCluster, volume: str, content: bytes
) -> None:
    await asyncio.to_thread(rot, running, volume, READER, range(10, 20))
    async with await connect(running, volume) as client:
        assert await client.read(0, len(content)) == content
        assert await client.read(0, len(content)) == content
    word = await asyncio.to_thread(word_of, running, volume, READER)
    assert (word["role"], word["rotten_blocks"], word["healed_blocks"], word["lost_blocks"]) == ("primary", 10, 10, 0)
    copies = await asyncio.to_thread(running.copies, volume)
    assert len(copies) == 3
    assert disagreements(copies) == [], "the files hold it again"
    events = await asyncio.to_thread(running.json, "events", "--kind", "decision", "--reporter", READER)
    told = [event["outcome"] for event in events if event["decision"] == "heal"]
    assert any(outcome.startswith(f"10 blocks of {READER}, rotten, healed from n") for outcome in told), told


async def test_a_backup_finds_its_rot_and_is_healed(running: RunningCluster, volume: str) -> None:
    view = await asyncio.to_thread(show, running, volume)
    backup = next(node for node in view["in_sync"] if node != READER)
    await asyncio.to_thread(rot, running, volume, backup, range(100, 105))

    def is_healed() -> bool:
        word = word_of(running, volume, backup)
        return bool(word["rotten_blocks"] == word["healed_blocks"] == 5 and word["scrubbed_unix_ms"])

    await running.wait(f"{backup} healed", is_healed, HEALED_S)
    assert disagreements(await asyncio.to_thread(running.copies, volume)) == []
    assert (await asyncio.to_thread(show, running, volume))["health"] == "healthy"


async def test_rot_under_writes_harms_nobody(running: RunningCluster, volume: str) -> None:
    """At the primary and at a backup, in blocks that are written all the time."""
    view = await asyncio.to_thread(show, running, volume)
    backup = next(node for node in view["in_sync"] if node != READER)
    dice, errors = random.Random(2), 0
    async with running.writing(volume) as recorder:
        for _ in range(20):
            node = dice.choice((READER, backup))
            start = dice.randrange(3000)
            await asyncio.to_thread(rot, running, volume, node, range(start, start + 1))
            await asyncio.sleep(0.05)
        errors = recorder.history.errors
    assert errors == 0
    async with await connect(running, volume) as client:
        for offset in range(0, SIZE, MIB):
            await client.read(offset, MIB)

    def is_whole() -> bool:
        words = show(running, volume)["nodes"]
        return all(not word["lost_blocks"] for word in words) and disagreements(running.copies(volume)) == []

    await running.wait("all copies alike", is_whole, HEALED_S)


async def test_a_copy_that_keeps_rotting_is_made_elsewhere(running: RunningCluster, volume: str) -> None:
    view = await asyncio.to_thread(show, running, volume)
    worn = next(node for node in view["in_sync"] if node != READER)
    await asyncio.to_thread(rot, running, volume, worn, range(200, 200 + WORN_OUT + 5))

    def is_elsewhere() -> bool:
        now = show(running, volume)
        return worn not in now["in_sync"] and len(now["in_sync"]) == 3

    await running.wait(f"a copy elsewhere than {worn}", is_elsewhere, HEALED_S)
    assert disagreements(await asyncio.to_thread(running.copies, volume)) == []
