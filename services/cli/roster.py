"""The nodes of the cluster as they answer now, and which one should host a frontend."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from stoscore import subjects
from stoscore.bus import Bus
from stoscore.catalogue import Catalogue
from stoscore.errors import StosError, invalid, not_found, unavailable
from stoscore.limits import valid_node_name
from stoscore.messages import NodeEntry, NodeStatus, NodeStatusRequest, RecordModel, ReplicaStatus

STATUS_S = 1.5
"""A node tells its status from memory."""


async def call_roll(
    bus: Bus, entries: Iterable[NodeEntry], *, resyncing: bool = False
) -> dict[str, NodeStatus | StosError]:
    """Each node's status, or why there is none; by name. `resyncing`: of its copies only those that bring another one
    up to date."""

    async def ask(node: str) -> NodeStatus | StosError:
        try:
            return await node_status(bus, node, resyncing=resyncing)
        except StosError as error:
            return error

    nodes = sorted(entry.node for entry in entries)
    return dict(zip(nodes, await asyncio.gather(*(ask(node) for node in nodes)), strict=True))


async def node_status(bus: Bus, node: str, *, resyncing: bool = False) -> NodeStatus:
    """All pages of it. Raises StosError."""
    subject, replicas, after = subjects.node(node, "status"), list[ReplicaStatus](), None
    while True:
        request = NodeStatusRequest(after=after, resyncing=resyncing)
        page = await bus.request(subject, request, NodeStatus, timeout_s=STATUS_S)
        replicas += page.replicas
        if after is None:
            first = page
        if page.next is None or (after is not None and page.next <= after):
            return first.model_copy(update={"replicas": replicas, "next": None})
        after = page.next


async def node_entry(catalogue: Catalogue, node: str) -> NodeEntry:
    """Raises StosError INVALID_ARGUMENT or NOT_FOUND."""
    if not valid_node_name(node):
        raise invalid(f"{node!r} is no possible node name", "see `stos node ls`")
    entries = {entry.node: entry for entry in await catalogue.nodes()}
    if node not in entries:
        raise not_found(f"there is no node {node}", f"there are: {', '.join(sorted(entries)) or 'none'}")
    return entries[node]


def frontend_node(record: RecordModel, roll: Mapping[str, NodeStatus | StosError]) -> str:
    """Where a volume is best used when nobody says: where it is attached already; else on a node without a
    copy of it, so that losing a copy never takes the frontend along, and best on one that holds no copies at
    all; else beside the primary. Raises StosError UNAVAILABLE when none of these answers."""
    up = {node: status for node, status in roll.items() if isinstance(status, NodeStatus)}
    if record.attachment is not None and record.attachment.node in up:
        return record.attachment.node
    voters = {voter.node for voter in record.voters}
    free = sorted(
        (bool(status.replicas), len(status.frontends), node) for node, status in up.items() if node not in voters
    )
    if free:
        return free[0][-1]
    if record.primary is not None and record.primary.node in up:
        return record.primary.node
    raise unavailable("no node that could host the frontend answers", "see `stos node ls`")
