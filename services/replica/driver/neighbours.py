"""Which nodes this one has to do with: those that share a volume with it, and those that use one that is led here.

Asked at every commit (whom to dial) and at every beat (whom to expect). A node that comes back with hundreds of volumes
makes hundreds of commits on all the others within seconds: counted as single volumes change, an answer costs the same
with one volume as with a thousand.
"""

from __future__ import annotations

from collections import Counter

from services.replica.brain import Record

_NOBODY: frozenset[str] = frozenset()


class Neighbours:
    """Of the node `me`."""

    def __init__(self, me: str):
        self._me = me
        self._seen: dict[str, tuple[Record | None, bool]] = {}
        """Volume -> its record and whether it is led here, as they are counted below."""
        self._sharing: Counter[str] = Counter()
        """Node -> how many volumes it shares with us."""
        self._using: Counter[str] = Counter()
        """Node -> how many volumes that are led here it uses."""
        self.sharing = _NOBODY
        self.all = _NOBODY
        """Those that share a volume, and those that use one which is led here."""

    def see(self, volume: str, record: Record | None, *, led: bool) -> None:
        """This is what the volume is now."""
        before = self._seen.get(volume, (None, False))
        if before[0] is record and before[1] == led:
            return
        self._count(*before, -1)
        self._count(record, led, 1)
        self._seen[volume] = record, led
        self._look()

    def forget(self, volume: str) -> None:
        self._count(*self._seen.pop(volume, (None, False)), -1)
        self._look()

    def _count(self, record: Record | None, led: bool, by: int) -> None:
        if record is None:
            return
        for member in record.members:
            self._sharing[member.node] += by
        if led and record.attachment is not None:
            self._using[record.attachment.node] += by

    def _look(self) -> None:
        """Counts that have come to nothing are left out; there are as many as there are nodes."""
        sharing = {node for node, count in self._sharing.items() if count}
        using = {node for node, count in self._using.items() if count}
        self.sharing = frozenset(sharing - {self._me})
        self.all = frozenset((sharing | using) - {self._me})
