"""A campaign ends whatever a seed does, and says which it was."""

from __future__ import annotations

import os
import pickle
import signal
from unittest.mock import patch

import pytest

from tests.simulation import machine, world
from tests.simulation.plan import draw
from tests.simulation.shrink import shrink
from tests.simulation.workers import Failed, Workers
from tests.simulation.world import Violation, World


def _is_odd(seed: int) -> object:
    if seed == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if seed == 5:
        raise Violation(draw(seed), "something is wrong", [])
    if seed == 6:
        return lambda: "no process can be told this"
    return seed, seed % 2 == 1


def test_whoever_dies_raises_or_can_not_say_it_is_named_and_the_others_are_judged() -> None:
    with Workers(_is_odd, 2) as workers:
        found = list(workers.results(range(9)))
    failed = {each.seed: each.why for each in found if isinstance(each, Failed)}
    assert failed.keys() == {3, 5, 6}
    assert "SIGKILL" in failed[3]
    assert "seed 5: something is wrong" in failed[5]
    assert sorted(each for each in found if isinstance(each, tuple)) == [(n, n % 2 == 1) for n in (0, 1, 2, 4, 7, 8)]


def _loops(seed: int) -> int:
    while seed == 2:
        pass
    return seed


def test_a_seed_that_does_not_end_is_killed_and_named() -> None:
    with Workers(_loops, 1, cpu_s=1) as workers:
        found = list(workers.results([1, 2, 3]))
    assert found == [1, Failed(2, "its process was killed by SIGXCPU"), 3]


def test_a_world_that_asks_without_end_is_a_violation() -> None:
    with patch.object(world, "EVENTS_MAX", 500), pytest.raises(Violation, match="it does not end: 500 events"):
        World(1).run()


def test_orders_that_lead_to_orders_without_end_are_a_violation() -> None:
    with patch.object(machine, "ROUNDS_MAX", 0), pytest.raises(Violation, match="goes round in circles"):
        World(1).run()


def test_a_violation_can_be_told_to_another_process() -> None:
    violation = pickle.loads(pickle.dumps(Violation(draw(3), "something is wrong", [(7, ("n1", "starts"))])))
    assert str(violation) == "seed 3: something is wrong"
    assert violation.events == [(7, ("n1", "starts"))]


def test_a_red_test_waits_no_longer_than_it_may_for_a_smaller_plan() -> None:
    violation = Violation(draw(3), "something is wrong", [(0, ("n1", "starts"))])
    with patch.object(World, "run", side_effect=AssertionError("there was no time left for a try")):
        assert shrink(violation, cpu_s=0.0) is violation
