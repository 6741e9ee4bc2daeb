"""A snapshot's CSI name belongs to one volume; which one, every instance asks the catalogue.

    create    claim held ──> take ──> is it still held? ──> answer
    delete    claim dropping ──> drop that one ──> release

Volumes know the names of their own snapshots only, and CSI's are unique over all volumes. Each step may be repeated, by
any instance, and abandoned: a claim without a snapshot is finished by whoever asks for the same again, and nothing is
answered that a deletion under way is about to take back. What is dropped is the snapshot that was there when the name
was marked: a deletion that comes late leaves one that was taken again since.

Snapshots that people took by `stos snapshot` are claimed by nobody, and found and deleted all the same.
"""

from __future__ import annotations

import hashlib
import re

from services.csi.port import SnapshotsPort, VolumesPort
from stoscore.errors import Code, StosError, invalid
from stoscore.limits import NAME_BYTES_MAX, valid_volume_id
from stoscore.messages import SnapshotClaim, SnapshotView
from stoscore.volumes.naming import check_snapshot_name

_READABLE_CHARS = 31
_ROUNDS = 3


def of_request(text: str) -> str:
    """The volume's name for a snapshot that CSI calls so: the same, or one made of it where that is none of ours.
    Raises INVALID_ARGUMENT."""
    if not text:
        raise invalid("name is empty")
    if len(text.encode()) > NAME_BYTES_MAX or not text.isprintable():
        raise invalid(f"name {text[:64]!r} is longer than {NAME_BYTES_MAX} bytes or has control characters")
    try:
        check_snapshot_name(text)
    except StosError:
        readable = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:_READABLE_CHARS].strip("-")
        return f"{readable or 'snapshot'}-{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"
    return text


def id_of(view: SnapshotView) -> str:
    return f"{view.volume}.{view.snapshot}"


def of_id(text: str) -> tuple[str, str] | None:
    """(volume, snapshot) of an id; None for what no snapshot has."""
    volume, _, snapshot = text.partition(".")
    try:
        check_snapshot_name(snapshot)
    except StosError:
        return None
    return (volume, snapshot) if valid_volume_id(volume) else None


class Named:
    """Snapshots by names that are unique over all volumes."""

    def __init__(self, volumes: VolumesPort):
        self._volumes = volumes
        self._snapshots: SnapshotsPort = volumes.snapshots

    async def create(self, name: str, volume: str, timeout_s: float) -> SnapshotView:
        """Raises NOT_FOUND, ALREADY_EXISTS when another volume's snapshot is called so, ABORTED while one of this name
        is being deleted."""
        await self._volumes.survey(volume)
        held = SnapshotClaim(snapshot=name, volume=volume)
        for _ in range(_ROUNDS):
            await self._claim(held)
            view = await self._snapshots.take(volume, name, timeout_s=timeout_s)
            now = await self._snapshots.claimed(name)
            if now == held:
                return view
            if now is not None:
                await self._snapshots.drop(volume, name, created_ms=view.created_ms, timeout_s=timeout_s)
                raise _taken(now, volume)
        raise StosError(Code.ABORTED, f"the snapshot {name} is created and deleted at once", next_step="ask again")

    async def _claim(self, held: SnapshotClaim) -> None:
        """Raises ALREADY_EXISTS, ABORTED."""
        found = await self._snapshots.claim(held)
        if found is not None and found.volume != held.volume and not await self._is_there(found.volume):
            await self._release(found)
            found = await self._snapshots.claim(held)
        if found is not None:
            raise _taken(found, held.volume)

    async def delete(self, volume: str, name: str, timeout_s: float) -> None:
        """It is gone, or was not there."""
        if not await self._is_there(volume):
            found = await self._snapshots.claimed(name)
            if found is not None and found.volume == volume:
                await self._release(found)
            return
        dropping = SnapshotClaim(snapshot=name, volume=volume, stage="dropping")
        own = await self._snapshots.claim(dropping) is None
        for view in await self._snapshots.of(volume, timeout_s=timeout_s):
            # Another instance may have ended this deletion, and what is listed have been taken since.
            if view.snapshot == name and (not own or await self._snapshots.claimed(name) == dropping):
                await self._snapshots.drop(volume, name, created_ms=view.created_ms, timeout_s=timeout_s)
        if own:
            await self._snapshots.release(dropping)

    async def _release(self, claim: SnapshotClaim) -> None:
        """Of a volume that is gone, and its snapshots with it."""
        dropping = claim.model_copy(update={"stage": "dropping"})
        if await self._snapshots.claim(dropping) is None:
            await self._snapshots.release(dropping)

    async def _is_there(self, volume: str) -> bool:
        try:
            await self._volumes.survey(volume)
        except StosError as error:
            if error.code is Code.NOT_FOUND:
                return False
            raise
        return True


def _taken(claim: SnapshotClaim, volume: str) -> StosError:
    if claim.volume == volume:
        return StosError(Code.ABORTED, f"the snapshot {claim.snapshot} is being deleted", next_step="ask again")
    return StosError(
        Code.ALREADY_EXISTS,
        f"the snapshot name {claim.snapshot} belongs to volume {claim.volume}",
        next_step="use another name",
    )
