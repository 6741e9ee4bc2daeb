"""An operator's override as its client sees it (I4): what stands against it, and how everybody learns of it.

The voter that is asked judges by what its own peers say. The client sees more: what each node of the cluster holds of
the volume, over another way than the links between nodes, and the newest generation that the catalogue knows of. A copy
that lives on a node of which the asked voter never heard would become a rival of the one that goes on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from stoscore.catalogue import Catalogue
from stoscore.errors import Code, StosError, not_found, precondition, unavailable
from stoscore.messages import CatalogueEntry, RecordModel, ReplicaStatus
from stoscore.volumes.deadline import Deadline, retry
from stoscore.volumes.survey import Survey, generation_of

Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Intent:
    """What the operator says, and what all nodes said when they were asked."""

    entry: CatalogueEntry
    survey: Survey
    on: str
    """The node whose copy is to go on."""
    lost: tuple[str, ...]
    accept_loss: bool

    def check(self) -> None:
        """Raises StosError FAILED_PRECONDITION with what stands against it, NOT_FOUND when there is no such copy."""
        chosen = self._chosen()
        self._check_served()
        if not self.accept_loss:
            self._check_newest(chosen)
        self._check_others()

    @property
    def generation(self) -> int:
        """The newest that is known to have begun: the next has to be above it."""
        return max([self.entry.generation, *(generation_of(status) for status in self.survey.statuses.values())])

    @property
    def lost_voters(self) -> list[str]:
        """Of the nodes that are lost those that the chosen copy can know as voters: by its record, or by a newer one
        that another voter answers with. A member that only joins has no vote to be given up."""
        oldest = _stamp(self._chosen())
        records = [record for record in self._records().values() if _stamp(record) >= oldest]
        known = {voter.node for record in records for voter in record.voters}
        return sorted(known & set(self.lost))

    def _chosen(self) -> RecordModel:
        status = self.survey.statuses.get(self.on)
        if status is not None and status.record is not None:
            return status.record
        if status is not None or self.on in self.survey.missing:
            raise not_found(f"node {self.on} holds no copy of volume {self.entry.name}", self._show())
        raise self._refused(
            f"{self.on} does not answer, and its copy is to go on", f"start node {self.on}, or choose another copy"
        )

    def _check_served(self) -> None:
        for node, status in sorted(self.survey.statuses.items()):
            if status.serving and generation_of(status) == self.generation:
                raise self._refused(f"{node} leads the volume: nothing is lost", f"use it as it is; {self._show()}")

    def _check_newest(self, chosen: RecordModel) -> None:
        records = self._records()
        node = max(records, key=lambda node: (_stamp(records[node]), node == self.on))
        if node != self.on:
            raise self._refused(
                f"the copy on {self.on} is behind, {node} has a newer record",
                f"name another copy with --on, or accept with --accept-loss that writes are lost; {self._show()}",
            )
        if chosen.generation < self.entry.generation:
            raise self._refused(
                f"the copy on {self.on} is of generation {chosen.generation}, and generation "
                f"{self.entry.generation} has begun",
                f"name a copy of that generation with --on, or accept with --accept-loss that all its writes are lost; "
                f"{self._show()}",
            )

    def _check_others(self) -> None:
        """Whoever may still hold a copy has answered, or is given up and does not answer."""
        others = self._others()
        answered = {*self.survey.statuses, *self.survey.missing}
        if strangers := sorted(set(self.lost) - others):
            known = ", ".join(sorted(others)) or "nowhere else"
            raise self._refused(
                f"named as lost, and no other copy of it is known there: {', '.join(strangers)} (they are on {known})",
                "name the nodes of its copies that are lost, no others",
            )
        if alive := sorted(set(self.lost) & {node for node, status in self.survey.statuses.items() if _lives(status)}):
            raise self._refused(
                f"named as lost, and it answers with a copy: {', '.join(alive)}",
                f"wait until the volume resumes, or fence {', '.join(alive)} and repeat the command",
            )
        if silent := sorted(others - answered - set(self.lost)):
            raise self._refused(
                f"silent, and not named as lost: {', '.join(silent)}",
                "start these nodes; or, when they are gone for good and fenced, name each with --lost",
            )

    def _records(self) -> dict[str, RecordModel]:
        return {node: status.record for node, status in self.survey.statuses.items() if status.record is not None}

    def _others(self) -> set[str]:
        """All nodes but the chosen one on which a record has a member."""
        members: Iterable[str] = (
            member.node for record in self._records().values() for member in (*record.voters, *record.joining)
        )
        return set(members) - {self.on}

    def _refused(self, objection: str, next_step: str) -> StosError:
        return precondition(f"no override of volume {self.entry.name}: {objection}", next_step)

    def _show(self) -> str:
        return f"see `stos volume show {self.entry.name}`"


async def note_generation(
    catalogue: Catalogue, entry: CatalogueEntry, generation: int, deadline: Deadline
) -> CatalogueEntry:
    """The entry as it is in the catalogue, with that generation or a newer one: whoever looks for the volume finds no
    primary of an older one from then on. Raises StosError when the catalogue can't be told."""

    async def attempt(_: float) -> CatalogueEntry:
        known = await catalogue.by_id(entry.volume)
        if known.generation >= generation:
            return known
        risen = known.model_copy(update={"generation": generation})
        try:
            await catalogue.update(risen)
        except StosError as error:
            if error.code is Code.ABORTED:
                raise unavailable(error.message) from error  # others wrote meanwhile: read it again
            raise
        return risen

    try:
        return await retry(deadline, attempt)
    except StosError as error:
        raise StosError(
            error.code,
            f"volume {entry.name} goes on in generation {generation}, and the catalogue could not be told: "
            f"{error.message}",
            next_step="repeat the command, it makes up for that; until then nodes of the old generation that come back "
            "could be taken for the volume",
        ) from error


def _lives(status: ReplicaStatus) -> bool:
    return not status.failure


def _stamp(record: RecordModel) -> Stamp:
    return (record.generation, record.epoch, record.version)
