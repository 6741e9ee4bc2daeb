"""Snapshots that were taken for clones which nobody made: when the source's primary drops them, and when not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest

from services.replica.abandoned import Abandoned
from services.replica.brain import Brain, Facts, Snapshot
from services.replica.brain import events as ev
from stoscore.errors import Code, StosError
from stoscore.messages import CatalogueEntry, GroupClaim, Origin
from stoscore.units import GIB
from tests.support.model_nodes import ModelCatalogue
from tests.support.voters import A, B, C, accept, brain, elect, record, slot, step

LEASED = Facts(lease_until_ns=1 << 60)
ROOT = "0" * 16
SOURCE = "ab" * 16
HIDDEN = "-clone-0123456789abcdef-0123456789abcdef"


def snapshot(name: str) -> Snapshot:
    return Snapshot(name, GIB, 1, 1, "ready", 7 << 40, ROOT, (A.incarnation,))


def entry(name: str, volume: str, state: Any = "ready", origin: Origin | None = None) -> CatalogueEntry:
    return CatalogueEntry(
        volume=volume, name=name, size_bytes=GIB, replicas=2, nodes=["a", "b", "c"], state=state, origin=origin
    )


@dataclass
class Hosted:
    id: str
    brain: Brain


class Scene:
    """A volume that is led here, with a snapshot of people and one of a clone; and another that is pending."""

    def __init__(self, *, led: bool = True, also: tuple[Snapshot, ...] = ()) -> None:
        pending = Snapshot(f"{HIDDEN[:-1]}0", GIB, 1, 2)
        held = replace(record(A, B, C), snapshots=(snapshot("monday"), snapshot(HIDDEN), pending, *also))
        self.machine = brain(A, slot(held))
        for voter in (B, C):
            step(self.machine, ev.PeerUp(voter.node), 0, LEASED)
        if led:
            elect(self.machine, B, C)
            accept(self.machine, B, C)
        self.catalogue = ModelCatalogue("a", "b", "c")
        self.catalogue.entries["data"] = entry("data", SOURCE)
        self.volumes = {SOURCE: Hosted(SOURCE, self.machine)}
        self.abandoned = Abandoned(cast(Any, self), cast(Any, self.catalogue), self.ask)

    async def ask(self, volume: str, event: Callable[[int], ev.Event]) -> None:
        assert volume == SOURCE
        step(self.machine, event(1), 0, LEASED)
        assert ev.Reply(1) in accept(self.machine, B, C)

    async def left(self, keep_s: float = 0.0) -> list[str]:
        await self.abandoned.look(keep_s)
        assert self.machine.record is not None
        return [known.name[:7] for known in self.machine.record.snapshots if known.state == "ready"]


async def test_it_goes_when_nobody_began_as_it_for_long() -> None:
    scene = Scene()
    assert await scene.left(keep_s=3600.0) == ["monday", "-clone-"], "a create may be about to claim its name"
    assert await scene.left() == ["monday"]
    scene.catalogue.entries.clear()
    assert await scene.left() == ["monday"], "and nothing is asked of a catalogue any more"


@pytest.mark.parametrize("state", ["creating", "ready", "deleting"])
async def test_it_stays_while_a_clone_is_to_begin_as_it(state: str) -> None:
    scene = Scene()
    origin = Origin(volume=SOURCE, snapshot=HIDDEN, size_bytes=GIB, root=ROOT, nodes=["a"])
    scene.catalogue.entries |= {f"other-{number}": entry(f"other-{number}", f"{number:032x}") for number in range(300)}
    scene.catalogue.entries["zone"] = entry("zone", "cd" * 16, state, origin)
    assert ("-clone-" in await scene.left()) is (state == "creating")


async def test_it_stays_while_nobody_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene()
    del scene.catalogue.entries["data"]
    assert "-clone-" in await scene.left(), "a catalogue that lost the source may have lost the clone"

    async def away(*_: Any) -> Any:
        raise StosError(Code.UNAVAILABLE, "nobody answers")

    monkeypatch.setattr(scene.catalogue, "page", away)
    assert "-clone-" in await scene.left()


async def test_who_does_not_lead_drops_nothing() -> None:
    assert "-clone-" in await Scene(led=False).left()


@pytest.mark.parametrize(
    ("stage", "attempt", "stays"),
    [("ready", "1" * 16, True), ("dropping", "1" * 16, True), ("taking", "1" * 16, False), ("ready", "2" * 16, False)],
)
async def test_of_a_group_it_stays_while_the_group_is_made_of_it(stage: Any, attempt: str, stays: bool) -> None:
    grouped = replace(snapshot("pair"), group=f"pair.{'1' * 16}")
    scene = Scene(also=(grouped,))
    scene.catalogue.groups["pair"] = GroupClaim(name="pair", attempt=attempt, volumes=(SOURCE,), stage=stage)
    assert ("pair" in await scene.left()) is stays
