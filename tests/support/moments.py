"""Sixteen writers that number what they write, and what a snapshot of their volume tells about the moment that it is.

Each writer has blocks of its own and writes them round and round, so what a snapshot holds of them says up to which
number it had come. There has to be one moment at which that was so for all of them: every write that was answered
before it is there, and none that was asked for after it.
"""

from __future__ import annotations

import asyncio
import struct
import time
from dataclasses import dataclass, field

from services.dev.nbd_client import NbdClient
from stoscore.units import BLOCK_BYTES
from tests.support.peers import until

DEPTH = 16
BLOCKS_EACH = 32
BLOCKS = DEPTH * BLOCKS_EACH
WITHIN_S = 120


@dataclass(slots=True)
class Written:
    """One writer's history: number -> when it was asked for, and when it was answered."""

    asked: list[float] = field(default_factory=lambda: [0.0])
    answered: list[float] = field(default_factory=lambda: [0.0])


class Load:
    """Writers, each with one request under way all the time."""

    def __init__(self, client: NbdClient):
        self._client = client
        self.writers = [Written() for _ in range(DEPTH)]
        self.longest_s = 0.0
        """Between two answers to anybody."""
        self._last_s = time.monotonic()
        self._ends = False

    @property
    def count(self) -> int:
        return sum(len(writer.answered) for writer in self.writers)

    def begin(self) -> None:
        self.longest_s, self._last_s = 0.0, time.monotonic()

    async def run(self) -> None:
        await asyncio.gather(*(self._write(number, writer) for number, writer in enumerate(self.writers)))

    def end(self) -> None:
        self._ends = True

    async def _write(self, number: int, writer: Written) -> None:
        while not self._ends:
            count = len(writer.asked)
            block = number * BLOCKS_EACH + count % BLOCKS_EACH
            writer.asked.append(time.monotonic())
            await self._client.write(block * BLOCK_BYTES, _content(number, count))
            now = time.monotonic()
            writer.answered.append(now)
            self.longest_s, self._last_s = max(self.longest_s, now - self._last_s), now

    async def more(self, count: int) -> None:
        before = self.count
        await until(lambda: self.count >= before + count, within_s=WITHIN_S)


def _content(writer: int, count: int) -> bytes:
    return struct.pack("<QQ", writer + 1, count) * (BLOCK_BYTES // 16)


def check_moment(load: Load, held: bytes, since_s: float, until_s: float) -> None:
    """`held`: the blocks of all writers."""
    first, last = since_s, until_s
    for number, writer in enumerate(load.writers):
        found = []
        for at in range(BLOCKS_EACH):
            block = held[(number * BLOCKS_EACH + at) * BLOCK_BYTES :][:BLOCK_BYTES]
            owner, count = struct.unpack_from("<QQ", block)
            assert block == (_content(number, count) if count else bytes(BLOCK_BYTES)), "a torn block"
            assert owner in (0, number + 1)
            assert count % BLOCKS_EACH == at or not count
            found.append(count)
        newest = max(found)
        for count in range(max(1, newest - BLOCKS_EACH + 1), newest + 1):
            assert found[count % BLOCKS_EACH] == count, f"writer {number}: {newest} is there, and {count} is not"
        first = max(first, writer.asked[newest])
        if newest + 1 < len(writer.answered):
            last = min(last, writer.answered[newest + 1])
    assert first <= last, "no moment at which it was so for all writers"
