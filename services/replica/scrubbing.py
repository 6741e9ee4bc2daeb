"""When which part of a node's copies is read again: everything once within the period, evenly, and no faster. Pure.

    pass:  volume a  | 64 regions | 64 regions | ...  then volume b, ...         one pass at a time, one a node

Rot is found only by reading, and a copy that nobody reads for a year rots for a year. The scrub reads all that is
allocated within its period. Its pace is that of a plan: after a share of the period, the same share of the bytes has
to be read, with a tenth of the period to spare. What is late, because the node was off or a disk is slow, is caught up
with at the largest rate and no faster, so a scrub never takes the disk for itself.

A window of regions is read here, and then, where this node leads the volume, compared with the other copies. A window
in which nothing is allocated has its turn in the plan like a slice that is read. *A node whose volumes were all empty
had no plan to keep: every minute it compared all of them with all their copies, as fast as it could.*
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from stoscore.units import BLOCK_BYTES, SECOND

WINDOW_REGIONS = 64
"""256 MiB of a volume: as many nodes of the hash tree as one comparison asks for at a time."""
SLICE_BLOCKS = 64
"""Blocks that are read at a time: 256 KiB."""
SLICE_BYTES = SLICE_BLOCKS * BLOCK_BYTES
SPARE = 0.9
"""The share of the period in which a pass is to be done."""
LOOK_NS = 60 * SECOND
"""How soon a node on which nothing is allocated looks again."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a pass is: everything before it has been read."""

    volume: str
    region: int = 0


@dataclass(slots=True)
class Pass:
    """One pass over everything that there is: since when, how much there is and how much is done."""

    began_ns: int
    total_bytes: int
    windows: int
    done_bytes: int = 0
    done_windows: int = 0
    at: Position | None = None

    @property
    def share(self) -> float:
        """Of the work that is done. What was written since it began is work as well."""
        done = self.done_bytes + self.done_windows * SLICE_BYTES
        return min(1.0, done / max(1, self.total_bytes + self.windows * SLICE_BYTES))


@dataclass(frozen=True, slots=True)
class Work:
    """One volume's: the size of the regions in which it has anything, and its windows, allocated or not."""

    present_bytes: int
    windows: int


class Pace:
    def __init__(self, period_ns: int, bytes_per_s_max: int):
        self._period_ns = period_ns
        self._bytes_per_s_max = bytes_per_s_max

    def begin(self, volumes: Mapping[str, Work], now_ns: int) -> Pass:
        """Where nothing is allocated it is over at once."""
        total_bytes = sum(work.present_bytes for work in volumes.values())
        at = Position(min(volumes)) if total_bytes else None
        return Pass(now_ns, total_bytes, sum(work.windows for work in volumes.values()), at=at)

    def next_slice_ns(self, scrub: Pass, before_ns: int, before_bytes: int) -> int:
        """When the next slice, or the comparison of a window, is due; what came before it began at `before_ns` and had
        so many bytes."""
        planned = scrub.began_ns + int(scrub.share * SPARE * self._period_ns)
        return max(planned, before_ns + before_bytes * SECOND // self._bytes_per_s_max)

    def next_pass_ns(self, scrub: Pass) -> int:
        """When the next pass begins after this one has ended: not before its own period has."""
        return scrub.began_ns + (self._period_ns if scrub.total_bytes else min(self._period_ns, LOOK_NS))


def next_volume(volumes: Iterable[str], at: Position) -> Position | None:
    """The volume after this one; None at the end of the pass. Volumes come and go meanwhile."""
    after = min((volume for volume in volumes if volume > at.volume), default=None)
    return Position(after) if after is not None else None
