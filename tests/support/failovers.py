"""Failovers for as long as something runs: the primary's process is killed, and started again when another serves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.cluster import RunningCluster

PAUSE_S = 1.0


async def fail_over(running: RunningCluster, volume: str, copies: int = 3) -> None:
    """Kill the primary, wait until another one serves, start it again and wait until it is in sync."""
    victim = (await asyncio.to_thread(running.json, "volume", "show", volume))["primary"]

    def moved() -> bool:
        return running.json("volume", "show", volume)["primary"] not in (None, victim)

    await asyncio.to_thread(running.cluster.kill, victim)
    try:
        await running.wait("another primary", moved, 120.0)
    finally:
        await asyncio.to_thread(running.cluster.start, victim)
    await running.wait("all in sync", lambda: len(running.json("volume", "show", volume)["in_sync"]) == copies, 120.0)


@asynccontextmanager
async def failing_over(running: RunningCluster, volume: str) -> AsyncIterator[None]:
    """One failover after the other until the block ends, at least one; the last one is finished."""
    ended = asyncio.Event()

    async def go_on() -> None:
        while True:
            await fail_over(running, volume)
            if ended.is_set():
                return
            await asyncio.sleep(PAUSE_S)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(go_on())
        try:
            yield
        finally:
            ended.set()
