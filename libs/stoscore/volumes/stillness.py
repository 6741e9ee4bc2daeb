"""File systems stand still while their volumes' snapshots are taken, where the csi service has mounted them.

Asked of the node that each volume is attached to, when everything else is prepared; ended when writes are sealed. Where
it can't be had (nothing is mounted there, nobody answers, it takes too long) the snapshot is as after a power loss,
which its journal makes whole: nobody's snapshot fails for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from stoscore import subjects
from stoscore.bus import Bus
from stoscore.errors import StosError
from stoscore.messages import FS_LABEL, CatalogueEntry, FreezeVolume, Frozen, ReplicaStatus, Thawed, ThawVolume
from stoscore.telemetry import get_logger
from stoscore.volumes.deadline import Deadline, all_of
from stoscore.volumes.primary import Replicas
from stoscore.volumes.stepping import Quiet

LIMIT_MS = 2000
"""It thaws by itself then, whatever became of whoever asked."""
FREEZE_S = 12.0
"""What is dirty is written before, while it is in use."""
THAW_S = 5.0

_log = get_logger("snapshots")


class Stillness:
    def __init__(self, bus: Bus, replicas: Replicas):
        self._bus = bus
        self._replicas = replicas

    async def find(self, entries: Iterable[CatalogueEntry], deadline: Deadline) -> Quiet | None:
        """What holds still those of the volumes that have a file system and are attached; None for none of them. All
        are asked at once: they are those of one group at the most."""
        mounted = [entry for entry in entries if entry.labels.get(FS_LABEL)]
        return self.of(await all_of(*(self._replicas.find(entry, deadline) for entry in mounted)))

    def of(self, statuses: Iterable[ReplicaStatus]) -> Quiet | None:
        """The same, of the primaries of volumes that have a file system."""
        records = [status.record for status in statuses if status.record is not None]
        where = [(record.volume, record.attachment.node) for record in records if record.attachment is not None]
        if not where:
            return None

        @asynccontextmanager
        async def quiet() -> AsyncIterator[None]:
            tokens = await asyncio.gather(*(self._freeze(volume, node) for volume, node in where))
            try:
                yield
            finally:
                frozen = [(*place, token) for place, token in zip(where, tokens, strict=True) if token]
                await asyncio.gather(*(self._thaw(*held) for held in frozen))

        return quiet

    async def _freeze(self, volume: str, node: str) -> str:
        """The token to thaw it with; "": it is not frozen."""
        subject = subjects.csi_node(node, "freeze")
        request = FreezeVolume(volume=volume, limit_ms=LIMIT_MS)
        try:
            frozen = await self._bus.request(subject, request, Frozen, timeout_s=FREEZE_S)
        except StosError as error:
            frozen = Frozen(reason=error.message)
        if not frozen.token:
            _log.info("its file system is not frozen on %s: %s", node, frozen.reason, extra={"volume": volume})
        return frozen.token

    async def _thaw(self, volume: str, node: str, token: str) -> None:
        request = ThawVolume(volume=volume, token=token)
        try:
            thawed = await self._bus.request(subjects.csi_node(node, "thaw"), request, Thawed, timeout_s=THAW_S)
        except StosError as error:
            _log.warning("its file system thaws on %s by itself: %s", node, error, extra={"volume": volume})
            return
        if not thawed.lasted:
            _log.warning("its file system thawed on %s before it was sealed", node, extra={"volume": volume})
