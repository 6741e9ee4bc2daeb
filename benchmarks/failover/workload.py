"""An application that would notice everything: four writers, a reader, and what each block may hold at any moment.

Every write has unique content, and a block is never written twice at once. So the history of a block is a line, and
the check is complete: a read must return the last confirmed write before it began, a write without an answer, or one
that was under way while it was read. Anything else is a lost or an invented write.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from services.dev.demo.history import History, Pattern
from services.dev.demo.recorder import Recorder
from services.dev.nbd_client import NbdClient
from stoscore.units import BLOCK_BYTES

DEPTH = 4
_BETWEEN_READS_S = 0.004
_READ_BLOCKS = 256


@dataclass(slots=True)
class Reader:
    """Reads random blocks beside the writers and compares."""

    client: NbdClient
    recorder: Recorder
    reads: int = 0
    errors: int = 0
    wrong: list[str] = field(default_factory=list)
    _running: bool = True

    async def run(self) -> None:
        history = self.recorder.history
        while self._running:
            if history.blocks:
                await self._check(history.blocks[(self.reads * 7919) % len(history.blocks)])
            await asyncio.sleep(_BETWEEN_READS_S)

    def stop(self) -> None:
        self._running = False

    async def _check(self, block: int) -> None:
        history, pattern = self.recorder.history, self.recorder.pattern
        before, since = may_hold(history, block), len(history.blocks)
        try:
            found = await self.client.read(block * BLOCK_BYTES, BLOCK_BYTES)
        except OSError:
            self.errors += 1
            return
        self.reads += 1
        allowed = before | {number for number in range(since, len(history.blocks)) if history.blocks[number] == block}
        if all(found != content for content in (_content(pattern, number, block) for number in allowed)):
            self.wrong.append(f"block {block} holds none of the {len(allowed)} writes that it may hold")


def may_hold(history: History, block: int) -> set[int | None]:
    """Numbers of the writes that a read which begins now may return; None stands for zeros."""
    return {history.last_confirmed(block), *history.unsure(block)}


def _content(pattern: Pattern, number: int | None, block: int) -> bytes:
    return bytes(BLOCK_BYTES) if number is None else pattern.content(number, block)


class Workload:
    """The writers and the reader on one NBD connection each."""

    def __init__(self, writer: NbdClient, reader: NbdClient):
        self.recorder = Recorder(writer, writer.size, depth=DEPTH)
        self.reader = Reader(reader, self.recorder)
        self._reading: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.recorder.resume()
        self._reading = asyncio.create_task(self.reader.run())

    async def stop(self) -> None:
        """Returns when every write is answered and flushed."""
        await self.recorder.pause()
        self.reader.stop()
        if self._reading is not None:
            await self._reading

    @property
    def completed(self) -> int:
        return self.recorder.history.completed

    @property
    def io_errors(self) -> int:
        return self.recorder.history.errors + self.reader.errors

    async def more(self, writes: int, timeout_s: float = 60.0) -> None:
        """Waits for that many more completed writes. Raises TimeoutError."""
        goal = self.completed + writes
        async with asyncio.timeout(timeout_s):
            while self.completed < goal:
                await asyncio.sleep(0.005)

    def gap_ms(self) -> float:
        """The longest time between two completed writes since the last call."""
        return self.recorder.gap.take() / 1e6

    async def wrong_blocks(self) -> list[str]:
        """Reads the whole volume, with nobody writing, and compares every block."""
        wrong = list(self.reader.wrong)
        history, pattern = self.recorder.history, self.recorder.pattern
        written = set(history.blocks)
        for first in range(0, self.reader.client.size // BLOCK_BYTES, _READ_BLOCKS):
            found = await self.reader.client.read(first * BLOCK_BYTES, _READ_BLOCKS * BLOCK_BYTES)
            for block in range(first, first + _READ_BLOCKS):
                content = found[(block - first) * BLOCK_BYTES : (block - first + 1) * BLOCK_BYTES]
                numbers = may_hold(history, block) if block in written else {None}
                if all(content != _content(pattern, number, block) for number in numbers):
                    wrong.append(f"block {block} at the end")
        return wrong
