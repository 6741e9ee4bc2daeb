"""What is done to the primary, again and again, and how long the application waited each time.

A gap is the longest time between two completed writes from just before the fault until the volume has served for a
while again. Every fault begins with all copies in sync and ends so.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable

from benchmarks.failover.arena import Arena
from stoscore.messages import ReplicaStatus

BEFORE_WRITES, AFTER_WRITES = 100, 300
Fault = Callable[[Arena, int], Awaitable[float]]


async def kill(arena: Arena, number: int) -> float:
    """SIGKILL of the primary's process; then it comes back."""
    before = await _ready(arena)
    await asyncio.to_thread(arena.kill, before.node)
    await arena.succeeded(before)
    gap_ms = await _gap(arena)
    await asyncio.to_thread(arena.cluster.spawn, before.node)
    return gap_ms


async def pause(arena: Arena, number: int) -> float:
    """SIGSTOP: to TCP it looks alive. Longer than any lease, then it goes on with its old beliefs; what it would
    acknowledge now would be a lost write."""
    before = await _ready(arena)
    await asyncio.to_thread(arena.kill, before.node, signal.SIGSTOP)
    try:
        await arena.succeeded(before)
        gap_ms = await _gap(arena)
    finally:
        await asyncio.to_thread(arena.kill, before.node, signal.SIGCONT)
    return gap_ms


async def cut(arena: Arena, number: int) -> float:
    """The primary hears and can't speak, or, every second time, speaks and can't hear."""
    before = await _ready(arena)
    with arena.cut(before.node, speaks=bool(number % 2)):
        await arena.succeeded(before)
        return await _gap(arena)


async def hand_over(arena: Arena, number: int) -> float:
    """Moved on purpose, as `stos volume move-primary` does it."""
    before = await _ready(arena)
    await arena.move_primary()
    await arena.succeeded(before)
    return await _gap(arena)


async def _ready(arena: Arena) -> ReplicaStatus:
    before = await arena.settled()
    await arena.load.more(BEFORE_WRITES)
    arena.load.gap_ms()
    return before


async def _gap(arena: Arena) -> float:
    await arena.load.more(AFTER_WRITES)
    return arena.load.gap_ms()
