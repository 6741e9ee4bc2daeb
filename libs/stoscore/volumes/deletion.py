"""How a volume ends: the tombstone of a founded one, the clearing up of a half made one.

A founded volume is deleted by its primary, which commits a tombstone; the voters then give their space
back, those that are away when they return. Its catalogue entry goes last, so that an interrupted delete is
found again. A half made volume has no voters to ask: every chosen node must say what it holds, and an empty
replica is removed by its incarnation. If one of them has a record, the volume was founded after all; then it
is finished first and deleted like any other, because only a committed tombstone keeps an absent voter from
coming back.
"""

from __future__ import annotations

from stoscore import telemetry
from stoscore.bus import Bus
from stoscore.catalogue import Catalogue
from stoscore.errors import Code, StosError, precondition
from stoscore.messages import CatalogueEntry, DeleteVolume, DescribeReplica, Empty, ReplicaStatus
from stoscore.volumes.creation import Creation
from stoscore.volumes.deadline import Deadline, all_of, retry
from stoscore.volumes.nodes import Nodes, voter_nodes
from stoscore.volumes.origin import Origins
from stoscore.volumes.primary import Replicas
from stoscore.volumes.survey import Survey


class Deletion:
    """Deletes what a catalogue entry names. Every step may be repeated."""

    def __init__(self, bus: Bus, catalogue: Catalogue, replicas: Replicas, origins: Origins, creation: Creation):
        self._catalogue = catalogue
        self._creation = creation
        self._nodes = Nodes(bus)
        self._replicas = replicas
        self._origins = origins

    async def delete(self, entry: CatalogueEntry, deadline: Deadline) -> None:
        """Returns when the volume can't come back and its name is free. Raises StosError FAILED_PRECONDITION
        when it is attached, UNAVAILABLE when too few of its nodes answer."""
        with telemetry.span("volume.delete", volume=entry.volume, volume_name=entry.name):
            if entry.state == "ready":
                await self._delete_founded(entry, deadline)
            else:
                await self._delete_half_made(entry, deadline)
            await retry(deadline, lambda _: self._catalogue.remove(entry))

    async def _delete_founded(self, entry: CatalogueEntry, deadline: Deadline) -> None:
        nodes = voter_nodes(entry)
        survey = await self._replicas.survey(entry, timeout_s=deadline.try_s(1.0))
        if is_gone(survey, nodes):
            return
        _check_detached(entry, survey.serving)
        await self._replicas.ask(entry, "delete", DeleteVolume(), Empty, deadline)

    async def _delete_half_made(self, entry: CatalogueEntry, deadline: Deadline) -> None:
        doomed = entry.model_copy(update={"state": "deleting"})
        await retry(deadline, lambda _: self._catalogue.update(doomed))
        await self._origins.clear(entry, deadline)
        held = await self._all_held(entry, deadline)
        if any(status.record is not None for status in held):
            await self._finish(doomed, held, deadline)
            await self._delete_founded(doomed, deadline)
            held = await self._all_held(entry, deadline)
        await all_of(
            *(
                self._creation.remove_replica(entry.volume, status.node, status.incarnation, deadline)
                for status in held
                if status.record is None
            )
        )

    async def _finish(self, entry: CatalogueEntry, held: list[ReplicaStatus], deadline: Deadline) -> None:
        """Make the volume whole, so that it has a primary that can delete it."""
        if all(status.record is not None and status.record.deleted for status in held):
            return
        try:
            await self._creation.finish(entry, deadline)
        except StosError as error:
            if error.code is not Code.FAILED_PRECONDITION:
                raise
            # A copy was lost meanwhile, so it can't become whole; a majority of the others may still serve.

    async def _all_held(self, entry: CatalogueEntry, deadline: Deadline) -> list[ReplicaStatus]:
        statuses = await all_of(*(self._held(entry, node, deadline) for node in voter_nodes(entry)))
        return [status for status in statuses if status is not None]

    async def _held(self, entry: CatalogueEntry, node: str, deadline: Deadline) -> ReplicaStatus | None:
        """What the node holds of a half made volume; None for nothing. A silent node is waited for: what it
        may hold would be left behind."""
        request = DescribeReplica(volume=entry.volume)
        try:
            return await self._nodes.ask(node, "describe", request, ReplicaStatus, deadline)
        except StosError as error:
            if error.code is Code.NOT_FOUND:
                return None
            raise StosError(
                error.code,
                f"volume {entry.name} may have a part left: {error.message}",
                next_step=f"start that node and repeat `stos volume rm {entry.name}`",
            ) from error


def is_gone(survey: Survey, nodes: list[str]) -> bool:
    """Whether the volume is deleted for good: every voter forgot it, or a majority is past the tombstone and
    one still keeps it for those that are away. A member that was made and that no record named yet is nobody's: *it was
    waited for, for ever, when all others had forgotten the volume.* Nor is one counted that was excluded and was away
    ever since, as long as most of those whom it takes for voters hold nothing."""
    deleted = {node for node, status in survey.current.items() if status.record is not None and status.record.deleted}
    unnamed = {node for node, status in survey.statuses.items() if status.record is None and not status.failure}
    past = deleted | unnamed | survey.missing
    left = [status for node, status in survey.statuses.items() if node not in past]
    if past.issuperset(nodes) and not any(_can_be_led(status, past) for status in left):
        return True
    return bool(deleted) and survey.serving is None and len(past & set(nodes)) > len(nodes) // 2


def _can_be_led(status: ReplicaStatus, past: set[str]) -> bool:
    voters = status.record.voters if status.record is not None else ()
    return sum(voter.node in past for voter in voters) <= len(voters) // 2


def _check_detached(entry: CatalogueEntry, serving: ReplicaStatus | None) -> None:
    attachment = serving.record.attachment if serving is not None and serving.record is not None else None
    if attachment is not None:
        raise precondition(
            f"volume {entry.name} is in use on node {attachment.node}",
            f"stop using it, run `stos volume disconnect {entry.name}`, then delete it",
        )
