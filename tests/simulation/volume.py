"""One volume's control plane: it is founded, attached where it is wanted, moved, given another policy, deleted, and
made anew under its name, with whatever befalls it in the middle."""

from __future__ import annotations

from bisect import bisect
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

from services.replica.brain import Record, Voter
from services.replica.brain import events as ev
from services.replica.driver import Reply
from services.replica.replication.frontend import RequestKind
from stoscore.units import BLOCK_BYTES, MS
from tests.simulation.client import Frontend
from tests.simulation.plan import VolumePlan, volume_voters
from tests.simulation.snapshots import Snapshots

if TYPE_CHECKING:
    from tests.simulation.machine import Machine
    from tests.simulation.world import World

TEND_NS = 50 * MS
ATTACHMENT = ("attach", "detach")
ANSWERS = 3
"""So many answers show that a frontend is served."""
KINDS = (RequestKind.WRITE, RequestKind.READ, RequestKind.ZERO, RequestKind.FLUSH)
KIND_SHARES = (0.60, 0.90, 0.94)
"""Of these and those before them; the rest is the last one's."""
COUNTS = (1, 2, 4, 40)
COUNT_SHARES = (0.80, 0.90, 0.98)
FUA_SHARE = 0.08


class SimVolume:
    def __init__(self, world: World, plan: VolumePlan, operations: int):
        self.world = world
        self.plan = plan
        self.id = plan.name
        self.dice = Random(f"{world.plan.seed}/{plan.name}")
        self.wanted = plan.node
        self.frontend: Frontend | None = None
        self.may_fail = plan.on_unavailable == "error"
        """Requests may be answered with an error: the policy says so, or said so."""
        self.size_blocks = plan.size_blocks
        """As its user knows it: what it grew by is used from the answer on."""
        self._wanted_blocks = plan.size_blocks
        self._hot = plan.hot
        self._operations = operations
        self._founded = False
        self._asked: dict[int, str] = {}
        self._changes: list[ev.PolicyAsked] = []
        self._detach = False
        self._steal = ""
        """Attach elsewhere without detaching: "dead" when the node that holds it is, or an operator's reason."""
        self._deleting = False
        self.snapshots = Snapshots(world, self.id, wanted=world.plan.snapshots)

    # ---- founding -------------------------------------------------------------------------------------

    def make_replicas(self) -> None:
        for voter in self.plan.voters:
            self.world.machines[voter.node].make_replica(self.id, voter, self.plan.size_blocks)

    def first_record(self) -> Record:
        plan = self.plan
        data = tuple(voter for voter in plan.voters if voter.kind == "data")
        return Record(
            self.id, self.id, plan.size_blocks * BLOCK_BYTES, len(data) - 1, plan.voters, data,
            failure_mode=plan.failure_mode, on_unavailable=plan.on_unavailable,
        )  # fmt: skip

    def found(self) -> None:
        """The first record goes to every voter, again until each has it: a create that is interrupted goes on. *It went
        on until a majority had agreed. The third voter had lost power in the middle, never had a record, and could not
        vote when the leader was away (seed 1100004681).*"""
        record = self.first_record()
        for voter in self.plan.voters:
            machine = self.world.machines[voter.node]
            state = machine.node.volumes.get(self.id) if machine.node is not None and not machine.paused else None
            if state is not None and state.brain.record is None and state.brain.me == voter:
                machine.ask(self.id, ev.Founded(record))
        if self.id in self.world.volumes and not all(map(self._has_record, self.plan.voters)):
            self.world.schedule(2 * TEND_NS, self.found)
        if not self._founded:
            self._founded = True
            self._tend()

    def _has_record(self, voter: Voter) -> bool:
        """On disk; who lost its directory gets none any more (I1)."""
        disk = self.world.machines[voter.node].disks.get(self.id)
        return disk is None or disk.me != voter or (disk.state is not None and disk.state.slot is not None)

    # ---- the application ------------------------------------------------------------------------------

    def wants_more(self) -> bool:
        """While faults are in season the application goes on; afterwards it does what is left of its work, and enough
        to show that it is served."""
        if self.world.draining or self._deleting:
            return False
        return self.world.faulty or not self.done or not self.answered()

    @property
    def done(self) -> bool:
        """Its own work, and that of a volume that was deleted before its end."""
        return self._operations <= 0 and not self.world.owes_requests

    def next_request(self) -> tuple[RequestKind, int, int, bool]:
        """(kind, block, count, fua)"""
        self._operations -= 1
        self.world.operations += 1
        dice, size = self.dice, self.size_blocks
        kind = KINDS[bisect(KIND_SHARES, dice.random())]
        if kind is RequestKind.FLUSH:
            return kind, 0, 0, False
        block = dice.choice(self._hot) if dice.random() < 0.7 else dice.randrange(size)
        count = COUNTS[bisect(COUNT_SHARES, dice.random())]
        fua = kind is not RequestKind.READ and dice.random() < FUA_SHARE
        return kind, block, min(count, size - block), fua

    # ---- what is wanted of it -------------------------------------------------------------------------

    def move_to(self, node: str, steal: str = "") -> None:
        """`steal`: without asking the node that has it to let go."""
        if node != self.wanted and not self._deleting:
            self.world.log("moves", self.id, "to", node, steal)
            self.wanted = node
            self._detach, self._steal = not steal, steal
            # What is answered to what was asked before says nothing of this.
            self._asked = {request: asked for request, asked in self._asked.items() if asked not in ATTACHMENT}
            if self.frontend is not None:
                self.frontend.replaced = True

    def change_policy(self, asked: ev.PolicyAsked) -> None:
        self.may_fail = self.may_fail or asked.on_unavailable == "error"
        self._changes.append(asked)

    def expand(self, more_blocks: int) -> None:
        self._wanted_blocks = max(self._wanted_blocks, self.size_blocks + more_blocks)

    def delete(self) -> None:
        self.world.log("deletes", self.id)
        self._deleting = self._detach = True
        self.snapshots.drop_all()
        if self.frontend is not None:
            self.frontend.replaced = True

    @property
    def changing(self) -> bool:
        return bool(self._changes)

    @property
    def growing(self) -> bool:
        return self.size_blocks < self._wanted_blocks and not self._deleting

    @property
    def deleting(self) -> bool:
        return self._deleting

    @property
    def forced(self) -> bool:
        """An operator wants it elsewhere, whoever has it."""
        return self._steal not in ("", "dead")

    def served(self) -> bool:
        frontend = self.frontend
        return frontend is not None and frontend.alive and not frontend.replaced

    def answered(self) -> bool:
        return self.frontend is not None and self.frontend.answered >= ANSWERS

    # ---- requests to its primary ----------------------------------------------------------------------

    def _tend(self) -> None:
        """Ask for what is wanted and not so yet; start a frontend again after its process died."""
        if self.id not in self.world.volumes:
            return
        self.world.schedule(TEND_NS, self._tend)
        if self.world.services_down or (
            self.served() and not self._changes and not self.growing and not self.snapshots.wishing
        ):
            return
        if self._is_gone():
            self.world.deleted(self)
            return
        leaders = [m for m in self.world.machines.values() if self.id in m.leading and m.listening()]
        if leaders:
            self._ask(self.dice.choice(leaders))

    def _is_gone(self) -> bool:
        """Deleted, and the word that it is was lost: whoever asks again finds no volume, a member that was made and
        never named, or one that was excluded and that nobody can lead. As `stoscore.volumes.deletion.is_gone`."""
        chosen = self.world.checker.volume(self.id).chosen
        if not self._deleting or chosen is None or not chosen.record.deleted:
            return False
        disks = {m.name: m.disks[self.id] for m in self.world.machines.values() if self.id in m.disks}
        states = {node: disk.state for node, disk in disks.items()}
        records = {node: state.slot.record for node, state in states.items() if state is not None and state.slot}
        if None in states.values() or any(voter.node in records for voter in chosen.record.voters):
            return False
        return not any(
            sum(it.node in records for it in record.voters) * 2 > len(record.voters) for record in records.values()
        )

    def _ask(self, machine: Machine) -> None:
        request = self.world.request()
        event: ev.Event
        if self._changes:
            self._asked[request] = "policy"
            event = replace(self._changes[0], request=request)
        elif self.growing:
            self._asked[request] = "expand"
            event = ev.ExpandAsked(request, self._wanted_blocks * BLOCK_BYTES)
        elif self.snapshots.wishing and (self.served() or self._deleting or self.dice.random() < 0.5):
            event = self.snapshots.ask(request)
        elif self._detach:
            self._asked[request] = "detach"
            event = ev.DetachAsked(request, None)
        elif self._deleting:
            self._asked[request] = "delete"
            event = ev.DeleteAsked(request)
        else:
            self._asked[request] = "attach"
            force = self._steal if self._steal != "dead" else ""
            event = ev.AttachAsked(request, self.wanted, force=force)
        machine.ask(self.id, event)

    def replied(self, machine: Machine, reply: Reply) -> bool:
        asked = self._asked.pop(reply.request, "")
        if not asked:
            return self.snapshots.replied(machine, reply)
        self.world.log(machine.name, asked, self.id, reply.code or "OK", reply.error)
        if asked == "policy" and reply.code in ("", "INVALID_ARGUMENT", "NOT_FOUND") and self._changes:
            del self._changes[0]
        elif reply.code:
            if reply.code == "FAILED_PRECONDITION" and asked in ("attach", "delete"):
                # Its holder is alive, or an attachment that was given up came late: ask it to let go.
                self._detach, self._steal = True, ""
        elif asked == "expand":
            self._expanded(machine)
        elif asked == "detach":
            self._detach = False
        elif asked == "delete":
            self.world.deleted(self)
        elif asked == "attach" and not self._detach and not self.served() and not self._deleting:
            self._attached(machine)
        return True

    def _attached(self, machine: Machine) -> None:
        record = machine.live.volumes[self.id].brain.record
        assert record is not None
        target = self.world.machines[self.wanted]
        if record.attachment is not None and record.attachment.node == self.wanted and target.listening():
            self._steal = ""
            self.world.frontends += 1
            copies = {member.node: int(member.incarnation, 16) for member in record.members if member.kind == "data"}
            self.frontend = Frontend(target, self, record.attach_epoch, self.world.frontends, copies)

    def _expanded(self, machine: Machine) -> None:
        """The application sees the new size and uses it at once, where it begins most of all."""
        record = machine.live.volumes[self.id].brain.record
        assert record is not None
        before, self.size_blocks = self.size_blocks, max(self.size_blocks, record.size_bytes // BLOCK_BYTES)
        if self.size_blocks > before:
            self._hot = (*self._hot, before, self.dice.randrange(before, self.size_blocks))

    # ---- deleted and made anew ------------------------------------------------------------------------

    def anew(self, number: int) -> VolumePlan:
        """The next volume of this name has an id of its own (I2)."""
        voters = volume_voters(self.dice, self.world.names)
        name = f"{self.plan.name.partition('.')[0]}.{number}"
        node = self.dice.choice(self.world.names)
        return replace(self.plan, name=name, voters=voters, node=node, failure_mode="alwayson")
