"""Each story happens as it is written down, and together they tell every kind of decision."""

from __future__ import annotations

import pytest

from tests.scenarios import script
from tests.scenarios.stage import play
from tests.simulation.decisions import KINDS

REWRITE = "it happens otherwise; when that is right: python -m tests.scenarios --rewrite"


@pytest.mark.parametrize("name", script.names())
def test_it_happens_as_it_is_written(name: str) -> None:
    assert play(name).told().splitlines() == script.told(name).splitlines(), REWRITE


def test_every_kind_of_decision_is_told() -> None:
    told = {event.kind for name in script.names() for event in play(name).story}
    assert set(KINDS) <= told, f"no scenario tells of {sorted(set(KINDS) - told)}"
