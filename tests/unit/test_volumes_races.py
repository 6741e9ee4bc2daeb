"""Several users create and delete one name at once, in every order that a seed draws (rule I2): an id is never used
again, a replica is made only of what the catalogue knows, and nobody's volume is left without its entry.

Three planted bugs say that such a run would notice.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from typing import Any

import pytest

from stoscore.errors import Code, StosError
from stoscore.messages import CatalogueEntry, Message
from stoscore.units import MIB
from stoscore.volumes import Volumes, deadline
from stoscore.volumes.creation import Creation
from stoscore.volumes.naming import VolumeSpec
from tests.support.model_nodes import ModelCatalogue, ModelCluster, Switchboard

NODES = ("n1", "n2", "n3", "n4")
SEEDS = 25
SEEDS_WITH_A_BUG_MAX = 60


class Wrong(AssertionError):
    """The rule does not hold."""


class Catalogue(ModelCatalogue):
    """Every call may be overtaken by any other; remembers every id that it ever had."""

    def __init__(self, pause: Pause):
        super().__init__(*NODES)
        self._pause = pause
        self.ids: set[str] = set()

    async def create(self, entry: CatalogueEntry) -> CatalogueEntry:
        await self._pause()
        created = await super().create(entry)
        self._entered(created)
        return created

    def _entered(self, entry: CatalogueEntry) -> None:
        if entry.volume in self.ids:
            raise Wrong(f"the id {entry.volume} is used again")
        self.ids.add(entry.volume)

    async def put(self, entry: CatalogueEntry) -> CatalogueEntry:
        """What a catalogue without compare-and-set does."""
        await self._pause()
        self._entered(entry)
        self.entries[entry.name] = entry
        return entry

    async def update(self, entry: CatalogueEntry) -> None:
        await self._pause()
        await super().update(entry)

    async def remove(self, entry: CatalogueEntry) -> None:
        await self._pause()
        await super().remove(entry)

    async def by_name(self, name: str) -> CatalogueEntry:
        await self._pause()
        return await super().by_name(name)


class Pause:
    """Lets others go first, as often as the dice say; now and then for long."""

    def __init__(self, dice: random.Random):
        self._dice = dice

    async def __call__(self) -> None:
        for _ in range(self._dice.randrange(self._dice.choice((3, 3, 3, 80)))):
            await asyncio.sleep(0)


class Clock:
    """Stands where deadlines look for `time`: it moves only while somebody rests."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    async def rest(self) -> None:
        self.now_s += 0.1
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def _virtual_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(deadline, "time", clock)
    monkeypatch.setattr(deadline.Pauses, "rest", lambda pauses: clock.rest())


class Bus(Switchboard):
    def __init__(self, cluster: ModelCluster, catalogue: Catalogue, pause: Pause):
        super().__init__(cluster)
        self._catalogue = catalogue
        self._pause = pause

    async def request(self, subject: str, message: Message, answer: type, *, timeout_s: float = 5.0) -> Any:
        await self._pause()
        if subject.endswith(".create") and getattr(message, "volume", "") not in self._catalogue.ids:
            raise Wrong("a replica is made of a volume that the catalogue has never heard of")
        result = await super().request(subject, message, answer, timeout_s=timeout_s)
        await self._pause()
        return result


async def _live(seed: int) -> None:
    dice = random.Random(seed)
    pause = Pause(dice)
    catalogue, cluster = Catalogue(pause), ModelCluster(*NODES)
    volumes = Volumes(Bus(cluster, catalogue, pause), catalogue)  # type: ignore[arg-type]

    async def use() -> None:
        for _ in range(3):
            await pause()
            try:
                if dice.random() < 0.6:
                    await volumes.create("data", MIB, timeout_s=2.0)
                else:
                    await volumes.delete("data", timeout_s=2.0)
            except StosError as error:
                if error.code is Code.INTERNAL:
                    raise

    await asyncio.gather(use(), use(), use())
    known = {entry.volume for entry in catalogue.entries.values()}
    for node in cluster.nodes.values():
        left = [volume for volume, held in node.replicas.items() if held.record is not None and volume not in known]
        if left:
            raise Wrong(f"{node.name} holds {left}, which no entry names")


def _run(seeds: int) -> None:
    for seed in range(seeds):
        asyncio.run(_live(seed))


def test_no_order_of_creates_and_deletes_breaks_the_rule() -> None:
    _run(SEEDS)


def _id_from_the_name(patch: pytest.MonkeyPatch) -> None:
    real = Creation._ranked_entry

    async def ranked(self: Creation, spec: VolumeSpec, *others: Any) -> CatalogueEntry:
        entry = await real(self, spec, *others)
        return entry.model_copy(update={"volume": hashlib.sha256(spec.name.encode()).hexdigest()[:32]})

    patch.setattr(Creation, "_ranked_entry", ranked)


def _entered_after_making(patch: pytest.MonkeyPatch) -> None:
    real = Creation._ranked_entry

    async def ranked(self: Creation, spec: VolumeSpec, *others: Any) -> CatalogueEntry:
        entry = await real(self, spec, *others)
        await self._make_replicas(entry, others[-1])
        return entry

    patch.setattr(Creation, "_ranked_entry", ranked)


def _entered_without_comparing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Catalogue, "create", Catalogue.put)


@pytest.mark.parametrize("plant", [_id_from_the_name, _entered_after_making, _entered_without_comparing])
def test_a_planted_bug_is_found(plant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(Wrong):
        _run(SEEDS_WITH_A_BUG_MAX)
