"""Snapshots that were taken for a clone alone, or for a group that is not complete, and that nobody came back for:
dropped by who leads their volume.

    clone:  snapshot "-clone-…" of the source ──> name claimed, entry "creating" ──> copies made ──> dropped ──> "ready"
                        └── whoever asked dies here: nobody knows of it but the source's record

Whoever creates a clone drops what it took, and what earlier tries for the same name left. A name that is never asked
for again leaves its snapshot to the source's primary. It is not known to be useless by itself: a create may be about to
claim its name, and a claimed one goes on whenever it is repeated. So it is watched for longer than anybody waits in
between, and then the catalogue is asked for a clone that is still to begin as it. No catalogue, or one that has lost
the source, and it stays.

A snapshot that was taken for a group is one of it by the group's claim alone, which names the attempt: another attempt,
or none, and nobody will ever count it. One that is still being taken after so long never will be complete.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping

from services.replica.brain import Record
from services.replica.brain import events as ev
from services.replica.driver import Node
from stoscore.catalogue import Catalogue
from stoscore.errors import StosError
from stoscore.messages import CatalogueEntry
from stoscore.telemetry import get_logger
from stoscore.volumes.groups import CompleteGroups
from stoscore.volumes.origin import ABANDONED_MS, OF_CLONES

log = get_logger("snapshots")

LOOK_S = 60.0
KEEP_S = ABANDONED_MS / 1000

Key = tuple[str, str]
"""(volume, snapshot)"""
Ask = Callable[[str, Callable[[int], ev.Event]], Awaitable[None]]


def watched(records: Mapping[str, Record], since_s: Mapping[Key, float], now_s: float) -> dict[Key, float]:
    """What was taken for clones, and for groups, of the volumes that are led here, and is ready; since when that is
    seen."""
    found = [
        (volume, snapshot.name)
        for volume, record in sorted(records.items())
        for snapshot in record.snapshots
        if (snapshot.name.startswith(OF_CLONES) or snapshot.group) and snapshot.state == "ready" and not record.deleted
    ]
    return {key: since_s.get(key, now_s) for key in found}


def waited_for(entries: Iterable[CatalogueEntry]) -> set[Key]:
    """The snapshots that clones are still to begin as."""
    origins = [entry.origin for entry in entries if entry.state == "creating"]
    return {(origin.volume, origin.snapshot) for origin in origins if origin is not None}


class Abandoned:
    """Looks now and then; asks nobody while no such snapshot has been there for long."""

    def __init__(self, node: Node, catalogue: Catalogue, ask: Ask):
        """`ask`: has a volume's voter here do something, and waits until it is committed."""
        self._node = node
        self._catalogue = catalogue
        self._ask = ask
        self._since_s: dict[Key, float] = {}

    async def run(self, look_s: float = LOOK_S, keep_s: float = KEEP_S) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(look_s)
            await self.look(keep_s)

    async def look(self, keep_s: float) -> None:
        now_s = time.monotonic()
        self._since_s = watched(self._led(), self._since_s, now_s)
        old = [key for key, since_s in self._since_s.items() if now_s - since_s >= keep_s]
        if not old:
            return
        try:
            entries = await self._catalogue.list()
            complete = await self._complete(old)
        except StosError as error:
            log.info("snapshots that were taken for clones and groups stay: %s", error)
            return
        known, waited = {entry.volume for entry in entries}, waited_for(entries)
        for volume, snapshot in old:
            if volume not in known or (volume, snapshot) in waited | complete:
                self._since_s[volume, snapshot] = now_s
            else:
                await self._drop(volume, snapshot)

    async def _complete(self, old: Iterable[Key]) -> set[Key]:
        """Those that groups are made of."""
        records, found, complete = self._led(), set[Key](), CompleteGroups(self._catalogue.group)
        for volume, snapshot in old:
            record = records.get(volume)
            known = record.snapshot(snapshot) if record is not None else None
            if known is not None and known.group and await complete.has(known.group):
                found.add((volume, snapshot))
        return found

    def _led(self) -> dict[str, Record]:
        brains = [(volume.id, volume.brain) for volume in self._node.volumes.values()]
        return {of: brain.record for of, brain in brains if brain.role == "leader" and brain.record is not None}

    async def _drop(self, volume: str, snapshot: str) -> None:
        try:
            await self._ask(volume, lambda number: ev.DropAsked(number, snapshot))
            log.info("dropped snapshot %s: what it was taken for was never made", snapshot, extra={"volume": volume})
        except StosError as error:
            log.info("snapshot %s stays for now: %s", snapshot, error, extra={"volume": volume})
