"""The same attacks against a cluster with that one defence taken out: there they succeed.

Members run under `tests.security.weakened`; clusters are started once for each set of weakenings.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import groupby
from pathlib import Path

import pytest

from services.dev.layout import APP
from tests.security import weakenings
from tests.security.arms import ROOT_FILE
from tests.security.cases import CASES, Case
from tests.security.flood import by_requests
from tests.security.stage import Stage
from tests.security.weakened import program
from tests.support.cluster import AlteredCluster

pytestmark = pytest.mark.long

NODES = ("n1", "n2", "n3", APP)
FLOODED = "serve-who-shouts"


Weakened = tuple[tuple[str, str], ...]


def _key(case: Case) -> tuple[Weakened, bool, str]:
    """Cases with the same key share a cluster."""
    return tuple(sorted(case.weakened.items())), case.needs_only_certs, case.name if case.wrecks else ""


TOGETHER = [(key, list(cases)) for key, cases in groupby(sorted(CASES, key=_key), key=_key)]


def _name(together: tuple[tuple[Weakened, bool, str], list[Case]]) -> str:
    weakened, _, name = together[0]
    return ",".join([*(f"{group}:{weakening}" for group, weakening in weakened), *([name] if name else [])])


@asynccontextmanager
async def weakened_stage(weakened: Weakened, only_certs: bool, directory: Path) -> AsyncIterator[Stage]:
    programs = {}
    for group, weakening in weakened:
        for member in NODES if group == "nodes" else (group,):
            programs[member] = program(weakening)
    setting = {weakenings.FOREIGN_ROOT: str(directory / "arms" / ROOT_FILE)}
    cluster = AlteredCluster(
        directory / "dev", programs=programs, settings=dict.fromkeys((*NODES, "nats", "certs"), setting)
    )
    async with Stage.play(cluster, directory / "arms", only="certs" if only_certs else "") as stage:
        yield stage


@pytest.mark.parametrize("together", TOGETHER, ids=_name)
async def test_without_the_defence_the_attack_succeeds(
    together: tuple[tuple[Weakened, bool, str], list[Case]], tmp_path: Path
) -> None:
    (weakened, only_certs, _), cases = together
    async with weakened_stage(weakened, only_certs, tmp_path) as stage:
        for case in cases:
            arm = await case.arm(stage)
            scene = await stage.scene()
            arguments = await case.arguments(stage, scene)
            outcome = await stage.attacker.attack(case.attack, scene, arm, **arguments)
            won = outcome.won if case.judge is None else await case.judge(stage, scene)
            assert won, f"{case.name} does not bite: {outcome.told}"


async def test_without_shares_who_shouts_is_served(tmp_path: Path) -> None:
    async with weakened_stage((("nodes", FLOODED),), False, tmp_path) as stage:
        endured = await by_requests(stage)
        assert endured.harmed, str(endured)


def test_every_weakening_is_used() -> None:
    used = {FLOODED} | {name for case in CASES for names in case.weakened.values() for name in names.split("+")}
    assert used == set(weakenings.known())
