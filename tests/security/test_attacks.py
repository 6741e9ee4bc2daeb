"""Each attack from a process of its own against the running cluster: it fails, it is told, and nobody notices."""

from __future__ import annotations

import pytest

from tests.security.cases import CASES, Case
from tests.security.stage import Stage

pytestmark = [pytest.mark.long, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_the_attack_fails(stage: Stage, case: Case) -> None:
    arm = await case.arm(stage)
    scene = await stage.scene()
    arguments = await case.arguments(stage, scene)
    await stage.trail.read(stage.bus)
    outcome = await stage.attacker.attack(case.attack, scene, arm, **arguments)
    if case.judge is None:
        assert not outcome.won, outcome.told
    else:
        assert not await case.judge(stage, scene), outcome.told
    if case.audit:
        await stage.trail.tells(stage.bus, **case.audit)
    await stage.victim_works()
