"""Every decision of a simulated run, judged again from the inputs that its event carries, is the same decision."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from services.replica.brain import events as ev
from services.replica.brain.decisions import replay
from tests.simulation.world import World


class Told(World):
    def __init__(self, seed: int):
        super().__init__(seed)
        self.told: list[ev.Explain] = []

    def decided(self, node: str, volume: str, explain: ev.Explain) -> None:
        super().decided(node, volume, explain)
        self.told.append(explain)


@pytest.mark.parametrize("seed", [5, 6, 7, 8])
def test_the_recorded_inputs_give_the_same_decisions(seed: int) -> None:
    world = Told(seed)
    world.run()
    for explain in world.told:
        verdict = replay(json.loads(json.dumps(explain.inputs)))
        recorded = (explain.kind, explain.outcome, explain.alternatives)
        assert (verdict.kind, verdict.outcome, verdict.alternatives) == recorded, explain.inputs
    kinds = Counter(explain.kind for explain in world.told)
    assert {"found", "stand", "grant", "lead"} <= set(kinds), "the run decided something"
