"""After a stop: what of a marked region's blocks is in this layer, and what is still one layer below?

The present map on the disk is as of the last sync; what was written since is told from the sums. A block whose sum
is not the one that the layer below has was written here:

- *believed* (only the process died): the page cache kept the sums, and data are written before them;
- otherwise (power was lost, or the disk failed) the sum may have outlived its data, and then the file has zeros,
  which nobody wrote: only data that match the sum count. What does not is given up, and the block is what it was
  below; it was not flushed, for a flush makes its bit durable.

A block that is not here is a hole here: folding a layer may then drop everything below.
"""

from __future__ import annotations

import struct

from services.replica.store.layer import Layer
from services.replica.store.sums import Buffer
from stoscore.units import REGION_BLOCKS, SUM_BYTES


def regain(layer: Layer, block: int, count: int, *, believed: bool) -> None:
    """All of a range that a stop may have caught unfinished. Raises StoreError."""
    present = layer.present
    if present is None:
        return
    while count:
        step = min(count, REGION_BLOCKS - block % REGION_BLOCKS)
        for at, length, here in list(present.runs(block, step)):
            if not here:
                _regain_run(layer, at, length, believed=believed)
        layer.punch_absent(block, step)
        block, count = block + step, count - step


def _regain_run(layer: Layer, block: int, count: int, *, believed: bool) -> None:
    present, sums, below = layer.present, layer.sums.read(block, count), layer.sums_below(block, count)
    if present is None or sums == below:
        return
    own = sums if believed else layer.own_sums(block, count)
    for at, (here, was, found) in enumerate(zip(_values(sums), _values(below), _values(own), strict=True)):
        if here != was and here == found:
            present.add(block + at, 1)


def _values(sums: Buffer) -> tuple[int, ...]:
    return struct.unpack(f"<{len(sums) // SUM_BYTES}Q", sums)
