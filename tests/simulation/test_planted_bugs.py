"""The fault mix is strong enough: a rule taken out of the cores is missed within the stated number of seeds."""

from __future__ import annotations

import pytest

from tests.simulation.planted import PLANTED
from tests.simulation.world import Violation, World

FOUND_WITHIN = {
    "vote_before_durable": 2,
    "latest_set_only": 10,
    "share_not_compared": 10,
    "forgotten_uncovered": 10,
    "promises_forgotten": 30,
    "reads_without_lease": 30,
}
"""Planted bug -> seeds from 1 on. The first that finds it ends the search."""
FOUND_WITHIN_MORE = {"own_share_not_compared": 60}


def found(plant: str, seeds: range) -> bool:
    with PLANTED[plant]():
        for seed in seeds:
            try:
                World(seed).run()
            except Violation as violation:
                if isinstance(violation.__cause__, TypeError | AttributeError | NameError):
                    raise  # the patch no longer fits the code, which finds nothing
                return True
    return False


@pytest.mark.parametrize("plant", FOUND_WITHIN)
def test_found(plant: str) -> None:
    assert found(plant, range(1, FOUND_WITHIN[plant] + 1))


@pytest.mark.slow
@pytest.mark.parametrize("plant", FOUND_WITHIN_MORE)
def test_found_later(plant: str) -> None:
    assert found(plant, range(1, FOUND_WITHIN_MORE[plant] + 1))
