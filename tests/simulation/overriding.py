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
from stoscore.units import MS
from tests.simulation.faults import LOST_GRACE_NS_MAX, Struck

if TYPE_CHECKING:
    from tests.simulation.machine import Machine
    from tests.simulation.world import World

AGAIN_NS = 300 * MS
ASKED_MAX = 10
"""So often nothing is given up; then the operator believes what is known of the copy."""


def lose_the_majority(s: Struck) -> None:
    world, volume = s.world, s.volume()
    chosen = world.checker.volume(volume).chosen
    if chosen is None or chosen.record.deleted or world.fragile() or volume not in world.volumes:
        return
    if world.plan.grace_ns > LOST_GRACE_NS_MAX:
        return  # who comes back in time to vote after all has it replace what is lost, in its grace
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
    world.deciding.add(volume)
    _operate(world, volume, keeper, chosen.stamp.generation)


def _is_sound(machine: Machine, volume: str, voter: Voter) -> bool:
    disk = machine.disks.get(volume)
    return machine.listening() and disk is not None and disk.me == voter and not (disk.unclean or disk.refuses)


def _operate(world: World, volume: str, keeper: Voter, generation: int, asked: int = 0) -> None:
    """Asks until the volume goes on: in a new generation, or because the old one could after all. Then the others are
    let out: until then they are fenced."""
    chosen = world.checker.volume(volume).chosen
    if volume not in world.volumes or chosen is None:
        world.deciding.discard(volume)
        return
    machine = world.machines[keeper.node]
    if chosen.stamp.generation > generation or _goes_on(world, chosen.record):
        world.deciding.discard(volume)
        for other in world.machines.values():
            if not other.alive and other.name not in world.left_behind and not other.stopping:
                other.start()
        return
    world.schedule(AGAIN_NS, _operate, world, volume, keeper, generation, asked + 1)
    state = machine.node.volumes.get(volume) if machine.node is not None and machine.listening() else None
    if state is None or state.brain.record is None:
        return
    lost = [voter.node for voter in state.brain.record.voters if voter != keeper and _is_lost(world, volume, voter)]
    # Another voter's record may say that it is behind, which was never committed: only who was there can know.
    accept = machine.disks[volume].unclean or asked > ASKED_MAX
    sim = world.volumes[volume]
    if sim.frontend is not None:
        sim.frontend.replaced = True  # nobody is attached in a new generation
    machine.ask(volume, ev.OverrideAsked(world.request(), tuple(lost), "they are gone", accept))


def _goes_on(world: World, record: Record) -> bool:
    """It is led, and not only until its leader's lease is over."""
    there = sum(not _is_lost(world, record.volume, voter) for voter in record.voters)
    led = any(record.volume in machine.leading for machine in world.machines.values())
    return led and there >= majority(len(record.voters))


def _is_lost(world: World, volume: str, voter: Voter) -> bool:
    machine = world.machines[voter.node]
    disk = machine.disks.get(volume)
    return not machine.alive or disk is None or disk.me != voter
