"""Somebody with an identity, or none, floods while a volume is in use: the I/O goes on, and others are answered."""

from __future__ import annotations

import pytest

from tests.security.flood import FLOODS, Flood
from tests.security.stage import Stage

pytestmark = [pytest.mark.long, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]


@pytest.mark.parametrize("flood", FLOODS, ids=str)
async def test_the_flood_harms_nobody(stage: Stage, flood: Flood) -> None:
    endured = await flood.run(stage)
    print(endured)
    assert not endured.harmed, str(endured)
    await stage.victim_works()
    await stage.trail.tells(stage.bus, **flood.audit)
