"""What a node lets a new replica begin as: a snapshot that it holds itself, as its record names it, nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from services.replica.brain import Record, Snapshot, Voter
from services.replica.brain.record import layer_name
from services.replica.store import FileStore, block_sums
from stoscore.access import Caller
from stoscore.errors import Code, StosError
from stoscore.messages import CreateReplica, SnapshotSource
from stoscore.units import BLOCK_BYTES, MIB
from tests.unit.test_replica_guests import CSI, LEADER, VOLUME, House

CLONE = "cd" * 16
SEAL = 7 << 40
X = b"x" * BLOCK_BYTES
SIZE = 16 * MIB // BLOCK_BYTES


class Scene:
    """Node n3 with a copy of a volume that has the snapshot `monday`."""

    def __init__(self, house: House):
        self.house = house

    async def prepare(self) -> None:
        await self.house.make(CSI, joins=False)
        hosted = self.house.replicas._shell.hosted[VOLUME]
        store = self.store = cast(FileStore, hosted.store)
        store.mark([0])
        store.write(5, block_sums(X), X)
        monday = Snapshot("monday", 16 * MIB, 1, 1, "ready", SEAL, "0" * 16, (hosted.incarnation,))
        store.seal(monday.layer)
        store.write(5, block_sums(2 * X), 2 * X)
        self.root = store.origin_root(SIZE)
        me = Voter("n3", hosted.incarnation)
        monday = replace(monday, root=self.root)
        pending = Snapshot("tuesday", 16 * MIB, 2, 2)
        elsewhere = replace(monday, name="elsewhere", holders=())
        record = Record(VOLUME, "data", 16 * MIB, 0, (me,), (me,), snapshots=(monday, pending, elsewhere))
        self.say(record, me)

    def say(self, record: Record | None, me: Voter) -> None:
        """What the volume's brain here knows."""
        brain = SimpleNamespace(record=record, me=me)
        self.house.node.volumes[VOLUME] = cast(Any, SimpleNamespace(brain=brain, id=VOLUME))

    async def make(self, caller: Caller = CSI, snapshot: str = "monday", root: str = "", **changes: Any) -> str:
        of = changes.pop("of", VOLUME)
        source = SnapshotSource(volume=of, snapshot=snapshot, size_bytes=16 * MIB, root=root or self.root)
        fields = {"volume": CLONE, "name": "clone", "size_bytes": 16 * MIB, "source": source} | changes
        return await self.house.guests.create(CreateReplica(**fields), caller)

    async def refused(self, **wanted: Any) -> Code:
        with pytest.raises(StosError) as caught:
            await self.make(**wanted)
        assert CLONE not in self.house.replicas._shell.hosted
        assert [path.name for path in self.house.replicas._directory.iterdir()] == [VOLUME], "nothing is left"
        return caught.value.code


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    with ThreadPoolExecutor(4) as pool:
        scene = Scene(House(tmp_path, pool))
        await scene.house.replicas.open_all()
        await scene.prepare()
        yield scene
        await scene.house.replicas.close_all()


async def test_it_begins_as_the_snapshot(scene: Scene) -> None:
    incarnation = await scene.make(size_bytes=32 * MIB)
    store = scene.house.replicas._shell.hosted[CLONE].blocks
    assert store.size_blocks == 32 * MIB // BLOCK_BYTES
    assert store.read(5, 2)[1] == X + bytes(BLOCK_BYTES)
    assert store.origin_root(SIZE) == scene.root
    assert await scene.make(size_bytes=32 * MIB) == incarnation, "again"


async def test_it_begins_as_it_though_this_copy_is_larger(scene: Scene, tmp_path: Path) -> None:
    """*It grew for a record that was lost with its leader: all its snapshots had another root than their records.*"""
    scene.store.grow(300 * SIZE)
    scene.store.seal(layer_name("friday", SEAL))
    root = f"{scene.store.root(layer_name('friday', SEAL), SIZE):016x}"
    volume = scene.house.node.volumes[VOLUME].brain
    friday = replace(volume.record.snapshots[0], name="friday", root=root)
    scene.say(replace(volume.record, snapshots=(friday,)), volume.me)
    incarnation = await scene.make(snapshot="friday", root=root)
    store = scene.house.replicas._shell.hosted[CLONE].blocks
    assert store.read(5, 2)[1] == 2 * X
    assert await scene.make(snapshot="friday", root=root) == incarnation, "again"


async def test_many_ask_at_once(scene: Scene) -> None:
    assert len(set(await asyncio.gather(*(scene.make() for _ in range(8))))) == 1


async def test_a_member_that_began_otherwise_is_not_taken_for_it(scene: Scene) -> None:
    await scene.house.make(CSI, volume=CLONE, joins=False)
    with pytest.raises(StosError, match="began as something else") as caught:
        await scene.make()
    assert caught.value.code is Code.FAILED_PRECONDITION
    incarnation = scene.house.replicas._shell.hosted[CLONE].incarnation
    await scene.house.replicas.drop(CLONE, incarnation)
    await scene.make()
    with pytest.raises(StosError, match="began as something else"):
        await scene.house.make(CSI, volume=CLONE, joins=False)


async def test_what_makes_no_sense(scene: Scene) -> None:
    assert await scene.refused(kind="witness") is Code.INVALID_ARGUMENT
    assert await scene.refused(joins=True) is Code.INVALID_ARGUMENT
    assert await scene.refused(size_bytes=16 * MIB - BLOCK_BYTES) is Code.OUT_OF_RANGE
    assert await scene.refused(root="f" * 16) is Code.FAILED_PRECONDITION
    with pytest.raises(StosError, match="of itself"):
        await scene.make(of=CLONE)


@pytest.mark.parametrize("snapshot", ["no", "tuesday", "elsewhere"])
async def test_what_is_not_here_yet(scene: Scene, snapshot: str) -> None:
    """A record may still be on its way: whoever asks goes on asking."""
    assert await scene.refused(snapshot=snapshot) is Code.UNAVAILABLE
    assert await scene.refused(of="ef" * 16) is Code.UNAVAILABLE
    scene.say(None, Voter("n3", "1" * 16))
    assert await scene.refused() is Code.UNAVAILABLE


async def test_the_layer_went_meanwhile(scene: Scene) -> None:
    (layer,) = scene.store.snapshots
    scene.store.drop(layer)
    assert await scene.refused() is Code.UNAVAILABLE


async def test_no_node_has_one_made(scene: Scene) -> None:
    """It would read volumes that it has no business with."""
    assert await scene.refused(caller=LEADER) is Code.PERMISSION_DENIED
    assert await scene.refused(caller=LEADER, joins=True) is Code.PERMISSION_DENIED


async def test_a_layer_that_is_not_what_the_record_says(scene: Scene) -> None:
    """Its checksums and their roots rotted together; nothing is founded on that."""
    path = scene.store.directory / "layers/0001"
    with (path / "sums").open("r+b") as file:
        file.seek(5 * 8)
        file.write(b"rotten!!")
    with (path / "data").open("r+b") as file:
        file.seek(5 * BLOCK_BYTES)
        file.write(b"rot")
    assert await scene.refused() is Code.DATA_LOSS
