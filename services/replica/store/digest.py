"""What the blocks of a copy really are: hashed from its data file, without a look at the stored checksums.

For comparing copies from outside. It takes no lock and writes nothing, so it works beside a running replica
(each block is then as of some moment of the run; above a sealed layer, as of the last sync) and on a dead one. Holes
are skipped, not read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from xxhash import xxh3_64

from services.replica.store import stack
from services.replica.store.format import read_format
from services.replica.store.layers import close_layers, open_layers
from services.replica.store.port import FormatError
from services.replica.store.sums import ZERO_SUM
from stoscore.units import REGION_BLOCKS, SUM_BYTES


@dataclass(frozen=True, slots=True)
class Digest:
    """`digest` is xxh3-64, in hex, over the 8-byte sums of all blocks in order; `blocks` counts those that are
    not zeros."""

    volume: str
    incarnation: str
    size_blocks: int
    blocks: int
    digest: str


def digest(directory: Path, sink: Callable[[bytes], object] | None = None) -> Digest:
    """Hash every block; `sink` is given the sums (little-endian u64, 0 for zeros) from the first block to the
    last. Raises FormatError, StoreError."""
    format = read_format(directory)
    if format.kind != "data":
        raise FormatError(f"{directory} is a witness and holds no data")
    layers = open_layers(directory, format, stack.read(directory, format), frozenset, writable=False)
    whole, present = xxh3_64(), 0
    try:
        for block in range(0, format.size_blocks, REGION_BLOCKS):
            count = min(REGION_BLOCKS, format.size_blocks - block)
            sums = layers[-1].actual(block, count)
            whole.update(sums)
            present += _present(sums, count)
            if sink is not None:
                sink(sums)
    finally:
        close_layers(layers)
    return Digest(format.volume, format.incarnation, format.size_blocks, present, whole.hexdigest())


def _present(sums: bytes, count: int) -> int:
    if sums == ZERO_SUM * count:
        return 0
    return sum(sums[at : at + SUM_BYTES] != ZERO_SUM for at in range(0, len(sums), SUM_BYTES))
