"""What a node orders, performed on the simulated disk and network in order, as `services/replica/shell.py` does it.

A store that failed answers nothing any more: the orders that follow are dropped but for those that say so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from services.replica.brain import HardState, Slot
from services.replica.brain.record import layer_name
from services.replica.driver import (
    Data,
    Decided,
    DropHome,
    Erase,
    FindHome,
    HangUp,
    RecordChanged,
    Remove,
    Reply,
    Save,
    TellServing,
    ToBrain,
    ToPeer,
)
from services.replica.driver.orders import REPLICA_OWNER
from services.replica.driver.snapshots import unwanted
from services.replica.replication import effects as fx
from services.replica.replication.messages import (
    Copy,
    Digests,
    Done,
    DoneMany,
    Failed,
    Fetched,
    Joined,
    Opened,
    OpenRefused,
    Request,
)
from stoscore.units import BLOCK_BYTES
from tests.simulation.client import ReadTogether
from tests.simulation.store import Disk, DiskFailed, Outside, Rotten
from tests.simulation.wires import Envelope

if TYPE_CHECKING:
    from tests.simulation.machine import Machine


class Orders:
    def __init__(self, machine: Machine):
        self._machine = machine
        self._world = machine.world
        self._tokens: dict[int, tuple[int, ...]] = {}
        self._next_token = 1
        self._envelopes: dict[tuple[str, str], tuple[Slot | None, Envelope]] = {}
        """(volume, node) -> the record that we hold, and both ends as it has them."""
        self._asked: dict[tuple[int, int, int], tuple[Request, tuple[int, ...], int]] = {}
        """(link, session, number) -> what was asked, with which content, when."""
        """(link, session, request) -> what a frontend asked of this primary, with its payload."""
        self.perform: dict[type, Callable[[Any], None]] = {
            ToPeer: lambda order: machine.wires.pair(order.node, order.message, by_bus=order.by_bus),
            ToBrain: self._to_brain,
            Save: self._save,
            Data: self._data,
            Reply: lambda order: self._world.replied(machine, order),
            Decided: self._decided,
            RecordChanged: self._record_changed,
            TellServing: self._tell_serving,
            HangUp: self._hang_up,
            Erase: lambda order: machine.lanes[order.volume].erase(),
            Remove: self._remove,
            FindHome: lambda order: self._world.homes.find(machine, order),
            DropHome: lambda order: self._world.homes.drop(machine, order),
        }
        self._effects: dict[type, Callable[[Disk, Data, Any], None]] = {
            fx.Tell: self._tell,
            fx.Answer: self._answer,
            fx.AnswerRead: self._answer_read,
            fx.AnswerReadMany: self._answer_read_many,
            fx.AnswerDigests: self._answer_digests,
            fx.StoreWrite: self._store_write,
            fx.StoreWriteMany: self._store_write_many,
            fx.StoreZero: self._store_zero,
            fx.StoreCopy: self._store_copy,
            fx.MarkRegions: lambda disk, order, effect: machine.lanes[disk.volume].mark(effect.regions),
            fx.UnmarkRegions: lambda disk, order, effect: disk.unmark(effect.regions),
            fx.SyncStore: lambda disk, order, effect: machine.lanes[disk.volume].sync(order.owner, effect),
            fx.WriteBack: lambda disk, order, effect: None,  # a power loss spares what it likes anyway
            fx.CommitTail: self._commit_tail,
            fx.Compare: self._compare,
            fx.SendCopy: self._send_copy,
            fx.PrepareSeal: lambda disk, order, effect: machine.lanes[disk.volume].prepare_seal(
                order.owner, effect.number
            ),
            fx.SealStore: lambda disk, order, effect: machine.lanes[disk.volume].seal(_layer(effect), effect.seq),
            fx.HashSeal: lambda disk, order, effect: machine.lanes[disk.volume].hash_seal(
                order.owner, _layer(effect), effect
            ),
            fx.WritesHeld: self._noted,
            fx.NotGiven: self._noted,
            fx.Release: lambda disk, order, effect: self._tokens.pop(effect.token, None),
            fx.AnswerFetch: self._answer_fetch,
            fx.Heal: self._heal,
            fx.Damage: self._damage,
            fx.StartedServing: self._noted,
            fx.ResyncBegins: self._noted,
            fx.ResyncDone: self._noted,
        }

    def end(self) -> None:
        self._tokens.clear()
        self._asked.clear()
        self._envelopes.clear()

    def hold(self, payload: tuple[int, ...]) -> int:
        token = self._next_token
        self._next_token += 1
        self._tokens[token] = payload
        return token

    def asked(self, link: int, request: Request, payload: tuple[int, ...]) -> None:
        self._asked[link, request.session, request.request] = request, payload, self._world.now_ns

    # ---- orders ---------------------------------------------------------------------------------------

    def _to_brain(self, order: ToBrain) -> None:
        message = order.message
        disk = self._machine.disks.get(message.volume)
        if disk is not None:
            self._world.checker.leaves(disk, message)
        self._machine.wires.brain(message)

    def _save(self, order: Save) -> None:
        self._machine.lanes[order.volume].save(order.ticket, order.state)

    def state_durable(self, disk: Disk, state: HardState) -> None:
        """A larger volume has its room before its record counts as accepted."""
        self.make_room(disk, state)
        disk.state = self._world.checker.written(state)
        self._world.checker.stored(disk, disk.state)

    def make_room(self, disk: Disk, state: HardState) -> None:
        record = state.slot.record if state.slot is not None else None
        if record is not None and disk.me.kind == "data" and not record.deleted:
            disk.grow(record.size_bytes // BLOCK_BYTES)

    def _record_changed(self, order: RecordChanged) -> None:
        self._world.checker.told_committed(order.volume, order.slot)
        self.drop_unwanted(order.volume)

    def drop_unwanted(self, volume_id: str) -> None:
        disk, volume = self._machine.disks.get(volume_id), self._machine.live.volumes.get(volume_id)
        if disk is None or disk.failure or volume is None or volume.committed is None or not disk.sealed:
            return
        stored = volume.brain.state.slot
        layers = unwanted(list(disk.sealed), volume.committed, stored) if stored is not None else []
        if layers:
            self._world.checker.drops(disk, layers)
            self._machine.lanes[volume_id].drop(layers)

    def _decided(self, order: Decided) -> None:
        explain = order.explain
        self._world.decided(self._machine.name, order.volume, explain)
        if explain.kind == "fence" and not explain.inputs["change"]["force"]:
            holder = explain.inputs["record"]["attachment"]["node"]
            self._world.checker.fences(self._machine, order.volume, holder)
        if explain.kind == "shrink" and "the layer of snapshot" in explain.outcome:
            self._world.violated(f"K4: copies in sync sealed another content each: {explain.outcome}")
        self._machine.log(order.volume, explain.kind, explain.outcome, explain.alternatives)

    def _tell_serving(self, order: TellServing) -> None:
        record = self._machine.live.volumes[order.volume].brain.record
        members = record.members if record is not None else ()
        copies = {member.node: int(member.incarnation, 16) for member in members if member.kind == "data"}
        self._machine.wires.send(order.node, ("serving", order.volume, order.epoch, copies))

    def _hang_up(self, order: HangUp) -> None:
        link = self._machine.wires.out.get(order.node)
        if link is not None:
            self._machine.log("hangs up on", order.node)
            self._world.network.close_dialler(link)

    def _remove(self, order: Remove) -> None:
        self._machine.log(order.volume, "removes its directory")
        self._world.checker.removes(self._machine.disks[order.volume])
        del self._machine.disks[order.volume]
        del self._machine.lanes[order.volume]

    # ---- data -----------------------------------------------------------------------------------------

    def _data(self, order: Data) -> None:
        disk = self._machine.disks.get(order.volume)
        for effect in order.effects:
            if disk is None:
                if isinstance(effect, fx.Answer):  # a frontend that asks a node without the volume is sent on
                    self._machine.wires.answer(effect.link, (order.volume, (0, 0, 0), order.epoch, effect.message, ()))
                continue
            if disk.failure and not _after_failure(effect):
                continue
            try:
                self._effects[type(effect)](disk, order, effect)
            except DiskFailed as error:
                self.disk_failed(order.volume, str(error))

    def failed(self, volume: str) -> bool:
        disk = self._machine.disks.get(volume)
        return disk is None or bool(disk.failure)

    def disk_failed(self, volume: str, reason: str, *, votes: bool = True) -> None:
        """This copy's disk failed: it counts for nothing from now on (S3), and has no vote if it can't store one."""
        disk, machine = self._machine.disks.get(volume), self._machine
        if disk is None or (disk.failure and (votes or not disk.votes)):
            return
        machine.log(volume, "its disk fails:", reason)
        disk.fail(reason)
        disk.votes = votes
        machine.live.disk.store_changed(volume, machine.clock_ns(), unclean=True, failure=reason, votes=votes)

    def _envelope(self, disk: Disk, node: str) -> Envelope:
        """Both ends' incarnations (I1) and the generation (I4), as this replica's record has them."""
        slot = self._machine.live.volumes[disk.volume].brain.local.state.slot
        known = self._envelopes.get((disk.volume, node))
        if known is None or known[0] is not slot:
            voter = slot.record.member_on(node) if slot is not None else None
            target = int(voter.incarnation, 16) if voter is not None else 0
            envelope = int(disk.me.incarnation, 16), target, slot.stamp.generation if slot is not None else 0
            known = self._envelopes[disk.volume, node] = slot, envelope
        return known[1]

    def _tell(self, disk: Disk, order: Data, effect: fx.Tell) -> None:
        message = effect.message
        payload = self._tokens[message.token] if getattr(message, "token", 0) else ()
        for peer in effect.peers:
            self._send_data(disk, order, peer, message, payload)

    def _send_data(self, disk: Disk, order: Data, peer: str, message: Any, payload: tuple[int, ...]) -> None:
        if peer in self._machine.wires.out:
            envelope = self._envelope(disk, peer)
            self._machine.wires.send(peer, ("data", disk.volume, envelope, order.epoch, message, payload))

    def _reply(self, disk: Disk, order: Data, link: int, message: Any, payload: tuple[int, ...] = ()) -> None:
        envelope = self._envelope(disk, self._machine.wires.peer_at(link))
        self._machine.wires.answer(link, (disk.volume, envelope, order.epoch, message, payload))

    def _answer(self, disk: Disk, order: Data, effect: fx.Answer) -> None:
        message, checker = effect.message, self._world.checker
        match message:
            case Joined():
                checker.joins(disk, order.epoch)
                plan, machine = self._world.plan, self._machine
                many, past = not plan.is_old(machine.name), plan.takes_past(machine.starts)
                message = replace(message, takes_many=many, takes_past=past, takes_levels=many)
            case Opened(session):
                checker.opened(disk.volume, self._machine, order.epoch, session)
            case OpenRefused():
                self._machine.log("refuses", disk.volume, message)
            case Done(session, request, error):
                self._told(disk, order, (effect.link, session, request), error)
            case DoneMany(session, requests):
                for request in requests:
                    self._told(disk, order, (effect.link, session, request), 0)
        self._reply(disk, order, effect.link, message)

    def _told(self, disk: Disk, order: Data, key: tuple[int, int, int], error: int) -> None:
        asked, checker = self._asked.pop(key, None), self._world.checker
        if asked is None:
            self._world.violated(f"{self._machine.name} answers {key} twice or unasked")
            return
        request, payload, asked_ns = asked
        if error:
            checker.fails(disk, request, asked_ns)
        else:
            checker.confirms(self._machine, disk.volume, order.epoch, request, payload)

    def _answer_read(self, disk: Disk, order: Data, effect: fx.AnswerRead) -> None:
        """The content is read at once, the disk takes its time, the lease is looked at as the answer leaves (P4)."""
        machine, volume = self._machine, disk.volume
        try:
            contents = disk.read(effect.block, effect.count)
        except Rotten as rotten:
            machine.log(volume, "can't read:", rotten)
            machine.live.disk.unreadable(volume, order.epoch, effect, rotten.blocks, machine.clock_ns())
            return

        def leave() -> None:
            if self._may_answer(disk, order, effect):
                self._world.checker.reads(volume, machine.name, order.epoch)
                self._asked.pop((effect.link, effect.session, effect.request), None)
                self._reply(disk, order, effect.link, Done(effect.session, effect.request, 0), contents)

        machine.later(machine.disk_time() // 4, leave)

    def _answer_read_many(self, disk: Disk, order: Data, effect: fx.AnswerReadMany) -> None:
        """Together, but for those that meet rot."""
        machine, volume = self._machine, disk.volume
        try:
            contents = [disk.read(block, count) for _, block, count in effect.asks]
        except Rotten:
            for request, block, count in effect.asks:
                self._answer_read(disk, order, fx.AnswerRead(effect.link, effect.session, request, block, count))
            return

        def leave() -> None:
            if not self._may_answer(disk, order, effect):
                return
            for request, _, _ in effect.asks:
                self._world.checker.reads(volume, machine.name, order.epoch)
                self._asked.pop((effect.link, effect.session, request), None)
            read = tuple(content for part in contents for content in part)
            self._reply(disk, order, effect.link, ReadTogether(effect.session, effect.asks), read)

        machine.later(max(machine.disk_time() // 4 for _ in effect.asks), leave)

    def _may_answer(self, disk: Disk, order: Data, effect: fx.AnswerRead | fx.AnswerReadMany) -> bool:
        """It still serves, and under a lease; else the read waits for the next one."""
        machine, volume = self._machine, disk.volume
        state = machine.live.volumes.get(volume)
        if state is None or state.primary is None or state.primary.epoch != order.epoch or disk.failure:
            return False
        if not state.primary.serving:
            return False
        if machine.live.leases.until(state) <= machine.clock_ns():
            machine.log("parks", volume, effect)
            machine.live.leases.park(state, effect)
            return False
        return True

    # ---- the store ------------------------------------------------------------------------------------

    def _store_write(self, disk: Disk, order: Data, effect: fx.StoreWrite) -> None:
        self._world.checker.stores(disk, self._machine.live, order.epoch, effect.seq)
        contents = self._tokens.pop(effect.token)
        assert len(contents) == effect.count
        disk.write(effect.seq, effect.block, contents)
        self._machine.log("stores", disk.volume, effect.seq, effect.block, contents)

    def _store_write_many(self, disk: Disk, order: Data, effect: fx.StoreWriteMany) -> None:
        self._world.checker.stores(disk, self._machine.live, order.epoch, effect.seq)
        contents = iter(self._tokens.pop(effect.token))
        for block, count in effect.ranges:
            part = tuple(next(contents) for _ in range(count))
            disk.write(effect.seq, block, part)
            self._machine.log("stores", disk.volume, effect.seq, block, part)

    def _store_zero(self, disk: Disk, order: Data, effect: fx.StoreZero) -> None:
        self._world.checker.stores(disk, self._machine.live, order.epoch, effect.seq)
        disk.write(effect.seq, effect.block, (0,) * effect.count)
        self._machine.log("stores", disk.volume, effect.seq, effect.block, (0,) * effect.count)

    def _store_copy(self, disk: Disk, order: Data, effect: fx.StoreCopy) -> None:
        self._world.checker.stores(disk, self._machine.live, order.epoch, effect.seq)
        contents = iter(self._tokens.pop(effect.token))
        by_block = {b: next(contents) for block, count in effect.ranges for b in range(block, block + count)}
        for block, count in effect.keep:
            kept = tuple(by_block[b] for b in range(block, block + count))
            self.note_copy(disk, effect, block, kept)
            self._machine.log("copies", disk.volume, effect.seq, block, kept)

    def note_copy(self, disk: Disk, effect: fx.StoreCopy, block: int, contents: tuple[int, ...]) -> None:
        """A copy is noted like a write, under the number at which it was read."""
        disk.write(effect.seq, block, contents)

    def _commit_tail(self, disk: Disk, order: Data, effect: fx.CommitTail) -> None:
        if order.owner != REPLICA_OWNER:
            self._world.checker.commits(disk, order.epoch, effect.seq)
        disk.tail_commit(effect.seq)

    # ---- comparing and copying ------------------------------------------------------------------------

    def _answer_digests(self, disk: Disk, order: Data, effect: fx.AnswerDigests) -> None:
        try:
            parts = [disk.digests(effect.level, index, count) for index, count in effect.ranges]
        except Outside:
            self._machine.wires.ends(effect.link, "asks for digests beyond the end")
            return
        values = tuple(chain.from_iterable(parts))
        self._reply(disk, order, effect.link, Digests(effect.number, effect.level, 1), values)

    def _compare(self, disk: Disk, order: Data, effect: fx.Compare) -> None:
        told, begin, layer = self._tokens.pop(effect.token), 0, layer_name(*effect.of) if effect.of else ""
        if self._is_gone(disk, order, effect):
            return
        differing: list[tuple[int, int]] = []
        for index, count in effect.ranges:
            mine, theirs = disk.digests(effect.level, index, count, layer), told[begin : begin + count]
            begin += count
            for at in range(index, index + count) if mine != theirs else ():
                if mine[at - index] == theirs[at - index]:
                    continue
                if differing and sum(differing[-1]) == at:
                    differing[-1] = (differing[-1][0], differing[-1][1] + 1)
                else:
                    differing.append((at, 1))
        machine = self._machine
        machine.live.disk.compared(disk.volume, order.epoch, effect.peer, effect.number, differing, machine.clock_ns())

    def _send_copy(self, disk: Disk, order: Data, effect: fx.SendCopy) -> None:
        machine = self._machine
        if self._is_gone(disk, order, effect):
            return
        try:
            if effect.of is None:
                payload = tuple(c for block, count in effect.ranges for c in disk.read(block, count))
            else:
                kept = disk.sealed[layer_name(*effect.of)].cache
                payload = tuple(kept.get(b, 0) for block, count in effect.ranges for b in range(block, block + count))
        except Rotten as rotten:
            machine.log(disk.volume, "can't copy:", rotten)
            machine.live.disk.unreadable(disk.volume, order.epoch, effect, rotten.blocks, machine.clock_ns())
            return
        self._send_data(disk, order, effect.peer, Copy(effect.number, effect.as_of, effect.ranges, 1), payload)

    def _is_gone(self, disk: Disk, order: Data, effect: fx.Compare | fx.SendCopy) -> bool:
        """The layer was dropped meanwhile."""
        if effect.of is None or layer_name(*effect.of) in disk.sealed:
            return False
        machine = self._machine
        machine.log(disk.volume, "has not", effect.of)
        machine.live.disk.past_unreadable(disk.volume, order.epoch, effect.peer, effect.of, machine.clock_ns())
        return True

    # ---- rot ------------------------------------------------------------------------------------------

    def _answer_fetch(self, disk: Disk, order: Data, effect: fx.AnswerFetch) -> None:
        blocks = [at for block, count in effect.ranges for at in range(block, block + count)]
        good = [at for at in blocks if at not in disk.rotten]
        fetched = Fetched(effect.number, tuple((at, 1) for at in good), 1)
        self._reply(disk, order, effect.link, fetched, tuple(content for at in good for content in disk.read(at, 1)))
        bad = sorted(set(blocks) - set(good))
        if bad:
            self._machine.live.disk.rotten(disk.volume, bad, self._machine.clock_ns())

    def _heal(self, disk: Disk, order: Data, effect: fx.Heal) -> None:
        blocks = [at for block, count in effect.ranges for at in range(block, block + count)]
        offered = zip(blocks, self._tokens.pop(effect.token), strict=True)
        whole = [at for at, content in offered if disk.heal(at, content, settled=effect.settled)]
        machine = self._machine
        machine.log(disk.volume, "heals", whole, "of", effect)
        machine.live.disk.healed(disk.volume, order.epoch, effect.number, whole, machine.clock_ns())

    def _damage(self, disk: Disk, order: Data, effect: fx.Damage) -> None:
        self._machine.log(disk.volume, effect)
        self._world.damaged(disk, effect)

    def _noted(self, disk: Disk, order: Data, effect: Any) -> None:
        self._machine.log(disk.volume, effect)


def _layer(effect: fx.SealStore | fx.HashSeal) -> str:
    return layer_name(effect.snapshot, effect.seq)


def _after_failure(effect: fx.Effect) -> bool:
    match effect:
        case fx.Release() | fx.Answer(_, Failed() | OpenRefused()):
            return True
    return False
