"""So much a second, with room for a burst: a token bucket. Pure; the time comes in.

    taken faster than `per_s` for longer than the burst lasts ──> the number of nanoseconds to wait

It bounds what one stranger or one peer may cost everybody else. Honest bursts (all volumes of a node that died
elect at once; a cluster restarts and everybody dials) have to fit into `burst`.
"""

from __future__ import annotations

from stoscore.units import SECOND


class Allowance:
    __slots__ = ("_burst", "_left", "_per_s", "_seen_ns")

    def __init__(self, per_s: int, burst: int, now_ns: int) -> None:
        assert per_s > 0
        assert burst > 0
        self._per_s = per_s
        self._burst = burst
        self._left = burst * SECOND
        """In billionths, so that whole numbers do."""
        self._seen_ns = now_ns

    def take(self, cost: int, now_ns: int) -> int:
        """Takes it in any case, for it has happened already; returns how long to wait before the next, 0 while
        there is room."""
        self._grow(now_ns)
        self._left -= cost * SECOND
        return -(self._left // self._per_s) if self._left < 0 else 0

    def take_if_room(self, cost: int, now_ns: int) -> bool:
        """Takes it, or nothing when there is less."""
        self._grow(now_ns)
        if self._left < cost * SECOND:
            return False
        self._left -= cost * SECOND
        return True

    def _grow(self, now_ns: int) -> None:
        if now_ns > self._seen_ns:
            self._left = min(self._left + (now_ns - self._seen_ns) * self._per_s, self._burst * SECOND)
            self._seen_ns = now_ns
