"""What is done to the layers of one copy: prepared, sealed, hashed; and dropped and folded when no snapshot needs them.

    prepare    in a lane of its own, beside the writes, their marks and hard states; then what is dirty is synced
    seal       in the lane of marks and syncs: nobody writes meanwhile, and everything before it is done
    fold       a few blocks at a time in the event loop, at a pace; not between a prepare and its seal

Writes wait for a seal, and a fold that is being settled syncs a whole layer: from a prepare on nothing of that kind is
begun until the seal has come, or is not to be expected any more. What was begun before is done first: waiting for a
prepare in the lane of marks and syncs, it would hold up both for as long as all checksums are copied.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable

from services.replica.lanes import Lane
from services.replica.store import BlockStore, StoreError

FOLD_BLOCKS = 64
FOLD_PAUSE_S = 0.02
"""256 KiB each time: 12 MiB/s at most."""
SHARED_PAUSE_S = 120.0
"""What no snapshot needs and a clone has as well is folded when the clone is gone, which nobody says."""
SEAL_COMES_S = 90.0
"""A seal that has not come by then was given up."""

Failure = StoreError | None


class Layering:
    def __init__(self, store: BlockStore, blocks: Lane, beside: Lane, loop: asyncio.AbstractEventLoop):
        """`blocks`: the lane of marks and syncs."""
        self._store = store
        self._blocks = blocks
        self._beside = beside
        self._loop = loop
        self._alone = threading.Lock()
        """A seal waits for a prepare that is under way."""
        self._preparing = 0
        self._seal_until_s = 0.0
        self._to_drop: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._working = False
        self._stopped = False
        self.on_failure: Callable[[StoreError], None] = lambda error: None
        """The disk refused while nobody waited for it."""
        self._look_later(FOLD_PAUSE_S)

    async def stop(self) -> None:
        """Begin nothing any more, and wait for what is under way."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        await self._blocks.idle()
        await self._beside.idle()

    # ---- a seal ---------------------------------------------------------------------------------------

    def prepare(self, told: Callable[[str, Failure], None]) -> None:
        """Answered with why there can't be another layer, or with the failure of the disk."""
        self._preparing += 1
        self._seal_until_s = self._loop.time() + SEAL_COMES_S

        def work() -> None:
            with self._alone:
                self._store.prepare_seal()

        def done(failure: Failure) -> None:
            self._preparing -= 1
            if failure is not None:
                self._seal_until_s = 0.0
                self._look_later(FOLD_PAUSE_S)
                told(str(failure), None)
            else:
                # Now, beside the writes, and not while they are held.
                self._blocks.run(lambda: self._store.sync, lambda failure: told("", failure))

        # Behind whatever is being dropped or settled.
        self._blocks.run(lambda: lambda: None, lambda failure: self._beside.run(lambda: work, done))

    def seal(self, layer: str, told: Callable[[Failure], None]) -> None:
        def work() -> None:
            with self._alone:
                self._store.seal(layer)

        def done(failure: Failure) -> None:
            self._seal_until_s = 0.0
            self._look_later(FOLD_PAUSE_S)
            told(failure)

        self._blocks.run(lambda: work, done)

    def hash(self, layer: str, size_blocks: int, told: Callable[[int | None, Failure], None]) -> None:
        """Answered with None when the layer was dropped meanwhile; the failure may be that it is `Unproved`."""
        found: list[int | None] = []

        def work() -> None:
            found.append(self._store.root(layer, size_blocks))

        self._beside.run(lambda: work, lambda failure: told(found[0] if found else None, failure))

    # ---- what no snapshot needs -----------------------------------------------------------------------

    def drop(self, layers: Iterable[str]) -> None:
        """Names of layers; repeated calls are fine."""
        self._to_drop.update(layers)
        if self._to_drop:
            self._look_later(0)

    def _look_later(self, delay_s: float) -> None:
        if self._stopped:
            return
        at_s = self._loop.time() + delay_s
        if self._timer is not None:
            if self._timer.when() <= at_s:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(at_s, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._stopped or self._working:
            return
        wait_s = self._seal_until_s - self._loop.time()
        if self._preparing or wait_s > 0:
            self._look_later(max(wait_s, FOLD_PAUSE_S))
        elif self._to_drop:
            names, self._to_drop = sorted(self._to_drop), set()
            self._work(lambda: self._drop(names))
        elif self._store.folds:
            self._fold()
        elif self._store.nameless:
            self._look_later(SHARED_PAUSE_S)

    def _drop(self, names: Iterable[str]) -> None:
        for name in names:
            self._store.drop(name)

    def _fold(self) -> None:
        try:
            more = self._store.fold(FOLD_BLOCKS)
        except StoreError as error:
            self._stopped = True
            self.on_failure(error)
            return
        if more:
            self._look_later(FOLD_PAUSE_S)
        else:
            self._work(self._store.settle_fold)

    def _work(self, work: Callable[[], None]) -> None:
        self._working = True

        def done(failure: Failure) -> None:
            self._working = False
            if failure is not None:
                self._stopped = True
                self.on_failure(failure)
            else:
                self._look_later(FOLD_PAUSE_S)

        self._blocks.run(lambda: work, done)
