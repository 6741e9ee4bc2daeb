"""How long a replica's directory takes to open: 1 TiB, sparse, with 1 GiB written all over it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from statistics import median

from benchmarks.store.figure import Figure
from services.replica.store.file_store import FileStore
from services.replica.store.format import Format
from services.replica.store.sums import block_sums
from stoscore.units import BLOCK_BYTES, GIB, REGION_BLOCKS, TIB

SIZE_BLOCKS = TIB // BLOCK_BYTES
WRITTEN_BLOCKS = GIB // BLOCK_BYTES
PIECE_BLOCKS = 32
ROUNDS = 5
LIMIT_S = 1.0
_CLUSTER, _BOOT = "bench", "boot-1"


def measure(directory: Path) -> list[Figure]:
    store = _fill(directory)
    store.close()
    clean = median(_opened(directory, clean=True) for _ in range(ROUNDS))
    _reopen(directory).close(clean=False)
    killed = median(_opened(directory, clean=False) for _ in range(ROUNDS))
    return [
        Figure("opening 1 TiB, closed cleanly", clean, "s", LIMIT_S),
        Figure("opening 1 TiB, killed with all of it marked", killed, "s", LIMIT_S),
    ]


def _fill(directory: Path) -> FileStore:
    """One piece every so often, so that as many regions as can be hold data."""
    store = FileStore.create(directory, Format(_CLUSTER, "1" * 32, "bench", "1" * 16, "data", SIZE_BLOCKS), _BOOT)
    data = os.urandom(PIECE_BLOCKS * BLOCK_BYTES)
    sums = block_sums(data)
    pieces = WRITTEN_BLOCKS // PIECE_BLOCKS
    for block in range(0, SIZE_BLOCKS, SIZE_BLOCKS // pieces):
        store.mark((block // REGION_BLOCKS,))
        store.write(block, sums, data)
    store.sync()
    return store


def _opened(directory: Path, *, clean: bool) -> float:
    begun = time.monotonic()
    store = _reopen(directory)
    took = time.monotonic() - begun
    store.close(clean)
    return took


def _reopen(directory: Path) -> FileStore:
    return FileStore.open(directory, cluster=_CLUSTER, boot_id=_BOOT)
