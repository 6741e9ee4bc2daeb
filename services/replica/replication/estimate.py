"""What bringing a copy up to date will cost, said before it begins: blocks, bytes, seconds, and how sure that is.

With a map nearly every candidate differs. Without one nobody knows before some of them were compared: so the first
comparisons are drawn from all over what may differ, nothing is copied before they are answered, and their share of
differing blocks is taken for that of the rest. Its error is that of a sample, which is known too.

How fast it goes is what it was the last times with the same node; how well that was foretold says how far to trust it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from stoscore.units import BLOCK_BYTES, MIB, MS, SECOND

COPY_OVERHEAD_BYTES = 24
"""Of a block that travels: its range and its checksum; neighbours share the range."""
COMPARE_OVERHEAD_BYTES = 8
COMPARE_WORK_BYTES = 256
"""Comparing a block takes both ends about as long as sending so many bytes of blocks."""
CONFIDENCE = 2.0
"""Standard errors to either side: nineteen of twenty are inside."""
UNKNOWN_BYTES_PER_S = 48 * MIB
UNKNOWN_ERROR = 0.5
"""Until the first truth is known."""
ERROR_MIN = 0.1
END_NS = 100 * MS
"""What comes after the last block: the sync, and the record that admits the copy."""
_WEIGHT = 0.3


@dataclass(frozen=True, slots=True)
class Band:
    """The best guess, and what it lies between."""

    low: int
    likely: int
    high: int

    def __post_init__(self) -> None:
        assert 0 <= self.low <= self.likely <= self.high

    def times(self, factor: int, plus: int = 0) -> Band:
        return Band(self.low * factor + plus, self.likely * factor + plus, self.high * factor + plus)


@dataclass(frozen=True, slots=True)
class Estimate:
    bytes: Band
    duration_ns: Band


class Share:
    """Which share of the compared blocks differs, as a sample of those that are still to be compared."""

    def __init__(self, *, mapped: bool):
        """`mapped`: each candidate was written while the copy was away."""
        self._mapped = mapped
        self._compared = 0
        self._differing = 0
        self._runs = 0

    def add(self, compared: int, differing: int, runs: int) -> None:
        """`runs`: neighbours that differ tell no more than one of them: files are written in one piece."""
        self._compared += compared
        self._differing += differing
        self._runs += runs

    def of(self, candidates: int) -> Band:
        """How many of so many candidates differ."""
        if not self._compared:
            return Band(0, candidates if self._mapped else candidates // 2, candidates)
        share = self._differing / self._compared
        size = self._compared * self._runs / self._differing if self._differing else self._compared
        # Agresti and Coull: two successes and two failures more, or a sample of all alike would be taken for certain.
        smooth = (share * size + 2) / (size + 4)
        error = CONFIDENCE * sqrt(smooth * (1 - smooth) / (size + 4))
        low, high = max(0.0, share - error), min(1.0, share + error)
        return Band(int(candidates * low), int(candidates * share), -int(-candidates * high // 1))


class Speed:
    """How fast copies go to one node, learned from those that are done."""

    def __init__(self) -> None:
        self.bytes_per_s = float(UNKNOWN_BYTES_PER_S)
        self.error = UNKNOWN_ERROR
        self._known = False

    def learn(self, work: int, took_ns: int, foretold_ns: int) -> None:
        """`work`: as `work_of` counts it. Small ones say nothing about the rate: their time is that of the end."""
        moving_ns = took_ns - END_NS
        if foretold_ns and took_ns:
            self.error += _WEIGHT * (min(error_of(foretold_ns, took_ns), 1.0) - self.error)
        if work < MIB or moving_ns <= 0:
            return
        rate = work * SECOND / moving_ns
        self.bytes_per_s = rate if not self._known else self.bytes_per_s + _WEIGHT * (rate - self.bytes_per_s)
        self._known = True

    def duration(self, work: Band, allowed_bytes_per_s: int) -> Band:
        """`allowed_bytes_per_s`: what the budget leaves."""
        rate = max(1.0, min(self.bytes_per_s, allowed_bytes_per_s))
        error = max(ERROR_MIN, min(0.9, CONFIDENCE * self.error))
        low, likely, high = (int(size * SECOND / rate) + END_NS for size in (work.low, work.likely, work.high))
        return Band(int(low * (1 - error)), likely, int(high * (1 + error)))


def error_of(foretold: int, truth: int) -> float:
    """By which share of the truth it was wrong, either way."""
    return abs(foretold - truth) / max(1, truth)


def bytes_of(blocks: int, compared: int) -> int:
    """What so many copied and so many compared blocks cost on the wire, but for headers and TLS."""
    return blocks * (BLOCK_BYTES + COPY_OVERHEAD_BYTES) + compared * COMPARE_OVERHEAD_BYTES


def work_of(blocks: int, compared: int) -> int:
    """What so many copied and so many compared blocks cost in time, in bytes of blocks."""
    return blocks * BLOCK_BYTES + compared * COMPARE_WORK_BYTES


def estimate(blocks: Band, to_compare: int, speed: Speed, allowed_bytes_per_s: int) -> Estimate:
    """`blocks`: those that are still to travel."""
    sent = blocks.times(BLOCK_BYTES + COPY_OVERHEAD_BYTES, to_compare * COMPARE_OVERHEAD_BYTES)
    work = blocks.times(BLOCK_BYTES, to_compare * COMPARE_WORK_BYTES)
    return Estimate(sent, speed.duration(work, allowed_bytes_per_s))
