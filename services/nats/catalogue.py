"""The catalogue in its bucket, and the requests that read and change it.

Everybody else asks: who may speak to JetStream himself could have its answers overwrite any entry. A name is claimed
by compare-and-set before any replica is made, so two creates that race find one volume.

    name.<volume name>   the entry (`CatalogueEntry`)
    id.<volume id>       the name, so that there is one place only for each fact
    snapshot.<name>      whose the name of a snapshot is, for CSI, whose names are unique over all volumes
    group.<name>         which volumes the snapshot of a group is of, and how far it is
    node.<node>          where that node's peer link listens (`NodeEntry`), as the node itself said

It is a key-value bucket as NATS clients know it, so that other tools can read it.
"""

from __future__ import annotations

import asyncio
from typing import TypeVar

from stoscore import jetstream, subjects
from stoscore.bus import Bus, RequestContext
from stoscore.catalogue import check_claim, updated
from stoscore.envelope import decode_request
from stoscore.errors import Code, StosError, invalid, not_found
from stoscore.jetstream import BUCKET_STREAM, WRONG_LAST_SEQUENCE
from stoscore.limits import valid_volume_name
from stoscore.messages import (
    CatalogueEntry,
    CataloguePage,
    Empty,
    GroupByName,
    GroupClaim,
    Message,
    NodeEntry,
    NodePage,
    PageRequest,
    SnapshotByName,
    SnapshotClaim,
    VolumeById,
    VolumeByName,
)
from stoscore.subjects import CATALOGUE_BUCKET
from stoscore.telemetry import get_logger

KEYS = f"$KV.{CATALOGUE_BUCKET}"
QUEUE = "nats"
CONFLICTS_MAX = 8
PAGE_BYTES = 512 << 10
"""Of one answer's entries: it must fit into one message."""
READS_AT_ONCE = 32
REMOVED_KEPT = "1h"
"""How long the mark of a removed key stays, for clients that watch the bucket."""

M = TypeVar("M", bound=Message)
log = get_logger("nats")


class CatalogueStore:
    """All calls raise StosError UNAVAILABLE when the bucket is not there."""

    def __init__(self, bus: Bus):
        self._bus = bus

    async def serve(self) -> None:
        serve, verb = self._bus.serve, subjects.catalogue
        await serve(verb("create"), CatalogueEntry, self._create, queue=QUEUE)
        await serve(verb("update"), CatalogueEntry, self._update, queue=QUEUE)
        await serve(verb("remove"), CatalogueEntry, self._remove, queue=QUEUE)
        await serve(verb("by-name"), VolumeByName, self._by_name, queue=QUEUE)
        await serve(verb("by-id"), VolumeById, self._by_id, queue=QUEUE)
        await serve(verb("list"), PageRequest, self._list, queue=QUEUE)
        await serve(verb("claim-snapshot"), SnapshotClaim, self._claim_snapshot, queue=QUEUE)
        await serve(verb("release-snapshot"), SnapshotClaim, self._release_snapshot, queue=QUEUE)
        await serve(verb("snapshot"), SnapshotByName, self._snapshot, queue=QUEUE)
        await serve(verb("claim-group"), GroupClaim, self._claim_group, queue=QUEUE)
        await serve(verb("release-group"), GroupClaim, self._release_group, queue=QUEUE)
        await serve(verb("group"), GroupByName, self._group, queue=QUEUE)
        await serve(verb("nodes"), PageRequest, self._nodes, queue=QUEUE)
        await serve(verb("announce"), NodeEntry, self._announce, queue=QUEUE)

    # --- volumes ---

    async def _create(self, entry: CatalogueEntry, context: RequestContext) -> CatalogueEntry:
        """Claim the name. ALREADY_EXISTS with details={"entry": …} when it is taken; an entry that a crash left
        without its id is completed on the way."""
        for _ in range(CONFLICTS_MAX):
            existing, sequence = await self._read(entry.name)
            if existing is not None:
                await self._put(f"id.{existing.volume}", existing.name.encode(), None)
                raise StosError(
                    Code.ALREADY_EXISTS,
                    f"the name {entry.name!r} is in use by volume {existing.volume}",
                    details={"entry": existing.model_dump(mode="json")},
                )
            if await self._put(_name_key(entry.name), entry.model_dump_json().encode(), sequence):
                await self._put(f"id.{entry.volume}", entry.name.encode(), None)
                return entry
        raise _contended(entry.name)

    async def _update(self, entry: CatalogueEntry, context: RequestContext) -> Empty:
        """Replace the entry of the same volume, but for a newer generation. NOT_FOUND when the name is free or
        another's."""
        for _ in range(CONFLICTS_MAX):
            existing, sequence = await self._read(entry.name)
            if existing is None or existing.volume != entry.volume:
                raise _no_volume(entry.name)
            new = updated(existing, entry)
            if existing == new or await self._put(f"name.{entry.name}", new.model_dump_json().encode(), sequence):
                return Empty()
        raise _contended(entry.name)

    async def _remove(self, entry: CatalogueEntry, context: RequestContext) -> Empty:
        """Forget the volume. Idempotent; a name that belongs to another volume by now stays."""
        for _ in range(CONFLICTS_MAX):
            existing, sequence = await self._read(entry.name)
            if existing is None or existing.volume != entry.volume:
                break
            if await self._delete(_name_key(entry.name), sequence):
                break
        else:
            raise _contended(entry.name)
        await self._delete(f"id.{entry.volume}", None)
        return Empty()

    async def _by_name(self, query: VolumeByName, context: RequestContext) -> CatalogueEntry:
        entry, _ = await self._read(query.name)
        if entry is None:
            raise _no_volume(query.name)
        return entry

    async def _by_id(self, query: VolumeById, context: RequestContext) -> CatalogueEntry:
        data, _ = await self._get(f"id.{query.volume}")
        entry, _ = await self._read(data.decode()) if data else (None, 0)
        if entry is None or entry.volume != query.volume:
            raise _no_volume(query.volume)
        return entry

    async def _list(self, request: PageRequest, context: RequestContext) -> CataloguePage:
        entries, following = await self._page("name", request, CatalogueEntry)
        return CataloguePage(entries=entries, next=following)

    # --- names of snapshots ---

    async def _claim_snapshot(self, claim: SnapshotClaim, context: RequestContext) -> Empty:
        """The first to claim has it. What is held may be told to be dropping; the way back is a release only, so that
        whoever drops a snapshot is not overtaken by who takes it again."""
        key = f"snapshot.{claim.snapshot}"
        for _ in range(CONFLICTS_MAX):
            existing, sequence = await self._read_claim(claim.snapshot)
            if existing == claim:
                return Empty()
            if existing is not None and (existing.volume != claim.volume or existing.stage == "dropping"):
                raise StosError(
                    Code.ALREADY_EXISTS,
                    f"the snapshot name {claim.snapshot!r} is {existing.stage} by volume {existing.volume}",
                    details={"claim": existing.model_dump(mode="json")},
                )
            if await self._put(key, claim.model_dump_json().encode(), sequence):
                return Empty()
        raise _contended(claim.snapshot)

    async def _release_snapshot(self, claim: SnapshotClaim, context: RequestContext) -> Empty:
        for _ in range(CONFLICTS_MAX):
            existing, sequence = await self._read_claim(claim.snapshot)
            if existing != claim or existing.stage != "dropping":
                return Empty()
            if await self._delete(f"snapshot.{claim.snapshot}", sequence):
                return Empty()
        raise _contended(claim.snapshot)

    async def _snapshot(self, query: SnapshotByName, context: RequestContext) -> SnapshotClaim:
        claim, _ = await self._read_claim(query.snapshot)
        if claim is None:
            raise not_found(f"nobody has the snapshot name {query.snapshot!r}")
        return claim

    async def _read_claim(self, name: str) -> tuple[SnapshotClaim | None, int]:
        data, sequence = await self._get(f"snapshot.{name}")
        return (_decoded(SnapshotClaim, data) if data else None), sequence

    # --- snapshots of groups ---

    async def _claim_group(self, claim: GroupClaim, context: RequestContext) -> Empty:
        for _ in range(CONFLICTS_MAX):
            existing, sequence = await self._read_group(claim.name)
            if existing == claim:
                return Empty()
            check_claim(existing, claim)
            if await self._put(f"group.{claim.name}", claim.model_dump_json().encode(), sequence):
                return Empty()
        raise _contended(claim.name)

    async def _release_group(self, claim: GroupClaim, context: RequestContext) -> Empty:
        """If it is that attempt's, and not complete."""
        for _ in range(CONFLICTS_MAX):
            existing, sequence = await self._read_group(claim.name)
            if existing is None or existing.attempt != claim.attempt or existing.stage == "ready":
                return Empty()
            if await self._delete(f"group.{claim.name}", sequence):
                return Empty()
        raise _contended(claim.name)

    async def _group(self, query: GroupByName, context: RequestContext) -> GroupClaim:
        claim, _ = await self._read_group(query.name)
        if claim is None:
            raise not_found(f"there is no group snapshot {query.name!r}")
        return claim

    async def _read_group(self, name: str) -> tuple[GroupClaim | None, int]:
        data, sequence = await self._get(f"group.{name}")
        return (_decoded(GroupClaim, data) if data else None), sequence

    # --- nodes ---

    async def _announce(self, entry: NodeEntry, context: RequestContext) -> Empty:
        if entry.node != context.caller.name:
            raise StosError(
                Code.PERMISSION_DENIED, f"{context.caller} may not say where {entry.node} is", next_step="ask as it"
            )
        content = entry.model_dump_json().encode()
        if (await self._get(f"node.{entry.node}"))[0] != content:
            await self._put(f"node.{entry.node}", content, None)
        return Empty()

    async def _nodes(self, request: PageRequest, context: RequestContext) -> NodePage:
        entries, following = await self._page("node", request, NodeEntry)
        return NodePage(entries=entries, next=following)

    # --- keys ---

    async def _read(self, name: str) -> tuple[CatalogueEntry | None, int]:
        data, sequence = await self._get(_name_key(name))
        return (_decoded(CatalogueEntry, data) if data else None), sequence

    async def _get(self, key: str) -> tuple[bytes, int]:
        """Content and sequence number of a key; (b"", number) when it is free."""
        stored = await jetstream.find(self._bus, BUCKET_STREAM, {"last_by_subj": f"{KEYS}.{key}"})
        if stored is None:
            return b"", 0
        removed = b"KV-Operation:" in stored.headers
        return b"" if removed else stored.data, stored.sequence

    async def _put(self, key: str, data: bytes, expected: int | None) -> bool:
        """False when the key changed since it had the expected sequence number."""
        return await self._store(key, data, {}, expected)

    async def _delete(self, key: str, expected: int | None) -> bool:
        return await self._store(key, b"", {"KV-Operation": "DEL", "Nats-TTL": REMOVED_KEPT}, expected)

    async def _store(self, key: str, data: bytes, headers: dict[str, str], expected: int | None) -> bool:
        if expected is not None:
            headers = {**headers, "Nats-Expected-Last-Subject-Sequence": str(expected)}
        try:
            await jetstream.store(self._bus, f"{KEYS}.{key}", data, headers)
        except StosError as error:
            if error.details.get("err_code") == WRONG_LAST_SEQUENCE:
                return False
            raise
        return True

    async def _page(self, area: str, request: PageRequest, kind: type[M]) -> tuple[list[M], str]:
        """The entries of the first keys after that one, sorted, and the key to go on after; "" at the end."""
        names = [name for name in await self._names(f"{KEYS}.{area}.") if name > request.after]
        gate = asyncio.Semaphore(READS_AT_ONCE)

        async def read(name: str) -> bytes:
            async with gate:
                return (await self._get(f"{area}.{name}"))[0]

        contents = await asyncio.gather(*(read(name) for name in names[: request.limit]))
        entries: list[M] = []
        size = 0
        for position, data in enumerate(contents):
            size += len(data)
            if position and size > PAGE_BYTES:
                return entries, names[position - 1]
            entry = _decoded(kind, data) if data else None
            if entry is not None:
                entries.append(entry)
        return entries, names[request.limit - 1] if len(names) > request.limit else ""

    async def _names(self, prefix: str) -> list[str]:
        """All keys below it, sorted."""
        names: list[str] = []
        while True:
            question = {"subjects_filter": f"{prefix}>", "offset": len(names)}
            answer = await jetstream.info(self._bus, BUCKET_STREAM, question)
            page = answer["state"].get("subjects") or {}
            names += [subject.removeprefix(prefix) for subject in page]
            if not page or len(names) >= int(answer.get("total", 0)):
                return sorted(names)


def _name_key(name: str) -> str:
    """Raises StosError INVALID_ARGUMENT for what would be another key, or none."""
    if not valid_volume_name(name):
        raise invalid(f"{name!r} is no possible name of a volume", "letters, digits, '-', '_' and single '.'")
    return f"name.{name}"


def _decoded(kind: type[M], data: bytes) -> M | None:
    try:
        return decode_request(kind, data)
    except StosError as error:
        log.error("unreadable entry of the catalogue: %s", error)
        return None


def _no_volume(name: str) -> StosError:
    return not_found(f"there is no volume {name!r}", "see `stos volume ls`")


def _contended(name: str) -> StosError:
    return StosError(Code.ABORTED, f"the catalogue entry of {name!r} keeps changing", next_step="try again")
