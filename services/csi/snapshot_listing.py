"""Snapshots as CSI lists them: all there are, however they were made, page by page.

What was taken for a group is told when the group is complete, with its id; until then, and where it never is, there is
no such snapshot (`stoscore/volumes/groups.py`).

A page ends anywhere among a volume's snapshots, so a token names three things: the volume before the one that it ended
in, that one, and its last snapshot that was told. Volumes and snapshots are told in the order of their names.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.csi.port import SnapshotsPort, VolumesPort
from services.csi.snapshot_names import id_of, of_id
from stoscore.errors import Code, StosError, invalid
from stoscore.limits import valid_snapshot_name, valid_volume_id, valid_volume_name
from stoscore.messages import SnapshotView
from stoscore.proto import csi_pb2 as pb
from stoscore.volumes.groups import CompleteGroups
from stoscore.volumes.snapshots import Listed

ENTRIES_MAX = 256
"""Of one page."""
_VOLUMES = 16
"""Asked at once."""
_PREFIX = "after:"


@dataclass(frozen=True, slots=True)
class _Place:
    before: str = ""
    """the volume after which to look for volumes"""
    told: tuple[str, str] = ("", "")
    """(volume's name, snapshot) that was told last"""

    def token(self) -> str:
        return f"{_PREFIX}{self.before}/{self.told[0]}/{self.told[1]}"


async def page(volumes: VolumesPort, request: pb.ListSnapshotsRequest, timeout_s: float) -> pb.ListSnapshotsResponse:
    """Raises INVALID_ARGUMENT for a negative number, ABORTED for a token that is none of ours."""
    if request.max_entries < 0:
        raise invalid(f"max_entries is negative: {request.max_entries}")
    snapshots, complete = volumes.snapshots, CompleteGroups(volumes.groups.find)
    place = _place(request.starting_token)
    wanted = min(request.max_entries or ENTRIES_MAX, ENTRIES_MAX)
    answer = pb.ListSnapshotsResponse()
    if request.snapshot_id or request.source_volume_id:
        rows, following = await _one_volume(snapshots, request, timeout_s), ""
    else:
        rows, following = await snapshots.page(place.before, _VOLUMES, timeout_s=timeout_s)
    while True:
        for name, view in _told_after(rows, place):
            if len(answer.entries) == wanted:
                answer.next_token = place.token()
                return answer
            if not view.group or await complete.has(view.group):
                answer.entries.append(pb.ListSnapshotsResponse.Entry(snapshot=described(view)))
            place = _Place(place.before, (name, view.snapshot))
        if not following:
            return answer
        place = _Place(following, place.told)
        rows, following = await snapshots.page(following, _VOLUMES, timeout_s=timeout_s)


def described(view: SnapshotView) -> pb.Snapshot:
    found = pb.Snapshot(
        size_bytes=view.size_bytes,
        snapshot_id=id_of(view),
        source_volume_id=view.volume,
        ready_to_use=view.ready and bool(view.holders),
        group_snapshot_id=view.group,
    )
    found.creation_time.FromMilliseconds(view.created_ms)
    return found


def _told_after(rows: Listed, place: _Place) -> list[tuple[str, SnapshotView]]:
    """Those that are cut, in order."""
    found = [
        (entry.name, view)
        for entry, views, _ in rows
        for view in sorted(views, key=lambda view: view.snapshot)
        if view.ready and (entry.name, view.snapshot) > place.told
    ]
    return sorted(found, key=lambda row: row[0])


async def _one_volume(snapshots: SnapshotsPort, request: pb.ListSnapshotsRequest, timeout_s: float) -> Listed:
    """What the filters leave: nothing, for what can't be or is not there."""
    named = of_id(request.snapshot_id) if request.snapshot_id else None
    volume = request.source_volume_id or (named[0] if named else "")
    if (request.snapshot_id and (named is None or named[0] != volume)) or not valid_volume_id(volume):
        return []
    try:
        rows = await snapshots.listed(volume, timeout_s=timeout_s)
    except StosError as error:
        if error.code is Code.NOT_FOUND:
            return []
        raise
    return [
        row._replace(views=tuple(view for view in row.views if named is None or view.snapshot == named[1]))
        for row in rows
    ]


def _place(token: str) -> _Place:
    if not token:
        return _Place()
    before, slash, rest = token.removeprefix(_PREFIX).partition("/")
    volume, _, snapshot = rest.partition("/")
    known = token.startswith(_PREFIX) and slash and valid_volume_name(volume) and valid_snapshot_name(snapshot)
    if not known or (before and not valid_volume_name(before)):
        raise StosError(Code.ABORTED, f"starting_token {token[:64]!r} is none of ours", next_step="start again without")
    return _Place(before, (volume, snapshot))
