"""The interruptions: what a copy misses in each, by which way it is found, and what its return cost.

Each case begins with all copies in sync and ends so. The clock runs from the first byte on the returned copy's links
until the primary's committed record names all copies, so it holds handshakes, the fdatasync of everything that was
received, and the record's agreement; it does not hold the start of a Python interpreter.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from benchmarks.delta.arena import COPIES, Arena, Site
from benchmarks.delta.traffic import Traffic
from services.dev.demo.watch import FAST_S
from stoscore.units import BLOCK_BYTES

MISSED_BLOCKS = 16_384
_BACK_S, _SYNC_S = 60.0, 300.0
_GLANCE_S = 0.002


@dataclass(frozen=True, slots=True)
class Cost:
    """What a return cost. `bytes_missed`: counted on the disks before it."""

    case: str
    bytes_missed: int
    bytes_sent: int
    seconds: float
    copies_identical: bool


async def by_map(arena: Arena) -> Cost:
    """The primary that saw the copy go is there when it comes back."""
    away, primary = await take_away(arena)
    await arena.scatter(MISSED_BLOCKS)
    missed = await arena.missing(away, primary)
    return await _bring_back(arena, "map", (away,), missed, (primary,))


async def by_tree(arena: Arena) -> Cost:
    """Another primary came in between: its map does not tell what the copy missed before."""
    away, primary = await take_away(arena)
    await arena.scatter(MISSED_BLOCKS)
    other = next(node for node in arena.nodes if node not in (away, primary))
    await arena.move_primary(other)
    missed = await arena.missing(away, other)
    return await _bring_back(arena, "tree", (away,), missed, (other,))


async def by_power(arena: Arena) -> Cost:
    """All nodes are killed at once and started again at once."""
    away, primary = await take_away(arena)
    await arena.scatter(MISSED_BLOCKS)
    for node in arena.nodes:
        if node != away:
            await asyncio.to_thread(arena.site.kill, node)
    missed = await arena.missing(away, primary)
    return await _bring_back(arena, "power", arena.nodes, missed)


async def nothing(arena: Arena) -> Cost:
    """Nobody wrote meanwhile."""
    away, primary = await take_away(arena)
    missed = await arena.missing(away, primary)
    return await _bring_back(arena, "nothing", (away,), missed, (primary,))


async def take_away(arena: Arena) -> tuple[str, str]:
    """(a copy that is dead now and out of the set, the primary)"""
    primary = (await arena.settled()).node
    away = next(node for node in arena.nodes if node != primary)
    await asyncio.to_thread(arena.site.kill, away)
    await arena.without(away)
    return away, primary


async def _bring_back(
    arena: Arena, case: str, nodes: tuple[str, ...], missed: int, ask: tuple[str, ...] | None = None
) -> Cost:
    sent, seconds = await bring_back(arena, case, nodes, ask=ask)
    await arena.client.flush()
    return Cost(case, missed * BLOCK_BYTES, sent, seconds, await arena.identical())


async def bring_back(
    arena: Arena, case: str, nodes: tuple[str, ...], *, ask: tuple[str, ...] | None = None, pause_s: float = FAST_S
) -> tuple[int, float]:
    """(bytes, seconds) until all copies are in sync. `ask`: who leads, where that is known, for each node that is asked
    answers at the expense of what is measured."""
    await arena.rest()
    traffic, began = await started(arena.site, case, nodes)
    seen = arena.watch.seen
    await arena.watch.until(
        f"{case}: all copies in sync",
        lambda: len(seen[arena.name].in_sync) == COPIES,
        _SYNC_S,
        nodes=ask,
        each=traffic.sample,
        pause_s=pause_s,
    )
    seconds = time.monotonic() - began
    return traffic.sample(), seconds


async def started(site: Site, case: str, nodes: tuple[str, ...]) -> tuple[Traffic, float]:
    """Nodes that were killed, and the moment of the first byte on their links."""
    pids = [(await asyncio.to_thread(site.cluster.spawn, node)).pid for node in nodes]
    traffic = Traffic(pids, site.peer_ports)
    deadline = time.monotonic() + _BACK_S
    while not traffic.sample():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{case}: no link of {', '.join(nodes)} within {_BACK_S:.0f} s")
        await asyncio.sleep(_GLANCE_S)
    return traffic, time.monotonic()


CASES: dict[str, Callable[[Arena], Awaitable[Cost]]] = {
    "map": by_map,
    "tree": by_tree,
    "power": by_power,
    "nothing": nothing,
}
