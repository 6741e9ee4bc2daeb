"""Where a volume comes to be and where it is used: creating it as asked, attaching it, and keeping its data near."""

from __future__ import annotations

from collections import Counter

from services.csi import validate
from services.csi.parameters import LOCALITY_LABEL
from services.csi.port import VolumesPort
from stoscore.errors import Code, StosError, invalid, unavailable
from stoscore.messages import APART_LABEL, FS_LABEL, Attached, RecordModel
from stoscore.telemetry import get_logger
from stoscore.volumes import SourceSpec

_log = get_logger("csi")
_MOVE_S = 5.0


class Placing:
    """`volumes_max`: how many volumes a node may have attached, 0 for any number."""

    def __init__(self, volumes: VolumesPort, volumes_max: int):
        self._volumes = volumes
        self._volumes_max = volumes_max
        self._attaching: Counter[str] = Counter()

    async def create(self, wanted: validate.Wanted, timeout_s: float) -> RecordModel:
        """Raises ALREADY_EXISTS when the name is that of a volume that is none of what was asked for, NOT_FOUND for an
        unknown source, OUT_OF_RANGE for one that is larger than the volume may be."""
        try:
            record = await self._create(wanted, await self._first_bytes(wanted, timeout_s), timeout_s)
        except StosError as error:
            has_bytes = error.details.get("size_bytes")
            if error.code is not Code.ALREADY_EXISTS or not isinstance(has_bytes, int):
                raise
            if has_bytes == wanted.sizes.chosen_bytes or not wanted.sizes.allow(has_bytes):
                raise
            # Another size, and within the range: that of a request with another range, which is all the same to it.
            record = await self._create(wanted, has_bytes, timeout_s)
        for label, what in _REMEMBERED.items():
            has, asked = record.labels.get(label, ""), wanted.labels.get(label, "")
            if has != asked:
                raise StosError(
                    Code.ALREADY_EXISTS,
                    f"volume {wanted.name} exists with {what} {has or 'none'}, not {asked or 'none'}",
                    next_step="use another name",
                )
        return record

    async def _first_bytes(self, wanted: validate.Wanted, timeout_s: float) -> int:
        """Not less than what it begins as. One that was made is what it is, whatever became of its source."""
        if wanted.source is None:
            return wanted.sizes.chosen_bytes
        try:
            has_bytes = await self._source_bytes(wanted, wanted.source, timeout_s)
        except StosError as error:
            if error.code is not Code.NOT_FOUND:
                raise
            return await self._made_bytes(wanted, error)
        sizes = wanted.sizes
        if sizes.limit_bytes and has_bytes > sizes.limit_bytes:
            raise StosError(
                Code.OUT_OF_RANGE,
                f"the source has {has_bytes} bytes, above limit_bytes {sizes.limit_bytes}",
                next_step="ask for at least the size of the source",
            )
        return max(sizes.chosen_bytes, has_bytes) if sizes.required_bytes or sizes.limit_bytes else has_bytes

    async def _source_bytes(self, wanted: validate.Wanted, source: SourceSpec, timeout_s: float) -> int:
        entry, survey = await self._volumes.survey(source.volume)
        has = entry.labels.get(FS_LABEL, "")
        if has and wanted.fs_type and has != wanted.fs_type:
            raise invalid(f"the source holds {has}, not {wanted.fs_type}", "ask for the file system that it has")
        if source.snapshot:
            return (await self._volumes.snapshots.get(source.volume, source.snapshot, timeout_s=timeout_s)).size_bytes
        known = survey.serving or survey.newest
        return known.record.size_bytes if known and known.record else entry.size_bytes

    async def _made_bytes(self, wanted: validate.Wanted, unknown: StosError) -> int:
        try:
            entry, _ = await self._volumes.survey(wanted.name)
        except StosError:
            raise unknown from None
        if entry.state != "ready" or not wanted.sizes.allow(entry.size_bytes):
            raise unknown
        return entry.size_bytes

    async def _create(self, wanted: validate.Wanted, size_bytes: int, timeout_s: float) -> RecordModel:
        status = await self._volumes.create(
            wanted.name,
            size_bytes,
            replicas=wanted.asked.replicas,
            zones=list(wanted.zones),
            labels=wanted.labels,
            failure_mode=wanted.asked.failure_mode,
            on_unavailable=wanted.asked.on_unavailable,
            near=wanted.near,
            source=wanted.source,
            timeout_s=timeout_s,
        )
        if status.record is None:
            raise unavailable(f"volume {wanted.name} has no record yet", "ask again")
        return status.record

    async def expand(self, volume: str, sizes: validate.Sizes, timeout_s: float) -> RecordModel:
        """Raises OUT_OF_RANGE when the volume is larger already than the request allows."""
        _, survey = await self._volumes.survey(volume)
        known = survey.serving or survey.newest
        has_bytes = known.record.size_bytes if known and known.record else 0
        if sizes.limit_bytes and has_bytes > sizes.limit_bytes:
            raise StosError(
                Code.OUT_OF_RANGE,
                f"the volume has {has_bytes} bytes, above limit_bytes {sizes.limit_bytes}",
                next_step="a volume never shrinks",
            )
        return await self._volumes.expand(volume, max(sizes.chosen_bytes, has_bytes), timeout_s=timeout_s)

    async def attach(self, volume: str, node: str, timeout_s: float) -> Attached:
        """Raises RESOURCE_EXHAUSTED when the node has as many volumes as it may have."""
        self._attaching[node] += 1
        try:
            await self._check_limit(volume, node)
            attached = await self._volumes.attach(volume, node, timeout_s=timeout_s)
        finally:
            self._attaching[node] -= 1
            self._attaching += Counter()  # nodes without any are forgotten
        if attached.record.labels.get(LOCALITY_LABEL):
            await self._bring_near(attached.record, node)
        return attached

    async def _check_limit(self, volume: str, node: str) -> None:
        """Those that are being attached here at the same time count as well."""
        if not self._volumes_max:
            return
        others = self._attaching[node] - 1
        if await self._volumes.attached_to(node) + others >= self._volumes_max:
            await self._refuse_unless_attached(volume, node)

    async def _refuse_unless_attached(self, volume: str, node: str) -> None:
        """One that is there already is not one more."""
        _, survey = await self._volumes.survey(volume)
        known = survey.serving or survey.newest
        attachment = known.record.attachment if known and known.record else None
        if attachment is None or attachment.node != node:
            raise StosError(
                Code.RESOURCE_EXHAUSTED,
                f"node {node} has {self._volumes_max} volumes, which is all that it may have",
                next_step="use another node, or raise STOS_CSI_MAX_VOLUMES_PER_NODE everywhere",
            )

    async def _bring_near(self, record: RecordModel, node: str) -> None:
        """The copy of the node that uses the volume becomes the primary, if there is one in sync. The volume serves
        wherever its primary is, so nothing that stands against it keeps the volume from being used."""
        primary = record.primary.node if record.primary else None
        if primary == node or node not in {voter.node for voter in record.in_sync}:
            return
        try:
            await self._volumes.move_primary(record.volume, node, timeout_s=_MOVE_S)
        except StosError as error:
            _log.info("the primary stays on %s: %s", primary, error, extra={"volume": record.volume})


_REMEMBERED = {
    FS_LABEL: "file system",
    APART_LABEL: "topologyKey",
    LOCALITY_LABEL: "dataLocality",
}
"""Labels that say what a volume was made as."""
