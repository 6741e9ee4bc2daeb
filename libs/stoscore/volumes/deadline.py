"""One deadline for a whole call, and the retry that it bounds.

A client of a replicated system mostly waits for something to come back. So a try that failed for want of an
answer is repeated, with short growing pauses, until the caller's own deadline; everything else is an answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from stoscore.errors import Code, StosError

PAUSE_MIN_S = 0.05
PAUSE_MAX_S = 0.2
TRY_S = 5.0
"""The longest that one try may take, so that a deaf node does not eat the whole deadline."""

WORTH_RETRYING = frozenset({Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.NOT_PRIMARY})

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point on this process's monotonic clock."""

    at_s: float

    @classmethod
    def after(cls, timeout_s: float) -> Deadline:
        return cls(time.monotonic() + timeout_s)

    @property
    def left_s(self) -> float:
        return max(0.0, self.at_s - time.monotonic())

    @property
    def passed(self) -> bool:
        return self.left_s == 0.0

    def try_s(self, longest_s: float = TRY_S) -> float:
        """The timeout of the next try; never quite 0, so that a late try fails by its answer."""
        return max(0.01, min(self.left_s, longest_s))


class Pauses:
    """Pauses between tries: short first, growing, never past the deadline."""

    def __init__(self, deadline: Deadline):
        self._deadline = deadline
        self._next_s = PAUSE_MIN_S

    async def rest(self) -> None:
        await asyncio.sleep(min(self._next_s, self._deadline.left_s))
        self._next_s = min(PAUSE_MAX_S, self._next_s * 1.5)


async def retry(deadline: Deadline, attempt: Callable[[float], Awaitable[T]], *, longest_s: float = TRY_S) -> T:
    """`attempt(timeout_s)` until it answers. Raises the last StosError when the deadline has passed, at once
    any that no retry would change."""
    pauses = Pauses(deadline)
    while True:
        try:
            return await attempt(deadline.try_s(longest_s))
        except StosError as error:
            if error.code not in WORTH_RETRYING or deadline.passed:
                raise
        await pauses.rest()


async def all_of(*jobs: Awaitable[T]) -> list[T]:
    """All results, in order. When some fail, the others are still finished first and then the first failure
    is raised: nothing goes on behind the caller's back."""
    results = await asyncio.gather(*jobs, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]
