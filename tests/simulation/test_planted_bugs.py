"""The fault mix is strong enough: a rule taken out of the cores is missed within the stated number of seeds."""

from __future__ import annotations

import pytest

from tests.simulation.planted import PLANTED
from tests.simulation.world import Violation, World

FOUND_WITHIN = {
    "vote_before_durable": 1,
    "promises_forgotten": 2,
    "latest_set_only": 4,
    "share_not_compared": 4,
    "forgotten_uncovered": 8,
    "reads_without_lease": 10,
    "own_share_not_compared": 20,
}
"""Planted bug -> seeds from 1 on."""
FOUND_AT = {"unclean_by_own_record": 67}
"""Found by rarer luck: one seed that does."""


def found(plant: str, seeds: range) -> bool:
    with PLANTED[plant]():
        for seed in seeds:
            try:
                World(seed).run()
            except Violation:
                return True
    return False


@pytest.mark.parametrize("plant", FOUND_WITHIN)
def test_found(plant: str) -> None:
    assert found(plant, range(1, FOUND_WITHIN[plant] + 1))


@pytest.mark.parametrize("plant", FOUND_AT)
def test_found_at(plant: str) -> None:
    assert found(plant, range(FOUND_AT[plant], FOUND_AT[plant] + 1))
