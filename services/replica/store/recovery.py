"""What the opening of a replica finds of the last one, and what it may believe (rules S3, D3, T2).

| the last opening | boot id | checksums of marked regions | the tail |
|---|---|---|---|
| closed cleanly | any | as stored | as stored, if it is the one that the clean mark names |
| killed | the same | as stored, but for the range under the pen | as stored |
| killed, tail unreadable | the same | from the data | unknown: all marked regions |
| lost power, nothing marked | another | none to doubt | empty |
| lost power, regions marked | another | from the data, `unclean` | unknown: all marked regions |
| a write or sync failed | any | from the data, as the disk has them; `unclean` | as above |

`unclean` and the erased clean mark are durable before anything else is done.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.replica.store.intent import Header, IntentLog
from services.replica.store.layers import Layers
from services.replica.store.regain import regain
from services.replica.store.tail import Tail
from stoscore.units import REGION_BLOCKS


@dataclass(frozen=True, slots=True)
class Found:
    restarted: bool
    """The last opening was not closed."""
    unclean: bool
    doubted: frozenset[int]
    """Regions that were marked, where the tail can't say what was under way."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """Of a replica whose files were opened and not looked at yet."""

    intent: IntentLog
    tail: Tail
    layers: Layers
    size_blocks: int

    def run(self, boot_id: str) -> Found:
        """Raises FormatError, StoreError; a recovery that ends anywhere is begun again by the next opening."""
        self.intent.open()
        self.intent.settle()
        before, marked = self.intent.header, self.intent.marked
        same_boot = before.boot_id == boot_id
        unclean = before.unclean or (bool(marked) and not same_boot and not before.closed)
        self.intent.save_header(Header(boot_id, unclean=unclean))

        closed = (before.tail_last, before.tail_commit) if before.closed else None
        known = self.tail.load(boot_id, closed=closed)
        if before.closed and not unclean:
            # The close wrote the roots of marked regions too, and this is the last moment at which they say something.
            # First of all, because everything below concludes from the checksums.
            self.layers.top.sums.check_roots(marked)
        # Before the tail is touched: a kill in here finds everything as it was and starts again.
        if unclean or not (known or before.closed):
            if unclean and same_boot:
                self.layers.drop_cache()
            if same_boot and known:
                self._regain_under_pen()
            self._regain_marked(believed=same_boot and not unclean)
            if unclean:
                self.layers.doubt_maps()
            self._rehash_marked()
        elif known:
            self._regain_marked(believed=True)
            self._rehash_under_pen()
        if known:
            self.tail.adopt(boot_id)
        else:
            self.tail.restart(boot_id, doubt=bool(marked))
        self.tail.pen(0, 0)
        self.layers.top.sums.set_dirty(marked)
        return Found(not before.closed, unclean, marked if self.tail.doubtful else frozenset())

    def _regain_marked(self, *, believed: bool) -> None:
        top = self.layers.top
        for region in sorted(self.intent.marked - top.sums.suspect):
            regain(top, *self._blocks(region), believed=believed)

    def _regain_under_pen(self) -> None:
        """A write that the disk refused in the middle: its data come first, so a new sum means that they are there."""
        block, count = self.tail.pen_range()
        if block + count <= self.size_blocks:
            regain(self.layers.top, block, count, believed=True)

    def _rehash_marked(self) -> None:
        for region in sorted(self.intent.marked):
            self.layers.top.rehash(*self._blocks(region))

    def _rehash_under_pen(self) -> None:
        block, count = self.tail.pen_range()
        if block + count > self.size_blocks:
            self._rehash_marked()
        elif count:
            self.layers.top.rehash(block, count)

    def _blocks(self, region: int) -> tuple[int, int]:
        first = region * REGION_BLOCKS
        return first, min(REGION_BLOCKS, self.size_blocks - first)
