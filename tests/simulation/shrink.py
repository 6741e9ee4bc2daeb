"""From a failing seed to a story: the same failure with as few faults, volumes and requests as it takes.

Faults are independent of each other in a plan, so any of them can be left out; what remains is played again and must
fail in the same way. The search is delta debugging (Zeller, Hildebrandt: Simplifying and Isolating Failure-Inducing
Input, 2002): halves first, then ever smaller pieces.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace

from stoscore.units import MS
from tests.simulation.plan import START_NS, Plan
from tests.simulation.world import Violation, World

TRIES = 120
CPU_S = 40.0
"""Then whoever waits for a red test is told the smallest plan so far."""


class Shrinking:
    """The smallest plan so far and how it fails."""

    def __init__(self, violation: Violation, tries: int, cpu_s: float):
        self.violation = violation
        self._tries = tries
        self._until_s = time.process_time() + cpu_s

    @property
    def plan(self) -> Plan:
        return self.violation.plan

    def try_plan(self, plan: Plan) -> bool:
        """Keeps the plan if it fails in the same way."""
        if self._tries <= 0 or time.process_time() >= self._until_s:
            return False
        self._tries -= 1
        try:
            World(plan).run()
        except Violation as violation:
            if _sort(violation.what) == _sort(self.violation.what):
                self.violation = violation
                return True
        return False


def _sort(what: str) -> str:
    """Which kind of failure: the words up to the first number."""
    return re.split(r"[\d\[{(]", what, maxsplit=1)[0]


def shrink(violation: Violation, tries: int = TRIES, cpu_s: float = CPU_S) -> Violation:
    """The violation of a smaller plan; the same one when nothing can be left out."""
    found = Shrinking(violation, tries, cpu_s)
    _end_early(found)
    _fewer_faults(found)
    for index in reversed(range(len(found.plan.volumes))):
        volumes = found.plan.volumes
        if len(volumes) > 1:
            found.try_plan(replace(found.plan, volumes=volumes[:index] + volumes[index + 1 :]))
    found.try_plan(replace(found.plan, operations=0))
    found.try_plan(replace(found.plan, volumes=tuple(replace(volume, depth=1) for volume in found.plan.volumes)))
    found.try_plan(replace(found.plan, knobs={}))
    _fewer_faults(found)
    return found.violation


def _end_early(found: Shrinking) -> None:
    """No fault after the failure."""
    at_ns = found.violation.events[-1][0]
    kept = tuple(fault for fault in found.plan.faults if fault.at_ns <= at_ns)
    length = min(found.plan.faults_ns, max(at_ns - START_NS + MS, MS))
    found.try_plan(replace(found.plan, faults=kept, faults_ns=length))


def _fewer_faults(found: Shrinking) -> None:
    pieces = 2
    while (count := len(found.plan.faults)) and pieces <= 2 * count:
        if any(found.try_plan(plan) for plan in _without_a_piece(found.plan, pieces)):
            pieces = max(2, pieces - 1)
        elif pieces >= count:
            return
        else:
            pieces = min(2 * pieces, count)


def _without_a_piece(plan: Plan, pieces: int) -> Iterator[Plan]:
    faults = plan.faults
    size = max(1, len(faults) // pieces)
    for start in range(0, len(faults), size):
        yield replace(plan, faults=faults[:start] + faults[start + size :])


def told(violation: Violation, length: int = 60) -> str:
    """The failure with what led to it."""
    plan = violation.plan
    kinds = ", ".join(fault.kind for fault in plan.faults) or "no fault"
    voters = "; ".join(
        f"{volume.name} on " + " ".join(f"{v.node}{'' if v.kind == 'data' else ' (witness)'}" for v in volume.voters)
        for volume in plan.volumes
    )
    return "\n".join(
        [f"seed {plan.seed}, as small as it gets: {voters}; {kinds}", *violation.story(length), violation.what]
    )
