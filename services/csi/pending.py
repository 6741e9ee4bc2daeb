"""One operation per volume at a time, and every started operation runs to its end.

A CSI caller gives up after a deadline and asks again. gRPC cancels the handler when it does; if that
cancelled a half-done `mkfs` too, the next call would find half a filesystem and mount it. So the
operation is a task of its own: the caller may leave, the task goes on and keeps the volume reserved, and
calls that come meanwhile are answered ABORTED, which is CSI's word for "pending, ask again".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from stoscore.errors import Code, StosError

T = TypeVar("T")


class Pending:
    """The operations under way in this process, by what they have reserved."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Task[Any]] = {}

    async def run(self, key: str, operation: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Perform the operation unless another one holds `key`. Raises StosError ABORTED if it does."""
        if key in self._running:
            raise StosError(
                Code.ABORTED,
                f"an operation on {key} is still pending",
                next_step="ask again; the first one goes on by itself",
            )
        task = asyncio.create_task(operation(), name=f"csi {key}")
        self._running[key] = task
        task.add_done_callback(lambda done: self._finished(key, done))
        return await asyncio.shield(task)

    def _finished(self, key: str, task: asyncio.Task[Any]) -> None:
        del self._running[key]
        if not task.cancelled():
            # Marks the outcome as seen: whoever asked may have left, and then nobody else looks.
            task.exception()

    async def settle(self, timeout_s: float) -> bool:
        """Wait until nothing is under way any more; False when something still is after `timeout_s`."""
        if not self._running:
            return True
        _, unfinished = await asyncio.wait(list(self._running.values()), timeout=timeout_s)
        return not unfinished
