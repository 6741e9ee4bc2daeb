"""An application at work: reads and writes of 4 KiB at random places, a few at a time, each one timed.

It is a process of its own. In the benchmark's, each look at the cluster and at the kernel's counters would be felt as a
slow request, and there are more of them while a copy returns than before.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import time
from multiprocessing.connection import Connection

from services.dev.nbd_client import NbdClient
from services.replica.replication.pace import p99
from stoscore.units import BLOCK_BYTES

DEPTH = 4
READS = 0.7
_STOP_S = 60.0
Taken = list[tuple[float, int]]
"""(when it began, nanoseconds) of each request."""


class Load:
    """Runs from `start` to `stop`; then it can be asked what it felt."""

    def __init__(self, socket: str, name: str, seed: int):
        fork = multiprocessing.get_context("spawn")
        self._ours, theirs = fork.Pipe()
        self._process = fork.Process(target=_run, args=(socket, name, seed, theirs), daemon=True)
        self._taken: Taken = []

    async def start(self) -> None:
        """It is at work when this returns. Raises EOFError when it can't be."""
        self._process.start()
        await asyncio.to_thread(self._hear)

    async def stop(self) -> None:
        """Raises EOFError when a request failed."""
        self._ours.send(None)
        self._taken = await asyncio.to_thread(self._hear)

    def _hear(self) -> Taken:
        if not self._ours.poll(_STOP_S):
            raise TimeoutError(f"the load says nothing for {_STOP_S:.0f} s")
        taken: Taken = self._ours.recv()
        return taken

    def end(self) -> None:
        """Whatever has become of it."""
        if self._process.pid is not None:
            self._process.kill()
            self._process.join()

    def p99_ms(self, first: float, last: float) -> float:
        """Of the requests that began between the two, by the monotonic clock."""
        inside = [taken for began, taken in self._taken if first <= began < last]
        return p99(inside) / 1e6 if inside else 0.0


def _run(socket: str, name: str, seed: int, owner: Connection) -> None:
    owner.send(asyncio.run(_work(socket, name, seed, owner)))


async def _work(socket: str, name: str, seed: int, owner: Connection) -> Taken:
    client = await NbdClient.connect(socket, name)
    blocks = client.size // BLOCK_BYTES
    running = True
    taken: Taken = []

    async def ask(choice: random.Random) -> None:
        while running:
            at = choice.randrange(blocks) * BLOCK_BYTES
            began, began_ns = time.monotonic(), time.perf_counter_ns()
            if choice.random() < READS:
                await client.read(at, BLOCK_BYTES)
            else:
                await client.write(at, os.urandom(BLOCK_BYTES))
            taken.append((began, time.perf_counter_ns() - began_ns))

    async with asyncio.TaskGroup() as tasks:
        for number in range(DEPTH):
            tasks.create_task(ask(random.Random(seed + number)))
        owner.send([])
        await asyncio.to_thread(owner.recv)
        running = False
    await client.close()
    return taken
