"""Members that were made and that no record ever named: removed by their own node, when the volume says so (I3).

A leader that asked for a home may die before its record names it, and the next one may choose another node. What was
made is then known to nobody but its node. It is not known to be useless either: a create that was interrupted comes
back to it. So after a while the volume's primary is asked, and only its word counts: no primary, no removal.
"""

from __future__ import annotations

import asyncio
import time

from services.replica.driver import Node
from services.replica.replicas import Replicas
from stoscore.bus import Bus
from stoscore.catalogue import Catalogue
from stoscore.errors import StosError
from stoscore.telemetry import get_logger
from stoscore.volumes.deadline import Deadline
from stoscore.volumes.primary import Replicas as Statuses

log = get_logger("replicas")

LOOK_S = 60.0
KEEP_S = 600.0
ASK_S = 5.0


class Unfounded:
    """Looks now and then; costs nothing while every member of this node has a record."""

    def __init__(self, node: Node, replicas: Replicas, bus: Bus, catalogue: Catalogue):
        self._node = node
        self._replicas = replicas
        self._catalogue = catalogue
        self._statuses = Statuses(bus, catalogue)
        self._since_s: dict[tuple[str, str], float] = {}
        """(volume, incarnation) -> when it was first seen without a record."""

    async def run(self, look_s: float = LOOK_S, keep_s: float = KEEP_S) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(look_s)
            await self.look(keep_s)

    async def look(self, keep_s: float) -> None:
        now_s = time.monotonic()
        found = {
            (volume.id, volume.brain.me.incarnation)
            for volume in self._node.volumes.values()
            if volume.brain.record is None
        }
        self._since_s = {key: self._since_s.get(key, now_s) for key in sorted(found)}
        for (volume, incarnation), since_s in list(self._since_s.items()):
            if now_s - since_s >= keep_s:
                await self._settle(volume, incarnation)

    async def _settle(self, volume: str, incarnation: str) -> None:
        try:
            if await self._is_excluded(volume, incarnation):
                await self._replicas.drop(volume, incarnation)
                log.info("removed a member that no record names", extra={"volume": volume})
        except StosError as error:
            log.info("a member without a record stays: %s", error, extra={"volume": volume})

    async def _is_excluded(self, volume: str, incarnation: str) -> bool:
        """Raises StosError when nobody can tell."""
        entry = await self._catalogue.by_id(volume)
        if entry.state != "ready":
            return False  # its create goes on, or its delete cleans up
        status = await self._statuses.find(entry, Deadline.after(ASK_S))
        record = status.record
        if record is None:
            return False
        return all(member.incarnation != incarnation for member in (*record.voters, *record.joining))
