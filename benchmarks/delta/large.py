"""Volumes that are large and nearly empty: what a return costs must follow what differs and not how big the volume is.

| case | volume | missed |
|---|---|---|
| one | 1 TiB, 16 MiB written all over it | one block, found by the tree |
| big | 100 GiB, 10 GiB written all over it | 64 MiB of single blocks, by the tree; timed beside the same in 1 GiB |
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from benchmarks.delta.arena import Arena, Site
from benchmarks.delta.cases import MISSED_BLOCKS, Cost, bring_back, by_tree, take_away
from benchmarks.delta.figures import Bound
from stoscore.units import BLOCK_BYTES, GIB, KIB, MIB, TIB

ONE_BYTES, ONE_SECONDS = 100 * KIB, 1.0
ONE_SHARE = 64 * 1024
"""One MiB of so many is written."""
BIG_BYTES, BIG_SHARE = 100 * GIB, 10
BIG_DISK_BYTES = 60 * GIB
BIG_TIME_OF_TREE = 1.5
BIG_RSS_BYTES = 256 * MIB


async def one(site: Site) -> tuple[Cost, list[Bound]]:
    async with site.volume("one", TIB) as arena:
        await arena.fill(ONE_SHARE)
        away, primary = await take_away(arena)
        await arena.scatter(1)
        await arena.move_primary(next(node for node in arena.nodes if node not in (away, primary)))
        sent, seconds = await bring_back(arena, "one", (away,))
        cost = Cost("one", BLOCK_BYTES, sent, seconds, await site.same_on_disk(arena.volume_id))
    return cost, [
        (f"{ONE_BYTES} bytes", sent <= ONE_BYTES + BLOCK_BYTES),
        (f"{ONE_SECONDS:g} s", seconds <= ONE_SECONDS),
    ]


def room_for_big(directory: Path) -> str:
    """Why it can't run here, or nothing."""
    free = shutil.disk_usage(directory).free
    return "" if free >= BIG_DISK_BYTES else f"{free >> 30} GiB are free and {BIG_DISK_BYTES >> 30} GiB are needed"


async def big(arena: Arena) -> tuple[Cost, list[Bound]]:
    """`arena`: the volume of 1 GiB, whose return is the measure."""
    small = await by_tree(arena)
    async with arena.site.volume("big", BIG_BYTES) as large:
        await large.fill(BIG_SHARE)
        away, primary = await take_away(large)
        await large.scatter(MISSED_BLOCKS)
        leader = next(node for node in large.nodes if node not in (away, primary))
        await large.move_primary(leader)
        sent, seconds = await bring_back(large, "big", (away,))
        most = max(_peak_bytes(arena.site.pid(node)) for node in (away, leader))
        same = await arena.site.same_on_disk(large.volume_id)
    cost = Cost("big", MISSED_BLOCKS * BLOCK_BYTES, sent, seconds, same and small.copies_identical)
    return cost, [
        (f"{BIG_TIME_OF_TREE} x tree ({small.seconds:.2f} s)", seconds <= BIG_TIME_OF_TREE * small.seconds),
        (f"{BIG_RSS_BYTES // MIB} MiB of memory ({most // MIB})", most <= BIG_RSS_BYTES),
    ]


def _peak_bytes(pid: int) -> int:
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * KIB
