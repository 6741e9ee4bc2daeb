"""The scrub of one node: reads its copies again at the pace of `scrubbing`, and has them compared with the others.

The disk is read on a worker thread, past the page cache and beside writes; what does not match there is looked at
again in the event loop's thread, where nothing is half written. Where a pass is, is kept in a file, so that a node
that is restarted every day comes to the end all the same.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from services.replica.clock import boot_time_ns
from services.replica.hosted import Hosted
from services.replica.scrubbing import (
    SLICE_BLOCKS,
    SLICE_BYTES,
    WINDOW_REGIONS,
    Pace,
    Pass,
    Position,
    Work,
    next_volume,
)
from services.replica.shell import Shell
from services.replica.store import BlockStore, StoreError
from stoscore.errors import StosError
from stoscore.files import write_private
from stoscore.messages import ScrubStatus
from stoscore.telemetry import get_logger
from stoscore.units import BLOCK_BYTES, MS, REGION_BLOCKS, REGION_BYTES, SECOND

log = get_logger("scrub")
T = TypeVar("T")
FILE = "scrub.json"
KEEP_S = 30.0
"""How often the position is kept."""


class Scrubber:
    def __init__(self, shell: Shell, pace: Pace, pool: Executor, directory: Path):
        self._shell = shell
        self._pace = pace
        self._pool = pool
        self._path = directory / FILE
        self._pass: Pass | None = None
        self._slice_ns = self._slice_bytes = 0
        self._kept_s = 0.0
        self._ended_unix_ms = 0

    def status(self) -> ScrubStatus:
        scrub = self._pass
        return ScrubStatus(
            done_bytes=scrub.done_bytes if scrub else 0,
            total_bytes=scrub.total_bytes if scrub else 0,
            ended_unix_ms=self._ended_unix_ms,
        )

    async def run(self) -> None:
        """Until cancelled."""
        self._pass = self._load()
        while True:
            scrub = self._pass or self._pace.begin(await self._measure(), boot_time_ns())
            self._pass = scrub
            while scrub.at is not None:
                await self._window(scrub, scrub.at)
                if time.monotonic() - self._kept_s > KEEP_S:
                    await self._keep()
            if scrub.total_bytes:
                self._ended_unix_ms = time.time_ns() // MS
                log.info("read everything again: %d bytes", scrub.done_bytes)
                await self._keep()
            await self._until(self._pace.next_pass_ns(scrub))
            self._pass = None

    async def _measure(self) -> dict[str, Work]:
        found = {}
        for volume in self._volumes():
            with suppress(
                StoreError, OSError, KeyError
            ):  # it was removed meanwhile, or the disk tells again when it is read
                found[volume] = await self._in_pool(partial(_work, self._shell.hosted[volume].blocks))
        return found

    def _volumes(self) -> list[str]:
        return [
            volume
            for volume, hosted in self._shell.hosted.items()
            if hosted.store is not None and not hosted.erased and not hosted.failure
        ]

    # ---- one window of one volume ---------------------------------------------------------------------

    async def _window(self, scrub: Pass, at: Position) -> None:
        hosted = self._shell.hosted.get(at.volume)
        store = hosted.store if hosted is not None else None
        if hosted is None or store is None or at.region * REGION_BLOCKS >= store.size_blocks:
            if hosted is not None:
                hosted.scrubbed_unix_ms = time.time_ns() // MS
            scrub.at = next_volume(self._volumes(), at)
            return
        end = at.region + WINDOW_REGIONS
        try:
            region = await self._in_pool(partial(store.next_present, at.region))
            while region is not None and region < end and self._is_readable(hosted):
                await self._region(scrub, hosted, region)
                region = await self._in_pool(partial(store.next_present, region + 1))
        except (StoreError, OSError) as error:
            # A copy that is removed closes its files under a scan, which is no fault of the disk.
            if self._is_readable(hosted):
                self._shell.disk_failed(hosted, str(error))
        if not self._is_readable(hosted):
            scrub.at = next_volume(self._volumes(), at)
            return
        await self._turn(scrub, SLICE_BYTES)
        scrub.done_windows += 1
        if self._is_readable(hosted):
            self._shell.compare(at.volume, at.region, WINDOW_REGIONS)
        scrub.at = Position(at.volume, end)

    async def _region(self, scrub: Pass, hosted: Hosted, region: int) -> None:
        store = hosted.blocks
        first, end = region * REGION_BLOCKS, min((region + 1) * REGION_BLOCKS, store.size_blocks)
        for block in range(first, end, SLICE_BLOCKS):
            count = min(SLICE_BLOCKS, end - block)
            await self._turn(scrub, count * BLOCK_BYTES)
            if not self._is_readable(hosted):
                return
            matches = await self._in_pool(partial(store.scan, block, count))
            scrub.done_bytes += count * BLOCK_BYTES
            if not matches and self._is_readable(hosted):
                bad = store.recheck(block, count)
                if bad:
                    self._shell.rot_found(hosted.volume, bad)

    async def _turn(self, scrub: Pass, count_bytes: int) -> None:
        """Until what has so many bytes, or costs as much, is due."""
        await self._until(self._pace.next_slice_ns(scrub, self._slice_ns, self._slice_bytes))
        self._slice_ns, self._slice_bytes = boot_time_ns(), count_bytes

    def _is_readable(self, hosted: Hosted) -> bool:
        return self._shell.hosted.get(hosted.volume) is hosted and not hosted.failure and not hosted.erased

    async def _until(self, due_ns: int) -> None:
        while (left_ns := due_ns - boot_time_ns()) > 0:
            await asyncio.sleep(min(left_ns / SECOND, KEEP_S))

    async def _in_pool(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    # ---- kept over a restart --------------------------------------------------------------------------

    async def _keep(self) -> None:
        scrub = self._pass
        self._kept_s = time.monotonic()
        if scrub is None:
            return
        kept: dict[str, Any] = {
            "age_ns": boot_time_ns() - scrub.began_ns,
            "kept_unix_ms": time.time_ns() // MS,
            "total_bytes": scrub.total_bytes,
            "windows": scrub.windows,
            "done_bytes": scrub.done_bytes,
            "done_windows": scrub.done_windows,
            "volume": scrub.at.volume if scrub.at else "",
            "region": scrub.at.region if scrub.at else 0,
            "ended_unix_ms": self._ended_unix_ms,
            "scrubbed": {volume: hosted.scrubbed_unix_ms for volume, hosted in self._shell.hosted.items()},
        }
        with suppress(StosError):  # then the next start begins anew
            await self._in_pool(partial(write_private, self._path, json.dumps(kept).encode()))

    def _load(self) -> Pass | None:
        """What is unreadable or of another time is begun anew: it costs reading, nothing else."""
        try:
            kept = json.loads(self._path.read_bytes())
            away_ns = max(0, time.time_ns() // MS - int(kept["kept_unix_ms"])) * MS
            self._ended_unix_ms = int(kept["ended_unix_ms"])
            for volume, at_ms in kept["scrubbed"].items():
                if volume in self._shell.hosted:
                    self._shell.hosted[volume].scrubbed_unix_ms = int(at_ms)
            at = Position(str(kept["volume"]), int(kept["region"])) if kept["volume"] else None
            began_ns = boot_time_ns() - int(kept["age_ns"]) - away_ns
            total, done = int(kept["total_bytes"]), int(kept["done_bytes"])
            return Pass(began_ns, total, int(kept["windows"]), done, int(kept["done_windows"]), at)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


def _work(store: BlockStore) -> Work:
    """Worker thread. Raises StoreError."""
    count, region = 0, store.next_present(0)
    while region is not None:
        count += 1
        region = store.next_present(region + 1)
    return Work(count * REGION_BYTES, -(-store.size_blocks // (WINDOW_REGIONS * REGION_BLOCKS)))
