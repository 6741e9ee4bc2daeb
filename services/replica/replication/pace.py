"""How fast recovery may go while applications work: a controller that holds their p99 and never stops recovering.

Latencies of writes are sampled all the time. Those of times without recovery say what is normal here; while recovery is
under way each window's p99 is compared with it. Beyond the factor the rate is halved, within it grows again: quickly,
because a volume that is short of a copy is a risk as well. The floor is kept whatever the latencies are, or a busy
cluster would never be whole again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from stoscore.units import MIB, MS

WINDOW_NS = 200 * MS
SAMPLES_MIN = 8
"""Fewer in a window say nothing about its p99; they are kept for the next."""
NORMAL_SAMPLES = 1024
NORMAL_MIN_NS = MS
"""Below a millisecond the scheduler's noise is larger than what recovery costs."""
UNKNOWN_NORMAL_NS = 5 * MS
"""What counts as normal while nobody has measured it."""
IDLE_NS = 2 * WINDOW_NS
"""Without a write for so long there is nobody to be held back for."""


@dataclass(frozen=True, slots=True)
class PaceLimits:
    """Bytes a second; `factor`: of the normal p99."""

    floor: int = 16 * MIB
    ceiling: int = 1024 * MIB
    factor: float = 1.5

    def __post_init__(self) -> None:
        if not 0 < self.floor <= self.ceiling or self.factor < 1:
            raise ValueError(f"no pace lies between {self.floor} and {self.ceiling} bytes a second at {self.factor}")


class Pace:
    """One node's."""

    def __init__(self, limits: PaceLimits):
        self._limits = limits
        self._normal: deque[int] = deque(maxlen=NORMAL_SAMPLES)
        self._window: list[int] = []
        self._window_end_ns = 0
        self._sampled_ns = -IDLE_NS
        self._recovered_ns = -IDLE_NS
        self.bytes_per_s = limits.ceiling

    def sample(self, latency_ns: int, now_ns: int) -> None:
        """A write was answered after so long."""
        self._sampled_ns = now_ns
        if now_ns - self._recovered_ns < IDLE_NS:
            if len(self._window) < NORMAL_SAMPLES:
                self._window.append(latency_ns)
        else:
            self._normal.append(latency_ns)

    def recovering(self, now_ns: int) -> int:
        """A copy is about to be sent: the rate that holds now."""
        began = now_ns - self._recovered_ns >= IDLE_NS
        self._recovered_ns = now_ns
        if now_ns - self._sampled_ns >= IDLE_NS:
            self.bytes_per_s = self._limits.ceiling
        elif began:
            # Applications are at work, and what recovery does to them is not known yet.
            self.bytes_per_s = max(self._limits.floor, self._limits.ceiling // 8)
        if began:
            self._window.clear()
            self._window_end_ns = now_ns + WINDOW_NS
        elif now_ns >= self._window_end_ns:
            self._judge(now_ns)
        return self.bytes_per_s

    def _judge(self, now_ns: int) -> None:
        self._window_end_ns = now_ns + WINDOW_NS
        if len(self._window) < SAMPLES_MIN:
            return
        allowed = self._limits.factor * self.normal_ns
        rate = self.bytes_per_s // 2 if p99(self._window) > allowed else self.bytes_per_s * 5 // 4
        self.bytes_per_s = min(self._limits.ceiling, max(self._limits.floor, rate))
        self._window.clear()

    @property
    def normal_ns(self) -> int:
        """The p99 of writes without recovery."""
        if len(self._normal) < SAMPLES_MIN:
            return UNKNOWN_NORMAL_NS
        return max(NORMAL_MIN_NS, p99(self._normal))


def p99(samples: Sequence[int]) -> int:
    """The smallest value that at least 99 % do not exceed."""
    ordered = sorted(samples)
    return ordered[-(-len(ordered) * 99 // 100) - 1]
