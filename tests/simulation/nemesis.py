"""All kinds of faults with their weights, and the striking of one."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from tests.simulation.faults import SIMPLE, Struck
from tests.simulation.motifs import MOTIFS

if TYPE_CHECKING:
    from tests.simulation.plan import Fault
    from tests.simulation.world import World

KINDS = SIMPLE | MOTIFS
WEIGHTS = {kind: weight for kind, (weight, _) in KINDS.items()}


def strike(world: World, fault: Fault) -> None:
    if world.faulty:
        world.log("fault", fault.kind)
        KINDS[fault.kind][1](Struck(world, Random(fault.dice)))
