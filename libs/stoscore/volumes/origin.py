"""What a volume begins as: a snapshot of another one, or what another one holds now.

    snapshot of people  ─────────────────────────────┐
    volume ──> a snapshot of its own, "-clone-…" ────┴──> its holders make the first copies (hard links), others follow

Which nodes hold it and what its root hash is are asked before the new volume's name is claimed, and are claimed with
it: a create that goes on later, or at the same time elsewhere, makes the same copies and the same first record.

A clone's own snapshot is named after the volume that it is for, and by lot. Whoever claims the name keeps his; those of
others who lost the race, or died before it, are dropped by the create that goes through. So is its own, before the
volume is called ready. Where none goes through, the source's primary drops them after a while (`ABANDONED_MS`).

A source may be so large that sealing it takes longer than a caller waits. A create that finds such a snapshot pending
waits for that one: its moment is still to come. *Were each try to ask for one of its own, they would queue at the
source until it has as many as a volume may have.* One that is ready and old is nobody's, as the name is not claimed.
"""

from __future__ import annotations

import hashlib
import secrets
import time

from stoscore.errors import Code, StosError, unavailable
from stoscore.limits import OWN_SNAPSHOT
from stoscore.messages import CatalogueEntry, Origin, SnapshotSource, SnapshotView
from stoscore.telemetry import get_logger
from stoscore.units import MS, format_size
from stoscore.volumes.deadline import WORTH_RETRYING, Deadline
from stoscore.volumes.naming import VolumeSpec
from stoscore.volumes.snapshots import Snapshots

OF_CLONES = f"{OWN_SNAPSHOT}clone-"
ABANDONED_MS = 3600_000
"""Longer than anybody waits between the snapshot and the claim of the clone's name, and than clocks are apart."""
_GIVE_UP_S = 2.0

log = get_logger(__name__)


def origin_of(view: SnapshotView, nodes: list[str]) -> Origin:
    """`nodes`: the holders that the first copies are placed on."""
    return Origin(volume=view.volume, snapshot=view.snapshot, size_bytes=view.size_bytes, root=view.root, nodes=nodes)


def source_of(origin: Origin) -> SnapshotSource:
    return SnapshotSource(
        volume=origin.volume, snapshot=origin.snapshot, size_bytes=origin.size_bytes, root=origin.root
    )


class Origins:
    """Every step may be repeated."""

    def __init__(self, snapshots: Snapshots):
        self._snapshots = snapshots

    async def find(self, spec: VolumeSpec, deadline: Deadline) -> SnapshotView | None:
        """What a volume that is not there yet is to begin as; None: empty. Raises NOT_FOUND, OUT_OF_RANGE when the
        volume would be smaller."""
        if spec.source is None:
            return None
        if spec.source.snapshot:
            view = await self._snapshots.get(spec.source.volume, spec.source.snapshot, timeout_s=deadline.left_s)
        else:
            name = await self._name(spec.source.volume, _prefix(spec.name), deadline)
            view = await self._snapshots.take(spec.source.volume, name, timeout_s=deadline.left_s)
        try:
            _check(view, spec)
        except StosError as error:
            if error.code not in WORTH_RETRYING:
                await self.give_up(view)
            raise
        return view

    async def _name(self, source: str, prefix: str, deadline: Deadline) -> str:
        """Of the snapshot that a clone nobody has claimed yet begins as; what earlier tries left is dropped."""
        name = f"{prefix}{secrets.token_hex(8)}"
        for view in await self._snapshots.all_of(source, timeout_s=deadline.left_s):
            if not view.snapshot.startswith(prefix):
                continue
            if not view.ready:
                name = view.snapshot
            elif time.time_ns() // MS - view.created_ms > ABANDONED_MS:
                await self.give_up(view)
        return name

    async def give_up(self, view: SnapshotView) -> None:
        """It is for nobody any more. What stands in the way of that is no answer to who asked for a volume."""
        if not view.snapshot.startswith(OF_CLONES):
            return
        try:
            await self._snapshots.drop(view.volume, view.snapshot, timeout_s=_GIVE_UP_S)
        except StosError as error:
            log.warning("snapshot %s of volume %s stays for now: %s", view.snapshot, view.volume, error.message)

    async def clear(self, entry: CatalogueEntry, deadline: Deadline) -> None:
        """What was taken for this volume alone, by whomever: its first copies are made, or it is given up."""
        if entry.origin is None or not entry.origin.snapshot.startswith(OF_CLONES):
            return
        try:
            views = await self._snapshots.all_of(entry.origin.volume, timeout_s=deadline.left_s)
        except StosError as error:
            if error.code is Code.NOT_FOUND:
                return
            raise
        for view in views:
            if view.snapshot.startswith(_prefix(entry.name)):
                await self._snapshots.drop(view.volume, view.snapshot, timeout_s=deadline.left_s)


def is_same(entry: CatalogueEntry, spec: VolumeSpec) -> bool:
    """The volume began as what is asked for."""
    origin, source = entry.origin, spec.source
    if origin is None or source is None:
        return origin is None and source is None
    snapshot = "" if origin.snapshot.startswith(OF_CLONES) else origin.snapshot
    return (origin.volume, snapshot) == (source.volume, source.snapshot)


def _prefix(name: str) -> str:
    return f"{OF_CLONES}{hashlib.blake2b(name.encode(), digest_size=8).hexdigest()}-"


def _check(view: SnapshotView, spec: VolumeSpec) -> None:
    if not view.ready:
        raise unavailable(f"snapshot {view.snapshot} is not ready yet", "ask again")
    if not view.holders:
        raise StosError(
            Code.DATA_LOSS,
            f"snapshot {view.snapshot} is lost: no copy of its volume has it",
            next_step="use another snapshot; `stos snapshot ls` shows them",
        )
    if spec.size_bytes < view.size_bytes:
        raise StosError(
            Code.OUT_OF_RANGE,
            f"volume {spec.name} would have {format_size(spec.size_bytes)}, and what it is to begin as has "
            f"{format_size(view.size_bytes)} ({view.size_bytes} bytes)",
            next_step=f"ask for at least {format_size(view.size_bytes)}",
        )
