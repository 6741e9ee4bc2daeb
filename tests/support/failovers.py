"""Failovers for as long as something runs: the primary's process is killed, and started again when another serves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from tests.support.cluster import RunningCluster

PAUSE_S = 1.0
WAIT_S = 180.0


async def fail_over(running: RunningCluster, volume: str, copies: int = 3) -> None:
    """Kill the primary, wait until another one serves, start it again and wait until it is in sync."""
    shown: dict[str, Any] = {}

    def looks(holds: Callable[[], bool]) -> Callable[[], bool]:
        """A busy machine's command may find nobody who answers in time: then it is asked again."""

        def look() -> bool:
            told = running.stos("volume", "show", volume, "-o", "json")
            if told.code:
                return False
            shown.update(told.json)
            return holds()

        return look

    await running.wait("a primary", looks(lambda: shown["primary"] is not None), WAIT_S)
    victim = shown["primary"]
    await asyncio.to_thread(running.cluster.kill, victim)
    try:
        await running.wait("another primary", looks(lambda: shown["primary"] not in (None, victim)), WAIT_S)
    finally:
        await asyncio.to_thread(running.cluster.start, victim)
    await running.wait("all in sync", looks(lambda: len(shown["in_sync"]) == copies), WAIT_S)


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
