"""How a volume comes into being, in steps that may each be repeated.

    rank ──> catalogue: id + nodes ──> empty replicas ──> first record to each ──> a primary serves ──> ready
             (compare-and-set)         (incarnations)     (the volume is founded)

Id and voters enter the catalogue before any replica is made, so an interrupted create is found again under
its name and goes on with the same id and the same nodes; two at once do the same steps twice, to no harm.
A volume may begin as a snapshot of another one (`origin`): then the replicas of its holders begin with that, and those
holders alone are in sync in the first record.

Nothing is undone on failure: the entry stays `creating` until a create finishes it or a delete removes it.
A volume in that state can't be attached, so until it is ready there is no data to lose.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from stoscore import subjects, telemetry
from stoscore.bus import Bus
from stoscore.catalogue import Catalogue
from stoscore.errors import Code, StosError, precondition, unavailable
from stoscore.messages import (
    Apart,
    Capacity,
    CapacityRequest,
    CatalogueEntry,
    CreateReplica,
    Empty,
    FoundVolume,
    Ranking,
    RankRequest,
    RecordModel,
    RemoveReplica,
    ReplicaCreated,
    ReplicaStatus,
    SnapshotView,
    VoterModel,
)
from stoscore.units import format_size
from stoscore.volumes.deadline import WORTH_RETRYING, Deadline, all_of, retry
from stoscore.volumes.naming import VolumeSpec, copies_of, witnesses_of
from stoscore.volumes.nodes import Nodes, voter_nodes
from stoscore.volumes.origin import Origins, is_same, origin_of, source_of
from stoscore.volumes.primary import Replicas

RANK_S = 3.0
"""One try of a ranking: both rounds of bids and some. A dead placement instance costs one of these."""


class Creation:
    """The steps; `create` runs what is left of them."""

    def __init__(self, bus: Bus, catalogue: Catalogue, replicas: Replicas, origins: Origins):
        self._bus = bus
        self._catalogue = catalogue
        self._nodes = Nodes(bus)
        self._replicas = replicas
        self._origins = origins

    async def create(self, spec: VolumeSpec, deadline: Deadline, *, near: str | None = None) -> ReplicaStatus:
        """The serving primary's status. Raises StosError: ALREADY_EXISTS for another volume of that name,
        what placement or a node refuses, UNAVAILABLE when a chosen node did not answer until the deadline."""
        with telemetry.span("volume.create", volume_name=spec.name, size_bytes=spec.size_bytes):
            entry = await self._entry(spec, near, deadline)
            if entry.state == "ready":
                return await self._replicas.find(entry, deadline)
            status = await self.finish(entry, deadline)
            await self._origins.clear(entry, deadline)
            await self._declare_ready(entry, deadline)
            return status

    async def finish(self, entry: CatalogueEntry, deadline: Deadline) -> ReplicaStatus:
        """Everything between the entry and a serving primary."""
        try:
            incarnations = await self._make_replicas(entry, deadline)
            await self._check_still_wanted(entry, incarnations, deadline)
            record = await self._first_record(entry, incarnations, deadline)
            await self._found(record, deadline)
            return await self._replicas.find(entry, deadline)
        except StosError as error:
            if error.code not in WORTH_RETRYING:
                raise
            raise unavailable(
                f"volume {entry.name} is not complete yet: {error.message}",
                f"repeat the command, it goes on where it stopped; or remove it with `stos volume rm {entry.name}`",
            ) from error

    async def _declare_ready(self, entry: CatalogueEntry, deadline: Deadline) -> None:
        ready = entry.model_copy(update={"state": "ready"})
        try:
            await retry(deadline, lambda _: self._catalogue.update(ready))
        except StosError as error:
            if error.code is Code.NOT_FOUND:
                raise _being_deleted(entry.name) from error
            raise

    async def _entry(self, spec: VolumeSpec, near: str | None, deadline: Deadline) -> CatalogueEntry:
        """The catalogue's entry for the name, made if there is none. The first to enter wins."""
        existing = await self._existing(spec.name, deadline)
        if existing is None:
            view = await self._origins.find(spec, deadline)
            claimed = False
            try:
                entry = await self._ranked_entry(spec, near, view, deadline)
                claimed = True
                return await retry(deadline, lambda _: self._catalogue.create(entry))
            except StosError as error:
                if view is not None and not (claimed and error.code in WORTH_RETRYING):  # else it may be all the same
                    await self._origins.give_up(view)
                if error.code is not Code.ALREADY_EXISTS:
                    raise
            existing = await self._existing(spec.name, deadline)
            if existing is None:
                raise _being_deleted(spec.name)
        _check_same(existing, spec)
        return existing

    async def _existing(self, name: str, deadline: Deadline) -> CatalogueEntry | None:
        try:
            return await retry(deadline, lambda _: self._catalogue.by_name(name))
        except StosError as error:
            if error.code is Code.NOT_FOUND:
                return None
            raise

    async def _ranked_entry(
        self, spec: VolumeSpec, near: str | None, view: SnapshotView | None, deadline: Deadline
    ) -> CatalogueEntry:
        volume = secrets.token_hex(16)
        first = [] if view is None else await self._among_holders(volume, spec, near, view, deadline)
        request = RankRequest(
            volume=volume,
            name=spec.name,
            size_bytes=spec.size_bytes,
            copies=spec.copies - len(first),
            witnesses=spec.witnesses,
            beside=first,
            zones=list(spec.zones),
            apart=spec.apart,
            near=near,
        )
        chosen = (await self._rank(request, deadline)).chosen if request.copies + request.witnesses else []
        return CatalogueEntry(
            volume=volume,
            name=spec.name,
            size_bytes=spec.size_bytes,
            replicas=spec.replicas,
            nodes=[*first, *(choice.node for choice in chosen if choice.kind == "data")],
            witness_nodes=[choice.node for choice in chosen if choice.kind == "witness"],
            labels=dict(spec.labels),
            failure_mode=spec.failure_mode,
            on_unavailable=spec.on_unavailable,
            zones=list(spec.zones),
            origin=None if view is None else origin_of(view, first),
        )

    async def _among_holders(
        self, volume: str, spec: VolumeSpec, near: str | None, view: SnapshotView, deadline: Deadline
    ) -> list[str]:
        """As many of the first copies as can be where their content is already; at least one."""
        for copies in range(min(spec.copies, len(view.holders)), 0, -1):
            request = RankRequest(
                volume=volume,
                name=spec.name,
                size_bytes=spec.size_bytes,
                copies=copies,
                among=list(view.holders),
                zones=list(spec.zones),
                apart=spec.apart,
                near=near,
            )
            try:
                return [choice.node for choice in (await self._rank(request, deadline)).chosen]
            except StosError as error:
                if error.code is not Code.RESOURCE_EXHAUSTED or copies == 1:
                    raise
        raise AssertionError("a snapshot without holders is refused before")

    async def _rank(self, request: RankRequest, deadline: Deadline) -> Ranking:
        async def rank(timeout_s: float) -> Ranking:
            return await self._bus.request(subjects.placement("rank"), request, Ranking, timeout_s=timeout_s)

        return await retry(deadline, rank, longest_s=RANK_S)

    async def capacity(self, replicas: int, zones: Sequence[str], apart: Apart, deadline: Deadline) -> Capacity:
        request = CapacityRequest(
            copies=copies_of(replicas), witnesses=witnesses_of(replicas), zones=list(zones), apart=apart
        )

        async def ask(timeout_s: float) -> Capacity:
            return await self._bus.request(subjects.placement("capacity"), request, Capacity, timeout_s=timeout_s)

        return await retry(deadline, ask, longest_s=RANK_S)

    async def _make_replicas(self, entry: CatalogueEntry, deadline: Deadline) -> dict[str, str]:
        """A replica or a witness on every node: node -> incarnation, drawn by the node. Empty, but for those that
        begin as the volume's origin."""

        async def make(node: str) -> ReplicaCreated:
            origin = entry.origin if entry.origin is not None and node in entry.origin.nodes else None
            request = CreateReplica(
                volume=entry.volume,
                name=entry.name,
                size_bytes=entry.size_bytes,
                kind="witness" if node in entry.witness_nodes else "data",
                source=None if origin is None else source_of(origin),
            )
            return await self._nodes.ask(node, "create", request, ReplicaCreated, deadline)

        nodes = voter_nodes(entry)
        made = await all_of(*(make(node) for node in nodes))
        return {node: created.incarnation for node, created in zip(nodes, made, strict=True)}

    async def _check_still_wanted(
        self, entry: CatalogueEntry, incarnations: dict[str, str], deadline: Deadline
    ) -> None:
        """A delete may have come between: then take back what was made, or it would stay for ever."""
        if entry.state == "deleting":
            return
        current = await self._existing(entry.name, deadline)
        if current is not None and current.volume == entry.volume and current.state != "deleting":
            return
        await all_of(
            *(
                self.remove_replica(entry.volume, node, incarnation, deadline)
                for node, incarnation in incarnations.items()
            )
        )
        raise _being_deleted(entry.name)

    async def remove_replica(self, volume: str, node: str, incarnation: str, deadline: Deadline) -> None:
        """Drop a replica that was made and never founded. Idempotent."""
        request = RemoveReplica(volume=volume, incarnation=incarnation)
        try:
            await self._nodes.ask(node, "remove", request, Empty, deadline)
        except StosError as error:
            if error.code is not Code.NOT_FOUND:
                raise

    async def _first_record(
        self, entry: CatalogueEntry, incarnations: dict[str, str], deadline: Deadline
    ) -> RecordModel:
        """The record that founds the volume: the same at every try, as long as the voters are the same. Raises
        StosError FAILED_PRECONDITION when one of an earlier try lost its store since: a second first record,
        with other voters, could found a second volume under the same id."""
        survey = await self._replicas.survey(entry, timeout_s=deadline.try_s(1.0))
        for status in survey.statuses.values():
            voters = status.record.voters if status.record is not None else []
            if voters and {voter.node: voter.incarnation for voter in voters} != incarnations:
                raise precondition(
                    f"volume {entry.name} was begun with a copy that is lost now",
                    f"remove it with `stos volume rm {entry.name}` and create it again",
                )
        return _new_record(entry, incarnations)

    async def _found(self, record: RecordModel, deadline: Deadline) -> None:
        """Every voter gets the record. One that has one keeps its own."""
        request = FoundVolume(record=record)
        await all_of(*(self._nodes.ask(voter.node, "found", request, Empty, deadline) for voter in record.voters))


def _new_record(entry: CatalogueEntry, incarnations: dict[str, str]) -> RecordModel:
    data = [VoterModel(node=node, incarnation=incarnations[node], kind="data") for node in entry.nodes]
    witnesses = [VoterModel(node=node, incarnation=incarnations[node], kind="witness") for node in entry.witness_nodes]
    holding = entry.nodes if entry.origin is None else entry.origin.nodes
    return RecordModel(
        volume=entry.volume,
        name=entry.name,
        size_bytes=entry.size_bytes,
        replicas=entry.replicas,
        generation=0,
        epoch=0,
        version=1,
        voters=[*data, *witnesses],
        in_sync=[voter for voter in data if voter.node in holding],
        labels=entry.labels,
        failure_mode=entry.failure_mode,
        on_unavailable=entry.on_unavailable,
        zones=entry.zones,
    )


def _check_same(existing: CatalogueEntry, spec: VolumeSpec) -> None:
    if existing.state == "deleting":
        raise _being_deleted(spec.name)
    made_as = (existing.size_bytes, existing.replicas, existing.failure_mode, existing.on_unavailable)
    if not is_same(existing, spec):
        raise StosError(
            Code.ALREADY_EXISTS,
            f"volume {spec.name} exists and began as something else",
            next_step="choose another name",
        )
    if made_as != (spec.size_bytes, spec.replicas, spec.failure_mode, spec.on_unavailable):
        raise StosError(
            Code.ALREADY_EXISTS,
            f"volume {spec.name} exists with {format_size(existing.size_bytes)} "
            f"({existing.size_bytes} bytes), {copies_of(existing.replicas)} copies, "
            f"failure mode {existing.failure_mode}, on-unavailable {existing.on_unavailable}",
            next_step="choose another name, or ask for the same to get that volume",
            details={
                "volume": existing.volume,
                "size_bytes": existing.size_bytes,
                "replicas": existing.replicas,
            },
        )


def _being_deleted(name: str) -> StosError:
    return StosError(
        Code.ABORTED,
        f"volume {name} is being deleted",
        next_step=f"run `stos volume rm {name}` until it succeeds, then create it again",
    )
