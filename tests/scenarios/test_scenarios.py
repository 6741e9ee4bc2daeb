"""Each story happens as it is written down, and together they tell every kind of decision."""

from __future__ import annotations

from functools import cache

import pytest

from tests.scenarios import script
from tests.scenarios.stage import Stage, play
from tests.simulation.decisions import KINDS

REWRITE = "it happens otherwise; when that is right: python -m tests.scenarios --rewrite"


@cache
def played(name: str) -> Stage:
    return play(name)


@pytest.mark.parametrize("name", script.names())
def test_it_happens_as_it_is_written(name: str) -> None:
    assert played(name).told().splitlines() == script.told(name).splitlines(), REWRITE


def test_every_kind_of_decision_is_told() -> None:
    told = {event.kind for name in script.names() for event in played(name).story}
    assert set(KINDS) <= told, f"no scenario tells of {sorted(set(KINDS) - told)}"
