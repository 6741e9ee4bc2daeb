"""The invariants of the design, looked at from outside after every step: who leads, what is durable, what is promised.

What clients see is the concern of register.py and history.py. Here stands what nobody may see go wrong before it is too
late: two lives of one promise, a vote that is not on disk, a member of the in-sync set that lacks a write.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from services.replica.brain import HardState, Slot, Stamp, Voter
from services.replica.brain import messages as ms
from services.replica.driver import Node, Volume
from services.replica.replication.effects import Damage
from services.replica.replication.messages import SEQ_BITS, Io, Request
from stoscore.units import BLOCK_BYTES
from tests.simulation.store import Disk

if TYPE_CHECKING:
    from tests.simulation.machine import Machine
    from tests.simulation.world import World

FOREVER_NS = 1 << 62


@dataclass(slots=True)
class Agreed:
    """One volume as nobody but the checker knows it: what a majority has stored, who led."""

    leaders: dict[int, str] = field(default_factory=dict)
    newest: int = 0
    """The highest epoch that has had a leader."""
    votes: dict[tuple[Voter, int], Voter] = field(default_factory=dict)
    """(voter, epoch) -> whom its disk says it voted for."""
    accepted: dict[Stamp, set[Voter]] = field(default_factory=dict)
    slots: dict[Stamp, Slot] = field(default_factory=dict)
    chosen: Slot | None = None
    gone: set[Voter] = field(default_factory=set)
    """Replicas that lost their store."""
    leases: dict[str, tuple[int, HardState]] = field(default_factory=dict)
    """Node -> what its lease rested on when it was last looked at: promises heard, and its own state."""
    sessions: dict[tuple[str, int], int] = field(default_factory=dict)
    """(node, epoch) -> newest session that this primary opened."""


class Checker:
    def __init__(self, world: World):
        self._world = world
        self.volumes: dict[str, Agreed] = {}
        self.elections = 0
        self._read_back: dict[int, Slot] = {}
        """Records that were encoded and decoded again, each under its `id`, which is its own as long as it is here."""
        self.power_losses = 0
        """Elections of an unclean replica."""
        self.snapshots = 0
        """That became ready."""
        self.given = 0
        """Copies that were given one which they lacked."""

    def volume(self, volume: str) -> Agreed:
        found = self.volumes.get(volume)
        if found is None:
            found = self.volumes[volume] = Agreed()
        return found

    def _wrong(self, *words: Any) -> None:
        self._world.violated(" ".join(str(word) for word in words))

    # ---- agreement ------------------------------------------------------------------------------------

    def written(self, state: HardState) -> HardState:
        """As the disk gives it back: the same, which is looked at once for each record."""
        slot = state.slot
        if slot is None or self._read_back.get(id(slot)) is not slot:
            read = HardState.decode(state.encode())
            if read != state:
                self._wrong("A4:", state.me.node, "stores", state, "and finds", read)
            if slot is not None:
                self._read_back[id(slot)] = slot
        return state

    def stored(self, disk: Disk, state: HardState) -> None:
        """A hard state is durable: a record that a majority stored in its own epoch is chosen."""
        slot, agreed = state.slot, self.volume(disk.volume)
        if state.voted_for is not None:
            voted = agreed.votes.setdefault((state.me, state.epoch), state.voted_for)
            if voted != state.voted_for:
                self._wrong("A4:", state.me.node, "votes twice in epoch", state.epoch, voted, state.voted_for)
        if slot is None:
            return
        known = agreed.slots.setdefault(slot.stamp, slot)
        if known != slot:
            self._wrong("A1: two records with one stamp", slot.stamp, known.record, slot.record)
        if state.epoch != slot.stamp.epoch:
            return
        holders = agreed.accepted.setdefault(slot.stamp, set())
        holders.add(state.me)
        before = agreed.chosen
        voters = slot.record.voters
        if sum(voter in holders for voter in voters) * 2 <= len(voters):
            return
        if before is not None and slot.stamp.generation > before.stamp.generation:
            self._begins(disk, agreed, slot)
        elif before is None or slot.stamp > before.stamp:
            if before is not None and slot.stamp.version <= before.stamp.version:
                self._wrong("A1: a chosen record does not follow the one before", before.stamp, slot.stamp)
            agreed.chosen = slot
            self._choose(disk.volume, before, slot)
            self._sealed(disk.volume, before, slot)

    def _begins(self, disk: Disk, agreed: Agreed, slot: Slot) -> None:
        """I4: a generation begins by an operator's word, with one voter."""
        before = agreed.chosen
        assert before is not None
        if disk.volume not in self._world.overridden or slot.stamp.generation != before.stamp.generation + 1:
            self._wrong("I4:", disk.me.node, "begins generation", slot.stamp.generation, "of", disk.volume, "by itself")
        if slot.record.members != (disk.me,) or slot.record.attachment is not None:
            self._wrong("I4:", disk.me.node, "takes others into the new generation", slot.record)
        if any(epoch > slot.stamp.epoch for epoch in agreed.leaders):
            self._wrong("I4: generation", slot.stamp.generation, "begins in an epoch that was used", slot.stamp)
        agreed.chosen = slot

    def _choose(self, volume: str, before: Slot | None, slot: Slot) -> None:
        """A new record is committed. Whoever enters the set holds what was acknowledged, durable what was flushed."""
        if before is None or slot.record.deleted:
            return
        change = set(slot.record.voters) ^ set(before.record.voters)
        if len(change) > 1:
            self._wrong("A2:", len(change), "voters change at once in", volume, sorted(v.node for v in change))
        registers = self._world.registers
        for voter in slot.record.in_sync:
            disk = self._disk(volume, voter)
            if voter in before.record.in_sync or disk is None or disk.unclean:
                continue
            wrong = registers.check_current(volume, disk)
            if wrong:
                self._wrong("invariant 3:", voter.node, "enters the in-sync set and", wrong)
            wrong = registers.check_durable(volume, disk)
            if wrong:
                self._wrong("S4:", voter.node, "enters the in-sync set and", wrong)

    def _disk(self, volume: str, voter: Voter) -> Disk | None:
        """That replica's directory, unless it is gone for good."""
        machine = self._world.machines.get(voter.node)
        disk = machine.disks.get(volume) if machine is not None else None
        return disk if disk is not None and disk.me == voter else None

    def lost(self, volume: str, voter: Voter) -> None:
        """A replica lost its store: it can't come back under this name (I1)."""
        self.volume(volume).gone.add(voter)

    def removes(self, disk: Disk) -> None:
        """I3: a directory goes, with what is in it, when all others have erased what a committed tombstone names, or
        when a committed record does without this member. The tombstone is kept by whom it names: who was excluded
        before it has none to keep, may not have heard of it, and nobody waits for its word."""
        chosen = self.volume(disk.volume).chosen
        if chosen is None:
            self._wrong("I3:", disk.me.node, "removes", disk.volume, "which has no record")
        elif disk.me in chosen.record.members and not chosen.record.deleted:
            self._wrong("I3:", disk.me.node, "removes", disk.volume, "and is a member of", chosen)
        elif disk.me in chosen.record.members:
            others = [self._disk(disk.volume, member) for member in chosen.record.members if member != disk.me]
            left = [other.me.node for other in others if other is not None and other.cache]
            if left:
                self._wrong("I3:", disk.me.node, "forgets the tombstone of", disk.volume, "and there are data on", left)

    def fences(self, machine: Machine, volume: str, holder: str) -> None:
        """P6: nobody is taken for dead who was heard within one lease, unless an operator says so. `holder`: of the
        record that was decided about; by now the next one may be committed, which a voter alone does in one step."""
        sim = self._world.volumes.get(volume)
        if sim is None or sim.forced:
            return
        if holder != machine.name and not machine.missed(holder):
            self._wrong("P6:", machine.name, "fences", holder, "which it has heard all the time")

    # ---- snapshots ------------------------------------------------------------------------------------

    def _sealed(self, volume: str, before: Slot | None, slot: Slot) -> None:
        """K4: a snapshot that becomes ready is on all its holders, the same on each, and something that the volume was
        since it was asked for. Whoever was given it later holds the same."""
        for snapshot in slot.record.snapshots:
            known = before.record.snapshot(snapshot.name) if before is not None else None
            if snapshot.state != "ready":
                continue
            given = known is not None and known.layer == snapshot.layer
            size = snapshot.size_bytes // BLOCK_BYTES
            found = None
            for voter in slot.record.holders(snapshot):
                if given and known is not None and voter.incarnation in known.holders:
                    continue
                self.given += given
                disk = self._disk(volume, voter)
                if disk is None:
                    continue
                layer = disk.sealed.get(snapshot.layer)
                if layer is None or f"{layer.root(size):016x}" != snapshot.root:
                    self._wrong("K4:", voter.node, "holds", snapshot, "by the record, and its layer is", layer)
                found = layer
            if found is None or given:
                continue
            sim = self._world.volumes.get(volume) or self._world.tombs[volume]
            history = self._world.registers.volume(volume).history
            contents = {block: content for block, content in found.cache.items() if block < size}
            wrong = history.torn(contents, size, sim.snapshots.asked_ns[snapshot.name], self._world.now_ns)
            if wrong:
                self._wrong("K4: snapshot", snapshot.name, "of", volume, "is no moment of it:", wrong)
            self.snapshots += 1

    def drops(self, disk: Disk, layers: list[str]) -> None:
        """K4: nobody drops what the record counts on."""
        chosen = self.volume(disk.volume).chosen
        wanted = {snapshot.layer for snapshot in chosen.record.snapshots} if chosen is not None else set()
        if not wanted.isdisjoint(layers):
            self._wrong("K4:", disk.me.node, "drops", layers, "of", disk.volume, "and", chosen, "needs it")

    def layers(self, volume: str) -> str:
        """Healed and quiet: the holders have what they hold by the record, and nobody has more; "" when it is so."""
        chosen = self.volume(volume).chosen
        assert chosen is not None
        record = chosen.record
        ready = {snapshot.layer: snapshot for snapshot in record.snapshots if snapshot.state == "ready"}
        for member in record.members:
            disk = self._disk(volume, member)
            if disk is None:
                continue
            held = {layer for layer, snapshot in ready.items() if member.incarnation in snapshot.holders}
            if not held <= disk.sealed.keys():
                self._wrong("K4:", member.node, "lacks layers of", volume, sorted(held - disk.sealed.keys()))
            if not disk.sealed.keys() <= ready.keys():
                return (
                    f"{volume}: {member.node} has layers that nobody needs: {sorted(disk.sealed.keys() - ready.keys())}"
                )
        return ""

    def told_committed(self, volume: str, slot: Slot) -> None:
        chosen = self.volume(volume).chosen
        if chosen is None or slot.stamp > chosen.stamp:
            self._wrong("A1: told that", slot.stamp, "is committed, and no majority has stored it")

    # ---- elections ------------------------------------------------------------------------------------

    def look(self, machine: Machine) -> None:
        """After every event of a machine in which a brain took a step, or a promise was heard."""
        leading, volumes = machine.leading, machine.live.volumes
        for volume_id, volume in volumes.items():
            local = volume.brain.local
            if local.role == "leader":
                state = local.state
                if leading.get(volume_id) != state.epoch:
                    leading[volume_id] = state.epoch
                    self._elected(machine, volume)
                agreed = self.volumes[volume_id]
                heard, before = agreed.leases.get(machine.name, (-1, None))
                if heard != machine.promises_heard or before is not state or state.epoch < agreed.newest:
                    self._lease(machine, volume)
            elif volume_id in leading:
                del leading[volume_id]
        if not leading.keys() <= volumes.keys():
            for gone in leading.keys() - volumes.keys():
                del leading[gone]

    def _elected(self, machine: Machine, volume: Volume) -> None:
        self.elections += 1
        agreed, brain = self.volume(volume.id), volume.brain
        name, epoch = machine.name, brain.epoch
        self._world.log(name, "leads", volume.id, "in epoch", epoch, "unclean" if brain.unclean else "")
        if agreed.leaders.setdefault(epoch, name) != name:
            self._wrong("invariant 1: two leaders in epoch", epoch, agreed.leaders[epoch], name)
        if epoch < agreed.newest:
            return  # it was paused when the votes came, and another one has been elected since: nobody follows it
        agreed.newest = epoch
        self.leases(volume.id)
        slot = brain.state.slot
        assert slot is not None
        chosen = agreed.chosen
        if chosen is None:
            return
        if slot.stamp.generation < chosen.stamp.generation:
            self._wrong("I4:", name, "leads in generation", slot.stamp.generation, "beside", chosen.stamp)
        if slot.stamp.generation > chosen.stamp.generation:
            return  # the first record of its generation is on its way (`_begins`)
        if slot.stamp.version <= chosen.stamp.version:
            self._wrong("A1:", name, "leads with a record older than the chosen one", slot.stamp, chosen.stamp)
        if brain.me not in chosen.record.in_sync and slot.stamp.version == chosen.stamp.version + 1:
            self._wrong("invariant 3:", name, "leads and is not in the in-sync set", chosen)
        if slot.record.deleted:
            return
        disk = machine.disks[volume.id]
        if brain.unclean:
            self._unclean_leads(name, volume.id, epoch, chosen)
        elif disk.lossy:
            self._wrong("S3:", name, "leads, lost unflushed content and does not know it")
        else:
            wrong = self._world.registers.check_current(volume.id, disk)
            if wrong:
                self._wrong("invariant 2:", name, "is elected and", wrong)

    def _unclean_leads(self, name: str, volume: str, epoch: int, chosen: Slot) -> None:
        for voter in chosen.record.in_sync:
            disk = self._disk(volume, voter)
            if disk is None or not disk.unclean:
                self._wrong("S3: unclean", name, "leads though in-sync", voter.node, "is clean")
        self.power_losses += 1
        self._world.registers.relax(volume, epoch)

    # ---- leases ---------------------------------------------------------------------------------------

    def leases(self, volume: str) -> None:
        """Looked at when a promise may have ended: an election, a restart, a vote."""
        for machine in self._world.machines.values():
            state = machine.node.volumes.get(volume) if machine.node is not None else None
            if state is not None and volume in machine.leading:
                self._backed(machine, state)

    def _lease(self, machine: Machine, volume: Volume) -> None:
        """A lease rests on promises that last as long. It grows only with what is heard or stored."""
        self.volume(volume.id).leases[machine.name] = machine.promises_heard, volume.brain.state
        self._backed(machine, volume)

    def _backed(self, machine: Machine, volume: Volume) -> None:
        """Invariant 1, P1 to P3: as long as this lease holds, a majority of voters votes for nobody else. A machine
        that is paused could go on at any moment."""
        node, brain = machine.live, volume.brain
        if brain.role != "leader" or brain.record is None:
            return
        until = node.leases.until(volume)
        if until <= machine.clock_ns():
            return
        newest = self.volume(volume.id).newest
        if brain.epoch < newest:
            self._wrong("invariant 1:", machine.name, "holds the lease of epoch", brain.epoch, "beside", newest)
        voters = brain.record.voters
        end = machine.world_ns(until) - 2  # what rounding may cost
        bound = sum(voter == brain.me or self._bound_ns(volume.id, voter) >= end for voter in voters)
        if bound * 2 <= len(voters):
            self._wrong(
                "invariant 1:", machine.name, "counts on its lease until", end, "and only", bound, "of", len(voters),
                "voters are bound until then",
            )  # fmt: skip

    def _bound_ns(self, volume: str, voter: Voter) -> int:
        """Until when, in the world's time, this voter can't vote for anybody else."""
        machine = self._world.machines[voter.node]
        state = machine.node.volumes.get(volume) if machine.node is not None else None
        if state is None or state.brain.me != voter:
            return FOREVER_NS  # dead: it is silent long enough when it starts
        bound = max(machine.live.promises.promised_until(volume), state.brain.local.silent_until_ns)
        return machine.world_ns(bound)

    # ---- what leaves ----------------------------------------------------------------------------------

    def leaves(self, disk: Disk, message: ms.BrainMessage) -> None:
        """Invariant 4, A4: what a message depends on is durable when it leaves."""
        state = disk.state
        assert state is not None
        match message:
            case ms.Vote():
                durable = (state.epoch, state.voted_for) == (message.epoch, disk.me) or state.epoch > message.epoch
            case ms.VoteAnswer() if message.granted:
                voted = (state.epoch, state.voted_for) == (message.asked, message.target)
                durable = state.epoch > message.asked or voted
                self.leases(disk.volume)
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
        newest = node.volumes[disk.volume].brain.epoch
        if epoch < newest or seq >> SEQ_BITS < newest:
            self._wrong("T1:", node.name, "stores a write of epoch", seq >> SEQ_BITS, "in epoch", newest)

    # ---- what a primary answers -----------------------------------------------------------------------

    def opened(self, volume: str, machine: Machine, epoch: int, session: int) -> None:
        sessions = self.volume(volume).sessions
        before = sessions.get((machine.name, epoch), -1)
        if session <= before:
            self._wrong("W2:", machine.name, "opens session", session, "after", before)
        sessions[machine.name, epoch] = session

    def reads(self, volume: str, name: str, epoch: int) -> None:
        newest = self.volume(volume).newest
        if newest > epoch:
            self._wrong("invariant 1:", name, "answers a read of epoch", epoch, "and", newest, "has a leader")

    def confirms(self, machine: Machine, volume: str, epoch: int, request: Request, contents: tuple[int, ...]) -> None:
        """A write or a flush is about to be answered."""
        if request.io is Io.FLUSH:
            self._flushed(machine.name, volume, epoch, request)
        elif not request.fua:  # a write with FUA was settled before, and is a flush by now
            newest = self.volume(volume).sessions.get((machine.name, epoch), -1)
            if request.session < newest:
                self._wrong("W2:", machine.name, "confirms a write of session", request.session, "beside", newest)
            self._acknowledged(machine.name, volume, epoch, request.block, contents or (0,) * request.count)

    def fails(self, disk: Disk, request: Request, asked_ns: int) -> None:
        """Invariant 7: a read may fail where a block is rotten, or was when the read was asked, and nowhere else."""
        blocks = range(request.block, request.block + request.count)
        rotten = any(block in disk.rotten or disk.restored_ns.get(block, asked_ns) > asked_ns for block in blocks)
        if request.io is Io.READ and not rotten:
            self._wrong("invariant 7:", disk.me.node, "fails", request, "and every block matches its checksum")

    def commits(self, disk: Disk, epoch: int, seq: int) -> None:
        """W4, T2: a primary forgets what it might have to compare. At or below its commit point every member of the
        committed in-sync set holds the same, whatever the writes were answered."""
        done = [entry for entry in disk.tail if entry[0] <= seq]
        if not done:
            return
        for other in self._members(disk.volume, epoch):
            if other is disk:
                continue
            later = [entry for entry in (*disk.tail, *other.tail) if entry[0] > seq]
            moving = {b for _, block, count in later for b in range(block, block + count)}
            for at, block, count in done:
                for b in range(block, block + count):
                    if b not in moving and disk.cache.get(b, 0) != other.cache.get(b, 0):
                        self._wrong(
                            "W4:", disk.me.node, "commits", at, "epoch", epoch, "block", b, "holds",
                            disk.cache.get(b, 0), "and in-sync", other.me.node, "holds", other.cache.get(b, 0),
                        )  # fmt: skip

    def _members(self, volume: str, epoch: int, *, unclean: bool = False) -> Iterator[Disk]:
        """The clean (or the unclean) replicas of the committed in-sync set; none when this epoch has been deposed."""
        chosen = self.volume(volume).chosen
        assert chosen is not None
        if epoch < chosen.stamp.epoch:
            return  # whatever it answers now all confirmed: taken over, and maybe overwritten by now
        for voter in chosen.record.in_sync:
            disk = self._disk(volume, voter)
            if disk is not None and disk.unclean is unclean:
                yield disk

    def _acknowledged(self, name: str, volume: str, epoch: int, block: int, contents: tuple[int, ...]) -> None:
        """Invariant 2: on every member of the in-sync set of the last committed record."""
        for disk in self._members(volume, epoch):
            for at, content in enumerate(contents, block):
                if disk.cache.get(at, 0) != content:
                    self._wrong(
                        "invariant 2:", name, "acknowledges", content, "in block", at, "epoch", epoch,
                        "and in-sync", disk.me.node, "holds", disk.cache.get(at, 0),
                    )  # fmt: skip

    def _flushed(self, name: str, volume: str, epoch: int, request: Request) -> None:
        """Invariant 6: every write acknowledged before the flush is durable on every in-sync member."""
        registers = self._world.registers
        for disk in self._members(volume, epoch):
            wrong = registers.check_flush(volume, disk, epoch, request.session, request.request)
            if wrong:
                self._wrong("invariant 6:", name, "acknowledges a flush in epoch", epoch, "and", wrong)
        for disk in self._members(volume, epoch, unclean=True):
            wrong = "" if disk.failure else registers.check_lost(volume, disk, epoch, request.session, request.request)
            if wrong:
                self._wrong("S3:", name, "acknowledges a flush in epoch", epoch, "and in-sync", wrong)
        registers.volume(volume).flushes_sent.pop((request.session, request.request), None)

    def differed(self, volume: str, damage: Damage) -> None:
        """T2, D1: the scrub found that two members in sync held different content, which no write under way and no rot
        explains. It makes them equal, and nobody would see any more what a comparison had left out."""
        blocks = [at for first, count in damage.blocks for at in range(first, first + count)]
        unexplained = [at for at in blocks if (volume, at) not in self._world.rotted]
        if unexplained:
            source, node = damage.source, damage.node
            self._wrong("T2:", volume, "in-sync", node, "differed from", source, "in block", unexplained[0])

    # ---- the end --------------------------------------------------------------------------------------

    def copies(self, volume: str) -> None:
        """Healed and quiet: all copies are identical, and every block holds what it may hold."""
        chosen, model = self.volume(volume).chosen, self._world.registers.volume(volume)
        assert chosen is not None
        disks = [self._disk(volume, voter) for voter in chosen.record.in_sync]
        held = [disk.cache for disk in disks if disk is not None]
        for block in sorted(set(model.blocks).union(*held)):
            contents = {cache.get(block, 0) for cache in held}
            whole = [disk for disk in disks if disk is not None and block not in disk.rotten]
            if whole and len(whole) < len(held):
                self._wrong("invariant 7: block", block, "is rotten and", whole[0].me.node, "has it")
            if len(contents) > 1:
                self._wrong("copies differ in block", block, contents)
            allowed = model.now(block) | model.under_way(block)
            if not contents <= allowed:
                self._wrong("block", block, "holds", contents, "and may only hold", allowed)
