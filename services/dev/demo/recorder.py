"""An NBD client that writes unique blocks, four at a time, and remembers every answer.

It stands for an application that would notice everything: an error, a pause, a write that was confirmed and
is not there. It writes 4 KiB at random places, never two at once to one block, so that what must be on disk
is known for every block.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from typing import Protocol

from services.dev.demo.history import GapMeter, History, Pattern
from stoscore.units import BLOCK_BYTES

DEPTH = 4
_AFTER_ERROR_S = 0.05
"""So that a device that only fails does not turn the writers into a busy loop."""


class Device(Protocol):
    """The part of an NBD connection that the recorder uses. Errors come as OSError with NBD's errno."""

    async def write(self, offset: int, data: bytes) -> None: ...

    async def flush(self) -> None: ...


class Recorder:
    """Runs from `resume` to `pause`; both may be called again and again."""

    def __init__(self, device: Device, size_bytes: int, *, depth: int = DEPTH, tag: bytes | None = None):
        self._device = device
        self._size_blocks = size_bytes // BLOCK_BYTES
        self._depth = depth
        tag = os.urandom(8) if tag is None else tag
        self._choice = random.Random(tag)  # noqa: S311  (places to write to, not a secret)
        self._writers: list[asyncio.Task[None]] = []
        self._running = False
        self.pattern = Pattern(tag)
        self.history = History()
        self.gap = GapMeter()

    def resume(self) -> None:
        assert not self._writers
        self._running = True
        self.gap.started(time.monotonic_ns())
        self._writers = [asyncio.create_task(self._write_on()) for _ in range(self._depth)]

    async def pause(self) -> None:
        """Waits until every write that was sent is answered, then flushes."""
        self._running = False
        await asyncio.gather(*self._writers)
        self._writers = []
        self.gap.paused()
        try:
            await self._device.flush()
        except OSError:
            self.history.errors += 1

    async def abandon(self) -> None:
        """Stops without waiting for answers, which may never come."""
        self._running = False
        writers, self._writers = self._writers, []
        for writer in writers:
            writer.cancel()
        await asyncio.gather(*writers, return_exceptions=True)
        self.gap.paused()

    async def _write_on(self) -> None:
        while self._running:
            block = self._free_block()
            number = self.history.sent(block)
            try:
                await self._device.write(block * BLOCK_BYTES, self.pattern.content(number, block))
            except OSError as error:
                self.history.failed(number)
                if isinstance(error, ConnectionError):
                    return
                await asyncio.sleep(_AFTER_ERROR_S)
                continue
            self.history.confirmed(number)
            self.gap.completed(time.monotonic_ns())

    def _free_block(self) -> int:
        while True:
            block = self._choice.randrange(self._size_blocks)
            if not self.history.busy(block):
                return block
