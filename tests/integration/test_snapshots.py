"""Snapshots of a volume in use: every write that was answered before is in them, none that was asked for after, and all
copies hold the same moment. Whole nodes with real stores, links and NBD.

What that means is `support.moments`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvloop

from services.dev.nbd_client import NbdClient, NbdError
from services.replica.brain import Snapshot
from services.replica.brain import events as ev
from services.replica.store import FileStore
from stoscore.messages import OpenFrontend, VoterModel
from stoscore.units import BLOCK_BYTES
from tests.support.moments import BLOCKS, DEPTH, WITHIN_S, Load, check_moment
from tests.support.peers import until
from tests.support.wired import SIZE, Wired, WiredNode, wired

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture")
PAUSE_S_MAX = 30.0
"""On a machine that does much else; what it usually is, is printed."""


@pytest.fixture(scope="module")
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    policy: asyncio.AbstractEventLoopPolicy = uvloop.EventLoopPolicy()
    return policy


@dataclass(slots=True)
class Stage:
    wires: Wired
    volume: str
    load: Load

    async def take(self, name: str, leader: WiredNode | None = None) -> None:
        leader = leader or self.wires.leader(self.volume)
        await leader.ask(self.volume, lambda number: ev.TakeAsked(number, name, 1))

    async def drop(self, name: str) -> None:
        await self.wires.leader(self.volume).ask(self.volume, lambda number: ev.DropAsked(number, name))

    def snapshot(self, name: str) -> Snapshot:
        found = self.wires.record(self.volume).snapshot(name)
        assert found is not None
        return found

    def store(self, node: WiredNode) -> FileStore:
        store = node.shell.hosted[self.volume].blocks
        assert isinstance(store, FileStore)
        return store

    def held(self, node: WiredNode, snapshot: Snapshot) -> bytes:
        return bytes(self.store(node).snapshots[snapshot.layer].read(0, BLOCKS)[1])

    def holders(self, snapshot: Snapshot) -> list[WiredNode]:
        return [self.wires.nodes[voter.node] for voter in self.wires.record(self.volume).holders(snapshot)]

    def check(self, name: str, since_s: float, until_s: float) -> Snapshot:
        snapshot = self.snapshot(name)
        assert snapshot.state == "ready"
        contents = {self.held(node, snapshot) for node in self.holders(snapshot)}
        assert len(contents) == 1, "the copies hold different moments"
        check_moment(self.load, contents.pop(), since_s, until_s)
        return snapshot


@asynccontextmanager
async def in_use(directory: Path) -> AsyncIterator[Stage]:
    async with wired(directory, "n1", "n2", "n3", "app") as wires:
        volume = await wires.volume("n1", "n2", "n3")
        opened = await wires.open(volume, "app")
        async with await NbdClient.connect(opened.socket, "vol") as client:
            load = Load(client)
            task = asyncio.create_task(load.run())
            try:
                await load.more(4 * DEPTH)
                yield Stage(wires, volume, load)
            finally:
                load.end()
                await asyncio.wait_for(task, WITHIN_S)


async def test_taken_under_load_each_is_one_moment_on_every_copy(tmp_path: Path) -> None:
    async with in_use(tmp_path) as stage:
        pauses = []
        for name in ("one", "two", "three", "four"):
            stage.load.begin()
            since_s = time.monotonic()
            await stage.take(name)
            until_s = time.monotonic()
            await stage.load.more(DEPTH)
            pauses.append(stage.load.longest_s)
            # A copy that a busy machine left behind is given it when it comes back.
            await until(lambda name=name: len(stage.snapshot(name).holders) == 3, within_s=WITHIN_S)
            stage.check(name, since_s, until_s)
        held = stage.wires.leader(stage.volume).shell.counted.seals
        assert sum(held.counts) == 4
        print(f"writes were held for {held.total / 4 * 1000:.0f} ms on average")
        print(f"longest pauses between answers {[f'{pause * 1000:.0f} ms' for pause in pauses]}")
        assert max(pauses) < PAUSE_S_MAX
        first = stage.held(stage.wires.leader(stage.volume), stage.snapshot("one"))
        assert first != stage.held(stage.wires.leader(stage.volume), stage.snapshot("four"))

        await stage.drop("two")
        await until(lambda: all(len(stage.store(node).sealed) == 3 for node in _copies(stage)), within_s=WITHIN_S)
        await until(lambda: all(not stage.store(node).folds for node in _copies(stage)), within_s=WITHIN_S)
        assert stage.held(stage.wires.leader(stage.volume), stage.snapshot("one")) == first, "the others stay"
        await stage.take("one")
        assert stage.snapshot("one").state == "ready", "the same name again is the same snapshot"


async def test_one_that_is_asked_of_a_primary_that_goes_is_sealed_by_the_next(tmp_path: Path) -> None:
    async with in_use(tmp_path) as stage:
        leader = stage.wires.leader(stage.volume)
        since_s = time.monotonic()
        asked = asyncio.create_task(stage.take("kept"))
        others = [node for node in _copies(stage) if node is not leader]

        def known() -> list[Snapshot]:
            records = [node.of(stage.volume).brain.record for node in others]
            found = [record.snapshot("kept") for record in records if record is not None]
            return [snapshot for snapshot in found if snapshot is not None]

        await until(lambda: len(known()) == len(others), within_s=WITHIN_S)
        stage.load.begin()
        await leader.network.stop()
        await until(lambda: any(snapshot.state == "ready" for snapshot in known()), within_s=WITHIN_S)
        until_s = time.monotonic()
        await asyncio.gather(asked, return_exceptions=True)  # answered, or sent to the next primary
        del stage.wires.nodes[leader.name]
        await stage.load.more(DEPTH)
        snapshot = stage.check("kept", since_s, until_s)
        print(f"longest pause with a failover {stage.load.longest_s * 1000:.0f} ms, holders {len(snapshot.holders)}")


def _copies(stage: Stage) -> list[WiredNode]:
    return [node for node in stage.wires.nodes.values() if stage.volume in node.node.volumes]


async def test_a_copy_that_grew_for_a_lost_record_leads_a_volume_of_the_records_size(tmp_path: Path) -> None:
    """*It took a write that the other copies have no room for.*"""
    async with wired(tmp_path, "n1", "n2", "n3", "app") as wires:
        volume = await wires.volume("n1", "n2", "n3")
        leader = wires.leader(volume)
        primary = leader.of(volume).primary
        assert primary is not None
        await asyncio.to_thread(leader.shell.hosted[volume].blocks.grow, 2 * SIZE // BLOCK_BYTES)
        epoch = await wires.attach(volume, "app")
        voters = [VoterModel(node=v.node, incarnation=v.incarnation) for v in wires.record(volume).voters]
        larger = OpenFrontend(volume=volume, name="vol", size_bytes=2 * SIZE, attach_epoch=epoch, voters=voters)
        opened = await wires.nodes["app"].frontends.open(larger, "admin/ann")
        ordered = primary.window.commit
        async with await NbdClient.connect(opened.socket, "vol") as client:
            with pytest.raises(NbdError):
                await client.write(SIZE, bytes(BLOCK_BYTES))
            assert primary.window.commit == ordered, "no copy was asked for what it has no room for"
            await client.write(SIZE - BLOCK_BYTES, b"x" * BLOCK_BYTES)
        assert primary.window.commit == ordered + 1
        await until(lambda: len(wires.record(volume).in_sync) == 3, within_s=WITHIN_S)
