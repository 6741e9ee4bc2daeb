"""What a return does to an application that works on the same volume meanwhile: five pairs, without and with.

Each pair: a copy goes, much is written, the load runs without a return, and then until the copy is back. The return has
to be gentle and may not starve: it never goes below the floor that the settings promise.
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
RATIO_MAX = 1.5


async def foreground(arena: Arena) -> tuple[Cost, list[Bound]]:
    ratios: list[float] = []
    rates: list[float] = []
    sent_bytes, seconds = 0, 0.0
    for number in range(PAIRS):
        away, _ = await take_away(arena)
        await arena.scatter(MISSED_BLOCKS, RUN_BLOCKS)
        async with arena.site.load(arena.name, seed=number * 100) as load:
            began = time.monotonic()
            await asyncio.sleep(WITHOUT_S)
            ended = time.monotonic()
            sent, took = await bring_back(arena, "foreground", (away,))
            back = time.monotonic()
            await load.stop()
        without, during = load.p99_ms(began, ended), load.p99_ms(back - took, back)
        ratios.append(during / without)
        rates.append(MISSED_BLOCKS * BLOCK_BYTES / took)
        sent_bytes, seconds = sent_bytes + sent, seconds + took
        returned = f"while a copy returns at {rates[-1] / MIB:.1f} MiB/s"
        print(f"p99 {without:.2f} ms, {during:.2f} ms {returned}", file=sys.stderr, flush=True)
    await arena.client.flush()
    cost = Cost("foreground", PAIRS * MISSED_BLOCKS * BLOCK_BYTES, sent_bytes, seconds, await arena.identical())
    floor = PaceLimits().floor
    return cost, [
        (f"p99 {RATIO_MAX} x without ({median(ratios):.2f})", median(ratios) <= RATIO_MAX),
        (f"{floor // MIB} MiB/s ({min(rates) / MIB:.1f})", min(rates) >= floor),
    ]
