"""The requests that this node answers on the bus: its own verbs, its volumes' verbs, bids."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Literal, TypeVar

from services.replica.brain import InvalidRecord, Stamp
from services.replica.brain import events as ev
from services.replica.clock import boot_time_ns
from services.replica.driver import Node, Reply, Volume
from services.replica.frontends import Frontends
from services.replica.guests import Guests
from services.replica.hosted import Hosted
from services.replica.records import from_model, to_model
from services.replica.replicas import Replicas
from services.replica.scrubber import Scrubber
from services.replica.settings import ReplicaSettings
from services.replica.shell import Shell
from services.replica.status import in_short, page, replica_status, resyncing, serves, snapshot_views
from services.replica.store import StoreError
from stoscore import subjects
from stoscore.bus import Bus, RequestContext
from stoscore.errors import Code, StosError, invalid, not_found, precondition
from stoscore.messages import (
    Attached,
    AttachedCount,
    AttachVolume,
    Bid,
    BidRequest,
    CloseFrontend,
    CountAttached,
    CreateReplica,
    DeleteVolume,
    DescribeReplica,
    DescribeReplicas,
    DescribeVolume,
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
    NodeStatusRequest,
    OpenFrontend,
    Overridden,
    OverrideVolume,
    PolicySet,
    RecordModel,
    RemoveReplica,
    ReplicaCreated,
    ReplicaStatus,
    ReplicaStatuses,
    SetPolicy,
    SnapshotStep,
    SnapshotView,
    StampModel,
    StepSnapshot,
    TakeSnapshot,
    VolumeExpanded,
)
from stoscore.units import BLOCK_BYTES, MS, format_size

M = TypeVar("M", bound=Message)
Handler = Callable[[M, RequestContext], Awaitable[Message]]
_STEPS: dict[str, Literal["held", "sealed", "ready"]] = {"hold": "held", "seal": "sealed", "wait": "ready"}


class Api:
    """Turns requests into facts for the node, and the node's replies into answers."""

    def __init__(
        self,
        settings: ReplicaSettings,
        version: str,
        node: Node,
        shell: Shell,
        replicas: Replicas,
        frontends: Frontends,
        address: str,
        dial: Callable[[], None],
        dropped: Mapping[str, int],
        guests: Guests,
        scrubber: Scrubber,
    ):
        """`dial`: look again whom to keep links to. `dropped`: what was not believed, by reason."""
        self._settings = settings
        self._version = version
        self._node = node
        self._shell = shell
        self._replicas = replicas
        self._frontends = frontends
        self._address = address
        self._dial = dial
        self._dropped = dropped
        self._guests = guests
        self._scrubber = scrubber
        self._asked: dict[int, asyncio.Future[None]] = {}
        self._request = 0

    async def start(self, bus: Bus) -> None:
        me = self._settings.node
        await bus.serve(subjects.node(me, "create"), CreateReplica, self._create)
        await bus.serve(subjects.node(me, "found"), FoundVolume, self._found)
        await bus.serve(subjects.node(me, "remove"), RemoveReplica, self._remove)
        await bus.serve(subjects.node(me, "describe"), DescribeReplica, self._describe)
        await bus.serve(subjects.node(me, "describe-all"), DescribeReplicas, self._describe_all)
        await bus.serve(subjects.node(me, "attached"), CountAttached, self._attached)
        await bus.serve(subjects.node(me, "status"), NodeStatusRequest, self._status)
        await bus.serve(subjects.node(me, "open"), OpenFrontend, self._open)
        await bus.serve(subjects.node(me, "close"), CloseFrontend, self._close)
        await bus.serve(subjects.volume(me, "*", "describe"), DescribeVolume, self._describe_volume)
        await bus.serve(subjects.volume(me, "*", "attach"), AttachVolume, self._attach)
        await bus.serve(subjects.volume(me, "*", "detach"), DetachVolume, self._detach)
        await bus.serve(subjects.volume(me, "*", "delete"), DeleteVolume, self._delete)
        await bus.serve(subjects.volume(me, "*", "policy"), SetPolicy, self._policy)
        await bus.serve(subjects.volume(me, "*", "expand"), ExpandVolume, self._expand)
        await bus.serve(subjects.volume(me, "*", "move"), MoveVolume, self._move)
        await bus.serve(subjects.volume(me, "*", "override"), OverrideVolume, self._override)
        await bus.serve(subjects.volume(me, "*", "snapshot"), TakeSnapshot, self._snapshot)
        await bus.serve(subjects.volume(me, "*", "step"), StepSnapshot, self._step_snapshot)
        await bus.serve(subjects.volume(me, "*", "unsnapshot"), DropSnapshot, self._unsnapshot)
        await bus.serve(subjects.BID, BidRequest, self._bid)

    # ---- the node's verbs -----------------------------------------------------------------------------

    async def _create(self, request: CreateReplica, context: RequestContext) -> ReplicaCreated:
        incarnation = await self._guests.create(request, context.caller)
        self._shell.settle()
        root = request.source.root if request.source is not None else ""
        return ReplicaCreated(node=self._settings.node, incarnation=incarnation, root=root)

    async def _found(self, request: FoundVolume, context: RequestContext) -> Empty:
        hosted, volume = self._find(request.record.volume)
        try:
            record = from_model(request.record)
        except InvalidRecord as error:
            raise invalid(f"the first record breaks its own rules: {error}") from None
        if volume.brain.me not in record.voters:
            raise precondition(f"the record names another voter than {volume.brain.me.incarnation} on this node")
        if volume.brain.record is None and request.record.epoch:
            raise invalid("a first record has epoch 0")
        self._node.ask(hosted.volume, ev.Founded(record, context.traceparent), boot_time_ns())
        self._dial()
        self._shell.settle()
        try:
            await hosted.until_saved(volume.tickets)
        except StoreError as error:
            raise StosError(Code.RESOURCE_EXHAUSTED, f"the record can't be stored: {error}") from error
        return Empty()

    async def _remove(self, request: RemoveReplica, context: RequestContext) -> Empty:
        await self._guests.remove(request, context.caller)
        return Empty()

    async def _describe(self, request: DescribeReplica, context: RequestContext) -> ReplicaStatus:
        hosted, volume = self._find(request.volume)
        return replica_status(self._node, volume, hosted, boot_time_ns())

    async def _describe_all(self, request: DescribeReplicas, context: RequestContext) -> ReplicaStatuses:
        now_ns = boot_time_ns()
        here = [self._node.volumes[volume] for volume in request.volumes if volume in self._node.volumes]
        if request.serving:
            here = [volume for volume in here if serves(self._node, volume, now_ns)]
        return ReplicaStatuses(
            statuses=[
                in_short(replica_status(self._node, volume, self._shell.hosted[volume.id], now_ns)) for volume in here
            ]
        )

    async def _attached(self, request: CountAttached, context: RequestContext) -> AttachedCount:
        led = [volume.brain.record for volume in self._node.volumes.values() if volume.brain.role == "leader"]
        held = [record for record in led if record and record.attachment and record.attachment.node == request.node]
        return AttachedCount(volumes=len(held))

    async def _status(self, request: NodeStatusRequest, context: RequestContext) -> NodeStatus:
        now_ns = boot_time_ns()
        replicas, following = page(
            (
                (volume.id, replica_status(self._node, volume, self._shell.hosted[volume.id], now_ns))
                for volume in sorted(self._node.volumes.values(), key=lambda volume: volume.id)
                if resyncing(volume) or not request.resyncing
            ),
            request.after,
        )
        return NodeStatus(
            node=self._settings.node,
            zone=self._settings.zone,
            version=self._version,
            capacity_bytes=self._replicas.capacity_bytes if self._settings.accepts_copies else 0,
            provisioned_bytes=self._replicas.provisioned_bytes(),
            used_bytes=self._replicas.used_bytes(),
            peers={peer: self._node.detector.up(peer) for peer in sorted(self._node.peers())},
            broken=dict(self._replicas.broken),
            replicas=replicas,
            next=following,
            frontends=self._frontends.statuses() if request.after is None else [],
            strangers=dict(self._frontends.network.strangers),
            dropped=dict(self._dropped),
            scrub=self._scrubber.status(),
        )

    async def _open(self, request: OpenFrontend, context: RequestContext) -> FrontendOpened:
        return await self._frontends.open(request, str(context.caller))

    async def _close(self, request: CloseFrontend, context: RequestContext) -> Empty:
        if request.remote_only:
            await self._frontends.unexport(request.volume, str(context.caller))
        else:
            await self._frontends.close(request.volume)
        return Empty()

    async def _bid(self, request: BidRequest, context: RequestContext) -> Bid:
        volumes = self._node.volumes.values()
        return Bid(
            node=self._settings.node,
            zone=self._settings.zone,
            address=self._address,
            accepts_copies=self._settings.accepts_copies,
            capacity_bytes=self._replicas.capacity_bytes,
            provisioned_bytes=self._replicas.provisioned_bytes(),
            used_bytes=self._replicas.used_bytes(),
            free_disk_bytes=self._replicas.free_disk_bytes(),
            replicas=sum(volume.replica is not None for volume in volumes),
            primaries=sum(volume.primary is not None for volume in volumes),
        )

    # ---- a volume's verbs -----------------------------------------------------------------------------

    async def _describe_volume(self, request: DescribeVolume, context: RequestContext) -> ReplicaStatus:
        hosted, volume = self._led(context)
        return replica_status(self._node, volume, hosted, boot_time_ns())

    async def _attach(self, request: AttachVolume, context: RequestContext) -> Attached:
        _, volume = self._led(context)
        asked = partial(ev.AttachAsked, node=request.node, cause=context.traceparent, force=request.force)
        await self._ask(volume, asked)
        record = _record(volume)
        return Attached(record=record, attach_epoch=record.attach_epoch)

    async def _detach(self, request: DetachVolume, context: RequestContext) -> Empty:
        _, volume = self._led(context)
        await self._ask(volume, lambda number: ev.DetachAsked(number, request.node, context.traceparent))
        return Empty()

    async def _move(self, request: MoveVolume, context: RequestContext) -> Moved:
        """Answered by who led, when the successor leads; or at once, when the wish is fulfilled already."""
        me = self._settings.node
        _, volume = self._led(context)
        if request.to != me and request.away_from in (None, me):
            asked = partial(ev.MoveAsked, wanted=request.to or "", reason=request.reason, cause=context.traceparent)
            await self._ask(volume, asked)
        leader = volume.brain.leader
        return Moved(node=leader.node if leader is not None else me, epoch=volume.brain.epoch)

    async def _override(self, request: OverrideVolume, context: RequestContext) -> Overridden:
        """Asked of any voter: nobody leads."""
        _, volume = self._find(context.subject.split(".")[-2])
        asked = partial(
            ev.OverrideAsked,
            lost=tuple(request.lost),
            reason=request.reason,
            accept_loss=request.accept_loss,
            above=request.above,
            cause=context.traceparent,
        )
        await self._ask(volume, asked)
        return Overridden(record=_record(volume))

    async def _delete(self, request: DeleteVolume, context: RequestContext) -> Empty:
        _, volume = self._led(context)
        await self._ask(volume, lambda number: ev.DeleteAsked(number, context.traceparent))
        return Empty()

    async def _policy(self, request: SetPolicy, context: RequestContext) -> PolicySet:
        _, volume = self._led(context)
        asked = partial(
            ev.PolicyAsked,
            replicas=request.replicas,
            failure_mode=request.failure_mode,
            on_unavailable=request.on_unavailable,
            cause=context.traceparent,
        )
        await self._ask(volume, asked)
        return PolicySet(record=_record(volume))

    async def _expand(self, request: ExpandVolume, context: RequestContext) -> VolumeExpanded:
        hosted, volume = self._led(context)
        more = request.size_bytes - hosted.blocks.size_blocks * BLOCK_BYTES
        left = self._replicas.capacity_bytes - self._replicas.provisioned_bytes()
        if more > max(left, 0):
            raise StosError(
                Code.RESOURCE_EXHAUSTED,
                f"node {self._settings.node} has room for {format_size(max(left, 0))} more, not {format_size(more)}",
                next_step="choose a smaller size, delete volumes or add disks",
            )
        await self._ask(volume, lambda number: ev.ExpandAsked(number, request.size_bytes, context.traceparent))
        return VolumeExpanded(record=_record(volume))

    async def _snapshot(self, request: TakeSnapshot, context: RequestContext) -> SnapshotView:
        _, volume = self._led(context)
        _check_volume(request.volume, volume)
        now_ms = time.time_ns() // MS
        since = _stamp(request.since)
        await self._ask(
            volume, lambda number: ev.TakeAsked(number, request.snapshot, now_ms, context.traceparent, since)
        )
        record = volume.brain.record
        views = snapshot_views(record) if record is not None else ()
        for view in views:
            if view.snapshot == request.snapshot:
                return view
        raise StosError(Code.ABORTED, f"snapshot {request.snapshot} was dropped as soon as it was taken")

    async def _step_snapshot(self, request: StepSnapshot, context: RequestContext) -> SnapshotStep:
        _, volume = self._led(context)
        _check_volume(request.volume, volume)
        if request.step == "prepare":
            return await self._prepare_snapshot(request, volume, context.traceparent)
        asked = partial(
            ev.StepAsked,
            name=request.snapshot,
            step=_STEPS[request.step],
            epoch=request.epoch,
            asked=request.asked,
            hold_ns=request.hold_ms * MS,
        )
        await self._ask(volume, asked)
        return SnapshotStep(node=self._settings.node, epoch=request.epoch, asked=request.asked)

    async def _prepare_snapshot(self, request: StepSnapshot, volume: Volume, cause: str) -> SnapshotStep:
        """The reign is that of the question: what is told of another one is refused by the next step."""
        asked = partial(
            ev.TakeAsked,
            name=request.snapshot,
            created_ms=time.time_ns() // MS,
            cause=cause,
            since=_stamp(request.since),
            in_step=True,
            group=request.group,
        )
        epoch = volume.brain.epoch
        await self._ask(volume, asked)
        record = volume.brain.record
        taken = record.snapshot(request.snapshot) if record is not None else None
        if taken is None:
            raise StosError(Code.ABORTED, f"snapshot {request.snapshot} was dropped as soon as it was prepared")
        return SnapshotStep(node=self._settings.node, epoch=epoch, asked=taken.asked)

    async def _unsnapshot(self, request: DropSnapshot, context: RequestContext) -> Empty:
        _, volume = self._led(context)
        _check_volume(request.volume, volume)
        asked = partial(
            ev.DropAsked,
            name=request.snapshot,
            cause=context.traceparent,
            created_ms=request.created_ms,
            fence=request.fence,
        )
        await self._ask(volume, asked)
        return Empty()

    def _find(self, volume_id: str) -> tuple[Hosted, Volume]:
        hosted, volume = self._shell.hosted.get(volume_id), self._node.volumes.get(volume_id)
        if volume_id in self._replicas.broken:
            raise StosError(Code.DATA_LOSS, f"this node's copy is broken: {self._replicas.broken[volume_id]}")
        if hosted is None or volume is None:
            raise not_found(f"node {self._settings.node} has no voter of volume {volume_id}")
        return hosted, volume

    def _led(self, context: RequestContext) -> tuple[Hosted, Volume]:
        """The volume of the request's subject, if this node leads it; else NOT_PRIMARY with a hint."""
        hosted, volume = self._find(context.subject.split(".")[-2])
        if volume.brain.role != "leader":
            leader = volume.brain.leader
            raise _not_primary(self._settings.node, leader.node if leader else None)
        return hosted, volume

    async def ask_led(self, volume_id: str, event: Callable[[int], ev.Event]) -> None:
        """Returns when it is committed. Raises NOT_FOUND, NOT_PRIMARY, and what the volume's brain says."""
        _, volume = self._find(volume_id)
        await self._ask(volume, event)

    async def _ask(self, volume: Volume, event: Callable[[int], ev.Event]) -> None:
        self._request += 1
        number = self._request
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked[number] = future
        try:
            self._node.ask(volume.id, event(number), boot_time_ns())
            self._shell.settle()
            await future
        finally:
            del self._asked[number]

    def replied(self, order: Reply) -> None:
        """The node's answer to one of our questions; nobody may wait for it any more."""
        future = self._asked.get(order.request)
        if future is None or future.done():
            return
        if not order.code:
            future.set_result(None)
        elif order.code == Code.NOT_PRIMARY:
            future.set_exception(_not_primary(self._settings.node, None))
        else:
            future.set_exception(StosError(Code(order.code), order.error))


def _record(volume: Volume) -> RecordModel:
    """As its voter here has it, after what was asked for was done."""
    slot = volume.brain.state.slot
    assert slot is not None
    return to_model(slot)


def _stamp(seen: StampModel | None) -> Stamp | None:
    return Stamp(seen.generation, seen.epoch, seen.version) if seen is not None else None


def _check_volume(asked: str, volume: Volume) -> None:
    if asked != volume.id:
        raise invalid(f"the request is about volume {asked} and was sent to volume {volume.id}")


def _not_primary(node: str, hint: str | None) -> StosError:
    details = {"hint": hint} if hint and hint != node else {}
    return StosError(Code.NOT_PRIMARY, f"node {node} is not the volume's primary", details=details)
