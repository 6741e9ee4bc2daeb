"""What `stos volume create` makes a volume of: nothing, a snapshot, or another volume; and how large it is to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.cli.cluster import Session
from stoscore.errors import Code, StosError, invalid
from stoscore.units import parse_size

if TYPE_CHECKING:
    from stoscore.volumes import SourceSpec


@dataclass(frozen=True, slots=True)
class Beginning:
    """As it was typed. `volume` "": it begins empty; `snapshot` "": as what that volume holds now."""

    size_bytes: int | None
    volume: str = ""
    snapshot: str = ""

    @classmethod
    def parse(cls, size: str | None, from_snapshot: str | None, clone: str | None) -> Beginning:
        """Raises StosError INVALID_ARGUMENT."""
        if from_snapshot is not None and clone is not None:
            raise invalid("a volume begins as a snapshot or as a volume, not as both", "leave one of them out")
        if size is None and from_snapshot is None and clone is None:
            raise invalid("a volume that begins empty needs a size", "name one, such as --size 1GiB")
        try:
            size_bytes = None if size is None else parse_size(size)
        except ValueError as error:
            raise invalid(str(error)) from None
        if from_snapshot is None:
            return cls(size_bytes, clone or "")
        volume, _, snapshot = from_snapshot.partition("/")
        if not volume or not snapshot:
            raise invalid(f"{from_snapshot[:80]!r} is no snapshot", "write VOLUME/SNAPSHOT, such as data/monday")
        return cls(size_bytes, volume, snapshot)

    async def found(self, session: Session, name: str) -> tuple[int, SourceSpec | None]:
        """The size that the new volume `name` is to have, and what it begins as. Raises NOT_FOUND. One that was made
        already has the size that it was made with, whatever became of its source."""
        from stoscore.volumes import SourceSpec

        if not self.volume:
            assert self.size_bytes is not None
            return self.size_bytes, None
        entry, status = await session.volumes.get(self.volume)
        source = SourceSpec(entry.volume, self.snapshot)
        if self.size_bytes is not None:
            return self.size_bytes, source
        made = await _made_bytes(session, name)
        if made is not None:
            return made, source
        if self.snapshot:
            return (await session.volumes.snapshots.get(entry.volume, self.snapshot)).size_bytes, source
        return (status.record.size_bytes if status and status.record else entry.size_bytes), source


async def _made_bytes(session: Session, name: str) -> int | None:
    try:
        return (await session.catalogue.by_name(name)).size_bytes
    except StosError as error:
        if error.code is Code.NOT_FOUND:
            return None
        raise
