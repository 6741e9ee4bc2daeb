"""Bugs that the simulation must find: each takes one rule out of the production cores, as a plausible mistake would.

test_planted_bugs.py says within how many seeds the default fault mix finds which. A fault mix that no longer finds one
has become too weak, whatever it says about the real code.
"""

from __future__ import annotations

from tests.simulation.patches import Plant
from tests.simulation.planted_brain import BRAIN
from tests.simulation.planted_data import DATA

PLANTED: dict[str, Plant] = {plant.__name__: plant for plant in (*BRAIN, *DATA)}
