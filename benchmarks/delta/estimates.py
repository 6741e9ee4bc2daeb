"""Whether what was foretold came true: many returns of different sizes, and what the primaries said before and after.

A primary says what a return will cost before its first copy, and says it again beside the truth when it is over: the
event `resynced`. Half of the returns are found by the map, half by the tree; they miss 8 to 32 MiB, as single blocks or
in runs of a MiB. The bytes are compared with the kernel's counters.

How long a return takes can be promised because a budget paces it: this cluster's nodes have one that every machine can
keep up with, and the returns are large enough to take half a second and more of it. Without one a return takes what
processors and disk take at that moment, for which there are good guesses and no promises (`--budget 1024` shows it).
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from benchmarks.delta.arena import Site, open_site
from benchmarks.delta.cases import Cost, bring_back, take_away
from benchmarks.delta.figures import Bound
from benchmarks.delta.link import link_seconds
from stoscore.units import BLOCK_BYTES, GIB, MIB

RUNS = 50
BUDGET_MIB_S = 16.0
WITHIN, SHARE = 0.15, 0.9
_BLOCKS = (2048, 4096, 8192)
_SIZE_BYTES = GIB
_TOLD_S, _LOOK_S = 30.0, 0.1


async def estimate(directory: Path, runs: int, budget_mib_s: float = BUDGET_MIB_S) -> tuple[Cost, float, list[Bound]]:
    """In a cluster of its own, whose nodes have that budget; with the seconds of a bare link."""
    settings = {"STOS_REPLICA_RECOVERY_MIB_S": str(budget_mib_s)}
    missed = sent_bytes = bytes_right = time_right = 0
    seconds = 0.0
    async with open_site(directory, settings) as site, site.volume("estimate", _SIZE_BYTES) as arena:
        await arena.fill()
        known = len(await _truths(site))
        for number in range(runs):
            away, primary = await take_away(arena)
            blocks = _BLOCKS[number % len(_BLOCKS)]
            await arena.scatter(blocks, run_blocks=256 if number % 2 else 1)
            if number // 2 % 2:
                await arena.move_primary(next(node for node in arena.nodes if node not in (away, primary)))
            sent, took = await bring_back(arena, "estimate", (away,))
            told = await _next_truth(site, known + number)
            bytes_right += _is_right(told["foretold_bytes"], sent)
            time_right += _is_right(told["foretold_ms"], told["duration_ms"])
            missed, sent_bytes, seconds = missed + blocks * BLOCK_BYTES, sent_bytes + sent, seconds + took
            print(
                f"{number + 1}/{runs}: foretold {told['foretold_bytes'] / MIB:.1f} MiB in {told['foretold_ms']} ms, "
                f"was {sent / MIB:.1f} MiB in {told['duration_ms']} ms",
                file=sys.stderr,
                flush=True,
            )
        same = await arena.identical()
        link = await asyncio.to_thread(link_seconds, site.identity_dir(away), sent_bytes // runs)
    cost = Cost("estimate", missed, sent_bytes, seconds, same)
    return (
        cost,
        link * runs,
        [
            (f"bytes within 15 % in {bytes_right} of {runs}", bytes_right >= SHARE * runs),
            (f"time within 15 % in {time_right} of {runs} at {budget_mib_s:g} MiB/s", time_right >= SHARE * runs),
        ],
    )


async def _truths(site: Site) -> list[dict[str, Any]]:
    """Of every return, oldest first: what was foretold, and the truth."""
    events = await site.command.json("events", "--kind", "decision", "--since", "2h")
    return [event["inputs"] for event in events if event.get("decision") == "resynced"]


async def _next_truth(site: Site, known: int) -> dict[str, Any]:
    """Raises TimeoutError when nothing was told of the return."""
    async with asyncio.timeout(_TOLD_S):
        while len(told := await _truths(site)) <= known:
            await asyncio.sleep(_LOOK_S)
    return told[known]


def _is_right(foretold: int, truth: int) -> bool:
    return abs(foretold - truth) <= WITHIN * truth
