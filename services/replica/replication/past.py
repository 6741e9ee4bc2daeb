"""What a copy that catches up is given first: the snapshots that it lacks (K4).

A snapshot's layer is what the volume was. Whoever was away when it was sealed, or is new, has to be made what the
volume is; on the way there it is made what the volume was, by the same comparison, and seals that like everybody did:

    joined --> like the oldest snapshot that it lacks --> Prepare --> Seal --> root hash --> the next --> the present

It is no member that counts until it has come to the present, so nothing is lost by going back first. What it sealed
counts by its root hash alone, which has to be the record's: whatever was missed, or rotted, on either side shows there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from stoscore.units import SECOND

PATIENCE_NS = 300 * SECOND
"""How long a copy may take to make a layer, or to seal and hash it, before it goes on without that snapshot: it has
dropped the layer, or its disk hangs. Nobody waits for it meanwhile but for one copy more."""
RETURNS_MAX = 3
"""How often a copy that comes to the present goes back for what was sealed meanwhile. Each time there is less to be
copied; where snapshots are taken faster than that, it comes into the set without the latest."""


class Moment(NamedTuple):
    """What the volume was at one step: a sealed layer is named by both."""

    snapshot: str
    seal: int


@dataclass(frozen=True, slots=True)
class Past:
    """A snapshot that is ready by the committed record, and that our own copy holds."""

    moment: Moment
    size_blocks: int
    root: int
    nodes: frozenset[str]
    """Whose copies lack it."""


@dataclass(slots=True)
class Giving:
    """One snapshot on its way to one copy."""

    past: Past
    asked_ns: int | None = None
    """Since when it owes the next word, once it has got all blocks."""

    @property
    def deadline_ns(self) -> int | None:
        """When we stop waiting for that."""
        return self.asked_ns + PATIENCE_NS if self.asked_ns is not None else None

    def excuse(self, now_ns: int) -> None:
        """We were paused ourselves."""
        if self.asked_ns is not None:
            self.asked_ns = now_ns
