"""Whether what was foretold came true: many returns of different sizes, and what the primaries said before and after.

A primary says what a return will cost before its first copy, and says it again beside the truth when it is over: the
event `resynced`. Half of the returns are found by the map, half by the tree; they miss 1 to 64 MiB, as single blocks or
in runs of up to a MiB.
"""

from __future__ import annotations

from typing import Any

from benchmarks.delta.arena import Arena
from benchmarks.delta.cases import Cost, bring_back, take_away
from benchmarks.delta.figures import Bound
from stoscore.units import BLOCK_BYTES

RUNS = 50
WITHIN, SHARE = 0.15, 0.9
_BLOCKS = (256, 1024, 4096, 16_384)


async def estimate(arena: Arena, runs: int) -> tuple[Cost, list[Bound]]:
    missed = sent_bytes = 0
    seconds = 0.0
    known = len(await _truths(arena))
    for number in range(runs):
        away, primary = await take_away(arena)
        blocks = _BLOCKS[number % len(_BLOCKS)]
        await arena.scatter(blocks, run_blocks=1 if number % 3 else 256)
        if number % 2:
            await arena.move_primary(next(node for node in arena.nodes if node not in (away, primary)))
        sent, took = await bring_back(arena, "estimate", (away,))
        missed, sent_bytes, seconds = missed + blocks * BLOCK_BYTES, sent_bytes + sent, seconds + took
    told = (await _truths(arena))[known:]
    cost = Cost("estimate", missed, sent_bytes, seconds, await arena.identical())
    bytes_right = _within(told, "foretold_bytes", "bytes")
    time_right = _within(told, "foretold_ms", "duration_ms")
    return cost, [
        (f"bytes within 15 % in {bytes_right} of {len(told)}", bytes_right >= SHARE * len(told) > 0),
        (f"time within 15 % in {time_right} of {len(told)}", time_right >= SHARE * len(told) > 0),
    ]


async def _truths(arena: Arena) -> list[dict[str, Any]]:
    """Of every return, oldest first: what was foretold, and the truth."""
    events = await arena.site.command.json("events", "--kind", "decision", "--since", "2h")
    return [event["inputs"] for event in events if event.get("decision") == "resynced"]


def _within(told: list[dict[str, Any]], foretold: str, truth: str) -> int:
    return sum(abs(one[foretold] - one[truth]) <= WITHIN * one[truth] for one in told)
