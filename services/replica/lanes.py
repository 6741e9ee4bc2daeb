"""Waiting for the disk without waiting: each lane runs its work one piece at a time on a worker thread and tells
the event loop when it is done."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor

from services.replica.store import StoreError

Work = Callable[[], None]
Prepare = Callable[[], Work]
Told = Callable[[StoreError | None], None]


class Lane:
    """Work of one file or one store, in order."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pool: Executor):
        self._loop = loop
        self._pool = pool
        self._queue: deque[tuple[Prepare, Told]] = deque()
        self._running = False
        self._idle: list[asyncio.Future[None]] = []

    def run(self, prepare: Prepare, told: Told) -> None:
        """`prepare()` is called in the event loop's thread when its turn comes and says what to do: so it takes
        along all that has gathered until then. `told(None)`, or the disk's failure, is called there as well."""
        self._queue.append((prepare, told))
        if not self._running:
            self._next()

    def _next(self) -> None:
        self._running = True
        prepare, told = self._queue.popleft()
        self._pool.submit(self._work, prepare(), told)

    def _work(self, work: Work, told: Told) -> None:
        failure: StoreError | None = None
        try:
            work()
        except StoreError as error:
            failure = error
        except Exception as error:
            # The worker's edge: whatever went wrong, somebody waits for this lane.
            failure = StoreError(f"{type(error).__name__}: {error}")
        self._loop.call_soon_threadsafe(self._done, told, failure)

    def _done(self, told: Told, failure: StoreError | None) -> None:
        self._running = False
        told(failure)
        if self._queue and not self._running:
            self._next()
        if not self._running:
            waiting, self._idle = self._idle, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    async def idle(self) -> None:
        """Until nothing runs and nothing waits."""
        while self._running or self._queue:
            future = self._loop.create_future()
            self._idle.append(future)
            await future
