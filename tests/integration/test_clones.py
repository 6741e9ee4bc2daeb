"""Real processes: snapshots of a volume in use, volumes that begin as one, and what is left when either goes.

What a snapshot may hold follows from when each write began and was answered (`History`): there is a moment between
the asking and the answer such that everything answered before it is in, and nothing that began after it.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from services.cli import cluster as cli
from services.dev.nbd_client import NbdClient
from services.replica.store import FileStore, check
from stoscore.units import BLOCK_BYTES, MIB
from tests.support.cluster import RunningCluster

pytestmark = pytest.mark.slow
DEPTH = 16
BLOCKS = 16 * 24
"""That are written to, spread over the volume."""
STEP = 9
SIZE = 16 * MIB


@pytest.fixture
async def session(running: RunningCluster) -> AsyncIterator[cli.Session]:
    async with cli.connect(cli.find(running.directory)) as session:
        yield session


def content(write: int) -> bytes:
    return write.to_bytes(8, "little") * (BLOCK_BYTES // 8) if write else bytes(BLOCK_BYTES)


def write_of(block: bytes) -> int:
    """The number of the write that a block is of; 0: it was never written. Fails for what nobody wrote."""
    number = int.from_bytes(block[:8], "little")
    assert block == content(number), "a block that is no write of ours, or parts of two"
    return number


@dataclass
class Write:
    began_ns: int
    ended_ns: int = 1 << 62


@dataclass
class History:
    """Each block is written by one task, one write after the other: numbers of a block rise."""

    writes: dict[int, Write] = field(default_factory=dict)
    of_block: dict[int, list[int]] = field(default_factory=dict)
    errors: int = 0

    def check(self, found: dict[int, int], asked_ns: int, answered_ns: int) -> None:
        """`found`: block -> number of the write that the snapshot has there."""
        last_in, first_out = asked_ns, answered_ns
        for block, has in found.items():
            numbers = self.of_block.get(block, [])
            assert has == 0 or has in numbers, f"block {block} has a write of another place"
            for number in numbers:
                write = self.writes[number]
                if number <= has:
                    last_in = max(last_in, write.began_ns)
                else:
                    first_out = min(first_out, write.ended_ns)
        assert last_in <= first_out, "no moment between the asking and the answer has just these writes"


@asynccontextmanager
async def load(running: RunningCluster, name: str, history: History) -> AsyncIterator[NbdClient]:
    opened = await asyncio.to_thread(running.json, "volume", "connect", name, "--node", "app")
    client = await NbdClient.connect(opened["socket"], name)
    numbers, stopping = itertools.count(1), asyncio.Event()

    async def write(task: int) -> None:
        dice = random.Random(task)
        while not stopping.is_set():
            block = (dice.randrange(BLOCKS // DEPTH) * DEPTH + task) * STEP
            number = next(numbers)
            history.writes[number] = one = Write(time.monotonic_ns())
            history.of_block.setdefault(block, []).append(number)
            await client.write(block * BLOCK_BYTES, content(number))
            one.ended_ns = time.monotonic_ns()

    tasks = [asyncio.create_task(write(task)) for task in range(DEPTH)]
    try:
        yield client
    finally:
        stopping.set()
        await asyncio.gather(*tasks)
        await client.close()


def written_blocks() -> list[int]:
    return [number * STEP for number in range(BLOCKS)]


async def read_all(running: RunningCluster, name: str) -> bytes:
    opened = await asyncio.to_thread(running.json, "volume", "connect", name, "--node", "app")
    async with await NbdClient.connect(opened["socket"], name) as client:
        return b"".join([await client.read(at, MIB) for at in range(0, client.size, MIB)])


def parts(data: bytes) -> dict[int, int]:
    """Block -> its write, of everything that is not zeros; fails where nobody writes."""
    found = {}
    for block in range(len(data) // BLOCK_BYTES):
        number = write_of(data[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES])
        assert number == 0 or block % STEP == 0
        found[block] = number
    return {block: found[block] for block in written_blocks()}


async def test_a_snapshot_a_volume_from_it_and_a_clone(running: RunningCluster, session: cli.Session) -> None:
    history = History()
    made = await session.volumes.create("data", SIZE)
    assert made.record is not None
    async with load(running, "data", history) as client:
        await asyncio.sleep(0.3)
        asked_ns = time.monotonic_ns()
        taken = await session.volumes.snapshots.take("data", "monday")
        answered_ns = time.monotonic_ns()
        assert await session.volumes.snapshots.take("data", "monday") == taken, "again"
        await asyncio.sleep(0.3)
        clone_asked_ns = time.monotonic_ns()
        await asyncio.to_thread(running.json, "volume", "create", "trial", "--clone", "data")
        clone_answered_ns = time.monotonic_ns()
        await client.flush()
    assert len(taken.holders) == 3
    restored = await asyncio.to_thread(running.json, "volume", "create", "restored", "--from-snapshot", "data/monday")
    assert restored["size_bytes"] == SIZE
    history.check(parts(await read_all(running, "restored")), asked_ns, answered_ns)
    history.check(parts(await read_all(running, "trial")), clone_asked_ns, clone_answered_ns)
    now = parts(await read_all(running, "data"))
    assert now == {block: (history.of_block.get(block) or [0])[-1] for block in written_blocks()}
    shown = await asyncio.to_thread(running.json, "snapshot", "ls")
    assert [(row["volume_name"], row["name"], row["state"]) for row in shown] == [("data", "monday", "ready")]


async def test_what_goes_leaves_the_other_whole(running: RunningCluster, session: cli.Session) -> None:
    """After the test above: the source goes, and what began as it stays, on every copy, block by block."""
    await asyncio.to_thread(running.json, "volume", "disconnect", "data")
    refused = await asyncio.to_thread(running.stos, "volume", "rm", "data")
    assert refused.code == 5 and "snapshot" in refused.errors, refused
    before = await read_all(running, "restored")
    assert (await asyncio.to_thread(running.json, "snapshot", "rm", "data", "monday"))["removed"]
    await session.volumes.delete("data")
    assert await read_all(running, "restored") == before
    await running.in_sync("restored", 3)
    await running.in_sync("trial", 3)
    opened = await asyncio.to_thread(running.json, "volume", "connect", "restored", "--node", "app")
    async with await NbdClient.connect(opened["socket"], "restored") as client:
        await client.write(0, content(1 << 40))
        await client.flush()
    digests = {copy.sums for copy in await asyncio.to_thread(running.copies, "restored")}
    assert len(digests) == 1, "all copies hold the same"


async def test_a_volume_whose_copies_are_elsewhere(running: RunningCluster, session: cli.Session) -> None:
    """One copy where the snapshot is, the others filled over the wire."""
    history = History()
    await session.volumes.create("single", SIZE, replicas=0)
    async with load(running, "single", history):
        await asyncio.sleep(0.2)
    taken = await session.volumes.snapshots.take("single", "s")
    assert len(taken.holders) == 1
    made = await asyncio.to_thread(
        running.json, "volume", "create", "wide", "--from-snapshot", "single/s", "--size", "32MiB"
    )
    assert made["size_bytes"] == 32 * MIB
    await running.in_sync("wide", 3)
    assert len({copy.sums for copy in await asyncio.to_thread(running.copies, "wide")}) == 1
    whole = await read_all(running, "wide")
    assert whole[:SIZE] == await read_all(running, "single")
    assert not any(whole[SIZE:])


@pytest.mark.long
async def test_fifty_snapshots_under_load(running: RunningCluster, session: cli.Session) -> None:
    history = History()
    moments: dict[str, tuple[int, int]] = {}
    await session.volumes.create("busy", SIZE)
    async with load(running, "busy", history):
        for number in range(50):
            await asyncio.sleep(0.05)
            asked_ns = time.monotonic_ns()
            await session.volumes.snapshots.take("busy", f"s{number:02d}", timeout_s=60)
            moments[f"s{number:02d}"] = (asked_ns, time.monotonic_ns())
            if number % 10 == 5:
                await asyncio.to_thread(running.json, "volume", "move-primary", "busy")
    assert history.writes
    views = {view.snapshot: view for view in await session.volumes.snapshots.of("busy")}
    assert views.keys() == moments.keys()
    for name in random.Random(len(history.writes)).sample(sorted(moments), 3):
        clone = await asyncio.to_thread(
            running.json, "volume", "create", f"of-{name}", "--from-snapshot", f"busy/{name}"
        )
        assert clone["size_bytes"] == SIZE
        history.check(parts(await read_all(running, f"of-{name}")), *moments[name])
    volume = next(iter(views.values())).volume
    await asyncio.to_thread(running.cluster.stop)
    held = 0
    for node in ("n1", "n2", "n3"):
        for name, found in on_disk(running, node, volume).items():
            assert node in views[name].holders
            history.check(found, *moments[name])
            held += 1
    assert held == sum(len(view.holders) for view in views.values())


def on_disk(running: RunningCluster, node: str, volume: str) -> dict[str, dict[int, int]]:
    """Every snapshot in that node's directory of the volume, whose whole structure is checked first."""
    (directory,) = [
        path.parent for path in running.cluster.layout.data(node).rglob("format.json") if volume in str(path)
    ]
    report = check(Path(directory))
    assert report.whole, report
    store = FileStore.open(directory, cluster=report.format.cluster, boot_id="another")
    try:
        return {
            name.rpartition("-")[0]: parts(b"".join(layer.read(at, 256)[1] for at in range(0, layer.size_blocks, 256)))
            for name, layer in store.snapshots.items()
        }
    finally:
        store.close(clean=False)
