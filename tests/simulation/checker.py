"""What must hold, whatever happens: the invariants of the design, and a register per block.

A block's model is a row of versions, each a set of contents that it may have then; the last one is what a read may
return now. An acknowledged write adds a version, a read that was allowed several contents narrows the last one.

    versions  {0} {17} {23}      floats {31}      a write whose frontend died: it may still happen, until a newer
              ^flushed                            frontend is served; afterwards it has happened or never will

When every in-sync copy lost power (the only case in which an unclean replica may lead), a block may fall back to any
version from the last flushed one on, and to nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from services.replica.brain import HardState, Slot, Stamp, Voter
from services.replica.brain import messages as ms
from services.replica.driver import Node, Volume
from services.replica.replication.messages import SEQ_BITS
from tests.simulation.store import Disk

if TYPE_CHECKING:
    from tests.simulation.machine import Machine
    from tests.simulation.world import World


@dataclass(slots=True)
class Block:
    versions: list[set[int]] = field(default_factory=lambda: [{0}])
    base: int = 0
    """Number of the first version kept."""
    flushed: int = 0
    """Number of the version that is known to be flushed."""
    pending: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Request on its way -> (content, frontend)."""
    floats: set[int] = field(default_factory=set)

    @property
    def last(self) -> int:
        return self.base + len(self.versions) - 1

    def now(self) -> set[int]:
        return self.versions[-1]

    def flush(self, number: int) -> None:
        if number > self.flushed:
            self.flushed = number
            del self.versions[: number - self.base]
            self.base = number

    def float(self, owned: Callable[[int], bool]) -> None:
        for request, (content, owner) in list(self.pending.items()):
            if owned(owner):
                del self.pending[request]
                self.floats.add(content)

    def relax(self) -> None:
        allowed = set().union(*self.versions[self.flushed - self.base :])
        allowed |= self.floats | {content for content, _ in self.pending.values()}
        self.base, self.flushed, self.versions = self.last + 1, self.last + 1, [allowed]


@dataclass(slots=True)
class VolumeModel:
    blocks: dict[int, Block] = field(default_factory=dict)
    serving: int = 0
    """Number of the newest frontend that was served."""
    relaxed_ns: int = -1
    relaxed_epoch: int = -1
    leaders: dict[int, str] = field(default_factory=dict)
    max_leader: int = 0
    accepted: dict[Stamp, set[Voter]] = field(default_factory=dict)
    slots: dict[Stamp, Slot] = field(default_factory=dict)
    chosen: Slot | None = None
    flushes_asked: dict[int, dict[int, int]] = field(default_factory=dict)
    """The client's flush -> block -> version number."""
    flushes_sent: dict[tuple[int, int], dict[int, tuple[int, int]]] = field(default_factory=dict)
    """(session, request) -> block -> (version number, content when it is known and nothing is on its way, else -1)."""

    def block(self, block: int) -> Block:
        found = self.blocks.get(block)
        if found is None:
            found = self.blocks[block] = Block()
        return found


class Checker:
    def __init__(self, world: World):
        self.world = world
        self.volumes: dict[str, VolumeModel] = {}
        self.acks = 0
        self.reads_checked = 0
        self.flushes = 0
        self.relaxed = 0
        self.elections = 0

    def volume(self, volume: str) -> VolumeModel:
        return self.volumes.setdefault(volume, VolumeModel())

    def _wrong(self, *words: Any) -> None:
        self.world.violated(" ".join(str(word) for word in words))

    # ---- agreement ------------------------------------------------------------------------------------

    def stored(self, disk: Disk, state: HardState) -> None:
        """A hard state is durable: a record that a majority stored in its own epoch is chosen."""
        slot = state.slot
        model = self.volume(disk.volume)
        if slot is None:
            return
        known = model.slots.setdefault(slot.stamp, slot)
        if known != slot:
            self._wrong("two records with one stamp", slot.stamp, known.record, slot.record)
        if state.epoch != slot.stamp.epoch:
            return
        holders = model.accepted.setdefault(slot.stamp, set())
        holders.add(state.me)
        before = model.chosen
        if len(holders) * 2 > len(slot.record.voters) and (before is None or slot.stamp > before.stamp):
            if before is not None and slot.stamp.version <= before.stamp.version:
                self._wrong("a chosen record does not follow the one before", before.stamp, slot.stamp)
            model.chosen = slot

    def told_committed(self, volume: str, slot: Slot) -> None:
        model = self.volume(volume)
        if model.chosen is None or slot.stamp > model.chosen.stamp:
            self._wrong("A1: told that", slot.stamp, "is committed, and no majority has stored it")

    def elected(self, machine: Machine, volume: Volume) -> None:
        self.elections += 1
        model = self.volume(volume.id)
        brain = volume.brain
        name = machine.name
        epoch = brain.epoch
        self.world.log(name, "leads", volume.id, "epoch", epoch, "unclean" if brain.unclean else "")
        if model.leaders.setdefault(epoch, name) != name:
            self._wrong("invariant 1: two leaders in epoch", epoch, model.leaders[epoch], name)
        model.max_leader = max(model.max_leader, epoch)
        for other in self.world.machines.values():
            self.lease(other, volume.id)
        slot = brain.state.slot
        assert slot is not None
        if model.chosen is None:
            return
        if slot.stamp.version <= model.chosen.stamp.version:
            self._wrong(name, "leads with a record older than the chosen one", slot.stamp, model.chosen.stamp)
        if brain.me not in model.chosen.record.in_sync and slot.stamp.version == model.chosen.stamp.version + 1:
            self._wrong("invariant 3:", name, "leads and is not in the in-sync set", model.chosen)
        if brain.unclean:
            for voter in model.chosen.record.in_sync:
                if not self.world.machines[voter.node].disks[volume.id].unclean:
                    self._wrong("S3: unclean", name, "leads though in-sync", voter.node, "is clean")
            self.relaxed += 1
            model.relaxed_ns, model.relaxed_epoch = self.world.now_ns, epoch
            for block in model.blocks.values():
                block.relax()
        elif machine.disks[volume.id].lossy:
            self._wrong("S3:", name, "leads, lost unflushed content and does not know it")

    def lease(self, machine: Machine, volume: str) -> None:
        """Invariant 1: while a lease holds, nobody is elected; were the machine paused, it could go on just now."""
        state = machine.node.volumes.get(volume) if machine.node is not None else None
        if machine.node is None or state is None or state.brain.role != "leader":
            return
        newest = self.volume(volume).max_leader
        if state.brain.epoch < newest and machine.node.lease_until(state) > machine.clock_ns():
            self._wrong("invariant 1:", machine.name, "holds the lease of", state.brain.epoch, "beside", newest)

    def leaves(self, disk: Disk, message: ms.BrainMessage) -> None:
        """Invariant 4, A4: what a message depends on is durable when it leaves."""
        state = disk.state
        assert state is not None
        match message:
            case ms.Vote():
                durable = (state.epoch, state.voted_for) == (message.epoch, disk.me) or state.epoch > message.epoch
            case ms.VoteAnswer() if message.granted:
                durable = state.epoch > message.asked or (state.epoch, state.voted_for) == (
                    message.asked,
                    message.target,
                )
            case ms.Accepted():
                durable = state.slot is not None and state.slot.stamp >= message.stamp
            case _:
                return
        if not durable:
            self._wrong("A4:", disk.me.node, "sends", message, "and has stored", state)

    def joins(self, disk: Disk, epoch: int) -> None:
        if disk.state is None or disk.state.epoch < epoch:
            self._wrong("invariant 4:", disk.me.node, "follows epoch", epoch, "and has not stored it")

    def stores(self, disk: Disk, node: Node, epoch: int, seq: int) -> None:
        brain = node.volumes[disk.volume].brain
        if epoch < brain.epoch or seq >> SEQ_BITS < brain.epoch:
            self._wrong("invariant 4:", node.name, "stores data of epoch", seq >> SEQ_BITS, "in epoch", brain.epoch)

    # ---- what a primary answers -----------------------------------------------------------------------

    def reads(self, volume: str, name: str, epoch: int) -> None:
        newest = self.volume(volume).max_leader
        if newest > epoch:
            self._wrong("invariant 1:", name, "answers a read of epoch", epoch, "and", newest, "has a leader")

    def acknowledged(self, volume: str, name: str, epoch: int, block: int, contents: Iterable[int]) -> None:
        """Invariant 2: on every member of the in-sync set of the last committed record."""
        chosen = self.volume(volume).chosen
        assert chosen is not None
        if epoch < chosen.stamp.epoch:
            return  # deposed since all confirmed it: taken over, and maybe overwritten by now
        for voter in chosen.record.in_sync:
            disk = self.world.machines[voter.node].disks[volume]
            if disk.unclean:
                continue
            for at, content in enumerate(contents, block):
                if disk.cache.get(at, 0) != content:
                    self._wrong(
                        "invariant 2:", name, "acknowledges", content, "in block", at, "epoch", epoch,
                        "and in-sync", voter.node, "holds", disk.cache.get(at, 0), "record", chosen.stamp,
                    )  # fmt: skip

    def flushed(self, volume: str, name: str, epoch: int, session: int, request: int) -> None:
        """Every write acknowledged before the flush is durable on every in-sync member."""
        model = self.volume(volume)
        marks = model.flushes_sent.pop((session, request), None)
        if marks is None or model.chosen is None or epoch < model.relaxed_epoch:
            return
        for voter in model.chosen.record.in_sync:
            disk = self.world.machines[voter.node].disks[volume]
            if disk.unclean:
                continue
            for block, contents in disk.dirty.items():
                number, content = marks.get(block, (0, -1))
                state = model.blocks.get(block)
                if content < 0 or state is None or state.last != number or state.pending or state.floats:
                    continue
                if any(kept != content for kept in contents):
                    self._wrong(
                        "invariant 6:", name, "acknowledges a flush in epoch", epoch, "and block", block, "of",
                        voter.node, "may be any of", contents, "after a power loss, not", content,
                    )  # fmt: skip

    # ---- the client's side ----------------------------------------------------------------------------

    def submitted(self, volume: str, frontend: int, request: int, block: int, contents: Iterable[int]) -> None:
        model = self.volume(volume)
        if frontend < model.serving:
            return  # fenced: it must never happen
        for at, content in enumerate(contents, block):
            model.block(at).pending[request] = content, frontend

    def _served(self, model: VolumeModel, frontend: int) -> bool:
        """False: an answer to a frontend that was replaced. The first answer to a newer one ends the floats."""
        if frontend < model.serving:
            return False
        if frontend > model.serving:
            model.serving = frontend
            for block in model.blocks.values():
                block.float(lambda owner: owner < frontend)
                if block.floats:
                    block.versions.append(block.now() | block.floats)
                    block.floats = set()
        return True

    def written(
        self, volume: str, frontend: int, epoch: int, request: int, block: int, contents: Iterable[int], *, fua: bool
    ) -> None:
        model = self.volume(volume)
        if not self._served(model, frontend):
            return
        self.acks += 1
        for at, content in enumerate(contents, block):
            state = model.block(at)
            state.pending.pop(request, None)
            if epoch < model.relaxed_epoch:
                state.now().add(content)
                continue
            state.versions.append({content})
            if fua:
                state.flush(state.last)

    def gone(self, volume: str, frontend: int) -> None:
        """The frontend died: what it had not been told may happen, until another one is served."""
        for block in self.volume(volume).blocks.values():
            block.float(lambda owner: owner == frontend)

    def read(self, volume: str, frontend: int, epoch: int, block: int, contents: Iterable[int], asked_ns: int) -> None:
        model = self.volume(volume)
        if not self._served(model, frontend):
            return
        for at, content in enumerate(contents, block):
            self.reads_checked += 1
            state = model.blocks.get(at)
            allowed = state.now() if state is not None else {0}
            if content not in allowed:
                self._wrong("frontend", frontend, "read", content, "in block", at, "and it may only be", allowed)
            if state is not None and len(allowed) > 1 and asked_ns > model.relaxed_ns:
                state.versions[-1] = {content}

    def flush_asked(self, volume: str, request: int) -> None:
        model = self.volume(volume)
        model.flushes_asked[request] = {block: state.last for block, state in model.blocks.items()}

    def flush_sent(self, volume: str, session: int, request: int) -> None:
        model = self.volume(volume)
        model.flushes_sent[session, request] = {
            block: (state.last, next(iter(state.now())) if len(state.now()) == 1 and not state.pending else -1)
            for block, state in model.blocks.items()
        }

    def flush_done(self, volume: str, frontend: int, epoch: int, request: int) -> None:
        model = self.volume(volume)
        marks = model.flushes_asked.pop(request, {})
        if not self._served(model, frontend) or epoch < model.relaxed_epoch:
            return
        self.flushes += 1
        for block, number in marks.items():
            model.blocks[block].flush(number)

    # ---- the end --------------------------------------------------------------------------------------

    def copies(self, volume: str) -> None:
        """Healed and quiet: all copies are identical, and every block holds what it may hold."""
        model = self.volume(volume)
        assert model.chosen is not None
        record = model.chosen.record
        disks = [self.world.machines[v.node].disks[volume] for v in record.voters if v.kind == "data"]
        for block in sorted(set().union(*(disk.cache for disk in disks), model.blocks)):
            contents = {disk.me.node: disk.cache.get(block, 0) for disk in disks}
            if len(set(contents.values())) > 1:
                self._wrong("copies differ in block", block, contents)
            state = model.blocks.get(block)
            allowed = state.now() | state.floats if state is not None else {0}
            if next(iter(contents.values())) not in allowed:
                self._wrong("block", block, "holds", contents, "and may only be", allowed)
