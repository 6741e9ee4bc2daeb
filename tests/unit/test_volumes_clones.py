"""Volumes that begin as a snapshot, or as what another volume holds: created, interrupted anywhere, given up, raced."""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import replace
from typing import Any

import pytest

from stoscore.errors import Code, StosError
from stoscore.messages import CatalogueEntry, Message
from stoscore.units import MIB
from stoscore.volumes import SourceSpec, Volumes, deadline
from tests.support.model_nodes import ModelCatalogue, ModelCluster, Switchboard

NODES = ("n1", "n2", "n3", "n4", "n5")
SIZE = 64 * MIB
STEPS = 60
"""More requests than any create makes."""


class Cut(Exception):
    """The process died here."""


class Line(Switchboard):
    """Cuts the process off at one request: before it arrives, or before its answer does."""

    def __init__(self, cluster: ModelCluster, pause: Any = None):
        super().__init__(cluster)
        self.left = -1
        self.answered = False
        self.pause = pause

    async def request(self, subject: str, message: Message, answer: type, *, timeout_s: float = 5.0) -> Any:
        if self.pause is not None:
            await self.pause()
        self.left -= 1
        if self.left == 0 and not self.answered:
            raise Cut
        result = await super().request(subject, message, answer, timeout_s=timeout_s)
        if self.left == 0:
            raise Cut
        if self.pause is not None:
            await self.pause()
        return result


class Scene:
    def __init__(self, pause: Any = None) -> None:
        self.cluster = ModelCluster(*NODES)
        self.line = Line(self.cluster, pause)
        self.catalogue = ModelCatalogue(*NODES)
        self.volumes = Volumes(self.line, self.catalogue)  # type: ignore[arg-type]  # a bus and a catalogue in memory
        self.source = ""

    async def prepare(self) -> None:
        status = await self.volumes.create("source", SIZE, replicas=1)
        assert status.record is not None
        self.source = status.record.volume
        self.cluster.write(self.source, 1)
        await self.volumes.snapshots.take("source", "monday")
        self.cluster.write(self.source, 2)

    async def make(self, name: str = "new", snapshot: str = "", size: int = SIZE, replicas: int = 2) -> CatalogueEntry:
        source = SourceSpec(self.source, snapshot)
        await self.volumes.create(name, size, replicas=replicas, source=source, timeout_s=0.5)
        return self.catalogue.entries[name]

    def own_snapshots(self) -> list[str]:
        return [name for name in self.cluster.snapshots.get(self.source, {}) if name.startswith("-")]

    def check(self, entry: CatalogueEntry, *contents: int) -> None:
        record = self.cluster.record(entry.volume)
        assert self.cluster.content(entry.volume) in contents
        assert entry.origin is not None
        assert [voter.node for voter in record.in_sync] == entry.origin.nodes
        assert record.in_sync


@pytest.fixture
async def scene() -> Scene:
    scene = Scene()
    await scene.prepare()
    return scene


async def test_a_volume_begins_as_a_snapshot(scene: Scene) -> None:
    entry = await scene.make(snapshot="monday", size=2 * SIZE)
    scene.check(entry, 1)
    assert entry.origin is not None
    assert entry.origin.nodes == ["n1", "n2"], "where the source's copies are"
    assert len(entry.nodes) == 3
    assert entry.nodes[:2] == ["n1", "n2"]
    assert await scene.make(snapshot="monday", size=2 * SIZE) == entry, "again"


async def test_a_clone_has_what_the_volume_holds_and_leaves_nothing(scene: Scene) -> None:
    entry = await scene.make()
    scene.check(entry, 2)
    assert scene.own_snapshots() == []
    assert [view.snapshot for view in await scene.volumes.snapshots.of("source")] == ["monday"]


async def test_a_single_copy_begins_where_the_snapshot_is(scene: Scene) -> None:
    entry = await scene.make(replicas=0)
    scene.check(entry, 2)
    assert len(entry.nodes) == 1


async def test_what_is_refused(scene: Scene) -> None:
    async def code(**wanted: Any) -> Code:
        with pytest.raises(StosError) as caught:
            await scene.make(**wanted)
        return caught.value.code

    assert await code(snapshot="tuesday") is Code.NOT_FOUND
    assert await code(snapshot="monday", size=SIZE - MIB) is Code.OUT_OF_RANGE
    assert await code(size=SIZE - MIB) is Code.OUT_OF_RANGE
    assert scene.own_snapshots() == []
    await scene.make(snapshot="monday")
    assert await code() is Code.ALREADY_EXISTS, "it began as something else"
    with pytest.raises(StosError, match="began as something else"):
        await scene.volumes.create("new", SIZE, replicas=2)
    with pytest.raises(StosError, match="began as something else"):
        await scene.volumes.create("source", SIZE, replicas=1, source=SourceSpec(scene.source))
    scene.source = "e" * 32
    assert await code(name="other") is Code.NOT_FOUND


async def test_nobody_has_the_snapshot_any_more(scene: Scene) -> None:
    taken = scene.cluster.snapshots[scene.source]["monday"]
    taken.view = taken.view.model_copy(update={"holders": ()})
    with pytest.raises(StosError, match="is lost") as caught:
        await scene.make(snapshot="monday")
    assert caught.value.code is Code.DATA_LOSS


async def test_no_holder_has_room(scene: Scene) -> None:
    scene.line.rank_errors = [StosError(Code.RESOURCE_EXHAUSTED, "full")]
    entry = await scene.make()
    assert entry.origin is not None
    assert len(entry.origin.nodes) == 1, "one of two"
    scene.line.rank_errors = [StosError(Code.RESOURCE_EXHAUSTED, "full")] * 2
    with pytest.raises(StosError, match="full"):
        await scene.make("other")
    assert scene.own_snapshots() == []


async def test_a_clone_that_finds_no_place_leaves_no_snapshot(scene: Scene) -> None:
    scene.line.rank_errors = [StosError(Code.UNAVAILABLE, "nobody bids")] * 1000
    with pytest.raises(StosError, match="nobody bids"):
        await scene.make()
    assert scene.own_snapshots() == []


async def cut_off_before_the_claim() -> Scene:
    for step in range(1, STEPS):
        scene = Scene()
        await scene.prepare()
        scene.line.left, scene.line.answered = step, True
        with contextlib.suppress(Cut):
            await scene.make()
        scene.line.left = -1
        if scene.own_snapshots() and "new" not in scene.catalogue.entries:
            return scene
    raise AssertionError("it is always claimed")


async def test_a_create_waits_for_what_an_earlier_one_asked_for() -> None:
    scene = await cut_off_before_the_claim()
    there = scene.cluster.snapshots[scene.source]
    taken = there.pop(scene.own_snapshots()[0])
    old, young, pending = (
        taken.view.model_copy(update={"snapshot": f"{taken.view.snapshot[:-1]}{number}", "ready": number < 3})
        for number in (1, 2, 3)
    )
    old = old.model_copy(update={"created_ms": old.created_ms - 2 * 3600_000})
    for view in (old, young, pending):
        there[view.snapshot] = replace(taken, view=view)
    with pytest.raises(StosError, match="not ready yet"):
        await scene.make()
    assert scene.own_snapshots() == [young.snapshot, pending.snapshot], "no further one, and the old one is gone"
    there[pending.snapshot] = replace(taken, view=pending.model_copy(update={"ready": True}))
    await scene.make()
    assert scene.own_snapshots() == []


@pytest.mark.parametrize("answered", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("snapshot", ["", "monday"], ids=["volume", "snapshot"])
async def test_a_create_that_is_cut_off_anywhere_is_finished_by_the_next(snapshot: str, answered: bool) -> None:
    cuts = 0
    for step in range(1, STEPS):
        scene = Scene()
        await scene.prepare()
        scene.line.left, scene.line.answered = step, answered
        try:
            await scene.make(snapshot=snapshot)
        except Cut:
            cuts += 1
        scene.line.left = -1
        scene.cluster.write(scene.source, 3)
        scene.check(await scene.make(snapshot=snapshot), *([1] if snapshot else [2, 3]))
        assert scene.own_snapshots() == []
    assert cuts > 10


async def test_a_create_that_is_cut_off_anywhere_can_be_taken_back() -> None:
    for step in range(1, STEPS):
        scene = Scene()
        await scene.prepare()
        scene.line.left = step
        with contextlib.suppress(Cut):
            await scene.make()
        scene.line.left = -1
        if not await scene.volumes.delete("new"):
            continue
        assert scene.own_snapshots() == []
        assert {volume for node in scene.cluster.nodes.values() for volume in node.replicas} == {scene.source}


async def test_the_source_goes_in_the_middle(scene: Scene) -> None:
    scene.line.left = 12
    with pytest.raises(Cut):
        await scene.make()
    scene.line.left = -1
    await scene.volumes.snapshots.drop("source", "monday")
    assert await scene.volumes.delete("source"), "the clone's own snapshot is in nobody's way"
    try:
        await scene.make()
    except StosError as error:
        assert error.code in (Code.NOT_FOUND, Code.UNAVAILABLE)
        assert await scene.volumes.delete("new")
    assert not [node for node in scene.cluster.nodes.values() if node.replicas and "new" not in scene.catalogue.entries]


async def test_a_volume_with_snapshots_stays(scene: Scene) -> None:
    with pytest.raises(StosError, match="snapshot") as caught:
        await scene.volumes.delete("source")
    assert caught.value.code is Code.FAILED_PRECONDITION
    await scene.volumes.snapshots.drop("source", "monday")
    assert await scene.volumes.delete("source")


async def test_snapshots_are_listed_page_by_page(scene: Scene) -> None:
    for number in range(3):
        await scene.volumes.create(f"other-{number}", SIZE, replicas=0)
        await scene.volumes.snapshots.take(f"other-{number}", "s")
    await scene.volumes.snapshots.take("source", "-clone-hidden")
    found, after = [], ""
    while True:
        rows, after = await scene.volumes.snapshots.page(after, 2)
        found += [(entry.name, view.snapshot) for entry, views, _ in rows for view in views]
        if not after:
            break
    assert found == [*((f"other-{number}", "s") for number in range(3)), ("source", "monday")]


class Pause:
    def __init__(self, dice: random.Random):
        self._dice = dice

    async def __call__(self) -> None:
        for _ in range(self._dice.randrange(4)):
            await asyncio.sleep(0)


@pytest.mark.parametrize("seed", range(40))
async def test_clones_of_one_name_at_once_are_one_volume(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadline, "PAUSE_MIN_S", 0.0)
    scene = Scene(Pause(random.Random(seed)))
    await scene.prepare()
    made = await asyncio.gather(*(scene.make() for _ in range(4)))
    assert len({entry.volume for entry in made}) == 1
    scene.check(made[0], 2)
    assert scene.own_snapshots() == []
