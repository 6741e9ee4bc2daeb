"""Snapshots of a volume, asked of its primary: the volume's record says which there are."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from stoscore.catalogue import Catalogue
from stoscore.errors import Code, StosError, not_found
from stoscore.limits import OWN_SNAPSHOT
from stoscore.messages import (
    FS_LABEL,
    CatalogueEntry,
    DropSnapshot,
    Empty,
    RecordModel,
    SnapshotClaim,
    SnapshotView,
    StampModel,
    TakeSnapshot,
)
from stoscore.volumes.deadline import WORTH_RETRYING, Deadline, retry
from stoscore.volumes.finding import find_entry, find_ready
from stoscore.volumes.primary import DESCRIBE_S, Replicas
from stoscore.volumes.stepping import Stepping
from stoscore.volumes.stillness import Stillness


class OfVolume(NamedTuple):
    entry: CatalogueEntry
    views: tuple[SnapshotView, ...]
    copies: int
    """of the volume, in sync or not: each of them could hold a snapshot; 0: nobody answers"""


Listed = list[OfVolume]


class Snapshots:
    """`volume` is a name or an id. Every call may be repeated."""

    def __init__(self, catalogue: Catalogue, replicas: Replicas, stepping: Stepping, stillness: Stillness):
        self._catalogue = catalogue
        self._replicas = replicas
        self._stepping = stepping
        self._stillness = stillness

    async def take(
        self,
        volume: str,
        snapshot: str,
        *,
        since: StampModel | None = None,
        timeout_s: float = 30.0,
    ) -> SnapshotView:
        """What the volume holds at one moment between the first such call and its answer. `since`: of the record that
        the caller saw. A file system that is mounted by the csi service stands still then. Raises NOT_FOUND,
        RESOURCE_EXHAUSTED when it has as many as it may have, ABORTED when it was dropped meanwhile, or a fence was set
        since that record."""
        deadline = Deadline.after(timeout_s)
        entry = await find_ready(self._catalogue, volume, deadline)
        await self._take_still(entry, snapshot, since, deadline)
        request = TakeSnapshot(volume=entry.volume, snapshot=snapshot, since=since)
        return await self._replicas.ask(entry, "snapshot", request, SnapshotView, deadline)

    async def _take_still(
        self, entry: CatalogueEntry, snapshot: str, since: StampModel | None, deadline: Deadline
    ) -> None:
        """With its file system frozen, if it is mounted. When that moment is missed the volume is asked for any."""
        if not entry.labels.get(FS_LABEL):
            return
        status = await self._replicas.find(entry, deadline)
        if any(view.snapshot == snapshot for view in status.snapshots):
            return
        quiet = self._stillness.of([status])
        if quiet is None:
            return
        try:
            await self._stepping.take([entry], snapshot, deadline, since=since, quiet=quiet)
        except StosError as error:
            if error.code not in WORTH_RETRYING | {Code.ABORTED} or deadline.passed:
                raise

    async def drop(
        self,
        volume: str,
        snapshot: str,
        *,
        created_ms: int | None = None,
        fence: bool = False,
        timeout_s: float = 30.0,
    ) -> None:
        """It is gone, or was not there. `created_ms`: only the one of that moment, not one that was taken again under
        its name since. `fence`: and nobody takes any more by what he saw of the record before. Raises NOT_FOUND for an
        unknown volume."""
        deadline = Deadline.after(timeout_s)
        entry = await find_entry(self._catalogue, volume, deadline)
        if entry.state != "creating":
            request = DropSnapshot(volume=entry.volume, snapshot=snapshot, created_ms=created_ms, fence=fence)
            await self._replicas.ask(entry, "unsnapshot", request, Empty, deadline)

    async def of(self, volume: str, *, timeout_s: float = 30.0) -> tuple[SnapshotView, ...]:
        """All that people took, oldest first. Raises NOT_FOUND, UNAVAILABLE."""
        return tuple(view for view in await self.all_of(volume, timeout_s=timeout_s) if is_of_people(view))

    async def all_of(self, volume: str, *, timeout_s: float = 30.0) -> tuple[SnapshotView, ...]:
        """With those that the project took for itself."""
        deadline = Deadline.after(timeout_s)
        entry = await find_ready(self._catalogue, volume, deadline)
        return (await self._replicas.find(entry, deadline)).snapshots

    async def get(self, volume: str, snapshot: str, *, timeout_s: float = 30.0) -> SnapshotView:
        """Raises NOT_FOUND, UNAVAILABLE."""
        for view in await self.all_of(volume, timeout_s=timeout_s):
            if view.snapshot == snapshot:
                return view
        raise not_found(f"volume {volume} has no snapshot {snapshot[:64]!r}", f"see `stos snapshot ls {volume}`")

    async def listed(self, volume: str, *, timeout_s: float = 30.0) -> Listed:
        """One volume, as a page shows it. Raises NOT_FOUND."""
        entry = await find_entry(self._catalogue, volume, Deadline.after(timeout_s))
        return [await self._known(entry)] if entry.state == "ready" else []

    async def page(self, after: str, limit: int, *, timeout_s: float = 30.0) -> tuple[Listed, str]:
        """Up to `limit` volumes whose names come after that one, each with its snapshots as the newest record that
        answers has them, and the name to go on after; "" at the end."""
        deadline = Deadline.after(timeout_s)
        entries, following = await retry(deadline, lambda _: self._catalogue.page(after, limit))
        ready = [entry for entry in entries if entry.state == "ready"]
        return await asyncio.gather(*(self._known(entry) for entry in ready)), following

    # --- names that are unique over all volumes, for CSI ---

    async def claim(self, claim: SnapshotClaim) -> SnapshotClaim | None:
        """The name is that volume's now, in that stage: None; or the claim that stands against it."""
        try:
            await self._catalogue.claim_snapshot(claim)
        except StosError as error:
            found = error.details.get("claim")
            if error.code is not Code.ALREADY_EXISTS or not isinstance(found, dict):
                raise
            return SnapshotClaim.model_validate(found)
        return None

    async def claimed(self, snapshot: str) -> SnapshotClaim | None:
        return await self._catalogue.snapshot(snapshot)

    async def release(self, claim: SnapshotClaim) -> None:
        """The name is free, if that deletion has it. Idempotent."""
        await self._catalogue.release_snapshot(claim)

    async def _known(self, entry: CatalogueEntry) -> OfVolume:
        survey = await self._replicas.survey(entry, timeout_s=DESCRIBE_S)
        known = survey.serving or survey.newest
        if known is None:
            return OfVolume(entry, (), 0)
        return OfVolume(entry, tuple(view for view in known.snapshots if is_of_people(view)), copies_of(known.record))


def copies_of(record: RecordModel | None) -> int:
    members = [*record.voters, *record.joining] if record is not None else []
    return sum(member.kind == "data" for member in members)


def is_of_people(view: SnapshotView) -> bool:
    return not view.snapshot.startswith(OWN_SNAPSHOT)
