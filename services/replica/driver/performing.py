"""What a brain's effects do on its node: promises are claimed, a primary begins and ends, members come and go.

The brain says what; here it becomes orders to the shell, events of the replication cores, and words to other nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from services.replica.brain import Record, Slot
from services.replica.brain import events as ev
from services.replica.driver.orders import (
    Decided,
    DropHome,
    Erase,
    FindHome,
    Order,
    RecordChanged,
    Remove,
    Reply,
    ToBrain,
)
from services.replica.driver.snapshots import pasts, pending
from services.replica.driver.volume import Volume
from services.replica.replication import effects as fx
from services.replica.replication.primary import Primary
from services.replica.replication.replica import Share
from services.replica.replication.withheld import Writes
from stoscore.units import BLOCK_BYTES

if TYPE_CHECKING:
    from services.replica.driver.node import Node

_WRITES = {"open": Writes.OPEN, "suspended": Writes.HELD, "failing": Writes.FAILED}


class Performing:
    """One node's brains' effects."""

    def __init__(
        self,
        node: Node,
        *,
        order: Callable[[Order], None],
        share_of: Callable[[str], Share],
        data: Callable[[Volume, list[fx.Effect], int], None],
        tell_serving: Callable[[Volume], None],
    ):
        self._node = node
        self._pairs = node.pairs
        self._order = order
        self._share_of = share_of
        self._data = data
        self._tell_serving = tell_serving

    def perform(self, volume: Volume, effect: ev.Effect, now_ns: int) -> None:
        match effect:
            case ev.Send(message):
                if message.target == volume.brain.me:
                    self._node.stepping.step(volume, ev.Received(message), now_ns)
                else:
                    self._order(ToBrain(message))
            case ev.RaiseEpoch(epoch):
                self._pairs.owe(self._pairs.promises.raised(volume.id, epoch))
                if volume.replica is not None:
                    self._data(volume, volume.replica.raise_epoch(epoch), now_ns)
            case ev.LiftPromise(node, epoch):
                self._pairs.owe(self._pairs.promises.lift(volume.id, node, epoch))
            case ev.Settle():
                if volume.primary is not None:
                    self._data(volume, volume.primary.settle(), now_ns)
            case ev.GoOn():
                if volume.primary is not None:
                    self._data(volume, volume.primary.go_on(), now_ns)
            case ev.Claim(epoch):
                self._claim(volume, epoch)
            case ev.Lead(slot):
                self._lead(volume, slot, now_ns)
            case ev.StopLeading(_, successor):
                self._stop_leading(volume, successor, now_ns)
            case ev.Require():
                self._require(volume, now_ns)
            case ev.SealSnapshot(name, asked, nodes, in_step):
                if volume.primary is not None:
                    self._data(volume, volume.primary.seal(name, asked, nodes, now_ns, in_step=in_step), now_ns)
            case ev.HoldWrites(asked, until_ns):
                if volume.primary is not None:
                    self._data(volume, volume.primary.hold_writes(asked, until_ns, now_ns), now_ns)
            case ev.SealHeld(asked):
                if volume.primary is not None:
                    self._data(volume, volume.primary.seal_held(asked, now_ns), now_ns)
            case ev.SnapshotsTold(nodes):
                if volume.primary is not None:
                    self._data(volume, volume.primary.told(nodes, now_ns), now_ns)
            case ev.RecordCommitted(slot):
                self._record_committed(volume, slot, now_ns)
            case ev.Reply(request, code, error):
                self._order(Reply(request, code, error))
            case ev.EraseData():
                self._erase(volume, now_ns)
            case ev.AskHome():
                self._order(FindHome(volume.id, effect))
            case ev.DropHome(home):
                self._order(DropHome(volume.id, home))
            case ev.ForgetVolume():
                if volume.replica is not None:
                    self._data(volume, volume.replica.leave(), now_ns)
                self._node.forget(volume.id)
                self._order(Remove(volume.id))
            case ev.Explain():
                self._order(Decided(volume.id, effect))

    # ---- leading --------------------------------------------------------------------------------------

    def _claim(self, volume: Volume, epoch: int) -> None:
        """From those who are only joining too: their promise counts for nothing, and tells them who leads."""
        slot = volume.brain.state.slot
        assert slot is not None
        others = tuple(member.node for member in slot.record.members if member.node != self._node.name)
        self._pairs.claim(self._pairs.promises.claim(volume.id, slot.stamp.generation, epoch, others))

    def _lead(self, volume: Volume, slot: Slot, now_ns: int) -> None:
        brain, record = volume.brain, slot.record
        if brain.role != "leader" or brain.epoch != slot.stamp.epoch or record.deleted:
            return  # deposed while the record became durable, or only the tombstone is left to lead
        assert volume.replica is not None
        self._data(volume, volume.replica.leave(), now_ns)
        attachment = record.attachment
        volume.primary = Primary(
            me=self._node.name,
            epoch=brain.epoch,
            peers=self._copies(record),
            in_sync=[voter.node for voter in record.in_sync],
            size_blocks=record.size_bytes // BLOCK_BYTES,
            gate=volume.replica.gate,
            share=self._share_of(volume.id),
            attach_epoch=record.attach_epoch,
            attached_node=attachment.node if attachment else None,
            writes=_WRITES[brain.writes],
            volume=volume.id,
            recovery=self._node.recovery,
        )
        up = [node for node in volume.primary.peers if self._pairs.links.up(node)]
        self._data(volume, volume.primary.start(up, now_ns), now_ns)

    def _stop_leading(self, volume: Volume, successor: str, now_ns: int) -> None:
        self._pairs.claim(self._pairs.promises.unclaim(volume.id))
        volume.parked = []
        if volume.primary is not None:
            self._data(volume, volume.primary.stop(successor), now_ns)
            volume.primary = None

    def _require(self, volume: Volume, now_ns: int) -> None:
        if volume.primary is not None and volume.brain.required is not None:
            nodes = [voter.node for voter in volume.brain.required.union()]
            self._data(volume, volume.primary.require(nodes, _WRITES[volume.brain.writes]), now_ns)

    # ---- records --------------------------------------------------------------------------------------

    def _record_committed(self, volume: Volume, slot: Slot, now_ns: int) -> None:
        before, volume.committed = volume.committed, slot
        record = slot.record
        if before is None or before.record.members != record.members:
            self._members_changed(volume, before, slot, now_ns)
        if volume.primary is not None:
            node = record.attachment.node if record.attachment else None
            volume.primary.attachment(node, record.attach_epoch)
            volume.primary.size_blocks = record.size_bytes // BLOCK_BYTES
            if record.snapshots or (before is not None and before.record.snapshots):
                held = pasts(record, volume.brain.me)
                self._data(volume, volume.primary.snapshots(pending(record), held, now_ns), now_ns)
            if volume.primary.serving and before is not None and before.record.members != record.members:
                self._tell_serving(volume)  # who uses it has to know whom to ask when this primary is gone
        self._order(RecordChanged(volume.id, slot))

    def _members_changed(self, volume: Volume, before: Slot | None, slot: Slot, now_ns: int) -> None:
        """Who is a member now may have been there all the time, and who is none any more is not looked after."""
        brain, record = volume.brain, slot.record
        for member in before.record.members if before is not None else ():
            if record.member_on(member.node) is None:
                gone = ev.PeerDown if member.node in brain.up else ev.SilentOnBus
                self._node.stepping.step(volume, gone(member.node), now_ns)
        for member in record.members:
            if member == brain.me or member.node in brain.up:
                continue
            if self._pairs.links.up(member.node):
                self._node.stepping.step(volume, ev.PeerUp(member.node), now_ns)
            elif self._pairs.bus.up(member.node):
                self._node.stepping.step(volume, ev.HeardOnBus(member.node), now_ns)
        if brain.role == "leader" and brain.epoch == slot.stamp.epoch and not record.deleted:
            self._claim(volume, brain.epoch)
        if volume.primary is not None and volume.primary.epoch == slot.stamp.epoch:
            copies = self._copies(record)
            up = [node for node in copies if self._pairs.links.up(node)]
            self._data(volume, volume.primary.members(copies, up, now_ns), now_ns)

    def _copies(self, record: Record) -> list[str]:
        """The nodes of the other copies, in sync or not."""
        return [member.node for member in record.members if member.kind == "data" and member.node != self._node.name]

    def _erase(self, volume: Volume, now_ns: int) -> None:
        if volume.primary is not None:
            self._data(volume, volume.primary.stop(), now_ns)
            volume.primary = None
        assert volume.replica is not None, "a witness has no data"
        self._data(volume, volume.replica.leave(), now_ns)
        self._order(Erase(volume.id))
