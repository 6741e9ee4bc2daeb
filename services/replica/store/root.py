"""The root hash of a sealed layer: the top of its hash tree, equal for equal content (rule K4).

The tree is that of `digests`, over the first `size_blocks` checksums, up to its one top node. Computed in a worker from
the files alone, for the cache belongs to the event loop; what was never written takes neither time nor memory. Over
checksums that are proved: a rotten one would say that this copy differs from all others, or they from this one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from services.replica.store.sums import FAN_OUT, node


def root_of(lowest: Iterable[tuple[int, int]], size_blocks: int) -> int:
    """`lowest`: (index, value) of the nodes right above the checksums that are not 0."""
    found, count = dict(lowest), -(-size_blocks // FAN_OUT)
    while count > 1:
        parents = sorted({index // FAN_OUT for index in found})
        found = {parent: _parent(found, parent * FAN_OUT, count) for parent in parents}
        count = -(-count // FAN_OUT)
    return found.get(0, 0)


def _parent(found: dict[int, int], first: int, count: int) -> int:
    children = [found.get(index, 0) for index in range(first, min(first + FAN_OUT, count))]
    return node(struct.pack(f"<{len(children)}Q", *children))
