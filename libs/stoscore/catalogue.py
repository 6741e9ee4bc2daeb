"""The catalogue: from a volume's name to its id and first voters, and from a node to its address.

It helps to find things. The truth about a volume is its voters' record; a lost catalogue loses no data. It lives in
a JetStream bucket that only the NATS service reads and writes (`services/nats/catalogue.py`, which tells how); this is
what everybody else asks it. A node may say where it is itself, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable

from stoscore import subjects
from stoscore.bus import Bus
from stoscore.envelope import decode_request
from stoscore.errors import Code, StosError, not_found
from stoscore.limits import PAGE_ENTRIES_MAX, valid_volume_id, valid_volume_name
from stoscore.messages import (
    CatalogueEntry,
    CataloguePage,
    Empty,
    GroupByName,
    GroupClaim,
    NodeEntry,
    NodePage,
    PageRequest,
    SnapshotByName,
    SnapshotClaim,
    VolumeById,
    VolumeByName,
)
from stoscore.subjects import NODE_KEYS
from stoscore.telemetry import get_logger

Entries = list[CatalogueEntry]
Nodes = list[NodeEntry]

log = get_logger("catalogue")


class Catalogue:
    """All calls raise StosError UNAVAILABLE when NATS or the bucket is not there."""

    def __init__(self, bus: Bus):
        self.bus = self._bus = bus

    # --- volumes ---

    async def create(self, entry: CatalogueEntry) -> CatalogueEntry:
        """Claim the name. Raises ALREADY_EXISTS with details={"entry": …} when it is taken."""
        return await self._bus.request(subjects.catalogue("create"), entry, CatalogueEntry)

    async def update(self, entry: CatalogueEntry) -> None:
        """Replace the entry of the same volume, but for a newer generation. Raises NOT_FOUND when the name is free or
        another's."""
        await self._bus.request(subjects.catalogue("update"), entry, Empty)

    async def remove(self, entry: CatalogueEntry) -> None:
        """Forget the volume. Idempotent; a name that belongs to another volume by now stays."""
        await self._bus.request(subjects.catalogue("remove"), entry, Empty)

    async def by_name(self, name: str) -> CatalogueEntry:
        """Raises NOT_FOUND."""
        if not valid_volume_name(name):
            raise not_found(f"there is no volume {name!r}", "see `stos volume ls`")
        return await self._bus.request(subjects.catalogue("by-name"), VolumeByName(name=name), CatalogueEntry)

    async def by_id(self, volume: str) -> CatalogueEntry:
        """Raises NOT_FOUND."""
        if not valid_volume_id(volume):
            raise not_found(f"there is no volume {volume!r}", "see `stos volume ls`")
        return await self._bus.request(subjects.catalogue("by-id"), VolumeById(volume=volume), CatalogueEntry)

    async def list(self) -> Entries:
        """All volumes, sorted by name."""
        found: Entries = []
        after = ""
        while True:
            entries, after = await self.page(after, PAGE_ENTRIES_MAX)
            found += entries
            if not after:
                return found

    async def page(self, after: str, limit: int) -> tuple[Entries, str]:
        """Up to `limit` volumes whose names come after that one, and what to go on after; "" at the end."""
        request = PageRequest(after=after, limit=min(limit, PAGE_ENTRIES_MAX))
        page = await self._bus.request(subjects.catalogue("list"), request, CataloguePage)
        return page.entries, page.next

    # --- names of snapshots ---

    async def claim_snapshot(self, claim: SnapshotClaim) -> None:
        """The name is this volume's, in that stage. Raises ALREADY_EXISTS with details={"claim": …} when it is another
        volume's, or is being dropped and should be held."""
        await self._bus.request(subjects.catalogue("claim-snapshot"), claim, Empty)

    async def release_snapshot(self, claim: SnapshotClaim) -> None:
        """The name is free, if that deletion has it. Idempotent."""
        await self._bus.request(subjects.catalogue("release-snapshot"), claim, Empty)

    async def snapshot(self, name: str) -> SnapshotClaim | None:
        """Who has the name."""
        try:
            return await self._bus.request(subjects.catalogue("snapshot"), SnapshotByName(snapshot=name), SnapshotClaim)
        except StosError as error:
            if error.code is Code.NOT_FOUND:
                return None
            raise

    # --- snapshots of groups ---

    async def claim_group(self, claim: GroupClaim) -> GroupClaim | None:
        """The name is that attempt's, in that stage: None; or what stands against it. Raises ABORTED when another
        attempt has come between."""
        try:
            await self._bus.request(subjects.catalogue("claim-group"), claim, Empty)
        except StosError as error:
            found = error.details.get("claim")
            if error.code is not Code.ALREADY_EXISTS or not isinstance(found, dict):
                raise
            return GroupClaim.model_validate(found)
        return None

    async def release_group(self, claim: GroupClaim) -> None:
        """The name is free, if that attempt has it and is not complete. Idempotent."""
        await self._bus.request(subjects.catalogue("release-group"), claim, Empty)

    async def group(self, name: str) -> GroupClaim | None:
        try:
            return await self._bus.request(subjects.catalogue("group"), GroupByName(name=name), GroupClaim)
        except StosError as error:
            if error.code is Code.NOT_FOUND:
                return None
            raise

    # --- nodes ---

    async def put_node(self, entry: NodeEntry) -> None:
        """Say where this node is. Raises PERMISSION_DENIED for another node."""
        await self._bus.request(subjects.catalogue("announce"), entry, Empty)

    async def nodes(self) -> Nodes:
        """All nodes that ever told their address, sorted."""
        found: Nodes = []
        after = ""
        while True:
            page = await self._bus.request(subjects.catalogue("nodes"), PageRequest(after=after), NodePage)
            found += page.entries
            after = page.next
            if not after:
                return found

    async def watch_nodes(self, callback: Callable[[NodeEntry], None]) -> None:
        """Every known node soon and after each reconnection, and every change as it is written. A change may
        be told twice or, rarely, late; addresses are hints, the peer's certificate decides."""

        def changed(subject: str, data: bytes, headers: dict[str, str]) -> None:
            entry = None if "KV-Operation" in headers else _node_entry(data)
            if entry is not None and subject == f"{NODE_KEYS}.{entry.node}":
                callback(entry)

        async def tell_all() -> None:
            for entry in await self.nodes():
                callback(entry)

        await self._bus.subscribe(f"{NODE_KEYS}.*", changed)
        self._bus.whenever_connected(tell_all)


def updated(known: CatalogueEntry, entry: CatalogueEntry) -> CatalogueEntry:
    """What is known of a volume when somebody writes its entry, which he may have read a while ago: a generation that
    has begun stays begun (I4)."""
    return entry.model_copy(update={"generation": max(known.generation, entry.generation)})


_BEFORE = {"taking": (), "ready": ("taking",), "dropping": ("taking", "ready")}


def check_claim(known: GroupClaim | None, claim: GroupClaim) -> None:
    """Whether that claim may come after what is known. An attempt that takes may be replaced by another one of the same
    volumes; what is complete is that attempt's, and ends by being dropped. Raises ALREADY_EXISTS with
    details={"claim": …}, ABORTED when there is nothing any more."""
    if known is None:
        if claim.stage == "taking":
            return
        raise StosError(Code.ABORTED, f"the group snapshot {claim.name!r} is gone", next_step="ask again")
    if known.volumes == claim.volumes:
        if known.stage == claim.stage == "taking":
            return
        if known.attempt == claim.attempt and known.stage in _BEFORE[claim.stage]:
            return
    raise StosError(
        Code.ALREADY_EXISTS,
        f"the group snapshot {claim.name!r} is {known.stage} of {len(known.volumes)} volumes",
        details={"claim": known.model_dump(mode="json")},
    )


def _node_entry(data: bytes) -> NodeEntry | None:
    try:
        return decode_request(NodeEntry, data)
    except StosError as error:
        log.error("unreadable node entry: %s", error)
        return None
