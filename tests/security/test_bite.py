"""The same attacks against a cluster with that one defence taken out: there they succeed.

Members run under `tests.security.weakened`; clusters are started once for each set of weakenings.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import groupby
from pathlib import Path

import pytest

from services.dev.layout import APP
from tests.security import weakenings
from tests.security.arms import ROOT_FILE
from tests.security.cases import CASES, Case
from tests.security.flood import FLOODS, Flood
from tests.security.stage import Stage
from tests.security.weakened import program
from tests.support.cluster import AlteredCluster

pytestmark = pytest.mark.long

NODES = ("n1", "n2", "n3", APP)
Key = tuple[tuple[tuple[str, str], ...], str]
"""What is weakened, and who needs the cluster for itself."""


def _key(case: Case) -> Key:
    """Cases with the same key share a cluster."""
    return tuple(sorted(case.weakened.items())), case.name if case.wrecks else ""


TOGETHER = [(key, list(cases)) for key, cases in groupby(sorted(CASES, key=_key), key=_key)]


def _name(together: tuple[Key, list[Case]]) -> str:
    (weakened, name), _ = together
    return ",".join([*(f"{group}:{weakening}" for group, weakening in weakened), *([name] if name else [])])


def _runs(cases: list[Case]) -> tuple[str, ...]:
    """What is enough for all of them."""
    return max((case.runs for case in cases), key=len) if all(case.runs for case in cases) else ()


@asynccontextmanager
async def weakened_stage(
    weakened: Mapping[str, str], directory: Path, runs: tuple[str, ...] = ()
) -> AsyncIterator[Stage]:
    programs = {}
    for group, weakening in weakened.items():
        for member in NODES if group == "nodes" else (group,):
            programs[member] = program(weakening)
    setting = {weakenings.FOREIGN_ROOT: str(directory / "arms" / ROOT_FILE)}
    cluster = AlteredCluster(
        directory / "dev", programs=programs, settings=dict.fromkeys((*NODES, "nats", "certs"), setting)
    )
    async with Stage.play(cluster, directory / "arms", only=runs, orderly=False) as stage:
        yield stage


@pytest.mark.parametrize("together", TOGETHER, ids=_name)
async def test_without_the_defence_the_attack_succeeds(together: tuple[Key, list[Case]], tmp_path: Path) -> None:
    (weakened, _), cases = together
    async with weakened_stage(dict(weakened), tmp_path, _runs(cases)) as stage:
        for case in cases:
            arm = await case.arm(stage)
            scene = await stage.scene()
            arguments = await case.arguments(stage, scene)
            outcome = await stage.attacker.attack(case.attack, scene, arm, **arguments)
            won = outcome.won if case.judge is None else await case.judge(stage, scene)
            assert won, f"{case.name} does not bite: {outcome.told}"


@pytest.mark.parametrize("flood", FLOODS, ids=str)
async def test_without_its_bounds_the_flood_does_harm(flood: Flood, tmp_path: Path) -> None:
    async with weakened_stage(flood.weakened, tmp_path) as stage:
        endured = await flood.run(stage)
        print(endured)
        assert endured.harmed, str(endured)


def test_every_weakening_is_used() -> None:
    used = {name for each in (*CASES, *FLOODS) for names in each.weakened.values() for name in names.split("+")}
    assert used == set(weakenings.known())
