"""What is left behind when some heal, and what a healed cluster must be like (invariant 8)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.replica.brain import Record, Slot, Voter
from services.replica.brain import events as ev
from services.replica.brain.policy import needed_copies
from services.replica.brain.quorum import majority
from tests.simulation.faults import Struck

if TYPE_CHECKING:
    from tests.simulation.machine import Machine
    from tests.simulation.store import Disk
    from tests.simulation.volume import SimVolume
    from tests.simulation.world import World


def leave_behind(world: World) -> frozenset[str]:
    """Nodes that stay as bad as can be: what is left has a majority and a clean in-sync copy of every volume, and as
    many copies as its writes need."""
    dice = world.dice
    left: set[str] = set()
    names = list(world.names)
    dice.shuffle(names)
    names.sort(key=lambda name: world.machines[name].alive)  # who is dead already had better stay so
    for name in names:
        if len(left) < len(names) - 1 and enough(world, left | {name}):
            left.add(name)
    if dice.random() < 0.3 or world.making:
        left = set()
    for name in sorted(left):
        _ruin(world, world.machines[name])
    # What struck may have changed who is in sync: whoever is needed by now heals after all.
    while left and not enough(world, left):
        left.discard(dice.choice(sorted(left)))
    return frozenset(left)


def enough(world: World, left: set[str]) -> bool:
    for volume in world.volumes:
        agreed = world.checker.volume(volume)
        if agreed.chosen is None or not _can_go_on(world, agreed.chosen.record, left):
            return False
        known = _known_in_sync(world, agreed.chosen, left)
        if not any(_clean(world, volume, voter) for voter in known):
            return False
    return True


def _known_in_sync(world: World, chosen: Slot, left: set[str]) -> set[Voter]:
    """In-sync members that are there and that no record newer than the committed one takes out of the set, as far as
    the voters that are there can tell. *A stored "in sync {A}", nobody else who is there did, and lost power. Whether
    it was committed by one who is away, and A acknowledged writes alone, nobody who is there can know: not even that B,
    clean, is in sync. They have to wait.*"""
    known = {voter for voter in chosen.record.in_sync if voter.node not in left}
    for voter in chosen.record.voters:
        newer = [slot for slot in _slots(world, chosen.record.volume, voter) if slot.stamp > chosen.stamp]
        if voter.node not in left and newer:
            known &= set(max(newer, key=lambda slot: slot.stamp).record.in_sync)
    return known


def _slots(world: World, volume: str, voter: Voter) -> list[Slot]:
    """What it has stored, and what it stands with: one of which it was told, and by which it is in sync."""
    machine = world.machines[voter.node]
    disk, state = machine.disks.get(volume), machine.node.volumes.get(volume) if machine.node is not None else None
    stored = disk.state.slot if disk is not None and disk.state is not None else None
    stood_with = state.brain.candidacy._stood_with() if state is not None else None
    return [slot for slot in (stored, stood_with) if slot is not None]


def _can_go_on(world: World, record: Record, left: set[str]) -> bool:
    """A majority of voters that have their store is there, and as many copies as a write needs; and one of them may
    become its leader."""
    there = _there(world, record, left)
    if len(there) * 2 <= len(record.voters) or _waits(record, there) or _is_halfway(world, record, there, left):
        return False
    candidates = [voter for voter in there if voter in record.in_sync]
    heard = [sum(_hears(world, record.volume, voter, candidate) for voter in there) for candidate in candidates]
    return any(count * 2 > len(record.voters) for count in heard)


def _is_halfway(world: World, record: Record, there: list[Voter], left: set[str]) -> bool:
    """Somebody who is there has stored a change of the voters that only its leader could have taken back, and that one
    leads no more, or was told of it by who has: whether it was committed nobody who is there can know. The majority
    that it names has to be there."""
    chosen = world.checker.volume(record.volume).chosen
    slots = [slot for voter in there for slot in _slots(world, record.volume, voter)]
    newest = max(slots, key=lambda slot: slot.stamp, default=None)
    if newest is None or chosen is None or newest.stamp <= chosen.stamp:
        return False
    return len(_there(world, newest.record, left)) * 2 <= len(newest.record.voters)


def _hears(world: World, volume: str, voter: Voter, candidate: Voter) -> bool:
    """By the record that it has stored, the candidate is a member. *A voter slept through changes of members; who
    joined meanwhile is a stranger to it until somebody whom it knows is back and tells it.*"""
    disk = world.machines[voter.node].disks[volume]
    slot = disk.state.slot if disk.state is not None else None
    return voter == candidate or (slot is not None and candidate in slot.record.members)


def _there(world: World, record: Record, left: set[str]) -> list[Voter]:
    return [voter for voter in record.voters if voter.node not in left and _has_store(world, record.volume, voter)]


def _waits(record: Record, there: list[Voter]) -> bool:
    copies = sum(voter.kind == "data" for voter in there)
    return copies < needed_copies(record.failure_mode, record.copies) and record.on_unavailable == "suspend"


def relent(world: World) -> None:
    """Everything healed, and a copy that is lost for good is one that writes wait for: the operator has them wait for
    fewer, or the rest of the work would never be done. *Looked at once, that was not seen of a policy which somebody
    had asked for before and which came into force after: the run ended with its work left (seed 61000679).*"""
    for name, volume in world.volumes.items():
        if volume.changing:
            continue
        chosen = world.checker.volume(name).chosen
        there = _there(world, chosen.record, set()) if chosen is not None else []
        if chosen is not None and len(there) * 2 > len(chosen.record.voters) and _waits(chosen.record, there):
            volume.change_policy(ev.PolicyAsked(0, failure_mode="alwayson"))


def _has_store(world: World, volume: str, voter: Voter) -> bool:
    disk = world.machines[voter.node].disks.get(volume)
    return disk is not None and disk.me == voter


def _clean(world: World, volume: str, voter: Voter) -> bool:
    disk = world.machines[voter.node].disks.get(volume)
    return disk is not None and disk.me == voter and not disk.unclean and not disk.failure


def _ruin(world: World, machine: Machine) -> None:
    """As it stays until all heal."""
    struck = Struck(world, world.dice)
    way = world.dice.choice(("dead", "dead", "powerless", "paused", "deaf", "mute", "alone", "hung"))
    world.log("left behind:", machine.name, way)
    network = world.network
    if way == "dead":
        machine.kill(power=False)
    elif way == "powerless":
        machine.kill(power=True)
    elif way == "paused":
        machine.pause()
    elif way == "hung":
        machine.disk_hangs = True
    else:
        network.nats_down.add(machine.name)
        for pair in struck.around(machine.name, {"deaf": "in", "mute": "out", "alone": "both"}[way]):
            network.cut(*pair)


def obstacle(world: World, *, all_nodes: bool) -> str:
    """What is not as it has to be, or "". `all_nodes`: everything healed, so every copy is in sync."""
    if world.making and all_nodes:
        return "a volume is about to be made"
    for name, volume in sorted(world.volumes.items()):
        chosen = world.checker.volume(name).chosen
        if all_nodes and volume.deleting:
            return f"{name}: not deleted"
        if all_nodes and name in world.deciding:
            return f"{name}: an operator has not decided"
        made_again = all_nodes and name in world.overridden
        if chosen is not None and not made_again and not _can_go_on(world, chosen.record, set(world.left_behind)):
            if all_nodes and volume.changing:
                return f"{name}: its policy is about to change"
            continue  # too many stores are lost for good
        if all_nodes and volume.growing:
            return f"{name}: has not grown"
        if all_nodes and volume.snapshots.wishing:
            return f"{name}: a snapshot is not taken, or not dropped"
        found = _not_served(world, name, volume) or (_not_in_sync(world, name) if all_nodes else "")
        if found:
            return found
        if all_nodes and not volume.done and not world.draining:
            return f"{name}: has work left"
        if all_nodes and chosen is not None and (left := world.checker.layers(name)):
            return left
    return _left_over(world) if all_nodes else ""


def is_an_operators(world: World, volume: str) -> bool:
    """All whom the newest record names have lost power, one that it does not name has not, and no record is on a
    majority any more: nobody can know whether that one is behind (S3)."""
    disks = [machine.disks[volume] for machine in world.machines.values() if volume in machine.disks]
    held = [(disk, disk.state.slot) for disk in disks if disk.state is not None and disk.state.slot is not None]
    if not held:
        return False
    newest = max((slot for _, slot in held), key=lambda slot: slot.stamp)
    in_sync, stamps = newest.record.in_sync, [slot.stamp for _, slot in held]
    if any(stamps.count(stamp) >= majority(len(newest.record.voters)) for stamp in stamps):
        return False
    left_out = [disk for disk, _ in held if disk.me not in in_sync and disk.me.kind == "data"]
    named = [disk for disk, _ in held if disk.me in in_sync]
    return all(disk.unclean for disk in named) and any(not disk.unclean for disk in left_out)


def _not_served(world: World, name: str, volume: SimVolume) -> str:
    frontend = volume.frontend
    if volume.deleting:
        return f"{name}: not deleted"
    if frontend is None or not volume.served():
        return f"{name}: no frontend"
    if world.draining and frontend.open:
        return f"{name}: not answered: {frontend.open}"
    if not volume.answered() and not world.draining:
        return f"{name}: frontend {frontend.number} answers nothing: {frontend.open}"
    return _no_primary(world, name)


def _no_primary(world: World, volume: str) -> str:
    """One of those that are well serves. A disk that hangs is noticed when it is asked for something (A5), and while
    writes and flushes fail by the policy, or the application has all that it wanted, nobody asks it: the primary on it
    answers what there is to answer."""
    states = [(m, m.node.volumes[volume]) for m in world.machines.values() if m.node and volume in m.node.volumes]
    idle = not world.volumes[volume].wants_more()
    serving = [(m, state) for m, state in states if state.primary is not None and state.primary.serving]
    primaries = [
        machine.name
        for machine, state in serving
        if machine.name not in world.left_behind
        or (machine.disk_hangs and not machine.paused and (state.brain.writes == "failing" or idle))
    ]
    return "" if len(primaries) == 1 else f"{volume}: served by {primaries}"


def _not_in_sync(world: World, volume: str) -> str:
    chosen = world.checker.volume(volume).chosen
    if chosen is None:
        return f"{volume}: no record"
    record, possible = chosen.record, _can_change(world, chosen.record)
    data = {voter for voter in record.voters if voter.kind == "data"}
    if not possible:
        data = {voter for voter in data if _has_store(world, volume, voter)}
    if set(record.in_sync) != data:
        return f"{volume}: not in sync: {_told(record)}"
    if record.joining or (len(data) != record.copies and possible):
        return f"{volume}: {record.copies} copies are asked for: {_told(record)}"
    if possible and not all(_has_store(world, volume, voter) for voter in record.voters):
        return f"{volume}: a voter is lost: {_told(record)}"
    if possible and len(record.voters) % 2 == 0:
        return f"{volume}: a witness is missing: {_told(record)}"
    for voter in record.in_sync:
        disk = world.machines[voter.node].disks.get(volume)
        if disk is None or disk.unclean:
            return f"{volume}: unclean on {voter.node}"
        if disk.rotten and record.copies > 1:  # of a single copy, the others were given up with what they had
            return f"{volume}: rotten on {voter.node}: blocks {sorted(disk.rotten)}"
    return ""


def _can_change(world: World, record: Record) -> bool:
    """There is a node for one more member: every change of the members begins with one."""
    taken = {member.node for member in record.members if _has_store(world, record.volume, member)}
    return any(m.name not in taken and _has_place(m, record) for m in world.machines.values())


def _has_place(machine: Machine, record: Record) -> bool:
    """For one more member: nothing of the volume is left there for ever."""
    disk = machine.disks.get(record.volume)
    return record.volume not in machine.unreadable and (disk is None or _knows_somebody(machine.world, disk, record))


def _told(record: Record) -> str:
    members = " ".join(f"{member.node}{'' if member.kind == 'data' else '(w)'}" for member in record.voters)
    in_sync, joining = (" ".join(member.node for member in group) for group in (record.in_sync, record.joining))
    return f"{members}, in sync {in_sync}, joining {joining or 'nobody'}"


def _left_over(world: World) -> str:
    """Directories of deleted volumes, and of members that no record names any more (I3)."""
    for machine in world.machines.values():
        for volume, disk in machine.disks.items():
            chosen = world.checker.volume(volume).chosen
            if volume in world.tombs:
                if chosen is not None and _can_be_forgotten(world, chosen.record, disk.me):
                    return f"{volume}: deleted, and its directory on {machine.name} is there"
            elif (
                chosen is not None
                and disk.me not in chosen.record.members
                and _knows_somebody(world, disk, chosen.record)
            ):
                return f"{volume}: {machine.name} is no member, and its directory is there"
    return ""


def _knows_somebody(world: World, disk: Disk, record: Record) -> bool:
    """A member of the last record that it knows is still one, and has its store: else it says nothing. Of a volume
    whose members were all replaced while it was away it believes nobody: a stolen identity outside the volume can make
    nobody erase data (I3)."""
    slot = disk.state.slot if disk.state is not None else None
    members = {member for member in record.members if _has_store(world, record.volume, member)}
    return slot is None or not members.isdisjoint(slot.record.members)


def _can_be_forgotten(world: World, record: Record, me: Voter) -> bool:
    """What nobody there can know leaves a directory for an operator to clear. A member whose directory can't be read
    may hold the data: it never confirms, and the tombstone stays everywhere. One that was excluded before the deletion
    and was away ever since finds nobody to ask: that the others know nothing is no proof, they may have lost their
    stores, and it would be the last copy."""
    readable = all(record.volume not in machine.unreadable for machine in world.machines.values())
    return readable and me in record.members
