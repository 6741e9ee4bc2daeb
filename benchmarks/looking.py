"""What being looked at costs: pairs of runs with metrics and traces and without, in turns.

    python -m benchmarks.looking [--rounds PAIRS] [--dir DIRECTORY]

The same four nodes in one process serve both runs of a pair (`inprocess`). With: every request is counted, one in many
is followed through all nodes, spans go to a store on disk, and all nodes' metrics are gathered once a second. Without:
none of it. Of each load the median of the pairs' ratios counts.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import uvloop

from benchmarks.inprocess import LOADS, Arena, arena, options, scratch
from services.replica import traced
from services.replica.figures import Figures
from services.replica.nbd import frontend as nbd_frontend
from stoscore import telemetry
from stoscore.units import MIB

COST_MAX = 0.05
EVERY_S = 1.0
NEVER = 1 << 62
MEASURED = tuple(load for load in LOADS if "4k, depth" in load.name)


class Uncounted:
    """In the place of a frontend's figures."""

    rotten = 0

    def answered(self, *request: Any) -> None:
        """Nobody looks."""


@asynccontextmanager
async def looked_at(here: Arena) -> AsyncIterator[None]:
    """Metrics are gathered all the time."""
    sources = [
        Figures(
            node.node, node.shell.hosted, node.shell.counted, node.replicas, node.frontends, node.handlers, Counter()
        )
        for node in here.nodes.nodes.values()
    ]

    async def gather() -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            for source in sources:
                list(source.samples())

    task = asyncio.create_task(gather())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def unseen(here: Arena) -> AsyncIterator[None]:
    with (
        patch.object(here.frontend, "figures", Uncounted()),
        patch.object(traced, "ONE_IN", NEVER),
        patch.object(nbd_frontend, "ONE_IN", NEVER),
    ):
        yield


async def measure(parent: Path | None, pairs: int) -> dict[str, list[tuple[float, float]]]:
    """Load -> (µs with, µs without) of each pair."""
    found: dict[str, list[tuple[float, float]]] = {load.name: [] for load in MEASURED}
    async with scratch(parent) as directory, arena(directory) as here:
        telemetry.keep(directory / "spans", 16 * MIB)
        try:
            for number in range(pairs):
                for load in MEASURED:
                    took: dict[bool, float] = {}
                    for seen in (True, False) if number % 2 else (False, True):
                        async with looked_at(here) if seen else unseen(here):
                            took[seen] = await here.client.run(load)
                    found[load.name].append((took[True], took[False]))
        finally:
            telemetry.shutdown()
    return found


def main(arguments: Sequence[str]) -> int:
    """1 when a load costs more by being looked at than it may."""
    given = options("What metrics and traces cost.", arguments, rounds=5)
    costs = []
    print(f"{'CPU µs per request':24}{'with':>10}{'without':>10}{'cost':>9}")
    for name, pairs in uvloop.run(measure(given.dir, given.rounds)).items():
        with_us, without_us = (statistics.median(side) for side in zip(*pairs, strict=True))
        costs.append(statistics.median(seen / unseen - 1 for seen, unseen in pairs))
        print(f"{name:24}{with_us:10.1f}{without_us:10.1f}{costs[-1]:9.1%}")
    return int(max(costs) > COST_MAX)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
