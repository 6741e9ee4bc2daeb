"""All kinds of faults with their weights, and the striking of one."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from tests.simulation.faults import SIMPLE, Struck
from tests.simulation.motifs import MOTIFS
from tests.simulation.overriding import lose_the_majority

if TYPE_CHECKING:
    from tests.simulation.plan import Fault
    from tests.simulation.world import World

WEIGHTS = {kind: weight for kind, (weight, _) in (SIMPLE | MOTIFS).items()}
LOSE_THE_MAJORITY = "lose the majority"
KINDS = SIMPLE | MOTIFS | {LOSE_THE_MAJORITY: (0, lose_the_majority)}
"""The last has a share of the seeds of its own (plan.py), not a weight."""


def strike(world: World, fault: Fault) -> None:
    if world.faulty:
        world.log("fault", fault.kind)
        KINDS[fault.kind][1](Struck(world, Random(fault.dice)))
