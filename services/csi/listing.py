"""Volumes as a CSI caller sees them, one or a page.

A page's token names the last volume of the page before, so it stays right while volumes come and go, and in every
process. A page is bounded whatever the caller asks for: with a thousand volumes neither the memory of this process
nor the time of a call grows with their number.
"""

from __future__ import annotations

from collections.abc import Mapping

from services.csi import validate
from services.csi.condition import condition
from services.csi.port import VolumesPort
from stoscore.errors import Code, StosError, invalid
from stoscore.limits import valid_volume_name
from stoscore.messages import FS_LABEL, CatalogueEntry
from stoscore.proto import csi_pb2 as pb
from stoscore.volumes import Survey

ENTRIES_MAX = 100
"""Of one page."""
_PREFIX = "after:"


async def page(volumes: VolumesPort, max_entries: int, token: str, *, timeout_s: float) -> pb.ListVolumesResponse:
    """Raises INVALID_ARGUMENT for a negative number, ABORTED for a token that is none of ours."""
    if max_entries < 0:
        raise invalid(f"max_entries is negative: {max_entries}")
    after = _after(token)
    wanted = min(max_entries or ENTRIES_MAX, ENTRIES_MAX)
    answer = pb.ListVolumesResponse()
    while True:
        rows, after = await volumes.page(after, wanted - len(answer.entries), timeout_s=timeout_s)
        answer.entries.extend(_entry(entry, survey) for entry, survey in rows if entry.state == "ready")
        if not after or len(answer.entries) >= wanted:
            answer.next_token = f"{_PREFIX}{after}" if after else ""
            return answer


def volume(volume_id: str, name: str, size_bytes: int, labels: Mapping[str, str]) -> pb.Volume:
    """No accessible_topology: a volume can be used on every node, wherever its copies are."""
    context = {"volumeName": name}
    if FS_LABEL in labels:
        context["fsType"] = labels[FS_LABEL]
    if validate.SOURCE_LABEL in labels:
        context["source"] = labels[validate.SOURCE_LABEL]
    return pb.Volume(volume_id=volume_id, capacity_bytes=size_bytes, volume_context=context)


def described(entry: CatalogueEntry, survey: Survey) -> pb.Volume:
    """The entry says what the volume was made as, its record what it is."""
    known = survey.serving or survey.newest
    size_bytes = known.record.size_bytes if known and known.record else entry.size_bytes
    return volume(entry.volume, entry.name, size_bytes, entry.labels)


def published(survey: Survey) -> list[str]:
    """The node that it is attached to; what the newest record knows when nobody serves."""
    known = survey.serving or survey.newest
    attachment = known.record.attachment if known and known.record else None
    return [attachment.node] if attachment else []


def _entry(entry: CatalogueEntry, survey: Survey) -> pb.ListVolumesResponse.Entry:
    return pb.ListVolumesResponse.Entry(
        volume=described(entry, survey),
        status=pb.ListVolumesResponse.VolumeStatus(
            published_node_ids=published(survey), volume_condition=condition(survey)
        ),
    )


def _after(token: str) -> str:
    name = token.removeprefix(_PREFIX)
    if token and (name == token or not valid_volume_name(name)):
        raise StosError(Code.ABORTED, f"starting_token {token[:64]!r} is none of ours", next_step="start again without")
    return name
