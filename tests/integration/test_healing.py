"""Rot on the disks of running nodes: whoever reads gets what was written, or an error, and the copies are whole again.

Whole nodes with real stores, links and NBD; the files are damaged under them, as a disk would.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop

from services.dev.nbd_client import NbdClient, NbdError
from services.replica.replication import effects as fx
from services.replica.scrubber import Scrubber
from services.replica.scrubbing import Pace
from services.replica.store import block_sums
from stoscore.units import BLOCK_BYTES, GIB, KIB, SECOND
from tests.support.peers import until
from tests.support.wired import Wired, WiredNode, wired

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture")
BLOCKS = 32
WITHIN_S = 60


@pytest.fixture(scope="module")
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    policy: asyncio.AbstractEventLoopPolicy = uvloop.EventLoopPolicy()
    return policy


class Stage:
    """Three copies of one volume with known content, and its user."""

    def __init__(self, wires: Wired, volume: str, client: NbdClient):
        self.wires = wires
        self.volume = volume
        self.client = client
        self.content = random.Random(volume).randbytes(BLOCKS * BLOCK_BYTES)
        self.leader = wires.leader(volume)
        self.follower, self.other = wires.followers(volume)

    def file(self, node: WiredNode, name: str = "data") -> Path:
        return node.replicas._directory / self.volume / "layers/0001" / name

    def put(self, node: WiredNode, block: int, content: bytes) -> None:
        """On the disk, beside the store."""
        with self.file(node).open("r+b") as file:
            os.pwrite(file.fileno(), content, block * BLOCK_BYTES)

    def spoil(self, node: WiredNode, *blocks: int) -> None:
        for block in blocks:
            self.put(node, block, random.Random(block).randbytes(512))

    def holds(self, node: WiredNode) -> bool:
        """The platter has what was written."""
        return self.file(node).read_bytes()[: len(self.content)] == self.content

    async def is_right(self) -> None:
        assert await self.client.read(0, len(self.content)) == self.content

    async def scrub(self, node: WiredNode) -> None:
        """One whole pass."""
        scrubber = Scrubber(node.shell, Pace(SECOND, GIB), node._pool, node.replicas._directory.parent)
        task = asyncio.create_task(scrubber.run())
        try:
            await until(lambda: bool(scrubber.status().ended_unix_ms), within_s=WITHIN_S)
        finally:
            task.cancel()


@asynccontextmanager
async def three_copies(directory: Path) -> AsyncIterator[Stage]:
    async with wired(directory, "n1", "n2", "n3") as wires:
        volume = await wires.volume("n1", "n2", "n3")
        opened = await wires.open(volume, "n1")
        async with await NbdClient.connect(opened.socket, "vol") as client:
            stage = Stage(wires, volume, client)
            await client.write(0, stage.content)
            await client.flush()
            yield stage


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with three_copies(tmp_path) as stage:
        yield stage


def rotten(node: WiredNode, blocks: tuple[tuple[int, int], ...], source: str) -> fx.Damage:
    return fx.Damage(node.name, "rotten", blocks, source)


# ---- what the primary reads ---------------------------------------------------------------------------


async def test_a_read_heals_the_primarys_rot_and_is_counted_and_told(stage: Stage) -> None:
    stage.spoil(stage.leader, 3, 4, 9)
    await stage.is_right()
    assert stage.holds(stage.leader)
    health = stage.leader.shell.hosted[stage.volume].health
    assert (health.found, health.healed, health.lost) == (3, 3, 0)
    (damage,) = stage.leader.damages
    assert damage.blocks == ((3, 2), (9, 1)) and damage.source in (stage.follower.name, stage.other.name)


async def test_reads_that_come_together_heal_what_is_rotten_of_them(stage: Stage) -> None:
    stage.spoil(stage.leader, 3, 4, 9)
    blocks = [stage.client.read(block * BLOCK_BYTES, BLOCK_BYTES) for block in range(BLOCKS)]
    assert b"".join(await asyncio.gather(*blocks)) == stage.content
    assert stage.holds(stage.leader)
    assert stage.leader.shell.hosted[stage.volume].health.healed == 3


async def test_writes_that_come_together_are_on_every_copy_also_where_they_are_asked_one_by_one(stage: Stage) -> None:
    primary = stage.leader.of(stage.volume).primary
    assert primary is not None
    copies = (stage.leader, stage.follower, stage.other)
    for takes_many in (True, False):
        primary.peers.takes_many = takes_many
        ordered = primary.window.commit
        stage.content = random.Random(takes_many).randbytes(BLOCKS * BLOCK_BYTES)
        parts = [stage.content[at : at + BLOCK_BYTES] for at in range(0, len(stage.content), BLOCK_BYTES)]
        await asyncio.gather(*(stage.client.write(at * BLOCK_BYTES, part) for at, part in enumerate(parts)))
        await stage.client.flush()
        # One that a busy machine has put behind is given what it missed.
        await until(lambda: all(map(stage.holds, copies)), within_s=WITHIN_S)
        assert (primary.window.commit - ordered == BLOCKS) is not takes_many


async def test_swapped_old_and_lost_blocks_are_rot_as_well(stage: Stage) -> None:
    """Every byte is valid somewhere else."""
    first, second = (stage.content[at * BLOCK_BYTES : (at + 1) * BLOCK_BYTES] for at in (1, 2))
    stage.put(stage.leader, 1, second)
    stage.put(stage.leader, 2, first)
    stage.put(stage.leader, 7, bytes(BLOCK_BYTES))
    await stage.is_right()
    old = stage.content[5 * BLOCK_BYTES : 6 * BLOCK_BYTES]
    new = random.Random(0).randbytes(BLOCK_BYTES)
    await stage.client.write(5 * BLOCK_BYTES, new)
    stage.put(stage.leader, 5, old)
    assert await stage.client.read(5 * BLOCK_BYTES, BLOCK_BYTES) == new


async def test_all_data_of_the_primary_are_zeroed(stage: Stage) -> None:
    path = stage.file(stage.leader)
    size = path.stat().st_size
    os.truncate(path, 0)
    os.truncate(path, size)
    await stage.is_right()
    assert stage.holds(stage.leader)


async def test_rot_at_two_of_three_is_healed_from_the_third(stage: Stage) -> None:
    stage.spoil(stage.leader, 3)
    stage.spoil(stage.follower, 3)
    await stage.is_right()
    await until(lambda: stage.holds(stage.follower) or not stage.follower.shell.hosted[stage.volume].health.found)
    assert stage.holds(stage.leader)


async def test_what_nobody_has_is_never_returned(stage: Stage) -> None:
    for node in stage.wires.nodes.values():
        stage.spoil(node, 3)
    for _ in range(2):
        with pytest.raises(NbdError) as failed:
            await stage.client.read(0, len(stage.content))
        assert failed.value.errno == errno.EIO
    assert await stage.client.read(4 * BLOCK_BYTES, BLOCK_BYTES) == stage.content[4 * BLOCK_BYTES : 5 * BLOCK_BYTES]
    lost = rotten(stage.leader, ((3, 1),), "")
    assert stage.leader.damages.count(lost) == 1, "told once"
    fresh = random.Random(9).randbytes(BLOCK_BYTES)
    await stage.client.write(3 * BLOCK_BYTES, fresh)
    assert await stage.client.read(3 * BLOCK_BYTES, BLOCK_BYTES) == fresh
    assert stage.leader.shell.hosted[stage.volume].health.lost == 0


async def test_a_truncated_file_costs_the_copy_its_place_and_the_user_nothing(stage: Stage) -> None:
    os.truncate(stage.file(stage.leader), 4 * KIB)
    await stage.is_right()
    assert stage.wires.leader(stage.volume) is not stage.leader
    assert "ends at byte" in stage.leader.shell.hosted[stage.volume].failure


# ---- what a scrub reads -------------------------------------------------------------------------------


async def test_a_backups_scrub_finds_its_rot_and_the_primary_heals_it(stage: Stage) -> None:
    stage.spoil(stage.follower, 0, 8, 9)
    await stage.scrub(stage.follower)
    await until(lambda: stage.holds(stage.follower), within_s=WITHIN_S)
    await until(lambda: bool(stage.leader.damages), within_s=WITHIN_S)
    assert stage.leader.damages == [rotten(stage.follower, ((0, 1), (8, 2)), stage.leader.name)]
    health = stage.follower.shell.hosted[stage.volume].health
    assert (health.found, health.healed) == (3, 3)


async def test_the_primarys_scrub_heals_its_own_and_compares_the_copies(stage: Stage) -> None:
    """The follower's block is another one and matches its checksum: only comparing finds it."""
    other = random.Random(5).randbytes(BLOCK_BYTES)
    stage.follower.shell.hosted[stage.volume].blocks.write(6, block_sums(other), other)
    stage.spoil(stage.leader, 11)
    await stage.scrub(stage.leader)
    await until(lambda: stage.holds(stage.leader) and stage.holds(stage.follower), within_s=WITHIN_S)
    await until(lambda: len(stage.leader.damages) == 2, within_s=WITHIN_S)
    differing = fx.Damage(stage.follower.name, "differing", ((6, 1),), stage.leader.name)
    assert differing in stage.leader.damages
    await stage.is_right()


async def test_rotten_checksums_and_roots_are_put_right(stage: Stage) -> None:
    """By the data, which the roots prove; while a region is marked, with the help of another copy."""
    blocks = stage.follower.shell.hosted[stage.volume].blocks
    for name in ("sums", "roots"):
        with stage.file(stage.follower, name).open("r+b") as file:
            os.pwrite(file.fileno(), b"\xff\x00\xff", 0)
        await stage.scrub(stage.follower)
        await until(lambda: blocks.scan(0, BLOCKS), within_s=WITHIN_S)
    assert stage.follower.content(stage.volume, 0, BLOCKS) == stage.content


async def test_a_copy_that_keeps_rotting_leaves_but_never_the_last(stage: Stage) -> None:
    for node in stage.wires.nodes.values():
        node.shell.hosted[stage.volume].health._blocks_max = 2
    stage.spoil(stage.follower, 1, 2, 3)
    await stage.scrub(stage.follower)
    nodes = stage.wires.nodes

    def in_sync() -> set[str]:
        return {voter.node for voter in stage.wires.record(stage.volume).in_sync}

    await until(lambda: in_sync() == set(nodes) - {stage.follower.name}, within_s=WITHIN_S)
    assert "keeps producing rotten blocks" in stage.follower.shell.hosted[stage.volume].failure
    stage.spoil(stage.leader, 4, 5, 6)
    await stage.is_right()
    await until(lambda: in_sync() == {stage.other.name}, within_s=WITHIN_S)
    stage.spoil(stage.other, 7, 8, 9)
    with pytest.raises(NbdError):
        await stage.client.read(0, len(stage.content))
    assert await stage.client.read(0, BLOCK_BYTES) == stage.content[:BLOCK_BYTES]
    assert in_sync() == {stage.other.name}
