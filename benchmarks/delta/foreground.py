"""What a return does to an application that works on the same volume meanwhile: five pairs, with and without.

Each pair: a copy goes, much is written, the load runs while the copy is away, until it is back, and then as long again
with all copies in sync. A write during the return goes to as many copies as after it, and to one less before: the pair
is the return and what follows; what was before is printed beside it. The return has to be gentle and may not starve: it
never goes below the floor that the settings promise.
"""

from __future__ import annotations

import asyncio
import sys
import time
from statistics import median

from benchmarks.delta.arena import Arena
from benchmarks.delta.cases import Cost, bring_back, take_away
from benchmarks.delta.figures import Bound
from services.replica.replication.pace import PaceLimits
from stoscore.units import BLOCK_BYTES, MIB

PAIRS = 5
MISSED_BLOCKS = 256 * MIB // BLOCK_BYTES
RUN_BLOCKS = MIB // BLOCK_BYTES
WITHOUT_S = 5.0
LOOK_S = 0.25
RATIO_MAX = 1.5


async def foreground(arena: Arena) -> tuple[Cost, list[Bound]]:
    ratios: list[float] = []
    rates: list[float] = []
    sent_bytes, seconds = 0, 0.0
    for number in range(PAIRS):
        away, primary = await take_away(arena)
        await arena.scatter(MISSED_BLOCKS, RUN_BLOCKS)
        async with arena.site.load(arena.name, seed=number * 100) as load:
            before = await _alone(arena, primary)
            sent, took = await bring_back(arena, "foreground", (away,), ask=(primary,), pause_s=LOOK_S)
            back = time.monotonic()
            after = await _alone(arena, primary)
            await load.stop()
        degraded, during, without = load.p99_ms(*before), load.p99_ms(back - took, back), load.p99_ms(*after)
        ratios.append(during / without)
        rates.append(MISSED_BLOCKS * BLOCK_BYTES / took)
        sent_bytes, seconds = sent_bytes + sent, seconds + took
        returned = f"while a copy returns at {rates[-1] / MIB:.1f} MiB/s"
        print(f"p99 {degraded:.2f} ms before, {during:.2f} ms {returned}, {without:.2f} ms after", file=sys.stderr)
    await arena.client.flush()
    cost = Cost("foreground", PAIRS * MISSED_BLOCKS * BLOCK_BYTES, sent_bytes, seconds, await arena.identical())
    floor = PaceLimits().floor
    return cost, [
        (f"p99 {RATIO_MAX} x without ({median(ratios):.2f})", median(ratios) <= RATIO_MAX),
        (f"{floor // MIB} MiB/s ({min(rates) / MIB:.1f})", min(rates) >= floor),
    ]


async def _alone(arena: Arena, primary: str) -> tuple[float, float]:
    """From when to when the load ran without a return, looked at as often as during one: each look costs those looked
    at."""
    began = time.monotonic()
    while time.monotonic() < began + WITHOUT_S:
        await arena.watch.look((primary,))
        await asyncio.sleep(LOOK_S)
    return began, time.monotonic()
