"""How long a disk alone takes to store and sync that many scattered blocks: the other floor under a resync.

A copy is admitted when what it received is synced, so no return is quicker than this. One file as large as the volume,
all of it written before, and nothing else at work; the median of a few turns.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from pathlib import Path
from statistics import median

from stoscore.units import BLOCK_BYTES, GIB, MIB

TURNS = 5


def disk_seconds(directory: Path, blocks: int, size_bytes: int = GIB, turns: int = TURNS) -> float:
    """Raises OSError."""
    places = sorted(random.Random(1).sample(range(size_bytes // BLOCK_BYTES), blocks))
    content = os.urandom(MIB)
    times = []
    with tempfile.TemporaryFile(dir=directory) as file:
        for _ in range(size_bytes // len(content)):
            file.write(content)
        file.flush()
        os.fsync(file.fileno())
        for _ in range(turns):
            block = os.urandom(BLOCK_BYTES)
            began = time.perf_counter()
            for place in places:
                os.pwrite(file.fileno(), block, place * BLOCK_BYTES)
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    return median(times)
