"""The majority of a volume is lost for good, and an operator has it go on with a copy that is left (I4).

Lost are the directories: so many that those which are left can elect nobody without the copy that goes on. What was
kept comes back afterwards, of an older generation. The copy is in sync by the committed record, so nothing acknowledged
may be lost, unless it loses power meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.replica.brain import Record, Voter
from services.replica.brain import events as ev
from services.replica.brain.quorum import majority
from services.replica.driver import Reply
from stoscore.units import MS
from tests.simulation.faults import LOST_GRACE_NS_MAX, Struck

if TYPE_CHECKING:
    from tests.simulation.machine import Machine
    from tests.simulation.world import World

AGAIN_NS = 300 * MS
ASKED_MAX = 10
"""So often nothing is given up; then the operator believes what is known of the copy."""
SILENT = "silent, and not named as lost: "
SILENT_MAX = 2
"""So often the same nodes are called silent, when nothing is left to be repaired, and are waited for."""


def lose_the_majority(s: Struck) -> None:
    world, volume = s.world, s.volume()
    chosen = world.checker.volume(volume).chosen
    if chosen is None or chosen.record.deleted or world.fragile() or volume not in world.volumes:
        return
    if world.plan.grace_ns > LOST_GRACE_NS_MAX:
        return  # who comes back in time to vote after all has it replace what is lost, in its grace
    if world.volumes[volume].deleting:
        return  # who holds the tombstone takes those who have lost it for done, whether it was committed or not (I3)
    if volume in world.deciding:
        return
    record = chosen.record
    keepers = [voter for voter in record.in_sync if _is_sound(world.machines[voter.node], volume, voter)]
    if not keepers or len(record.voters) < 2:
        return
    keeper = s.dice.choice(keepers)
    others = [voter for voter in record.voters if voter != keeper]
    most = majority(len(record.voters)) - 1
    kept = s.dice.sample(others, s.dice.choice((0, most, most)))
    s.loses("lost majority", volume, keeper.node)
    for voter in others:
        machine = world.machines[voter.node]
        machine.kill(power=False)
        disk = machine.disks.get(volume)
        if voter not in kept and disk is not None and disk.me == voter:
            machine.lose_store(volume, unreadable=False)
    world.overridden.add(volume)
    operator = world.deciding[volume] = Operator(world, volume, keeper, chosen.stamp.generation)
    operator.look()


def _is_sound(machine: Machine, volume: str, voter: Voter) -> bool:
    disk = machine.disks.get(volume)
    return machine.listening() and disk is not None and disk.me == voter and not (disk.unclean or disk.refuses)


class Operator:
    """Asks until the volume goes on: in a new generation, or because the old one could after all."""

    def __init__(self, world: World, volume: str, keeper: Voter, generation: int):
        self._world = world
        self._volume = volume
        self._keeper = keeper
        self._generation = generation
        self._asked = 0
        self._requests: set[int] = set()
        self._silent: list[str] = []
        """Nodes that the last answer called so, and that were not named as lost, since nothing is left to repair."""
        self._silent_times = 0

    def look(self) -> None:
        world, volume, keeper = self._world, self._volume, self._keeper
        chosen = world.checker.volume(volume).chosen
        over = volume not in world.volumes or chosen is None or chosen.stamp.generation > self._generation
        if over or (chosen is not None and _goes_on(world, chosen.record)):
            del world.deciding[volume]
            self._let_out()
            return
        world.schedule(AGAIN_NS, self.look)
        machine = world.machines[keeper.node]
        state = machine.node.volumes.get(volume) if machine.node is not None and machine.listening() else None
        if state is None or state.brain.record is None:
            return
        self._fence()
        lost = [voter.node for voter in state.brain.record.voters if voter != keeper and _is_lost(world, volume, voter)]
        # Another voter's record may say that it is behind, which was never committed: only who was there can know.
        accept = machine.disks[volume].unclean or self._asked > ASKED_MAX
        sim = world.volumes[volume]
        if sim.frontend is not None:
            sim.frontend.replaced = True  # nobody is attached in a new generation
        request = world.request()
        self._requests.add(request)
        self._asked += 1
        machine.ask(volume, ev.OverrideAsked(request, tuple(lost), "they are gone", accept))

    def replied(self, machine: Machine, reply: Reply) -> bool:
        if reply.request not in self._requests:
            return False
        self._requests.remove(reply.request)
        if reply.code == "FAILED_PRECONDITION" and not self._world.faulty:
            _, found, nodes = reply.error.partition(SILENT)
            silent = nodes.split(", ") if found else []
            self._silent_times = self._silent_times + 1 if silent == self._silent else 1
            self._silent = silent
        return True

    def _fence(self) -> None:
        """Who lives and says nothing, when nothing is left to be repaired: its node is stopped, and so may be named.
        *A voter slept through the changes that made the keeper a member, and those whom it knows are lost: it hears no
        stranger, however often it is asked.*"""
        world = self._world
        if self._silent_times <= SILENT_MAX or self._keeper.node in world.left_behind:
            return
        for node in self._silent:
            world.log("fences", node, self._volume)
            world.machines[node].kill(power=False)
        self._silent, self._silent_times = [], 0

    def _let_out(self) -> None:
        """Until the volume goes on, or is deleted at once in its new generation, the others are fenced."""
        for other in self._world.machines.values():
            if not other.alive and other.name not in self._world.left_behind and not other.stopping:
                other.start()


def _goes_on(world: World, record: Record) -> bool:
    """It is led, and not only until its leader's lease is over."""
    there = sum(not _is_lost(world, record.volume, voter) for voter in record.voters)
    led = any(record.volume in machine.leading for machine in world.machines.values())
    return led and there >= majority(len(record.voters))


def _is_lost(world: World, volume: str, voter: Voter) -> bool:
    machine = world.machines[voter.node]
    disk = machine.disks.get(volume)
    return not machine.alive or disk is None or disk.me != voter
