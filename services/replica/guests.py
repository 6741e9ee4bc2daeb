"""Members that another *node* has made here, to rebuild a copy: what it may ask for, and whose they are.

A volume that lost a copy asks for a new home, so nodes may have members made on other nodes, and removed again before a
record names them. Whoever has stolen a node's identity may too, and would

* fill every node with members of volumes that never were: nobody can say that those are not needed, so they stay;
* ask for the member of a volume that is just being created, which is the same member: with its incarnation he could be
  the first to propose a record to it;
* remove the member that somebody else has made.

So a node has members made of volumes that the catalogue calls ready, of the size that it names or, of a volume that
has grown since, that its own voters name. A member that no record names yet is one node's alone: for another one it is
made anew, with an incarnation that the first does not know.
"""

from __future__ import annotations

from services.replica.driver import Node
from services.replica.replicas import Replicas
from stoscore.access import Caller
from stoscore.catalogue import Catalogue
from stoscore.errors import Code, StosError, precondition
from stoscore.messages import CatalogueEntry, CreateReplica, RemoveReplica
from stoscore.volumes.primary import Replicas as Statuses

NODE = "node"


class Guests:
    """Knows who had which member made, as long as this process runs and no record names it."""

    def __init__(self, node: Node, replicas: Replicas, catalogue: Catalogue, statuses: Statuses):
        self._node = node
        self._replicas = replicas
        self._catalogue = catalogue
        self._statuses = statuses
        self._makers: dict[str, Caller] = {}
        """volume -> for whom its member was made"""

    async def create(self, request: CreateReplica, caller: Caller) -> str:
        """The incarnation of the member. Raises StosError."""
        if caller.role == NODE:
            await self._check(request)
            if self._is_unnamed(request.volume) and self._makers.get(request.volume) != caller:
                await self._replicas.drop(request.volume, self._node.volumes[request.volume].brain.me.incarnation)
        incarnation = await self._replicas.create(request)
        self._makers = {volume: maker for volume, maker in self._makers.items() if self._is_unnamed(volume)}
        self._makers[request.volume] = caller
        return incarnation

    async def remove(self, request: RemoveReplica, caller: Caller) -> None:
        """Raises StosError."""
        if caller.role == NODE and self._makers.get(request.volume, caller) != caller:
            raise StosError(Code.PERMISSION_DENIED, f"the member was not made for {caller}")
        await self._replicas.drop(request.volume, request.incarnation)

    def _is_unnamed(self, volume: str) -> bool:
        """There is a member of it here that no record names."""
        return volume in self._node.volumes and self._node.volumes[volume].brain.record is None

    async def _check(self, request: CreateReplica) -> None:
        if not request.joins or request.source is not None:
            raise StosError(Code.PERMISSION_DENIED, "a node has empty members made that join a volume, and no others")
        entry = await self._catalogue.by_id(request.volume)
        if entry.state != "ready":
            raise precondition(f"volume {entry.name} is {entry.state}: nothing of it is rebuilt now")
        if request.kind == "data" and not await self._is_size_of(entry, request.size_bytes):
            raise precondition(f"volume {entry.name} has {entry.size_bytes} bytes, not {request.size_bytes}")

    async def _is_size_of(self, entry: CatalogueEntry, size_bytes: int) -> bool:
        """The catalogue keeps the size with which a volume was made; volumes grow, and never shrink."""
        if size_bytes <= entry.size_bytes:
            return size_bytes == entry.size_bytes
        newest = (await self._statuses.survey(entry)).newest
        return newest is not None and newest.record is not None and newest.record.size_bytes == size_bytes
