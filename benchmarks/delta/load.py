"""An application at work: reads and writes of 4 KiB at random places, a few at a time, each one timed."""

from __future__ import annotations

import asyncio
import os
import random
import time
from dataclasses import dataclass, field

from services.dev.nbd_client import NbdClient
from services.replica.replication.pace import p99
from stoscore.units import BLOCK_BYTES

DEPTH = 4
READS = 0.7


@dataclass(slots=True)
class Load:
    """Runs from `start` to `stop`."""

    client: NbdClient
    seed: int
    taken: list[tuple[float, int]] = field(default_factory=list)
    """(when it began, nanoseconds) of each request."""
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _running: bool = True

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._work(random.Random(self.seed + at))) for at in range(DEPTH)]

    async def stop(self) -> None:
        """Raises what a request raised."""
        self._running = False
        await asyncio.gather(*self._tasks)

    async def _work(self, choice: random.Random) -> None:
        blocks = self.client.size // BLOCK_BYTES
        while self._running:
            at = choice.randrange(blocks) * BLOCK_BYTES
            began, began_ns = time.monotonic(), time.perf_counter_ns()
            if choice.random() < READS:
                await self.client.read(at, BLOCK_BYTES)
            else:
                await self.client.write(at, os.urandom(BLOCK_BYTES))
            self.taken.append((began, time.perf_counter_ns() - began_ns))

    def p99_ms(self, first: float, last: float) -> float:
        """Of the requests that began between the two, by the monotonic clock."""
        inside = [taken for began, taken in self.taken if first <= began < last]
        return p99(inside) / 1e6 if inside else 0.0
