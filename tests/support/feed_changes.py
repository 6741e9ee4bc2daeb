"""What a node of a feed answers to whoever asks for a change: that it is done.

What is made or handed over is there until somebody calls `forget`; everything else stays as it was.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from stoscore.bus import RequestContext
from stoscore.errors import Code, StosError
from stoscore.messages import (
    Attached,
    AttachmentModel,
    AttachVolume,
    Choice,
    CloseFrontend,
    CreateReplica,
    DeleteVolume,
    DetachVolume,
    DropSnapshot,
    Empty,
    ExpandVolume,
    FoundVolume,
    FrontendOpened,
    Message,
    Moved,
    MoveVolume,
    NodeStatus,
    OpenFrontend,
    PolicySet,
    Ranking,
    RankRequest,
    RecordModel,
    RemoteStatus,
    ReplicaCreated,
    ReplicaStatus,
    SetPolicy,
    SnapshotView,
    TakeSnapshot,
    VolumeExpanded,
)

TAKEN_MS = 1_800_000_100_000
"""When a snapshot is taken, whenever that is."""
Answers = dict[str, tuple[type[Message], Callable[[Any, RequestContext], Awaitable[Message]]]]


@dataclass
class Afterwards:
    """(node, volume) -> the copy as it is after what was asked for."""

    copies: dict[tuple[str, str], ReplicaStatus] = field(default_factory=dict)

    def forget(self) -> None:
        self.copies.clear()


class Changes:
    """Of one node."""

    def __init__(self, status: NodeStatus, afterwards: Afterwards):
        self._name = status.node
        self._led = {one.record.volume: one for one in status.replicas if one.serving and one.record is not None}
        self._afterwards = afterwards

    def of_the_node(self) -> Answers:
        return {
            "open": (OpenFrontend, self._open),
            "close": (CloseFrontend, self._done),
            "create": (CreateReplica, self._create),
            "found": (FoundVolume, self._found),
        }

    def of_its_volumes(self) -> Answers:
        return {
            "attach": (AttachVolume, self._attach),
            "detach": (DetachVolume, self._done),
            "policy": (SetPolicy, self._policy),
            "expand": (ExpandVolume, self._expand),
            "move": (MoveVolume, self._move),
            "delete": (DeleteVolume, self._done),
            "snapshot": (TakeSnapshot, self._snapshot),
            "unsnapshot": (DropSnapshot, self._done),
        }

    def _served(self, context: RequestContext) -> tuple[ReplicaStatus, RecordModel]:
        one = self._led.get(context.subject.split(".")[-2])
        if one is None or one.record is None:
            raise StosError(Code.NOT_PRIMARY, f"{self._name} does not serve it")
        return one, one.record

    async def _done(self, request: Message, context: RequestContext) -> Empty:
        if not isinstance(request, CloseFrontend):
            self._served(context)
        return Empty()

    async def _open(self, request: OpenFrontend, context: RequestContext) -> FrontendOpened:
        socket = f"/run/stos/{request.name}.sock"
        uri = f"nbd+unix:///{request.name}?socket={socket}"
        asked = request.remote
        remote = RemoteStatus(address=asked.address, clients=asked.clients) if asked is not None else None
        return FrontendOpened(node=self._name, socket=socket, uri=uri, remote=remote)

    async def _attach(self, request: AttachVolume, context: RequestContext) -> Attached:
        attachment = AttachmentModel(node=request.node, attach_epoch=2)
        record = self._served(context)[1].model_copy(update={"attachment": attachment})
        return Attached(record=record, attach_epoch=2)

    async def _policy(self, request: SetPolicy, context: RequestContext) -> PolicySet:
        asked = request.model_dump(exclude={"v"}, exclude_none=True)
        return PolicySet(record=self._served(context)[1].model_copy(update=asked))

    async def _expand(self, request: ExpandVolume, context: RequestContext) -> VolumeExpanded:
        record = self._served(context)[1].model_copy(update={"size_bytes": request.size_bytes})
        return VolumeExpanded(record=record)

    async def _snapshot(self, request: TakeSnapshot, context: RequestContext) -> SnapshotView:
        one, record = self._served(context)
        taken = SnapshotView(
            volume=record.volume,
            snapshot=request.snapshot,
            size_bytes=record.size_bytes,
            created_ms=TAKEN_MS,
            ready=True,
            holders=tuple(voter.node for voter in record.in_sync),
            root=f"{sum(request.snapshot.encode()):016x}",
        )
        return {view.snapshot: view for view in one.snapshots}.get(request.snapshot, taken)

    async def _move(self, request: MoveVolume, context: RequestContext) -> Moved:
        one, record = self._served(context)
        to = next(voter for voter in record.in_sync if voter.node == (request.to or voter.node) != self._name)
        record = record.model_copy(update={"primary": to, "epoch": record.epoch + 1})
        changed = {"record": record, "epoch": record.epoch, "snapshots": one.snapshots}
        for node, leads in ((self._name, False), (to.node, True)):
            role = {"node": node, "role": "primary" if leads else "replica", "serving": leads}
            self._afterwards.copies[node, record.volume] = one.model_copy(update=changed | role)
        return Moved(node=to.node, epoch=record.epoch)

    async def _create(self, request: CreateReplica, context: RequestContext) -> ReplicaCreated:
        return ReplicaCreated(node=self._name, incarnation=f"{sum(self._name.encode()):016x}")

    async def _found(self, request: FoundVolume, context: RequestContext) -> Empty:
        record = request.record.model_copy(update={"primary": request.record.voters[0], "epoch": 1})
        leads = record.voters[0].node == self._name
        incarnation = next(voter.incarnation for voter in record.voters if voter.node == self._name)
        self._afterwards.copies[self._name, record.volume] = ReplicaStatus(
            node=self._name,
            incarnation=incarnation,
            role="primary" if leads else "replica",
            epoch=1,
            serving=leads,
            record=record,
        )
        return Empty()


def ranked(request: RankRequest, nodes: list[NodeStatus]) -> Ranking:
    """The first that hold copies at all."""
    taken = {*request.exclude, *request.beside}
    free = [one for one in nodes if one.capacity_bytes and one.node not in taken]
    able = free[: request.copies + request.witnesses]
    chosen = [
        Choice(node=one.node, zone=one.zone, kind="data" if at < request.copies else "witness", score=1.0, reasons=[])
        for at, one in enumerate(able)
    ]
    return Ranking(instance="placement-1", chosen=chosen, refused=[], bids=len(able))
