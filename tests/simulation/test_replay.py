"""Every decision of a simulated run, judged again from the inputs that its event carries, is the same decision."""

from __future__ import annotations

import json
from collections import Counter
from unittest.mock import patch

import pytest

from services.replica.brain import events as ev
from services.replica.brain.decisions import replay
from services.replica.driver import Decided
from tests.simulation.orders import Orders
from tests.simulation.world import World


@pytest.mark.parametrize("seed", [5, 6, 7, 8])
def test_the_recorded_inputs_give_the_same_decisions(seed: int) -> None:
    told: list[ev.Explain] = []
    real = Orders._decided

    def decided(self: Orders, order: Decided) -> None:
        told.append(order.explain)
        real(self, order)

    with patch.object(Orders, "_decided", decided):
        World(seed).run()
    for explain in told:
        verdict = replay(json.loads(json.dumps(explain.inputs)))
        recorded = (explain.kind, explain.outcome, explain.alternatives)
        assert (verdict.kind, verdict.outcome, verdict.alternatives) == recorded, explain.inputs
    kinds = Counter(explain.kind for explain in told)
    assert {"found", "stand", "grant", "lead"} <= set(kinds), "the run decided something"
