"""The heart of it: the primary of both volumes is killed under load, and comes back to catch up.

load on both volumes ── SIGKILL ── pause ── load goes on, the node is away ── load stops
                                                                                 │
in sync again <── delta sync, measured on the wire <── the node's process starts <┘
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from services.dev.demo.comeback import come_back
from services.dev.demo.context import Context, DemoFailed, DemoVolume
from services.dev.demo.inspection import read_copy
from services.dev.demo.load import RawWriter, under_load
from services.dev.demo.summary import Loss
from services.dev.demo.verify import differing_blocks
from stoscore.units import BLOCK_BYTES, MIB, format_size

RAW_BYTES_AWAY = 20 * MIB
"""How much is written over NBD, in scattered 4 KiB blocks, while the node is away."""
_TAKE_OVER_TIMEOUT_S = 30.0
_AWAY_TIMEOUT_S = 90.0
_POLL_S = 0.05


def primary_of(context: Context, volume: DemoVolume) -> str:
    """Raises DemoFailed when nobody serves."""
    primary = context.watch.seen[volume.name].primary
    if primary is None:
        raise DemoFailed(f"nobody serves {volume.name} ({context.watch.told()})")
    return primary.node


async def lose_primary(
    context: Context, volumes: list[DemoVolume], raw: RawWriter, files: Awaitable[None] | None
) -> Loss:
    """Kills the node that leads the recorder's volume, then brings it back. `files`: the copying beside it."""
    view, cluster = context.view, context.cluster
    victim = primary_of(context, volumes[-1])
    raw.recorder.gap.take()
    async with under_load(raw, files):
        await _writes(raw, 200)
        mark = len(raw.recorder.history.blocks)
        await asyncio.to_thread(cluster.kill, victim)
        view.scene.down.add(victim)
        view.say(f"SIGKILL to {victim}")
        successor = await _taken_over(context, volumes, victim)
        await _away(raw, mark)
    gap_ms = raw.recorder.gap.take() / 1e6
    view.say(f"longest gap between two completed writes: {gap_ms:.0f} ms")

    missed = await _missed(context, volumes, victim)
    view.say(f"{victim} missed {missed} blocks ({format_size(missed * BLOCK_BYTES)})")
    ports = frozenset(cluster.state().ports[node] for node in view.scene.nodes)
    await context.watch.look()
    comeback = await come_back(context.watch, victim, ports, partial(cluster.spawn, victim))
    view.scene.down.discard(victim)
    loss = Loss(
        node=victim,
        successor=successor,
        gap_ms=gap_ms,
        blocks_missed=missed,
        bytes_sent=comeback.bytes_sent,
        reconverge_ms=comeback.reconverge_ms,
        since_exec_ms=comeback.since_exec_ms,
    )
    view.say(
        f"{victim} is in sync again {loss.reconverge_ms:.0f} ms after it was back "
        f"({loss.since_exec_ms:.0f} ms after its start), {format_size(loss.bytes_sent)} crossed its links"
    )
    return loss


async def _taken_over(context: Context, volumes: list[DemoVolume], victim: str) -> str:
    """Waits for new primaries; returns that of the last volume."""

    def served() -> bool:
        primaries = [context.watch.seen[volume.name].primary for volume in volumes]
        return all(primary is not None and primary.node != victim for primary in primaries)

    await context.watch.until("new primaries", served, _TAKE_OVER_TIMEOUT_S)
    for volume in volumes:
        primary = context.watch.seen[volume.name].primary
        assert primary is not None
        context.view.say(f"{primary.node} leads {volume.name} now, in epoch {primary.epoch}")
    return primary_of(context, volumes[-1])


async def _writes(raw: RawWriter, count: int) -> None:
    """Waits until that many more writes are completed: so the kill comes in the middle of them."""
    goal = raw.writes() + count
    await _until(f"{count} writes", lambda: raw.writes() >= goal)


async def _away(raw: RawWriter, mark: int) -> None:
    goal = RAW_BYTES_AWAY // BLOCK_BYTES
    await _until("writes while a node is away", lambda: raw.recorder.history.written_since(mark) >= goal)


async def _until(what: str, holds: Callable[[], bool]) -> None:
    try:
        async with asyncio.timeout(_AWAY_TIMEOUT_S):
            while not holds():
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise DemoFailed(f"{what}: not within {_AWAY_TIMEOUT_S:.0f} s") from None


async def _missed(context: Context, volumes: list[DemoVolume], victim: str) -> int:
    """How many blocks on the victim's disk differ from those on the primaries' disks."""
    total = 0
    for volume in volumes:
        primary = primary_of(context, volume)
        copies = await asyncio.gather(*(read_copy(context, volume, node) for node in (victim, primary)))
        total += len(differing_blocks(*copies))
    return total
