"""Names of snapshots, asked of many instances at once that may die anywhere: each request to the cluster takes a while
before it is carried out, and a while before it is answered; one that was sent is carried out, even if its sender died.

Whatever they are asked, in whatever order:

* a create that was answered is there, if no delete of it was under way during it or since: not even what a dead one
  had asked for comes late;
* a delete that was answered took it, if no create of it was under way during it or since;
* no two volumes have a snapshot of one name when all is quiet, however many callers died;
* everything can be taken back by repeating the calls, and nothing is left.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.csi.snapshot_names import Named
from stoscore.errors import Code, StosError
from stoscore.messages import SnapshotClaim, SnapshotView
from stoscore.units import MIB
from tests.support.csi import MemoryVolumes

NAMES = ("a", "b")
VOLUMES = ("one", "other")
GONE = "gone"
CALLS = st.tuples(
    st.sampled_from(("create", "delete")),
    st.sampled_from(NAMES),
    st.sampled_from(VOLUMES),
    st.integers(0, 12),  # turns of the loop until it begins
    st.sampled_from((0, 0, 0, 3, 7, 12, 20)),  # turns until the instance dies; 0: never
)


class Slow:
    """Each request is on its way for some turns of the loop, and so is its answer."""

    def __init__(self, real: Any, dice: random.Random):
        self._real = real
        self._dice = dice
        self._tasks: set[asyncio.Task[Any]] = set()

    def __getattr__(self, name: str) -> Any:
        async def ask(*arguments: Any, **more: Any) -> Any:
            task = asyncio.create_task(self._carried_out(getattr(self._real, name)(*arguments, **more)))
            self._tasks.add(task)
            answer = await asyncio.shield(task)
            await self._turns()
            return answer

        return ask

    async def _carried_out(self, request: Any) -> Any:
        await self._turns()
        return await request

    async def _turns(self) -> None:
        for _ in range(self._dice.choice((0, 1, 2, 9))):
            await asyncio.sleep(0)

    async def quiet(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)


class SlowVolumes:
    def __init__(self, real: MemoryVolumes, dice: random.Random):
        self.real = real
        self.snapshots = Slow(real.snapshots, dice)
        self.survey = Slow(real, dice).survey


class Scene:
    def __init__(self, seed: int) -> None:
        self.volumes = SlowVolumes(MemoryVolumes(), random.Random(seed))
        self.ids: dict[str, str] = {}
        self.calls: list[tuple[str, str, str, int, int, Any]] = []
        """(kind, name, volume, began, ended, answer): of one that died when that was, and no answer."""
        self.now = 0

    async def prepare(self) -> None:
        for name in VOLUMES:
            status = await self.volumes.real.create(name, MIB)
            assert status.record is not None
            self.ids[name] = status.record.volume

    def tick(self) -> int:
        self.now += 1
        return self.now

    async def call(self, kind: str, name: str, volume: str, begins: int, dies: int) -> None:
        for _ in range(begins):
            await asyncio.sleep(0)
        named: Any = Named(self.volumes)  # type: ignore[arg-type]  # an instance of its own
        asked = named.create if kind == "create" else named.delete
        began, number = self.tick(), len(self.calls)
        self.calls.append((kind, name, volume, began, 1 << 30, None))
        arguments = (name, self.ids[volume]) if kind == "create" else (self.ids[volume], name)
        task = asyncio.create_task(asked(*arguments, 5.0))
        if dies:
            for _ in range(dies):
                await asyncio.sleep(0)
            task.cancel()
        answer: Any
        try:
            answer = await task or GONE
        except asyncio.CancelledError:
            answer = None
        except StosError as error:
            assert error.code in (Code.ABORTED, Code.ALREADY_EXISTS), error
            if error.code is Code.ALREADY_EXISTS:
                assert kind == "create"
            answer = error
        self.calls[number] = (kind, name, volume, began, self.tick(), answer)

    def check(self) -> None:
        views = self.volumes.real.snapshots.views
        for name in NAMES:
            assert sum(snapshot == name for _, snapshot in views) <= 1, "one name, one volume"
        for kind, name, volume, began, _, answer in self.calls:
            if isinstance(answer, StosError | None) if kind == "create" else answer is not GONE:
                continue
            others = [call for call in self.calls if call[0] != kind and call[1:3] == (name, volume)]
            if any(other[4] > began or (kind == "delete" and other[5] is None) for other in others):
                continue  # at the same time, or later; and what a dead create asked for may come late
            found: SnapshotView | None = views.get((self.ids[volume], name))
            if kind == "create":
                assert found == answer, "it was answered, and nobody asked for its deletion"
            else:
                assert found is None, "its deletion was answered, and nobody asked for it again"

    async def take_back(self) -> None:
        named: Any = Named(self.volumes)  # type: ignore[arg-type]
        for _ in range(2):
            for name in NAMES:
                for volume in self.ids.values():
                    await named.delete(volume, name, 5.0)
        assert not self.volumes.real.snapshots.views
        assert not self.volumes.real.snapshots.claims


Batches = st.lists(st.lists(CALLS, min_size=1, max_size=7), min_size=1, max_size=3)


async def run(batches: list[list[Any]], seed: int) -> None:
    scene = Scene(seed)
    await scene.prepare()
    for batch in batches:
        await asyncio.gather(*(scene.call(*one) for one in batch))
        await scene.volumes.snapshots.quiet()
        scene.check()
    await scene.take_back()


TAKEN_WHEN_THE_NAME_WAS_GIVEN_AWAY = [
    [("create", "a", "one", 0, 3), ("create", "a", "other", 0, 7)],
    [*[("create", "a", "one", 0, 0)] * 4, ("delete", "a", "other", 0, 0)],
    [
        ("create", "a", "one", 11, 0),
        ("create", "a", "other", 0, 0),
        ("delete", "a", "other", 1, 0),
        ("create", "a", "one", 4, 0),
    ],
]


@settings(max_examples=300, deadline=None)
@example(batches=TAKEN_WHEN_THE_NAME_WAS_GIVEN_AWAY, seed=1)
@given(batches=Batches, seed=st.integers(0, 1 << 32))
def test_calls_at_once_in_any_order_by_instances_that_die(batches: list[list[Any]], seed: int) -> None:
    asyncio.run(run(batches, seed))


def _what_came_before_the_fence_stays(patch: pytest.MonkeyPatch) -> None:
    """A deletion looks once, and then sets its fence."""
    real = Named._moments

    async def moments(self: Named, volume: str, name: str, timeout_s: float) -> list[int]:
        looked = getattr(self, "looked", False)
        self.looked = True  # type: ignore[attr-defined]
        return [] if looked else await real(self, volume, name, timeout_s)

    patch.setattr(Named, "_moments", moments)


def _nothing_is_claimed(patch: pytest.MonkeyPatch) -> None:
    async def claim(self: Named, held: SnapshotClaim) -> None:
        self._volumes.snapshots._real.claims[held.snapshot] = held  # type: ignore[attr-defined]

    patch.setattr(Named, "_claim", claim)


BUGS = (_what_came_before_the_fence_stays, _nothing_is_claimed)


@pytest.mark.long
@pytest.mark.parametrize("plant", BUGS, ids=lambda plant: plant.__name__.strip("_"))
def test_a_planted_bug_is_found(plant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    dice = random.Random(1)
    with pytest.raises(AssertionError):
        for _ in range(4000):
            calls = [
                (
                    dice.choice(("create", "delete")),
                    NAMES[0],
                    dice.choice(VOLUMES[: dice.choice((1, 2))]),
                    dice.randrange(40),
                    dice.choice((0, 0, 7, 12, 20)),
                )
                for _ in range(dice.randrange(3, 9))
            ]
            asyncio.run(run([calls], dice.randrange(1 << 32)))
