"""Whose request is next, so that one caller who asks a thousand times does not make the others wait. Pure.

Callers take turns: of those who wait, each gets one request in, then the next one. A caller may neither have all
places nor fill the queue; beyond his share he is refused, and the others do not notice him.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Shares:
    """How much may be under way and wait, in all and of one caller."""

    running_max: int = 64
    running_each_max: int = 32
    waiting_max: int = 1024
    waiting_each_max: int = 256

    def __post_init__(self) -> None:
        assert 0 < self.running_each_max <= self.running_max
        assert 0 < self.waiting_each_max <= self.waiting_max


class Turns(Generic[T]):
    """The requests of one subject that wait or are worked on."""

    def __init__(self, shares: Shares):
        self._shares = shares
        self._waiting: OrderedDict[str, deque[T]] = OrderedDict()
        """The caller whose turn is next comes first."""
        self._waiting_count = 0
        self._running: Counter[str] = Counter()

    def __len__(self) -> int:
        """How many wait or are worked on."""
        return self._waiting_count + self._running.total()

    def offer(self, caller: str, item: T) -> bool:
        """Queue it. False when too much waits already, of this caller or in all."""
        queue = self._waiting.get(caller)
        if self._waiting_count >= self._shares.waiting_max:
            return False
        if queue is not None and len(queue) >= self._shares.waiting_each_max:
            return False
        self._waiting.setdefault(caller, deque()).append(item)
        self._waiting_count += 1
        return True

    def take(self) -> tuple[str, T] | None:
        """The next one that may be worked on now, with its caller, who has to be given to `done` afterwards."""
        if self._running.total() >= self._shares.running_max:
            return None
        for caller, queue in self._waiting.items():
            if self._running[caller] < self._shares.running_each_max:
                item = queue.popleft()
                self._waiting_count -= 1
                self._running[caller] += 1
                self._waiting.move_to_end(caller)
                if not queue:
                    del self._waiting[caller]
                return caller, item
        return None

    def done(self, caller: str) -> None:
        """One of his is finished."""
        assert self._running[caller] > 0
        self._running[caller] -= 1
        if not self._running[caller]:
            del self._running[caller]
