"""A fixed row of seeds, fresh at every change of the cores: safety under faults, then progress."""

from __future__ import annotations

import pytest

from tests.simulation.world import Violation, World

SEEDS = range(1, 41)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_violation(seed: int) -> None:
    try:
        World(seed).run()
    except Violation as violation:
        pytest.fail("\n".join([*violation.story[-60:], str(violation)]), pytrace=False)


def test_the_same_seed_gives_the_same_history() -> None:
    """Invariant 9: byte for byte."""

    def story() -> list[str]:
        world = World(5)
        world.run()
        return world.story()

    assert story() == story()
