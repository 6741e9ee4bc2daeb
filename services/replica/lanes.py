"""Waiting for the disk without waiting: each lane does its work one piece at a time, on a worker thread or by the
kernel, and tells the event loop when it is done."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

from services.replica.kernel_sync import Files, Syncs, Told
from services.replica.store import StoreError
from services.replica.store.disk import sync_together


@dataclass(frozen=True, slots=True)
class Sync:
    """fdatasync of these files and nothing else: what the kernel can do by itself."""

    files: Files


Work = Callable[[], None] | Sync
Prepare = Callable[[], Work]


class Lane:
    """Work of one file or one store, in order."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pool: Executor, syncs: Syncs | None = None):
        """`syncs`: who syncs files without a thread; None: nobody."""
        self._loop = loop
        self._pool = pool
        self._syncs = syncs
        self._queue: deque[tuple[Prepare, Told]] = deque()
        self._running = False
        self._idle: list[asyncio.Future[None]] = []

    def run(self, prepare: Prepare, told: Told) -> None:
        """`prepare()` is called in the event loop's thread when its turn comes and says what to do: so it takes
        along all that has gathered until then. `told(None)`, or the disk's failure, is called there as well, never
        before this call has returned."""
        self._queue.append((prepare, told))
        if not self._running:
            self._next()

    def _next(self) -> None:
        self._running = True
        prepare, told = self._queue.popleft()
        try:
            work = prepare()
        except StoreError as error:
            self._loop.call_soon(self._done, told, error)
            return
        if isinstance(work, Sync):
            if self._syncs is not None and self._syncs.sync(work.files, partial(self._done, told)):
                return
            work = partial(sync_together, work.files)
        self._pool.submit(self._work, work, told)

    def _work(self, work: Callable[[], None], told: Told) -> None:
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
