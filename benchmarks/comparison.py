"""This run beside the last kept one: what got worse by more than the machine's own noise.

Compared are ratios to the floor of the same run, because the machine is never the same twice; and runs of another
machine are not compared at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import machine

NOISE = 0.15
"""Two runs of one program differ by so much in the ratio of their medians."""
_SAME = ("cpu", "cores", "kernel")

Results = Sequence[Mapping[str, Any]]


def load(path: Path) -> Results:
    """The results of an earlier run on this machine; empty when there is none, or it is of another machine."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return []
    here = machine()
    if not isinstance(found, dict) or any(found.get("machine", {}).get(key) != here[key] for key in _SAME):
        return []
    results: Results = found.get("results", [])
    return results


def regressions(before: Results, now: Results, floor: str) -> list[str]:
    """A line for each job of ours that costs more CPU, or reaches less, than the noise explains."""
    old, new = _ratios(before, floor), _ratios(now, floor)
    lines = []
    for key, (cpu, iops) in new.items():
        if key not in old:
            continue
        old_cpu, old_iops = old[key]
        job, contender = key
        if cpu > old_cpu * (1 + NOISE):
            lines.append(f"regression: {job} {contender}: CPU {old_cpu:.2f} x the floor's before, {cpu:.2f} x now")
        if iops < old_iops * (1 - NOISE):
            lines.append(f"regression: {job} {contender}: IOPS {old_iops:.2f} x the floor's before, {iops:.2f} x now")
    return lines


def _ratios(results: Results, floor: str) -> dict[tuple[str, str], tuple[float, float]]:
    """(job, contender) -> CPU and IOPS as multiples of the floor's."""
    below = {result["job"]: result for result in results if result["contender"] == floor}
    found = {}
    for result in results:
        base = below.get(result["job"])
        if base is None or not result["contender"].startswith("stos") or not base["cpu_us_per_op"]:
            continue
        key = (result["job"], result["contender"])
        found[key] = (result["cpu_us_per_op"] / base["cpu_us_per_op"], result["iops"] / base["iops"])
    return found
