"""A snapshot's CSI name belongs to one volume; which one, every instance asks the catalogue.

    create    see the volume's record ──> claim held ──> take, by what was seen
    delete    claim dropping ──> fence, drop ──> drop what came before the fence ──> release

Volumes know the names of their own snapshots only, and CSI's are unique over all volumes. Each step may be repeated, by
any instance, and abandoned: a claim without a snapshot is finished by whoever asks for the same again.

An instance may die with a request on its way, and that is carried out whenever it arrives. Two things keep it from
doing harm. A deletion sets a fence in the volume's record before it gives the name away: who claimed the name before it
has seen an older record, and takes nothing any more. *A snapshot was taken after its deletion had looked for it, and by
then the name was another volume's: two had it.* And whatever takes something away says what: a drop names the moment of
the snapshot, a release the deletion.

Snapshots that people took by `stos snapshot` are claimed by nobody, and found and deleted all the same.
"""

from __future__ import annotations

import hashlib
import re
import secrets

from services.csi.port import SnapshotsPort, VolumesPort
from stoscore.errors import Code, StosError, invalid
from stoscore.limits import NAME_BYTES_MAX, valid_volume_id
from stoscore.messages import SnapshotClaim, SnapshotView, StampModel
from stoscore.volumes.naming import check_snapshot_name

_READABLE_CHARS = 31
_ROUNDS = 3
_NONE = 0
"""The moment of no snapshot: nothing is dropped."""
_AGAIN = "ask again"


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
        held = SnapshotClaim(snapshot=name, volume=volume)
        for _ in range(_ROUNDS):
            since = await self._seen(volume)
            await self._claim(held)
            try:
                return await self._snapshots.take(volume, name, since=since, timeout_s=timeout_s)
            except StosError as error:
                if error.code is not Code.ABORTED:
                    raise
        raise StosError(Code.ABORTED, f"snapshots of volume {volume} are created and deleted at once", next_step=_AGAIN)

    async def _claim(self, held: SnapshotClaim) -> None:
        """Raises ALREADY_EXISTS, ABORTED."""
        found = await self._snapshots.claim(held)
        if found is not None and found.volume != held.volume and not await self._is_there(found.volume):
            await self._release_of_gone(found)
            found = await self._snapshots.claim(held)
        if found is not None:
            raise _taken(found, held.volume)

    async def delete(self, volume: str, name: str, timeout_s: float) -> None:
        """It is gone, or was not there."""
        if not await self._is_there(volume):
            found = await self._snapshots.claimed(name)
            if found is not None and found.volume == volume:
                await self._release_of_gone(found)
            return
        mark = await self._mark(SnapshotClaim(snapshot=name, volume=volume))
        if mark is None:
            for moment in await self._moments(volume, name, timeout_s):
                await self._snapshots.drop(volume, name, created_ms=moment, timeout_s=timeout_s)
            return
        for fence in (True, False):  # the second: what was taken between the look and the fence
            moments = await self._moments(volume, name, timeout_s) or ([_NONE] if fence else [])
            if await self._snapshots.claimed(name) != mark:
                return  # another instance has ended this deletion: what is there was taken again since
            for moment in moments:
                await self._snapshots.drop(volume, name, created_ms=moment, fence=fence, timeout_s=timeout_s)
        await self._snapshots.release(mark)

    async def _mark(self, claim: SnapshotClaim) -> SnapshotClaim | None:
        """The deletion that the name is marked with now, this one or one to be gone on with; None: it is another
        volume's."""
        mark = claim.model_copy(update={"stage": "dropping", "deletion": secrets.token_hex(8)})
        found = await self._snapshots.claim(mark) or mark
        return found if found.volume == claim.volume else None

    async def _release_of_gone(self, claim: SnapshotClaim) -> None:
        """Of a volume that is gone, and its snapshots with it."""
        mark = await self._mark(claim)
        if mark is not None:
            await self._snapshots.release(mark)

    async def _moments(self, volume: str, name: str, timeout_s: float) -> list[int]:
        """When the snapshot of that name was taken, if there is one."""
        views = await self._snapshots.of(volume, timeout_s=timeout_s)
        return [view.created_ms for view in views if view.snapshot == name]

    async def _seen(self, volume: str) -> StampModel:
        """The stamp of the volume's record, or of an earlier one. Raises NOT_FOUND."""
        _, survey = await self._volumes.survey(volume)
        known = survey.serving or survey.newest
        if known is None or known.record is None:
            return StampModel(generation=0, epoch=0, version=0)
        record = known.record
        return StampModel(generation=record.generation, epoch=record.epoch, version=record.version)

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
        return StosError(Code.ABORTED, f"the snapshot {claim.snapshot} is being deleted", next_step=_AGAIN)
    return StosError(
        Code.ALREADY_EXISTS,
        f"the snapshot name {claim.snapshot} belongs to volume {claim.volume}",
        next_step="use another name",
    )
