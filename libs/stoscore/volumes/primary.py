"""Who serves a volume: ask its nodes, follow their hints, ask again until somebody does.

No directory of primaries exists: a directory would be wrong just when it matters, during a take-over. The
voters know, or know whom to ask. A primary that was found may have been deposed a moment later; it answers
NOT_PRIMARY and the search goes on from its hint. All volume verbs may be repeated, so an answer that got lost
is asked for again.

After an operator's override two may think that they serve: the copy that goes on, and the primary of nodes that were
given up and come back while it is away. The entry names the newest generation that began; whoever serves in an older
one is not found (I4).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import TypeVar

from stoscore import subjects
from stoscore.bus import Bus
from stoscore.catalogue import Catalogue
from stoscore.errors import StosError, not_found, unavailable
from stoscore.limits import DESCRIBED_MAX
from stoscore.messages import (
    CatalogueEntry,
    DescribeReplica,
    DescribeReplicas,
    Message,
    ReplicaStatus,
    ReplicaStatuses,
)
from stoscore.volumes.deadline import WORTH_RETRYING, Deadline, Pauses
from stoscore.volumes.nodes import voter_nodes
from stoscore.volumes.survey import Answer, Survey

DESCRIBE_S = 1.0
"""A node that describes a replica does it from memory."""

A = TypeVar("A", bound=Message)


class Replicas:
    """The nodes' answers about volumes. Where none of the nodes that the catalogue names for a volume holds anything of
    it, all nodes are asked: its first voters may all have been replaced since."""

    def __init__(self, bus: Bus, catalogue: Catalogue):
        self._bus = bus
        self._catalogue = catalogue

    async def survey(self, entry: CatalogueEntry, also: Iterable[str] = (), *, timeout_s: float = DESCRIBE_S) -> Survey:
        """Everybody's answer, those of hinted nodes included. `also`: nodes that are asked as well."""
        survey = await self._survey(entry, [*voter_nodes(entry), *also], timeout_s)
        if not survey.current:
            known = {*survey.statuses, *survey.failures}
            others = [node for node in await self._every_node() if node not in known]
            elsewhere = await self._survey(entry, others, timeout_s)
            if elsewhere.statuses:
                survey.statuses |= elsewhere.statuses
                survey.failures |= elsewhere.silent
        return survey

    async def survey_many(self, entries: Sequence[CatalogueEntry], *, timeout_s: float) -> dict[str, Survey]:
        """As `survey` for many volumes, by one question to each node however many volumes it has, and a second one to
        the nodes that the first answers name. By volume id."""
        asked, surveys = _voters(entries), _nothing_said(entries)
        await self._describe_all(asked, surveys, timeout_s)
        await self._describe_elsewhere(asked, surveys, timeout_s)
        return surveys

    async def served(self, entries: Sequence[CatalogueEntry], *, timeout_s: float) -> dict[str, ReplicaStatus]:
        """The primaries, by volume id; none of those that nobody serves. Of a volume that is served nobody but its
        primary says anything: of a thousand volumes that is a third of what there is to tell, to carry and to read."""
        asked, surveys = _voters(entries), _nothing_said(entries)
        await self._describe_all(asked, surveys, timeout_s, serving=True)
        unserved = {volume: survey for volume, survey in surveys.items() if survey.serving is None}
        answered = {volume: asked[volume] - survey.failures.keys() for volume, survey in unserved.items()}
        await self._describe_all(answered, surveys, timeout_s)
        await self._describe_elsewhere(asked, surveys, timeout_s)
        return {volume: survey.serving for volume, survey in surveys.items() if survey.serving is not None}

    async def _describe_elsewhere(
        self, asked: Mapping[str, set[str]], surveys: dict[str, Survey], timeout_s: float
    ) -> None:
        """Of what nobody serves so far: at the nodes that the answers name, or, without any answer, at all others."""
        unserved = {volume: survey for volume, survey in surveys.items() if survey.serving is None}
        lost = any(not survey.current for survey in unserved.values())
        everybody = await self._every_node() if lost else []
        more: dict[str, set[str]] = {}
        for volume, survey in unserved.items():
            named = {node for status in survey.current.values() for node in _named(status)}
            more[volume] = (named or set(everybody)) - asked[volume]
        await self._describe_all(more, surveys, timeout_s)

    async def _describe_all(
        self,
        volumes: Mapping[str, Iterable[str]],
        surveys: dict[str, Survey],
        timeout_s: float,
        *,
        serving: bool = False,
    ) -> None:
        by_node: dict[str, list[str]] = {}
        for volume, nodes in volumes.items():
            for node in nodes:
                by_node.setdefault(node, []).append(volume)

        async def describe(node: str, names: list[str]) -> None:
            request, subject = DescribeReplicas(volumes=names, serving=serving), subjects.node(node, "describe-all")
            try:
                found = await self._bus.request(subject, request, ReplicaStatuses, timeout_s=timeout_s)
            except StosError as error:
                for volume in names:
                    surveys[volume].add(node, error)
                return
            for status in found.statuses:
                if status.record is not None and status.record.volume in surveys:
                    surveys[status.record.volume].add(node, status)

        await asyncio.gather(
            *(
                describe(node, names[first : first + DESCRIBED_MAX])
                for node, names in by_node.items()
                for first in range(0, len(names), DESCRIBED_MAX)
            )
        )

    async def _every_node(self) -> list[str]:
        try:
            return [entry.node for entry in await self._catalogue.nodes()]
        except StosError:
            return []

    async def _survey(self, entry: CatalogueEntry, nodes: Iterable[str], timeout_s: float) -> Survey:
        survey = Survey(generation=entry.generation)
        async with aclosing(self._answers(entry.volume, nodes, timeout_s)) as answers:
            async for node, answer in answers:
                survey.add(node, answer)
        return survey

    async def find(self, entry: CatalogueEntry, deadline: Deadline, *, first: str | None = None) -> ReplicaStatus:
        """The primary as soon as one serves, in the entry's generation or a later one. `first`: the node where it most
        likely is. Raises StosError NOT_FOUND when at the deadline every node says that it holds nothing of the volume,
        else UNAVAILABLE with what each said."""
        nodes = [*([first] if first is not None else []), *voter_nodes(entry)]
        pauses = Pauses(deadline)
        while True:
            survey = Survey(generation=entry.generation)
            async with aclosing(self._answers(entry.volume, nodes, deadline.try_s(DESCRIBE_S))) as answers:
                async for node, answer in answers:
                    survey.add(node, answer)
                    if survey.serving is not None:
                        return survey.serving
            if deadline.passed:
                raise _nobody(entry.volume, survey)
            if not survey.current:
                nodes += [node for node in await self._every_node() if node not in nodes]
            await pauses.rest()

    async def ask(
        self,
        entry: CatalogueEntry,
        verb: str,
        message: Message,
        answer: type[A],
        deadline: Deadline,
    ) -> A:
        """The primary's answer to a volume verb, whoever is primary by then. Raises what the primary refuses,
        or UNAVAILABLE when nobody served until the deadline."""
        pauses = Pauses(deadline)
        hint: str | None = None
        while True:
            node = hint or (await self.find(entry, deadline)).node
            try:
                subject = subjects.volume(node, entry.volume, verb)
                return await self._bus.request(subject, message, answer, timeout_s=deadline.try_s())
            except StosError as error:
                if error.code not in WORTH_RETRYING:
                    raise
                if deadline.passed:
                    raise unavailable(
                        f"the volume's primary did not answer in time ({node}: {error.message})",
                        "repeat the command; `stos volume show` tells the state of its copies",
                    ) from error
                hint = None if entry.generation else _hint(error, node)  # it does not say of which generation
            await pauses.rest()

    async def _answers(
        self, volume: str, nodes: Iterable[str], timeout_s: float
    ) -> AsyncGenerator[tuple[str, Answer], None]:
        """Each node's answer as it comes; nodes that an answer names are asked as well."""
        asked: set[str] = set()
        pending: set[asyncio.Task[tuple[str, Answer]]] = set()

        def ask(more: Iterable[str]) -> None:
            for node in more:
                if node not in asked:
                    asked.add(node)
                    pending.add(asyncio.create_task(self._describe(node, volume, timeout_s)))

        ask(nodes)
        try:
            while pending:
                done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                pending -= done
                for task in done:
                    node, answer = task.result()
                    if isinstance(answer, ReplicaStatus):
                        ask(_named(answer))
                    yield node, answer
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def _describe(self, node: str, volume: str, timeout_s: float) -> tuple[str, Answer]:
        try:
            status = await self._bus.request(
                subjects.node(node, "describe"),
                DescribeReplica(volume=volume),
                ReplicaStatus,
                timeout_s=timeout_s,
            )
        except StosError as error:
            return node, error
        return node, status


def _voters(entries: Iterable[CatalogueEntry]) -> dict[str, set[str]]:
    return {entry.volume: set(voter_nodes(entry)) for entry in entries}


def _nothing_said(entries: Iterable[CatalogueEntry]) -> dict[str, Survey]:
    return {entry.volume: Survey(generation=entry.generation) for entry in entries}


def _named(status: ReplicaStatus) -> list[str]:
    named = [voter.node for voter in status.record.voters] if status.record else []
    return [*named, status.primary_hint] if status.primary_hint else named


def _hint(error: StosError, asked: str) -> str | None:
    hint = error.details.get("hint")
    return hint if isinstance(hint, str) and hint and hint != asked else None


def _nobody(volume: str, survey: Survey) -> StosError:
    if not survey.statuses and not survey.silent:
        return not_found(f"no node holds volume {volume}", "see `stos volume ls`")
    return unavailable(
        f"no copy of volume {volume} serves now ({survey.told()})",
        "wait for its nodes to come back and repeat the command; `stos node ls` shows them",
    )
