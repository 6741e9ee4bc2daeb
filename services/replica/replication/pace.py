"""How fast recovery may go while applications work: a controller that holds their p99 and never stops recovering.

Frontends tell how long their clients' requests took, reads and writes, from the request to its answer: what an
application feels, wherever it was spent. What they tell in times without recovery says what is normal here. While
recovery is under way an account is kept of the requests that took longer than the factor allows. Of a hundred one may,
that is what a p99 means: each hundred requests bring a half into the account, each slow one takes one out.

    a window with many slow ones         the rate is halved
    none to speak of, account balanced   it grows by a quarter
    none to speak of, account in debt    it stays until the debt is paid: a p99 of all is held, not of a good moment

It begins at the floor, for what recovery does to the applications is not known yet. The floor is kept whatever they
feel, or a busy cluster would never be whole again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from stoscore.units import MIB, MS, SECOND

WINDOW_NS = 200 * MS
SAMPLES_MIN = 20
"""Fewer in a window say nothing about it; they are kept for the next."""
NORMAL_SAMPLES = 8192
NORMAL_MIN_NS = MS
"""Below a millisecond the scheduler's noise is larger than what recovery costs."""
UNKNOWN_NORMAL_NS = 5 * MS
"""What counts as normal while nobody has measured it."""
SLOW_IN = 100
"""One in so many may be slow; of a window with twice as many nothing is excused by the account."""
EARNED = 0.5 / SLOW_IN
"""By each request. The other half is for what is slow by itself."""
CREDIT_MAX, DEBT_MAX = 10.0, 200.0
"""Slow requests: good times are no licence for a bad one."""
FORGIVEN = 0.02
"""Of a debt, in each window: one bad moment is over at some time, also where little is asked."""
MARGIN = 4
"""A part in so many above the floor. *Kept to the byte while copying, 16 MiB a second were 15.2 for who waited;
an eighth above, 15.4 at times.*"""
IDLE_NS = SECOND
"""Without a word of an application for so long there is nobody to be held back for."""


@dataclass(frozen=True, slots=True)
class PaceLimits:
    """Bytes a second; `factor`: of the normal p99."""

    floor: int = 16 * MIB
    ceiling: int = 1024 * MIB
    factor: float = 1.5

    @property
    def lowest(self) -> int:
        """The rate at which copies are sent, so that the floor holds for a whole return: its first comparisons and the
        sync at its end count as well."""
        return min(self.ceiling, self.floor + self.floor // MARGIN)

    def __post_init__(self) -> None:
        if not 0 < self.floor <= self.ceiling or self.factor < 1:
            raise ValueError(f"no pace lies between {self.floor} and {self.ceiling} bytes a second at {self.factor}")


class Pace:
    """One node's."""

    def __init__(self, limits: PaceLimits):
        self._limits = limits
        self._normal: deque[int] = deque(maxlen=NORMAL_SAMPLES)
        self._felt_ns = self._recovered_ns = -IDLE_NS
        self._window_end_ns = 0
        self._allowed_ns = 0
        self._felt = self._slow = 0
        """Requests of this window, and how many took longer than allowed."""
        self._credit = 0.0
        self.held = False
        """Somebody is at work, for whose sake it is held back."""
        self.bytes_per_s = limits.ceiling

    def felt(self, took_ns: Sequence[int], now_ns: int) -> None:
        """Requests of applications were answered after so long."""
        self._felt_ns = now_ns
        if now_ns - self._recovered_ns >= IDLE_NS:
            self._normal.extend(took_ns)
            return
        self._felt += len(took_ns)
        self._slow += sum(1 for took in took_ns if took > self._allowed_ns)

    def recovering(self, now_ns: int) -> int:
        """A copy is about to be sent: the rate that holds now."""
        began = now_ns - self._recovered_ns >= IDLE_NS
        self._recovered_ns = now_ns
        if now_ns - self._felt_ns >= IDLE_NS:
            self.held = False
            self.bytes_per_s = self._limits.ceiling
        elif began or not self.held:
            self.held = True
            self._credit = 0.0
            self._allowed_ns = int(self._limits.factor * self.normal_ns)
            self.bytes_per_s = self._limits.lowest
            self._next_window(now_ns)
        elif now_ns >= self._window_end_ns and self._felt >= SAMPLES_MIN:
            self._judge()
            self._next_window(now_ns)
        return self.bytes_per_s

    def _next_window(self, now_ns: int) -> None:
        self._window_end_ns = now_ns + WINDOW_NS
        self._felt = self._slow = 0

    def _judge(self) -> None:
        kept = self._credit * (1 - FORGIVEN) if self._credit < 0 else self._credit
        self._credit = max(-DEBT_MAX, min(CREDIT_MAX, kept + self._felt * EARNED - self._slow))
        if self._slow > max(1, 2 * self._felt / SLOW_IN):
            self.bytes_per_s = max(self._limits.lowest, self.bytes_per_s // 2)
        elif self._credit >= 0:
            self.bytes_per_s = min(self._limits.ceiling, self.bytes_per_s * 5 // 4)

    @property
    def normal_ns(self) -> int:
        """The p99 of requests without recovery."""
        if len(self._normal) < SAMPLES_MIN:
            return UNKNOWN_NORMAL_NS
        return max(NORMAL_MIN_NS, p99(self._normal))


def p99(samples: Sequence[int]) -> int:
    """The smallest value that at least 99 % do not exceed."""
    ordered = sorted(samples)
    return ordered[-(-len(ordered) * 99 // 100) - 1]
