"""What was written, what was confirmed, and how long the writer ever waited: the recorder's memory.

Every write has its own content (its number, its block, a tag of the run), so a block on disk tells which
write it holds. A confirmed write must be there until a later one to the same block is confirmed. A write
without an answer, or answered with an error, may be there or not: both are allowed, nothing else is.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

import xxhash

from stoscore.units import BLOCK_BYTES

_HEAD = struct.Struct("<8sQQ")


class Pattern:
    """The content of every write of one run: unique, reproducible, and of no use to a compressor."""

    def __init__(self, tag: bytes):
        if len(tag) != 8:
            raise ValueError("a run's tag has 8 bytes")
        self._tag = tag
        self._noise = random.Random(tag).randbytes(2 * BLOCK_BYTES)  # noqa: S311  (not a secret)

    def content(self, number: int, block: int) -> bytes:
        start = number % BLOCK_BYTES
        return _HEAD.pack(self._tag, number, block) + self._noise[start : start + BLOCK_BYTES - _HEAD.size]

    def sum_of(self, number: int, block: int) -> int:
        """xxh3-64 of the content, as the stores keep it."""
        return xxhash.xxh3_64_intdigest(self.content(number, block))


@dataclass(slots=True)
class GapMeter:
    """The longest time between two completed writes while the writer was running."""

    longest_ns: int = 0
    _last_ns: int | None = None

    def started(self, now_ns: int) -> None:
        """The writer runs from now on: the wait for its first completion counts, what was before does not."""
        self._last_ns = now_ns

    def completed(self, now_ns: int) -> None:
        if self._last_ns is not None:
            self.longest_ns = max(self.longest_ns, now_ns - self._last_ns)
        self._last_ns = now_ns

    def paused(self) -> None:
        """Called with nothing in flight."""
        self._last_ns = None

    def take(self) -> int:
        """The longest gap since the last call."""
        longest, self.longest_ns = self.longest_ns, 0
        return longest


@dataclass(slots=True)
class History:
    """Every write of one run on one volume. A write's number is its place in the order of sending."""

    blocks: list[int] = field(default_factory=list)
    """Block of write number i."""
    completed: int = 0
    errors: int = 0
    _confirmed: dict[int, int] = field(default_factory=dict)
    """block -> number of the last confirmed write"""
    _unsure: dict[int, set[int]] = field(default_factory=dict)
    """block -> numbers of writes that may or may not be there"""

    def sent(self, block: int) -> int:
        number = len(self.blocks)
        self.blocks.append(block)
        self._unsure.setdefault(block, set()).add(number)
        return number

    def confirmed(self, number: int) -> None:
        """Later than every earlier write of that block: the recorder has one in flight per block."""
        block = self.blocks[number]
        self._confirmed[block] = number
        self._unsure.pop(block, None)
        self.completed += 1

    def failed(self, number: int) -> None:
        self.errors += 1

    def busy(self, block: int) -> bool:
        """A write without an answer is on its way to that block (or failed there)."""
        return block in self._unsure

    def last_confirmed(self, block: int) -> int | None:
        """Number of the last confirmed write of that block; None when there is none."""
        return self._confirmed.get(block)

    def unsure(self, block: int) -> frozenset[int]:
        """Numbers of the writes of that block that may or may not be there."""
        return frozenset(self._unsure.get(block, ()))

    def written_since(self, number: int) -> int:
        """How many different blocks were written by the writes from `number` on."""
        return len(set(self.blocks[number:]))

    def allowed(self, pattern: Pattern) -> dict[int, frozenset[int]]:
        """block -> checksums that it may have; 0 stands for zeros. Blocks never written are not named."""
        return {block: frozenset(self._sums(pattern, block)) for block in sorted(set(self.blocks))}

    def _sums(self, pattern: Pattern, block: int) -> Iterable[int]:
        last = self._confirmed.get(block)
        yield 0 if last is None else pattern.sum_of(last, block)
        for number in self._unsure.get(block, ()):
            yield pattern.sum_of(number, block)
