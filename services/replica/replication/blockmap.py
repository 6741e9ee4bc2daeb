"""A set of blocks, kept as one bit per block and one integer per region: cheap to add to, cheap when sparse."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from stoscore.units import REGION_BLOCKS

Range = tuple[int, int]
"""(block, count)"""

_FULL = (1 << REGION_BLOCKS) - 1


def _pieces(block: int, count: int) -> Iterator[tuple[int, int]]:
    """(region, mask) for each region that the range touches."""
    end = block + count
    while block < end:
        region, offset = divmod(block, REGION_BLOCKS)
        length = min(end - block, REGION_BLOCKS - offset)
        yield region, (((1 << length) - 1) << offset) if length < REGION_BLOCKS else _FULL
        block += length


def _runs(mask: int) -> Iterator[Range]:
    """(offset, count) of each run of ones, lowest first."""
    offset = 0
    while mask:
        skip = (mask & -mask).bit_length() - 1
        mask >>= skip
        offset += skip
        length = (~mask & (mask + 1)).bit_length() - 1
        yield offset, length
        mask >>= length
        offset += length


class BlockMap:
    """A mutable set of blocks."""

    __slots__ = ("_regions",)

    def __init__(self, ranges: Iterable[Range] = ()):
        self._regions: dict[int, int] = {}
        for block, count in ranges:
            self.add(block, count)

    def add(self, block: int, count: int) -> None:
        region, offset = divmod(block, REGION_BLOCKS)
        if offset + count <= REGION_BLOCKS:
            self._regions[region] = self._regions.get(region, 0) | (((1 << count) - 1) << offset)
            return
        for region, mask in _pieces(block, count):
            self._regions[region] = self._regions.get(region, 0) | mask

    def discard(self, block: int, count: int) -> None:
        for region, mask in _pieces(block, count):
            left = self._regions.get(region, 0) & ~mask
            if left:
                self._regions[region] = left
            else:
                self._regions.pop(region, None)

    def update(self, other: BlockMap) -> None:
        for region, mask in other._regions.items():
            self._regions[region] = self._regions.get(region, 0) | mask

    def ranges(self) -> list[Range]:
        """Runs in ascending order; a run that crosses regions is given in pieces."""
        return [
            (region * REGION_BLOCKS + offset, length)
            for region, mask in sorted(self._regions.items())
            for offset, length in _runs(mask)
        ]

    def take(self, count_max: int, *, spread: bool = False) -> list[Range]:
        """Removes and returns the lowest runs, whole regions until `count_max` blocks are reached. `spread`: of regions
        from all over the set, so that they can stand for the rest."""
        taken: list[Range] = []
        count = 0
        regions = sorted(self._regions)
        if spread:
            step = max(1, min(len(self) // count_max, len(regions)))
            regions = regions[step // 2 :: step]
        for region in regions:
            if count >= count_max:
                break
            for offset, length in _runs(self._regions.pop(region)):
                taken.append((region * REGION_BLOCKS + offset, length))
                count += length
        return taken

    def copy(self) -> BlockMap:
        twin = BlockMap()
        twin._regions = dict(self._regions)
        return twin

    def __len__(self) -> int:
        return sum(mask.bit_count() for mask in self._regions.values())

    def __bool__(self) -> bool:
        return bool(self._regions)

    def __contains__(self, block: int) -> bool:
        region, offset = divmod(block, REGION_BLOCKS)
        return bool(self._regions.get(region, 0) >> offset & 1)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BlockMap) and self._regions == other._regions

    __hash__ = None  # type: ignore[assignment]  # mutable


def regions_of(block: int, count: int) -> range:
    """The regions that a range touches."""
    return range(block // REGION_BLOCKS, (block + count - 1) // REGION_BLOCKS + 1)
