"""Asking one node, patiently: a node verb is repeated until the node answers or the deadline has passed."""

from __future__ import annotations

from typing import TypeVar

from stoscore import subjects
from stoscore.bus import Bus
from stoscore.errors import StosError
from stoscore.messages import CatalogueEntry, Message
from stoscore.volumes.deadline import Deadline, retry

A = TypeVar("A", bound=Message)


def voter_nodes(entry: CatalogueEntry) -> list[str]:
    """All first voters' nodes: data in the order of choice, then witnesses."""
    return [*entry.nodes, *entry.witness_nodes]


class Nodes:
    """The node verbs `create`, `found`, `remove`, `describe`, `open` and `close`; each is idempotent."""

    def __init__(self, bus: Bus):
        self._bus = bus

    async def once(self, node: str, verb: str, message: Message, answer: type[A], timeout_s: float) -> A:
        """Without patience: what a node that is away would say can be done without."""
        return await self._bus.request(subjects.node(node, verb), message, answer, timeout_s=timeout_s)

    async def ask(self, node: str, verb: str, message: Message, answer: type[A], deadline: Deadline) -> A:
        """The node's answer. A StosError names the node that it came from."""

        async def attempt(timeout_s: float) -> A:
            return await self._bus.request(subjects.node(node, verb), message, answer, timeout_s=timeout_s)

        try:
            return await retry(deadline, attempt)
        except StosError as error:
            raise StosError(
                error.code,
                f"node {node}: {error.message}",
                next_step=error.next_step,
                details={**error.details, "node": node},
            ) from error
