"""New members: what placement, the nodes' create and remove requests and their own clean-up do, simulated.

Requests go over NATS, so an ask of a node that can't reach it is refused, and so is one that hits a node without it.
The answer always comes, unless the process that asked is gone; then the member that was made is nobody's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.replica.brain import Voter
from services.replica.brain import events as ev
from services.replica.driver import DropHome, FindHome
from stoscore.units import BLOCK_BYTES, MS, SECOND

if TYPE_CHECKING:
    from tests.simulation.machine import Machine
    from tests.simulation.world import World

KEEP_NS = 2 * SECOND
"""A member without a record is left alone for so long, in which its create may still be under way."""
LOOK_NS = 500 * MS


class Homes:
    def __init__(self, world: World):
        self._world = world
        self._unfounded: dict[Voter, int] = {}
        """Member without a record -> since when."""

    def begin(self) -> None:
        self._world.schedule(LOOK_NS, self._look)

    # ---- asked for ------------------------------------------------------------------------------------

    def find(self, machine: Machine, order: FindHome) -> None:
        machine.later(machine.rng.randint(1 * MS, 100 * MS), lambda: self._find(machine, order))

    def _find(self, machine: Machine, order: FindHome) -> None:
        refused = "placement does not answer" if self._world.services_down else self._reach(machine, "")
        asked, volume = order.asked, order.volume
        names = [name for name in self._world.names if name not in asked.exclude and not self._reach(machine, name)]
        names = [name for name in names if self._world.machines[name].can_make(volume)]
        if refused or not names:
            self._tell(machine, volume, ev.HomeRefused(refused or "no node has room"))
            return
        target = self._world.machines[machine.rng.choice(names)]
        home = Voter(target.name, self._world.incarnation(), asked.kind)
        machine.log(volume, "has a", asked.kind, "member made on", target.name)
        target.make_replica(volume, home, asked.size_bytes // BLOCK_BYTES)
        found = ev.HomeFound(home)
        machine.later(machine.rng.randint(1 * MS, 100 * MS), lambda: self._tell(machine, volume, found))

    def _reach(self, machine: Machine, name: str) -> str:
        """Why this machine can't ask the other ("": placement) anything, or ""."""
        down = self._world.network.nats_down
        if machine.name in down:
            return "NATS is away"
        target = self._world.machines.get(name)
        return "" if target is None or (target.listening() and name not in down) else f"{name} does not answer"

    def _tell(self, machine: Machine, volume: str, found: ev.HomeFound | ev.HomeRefused) -> None:
        if volume in machine.live.volumes:
            machine.live.ask(volume, found, machine.clock_ns())
        elif isinstance(found, ev.HomeFound):
            self.drop(machine, DropHome(volume, found.home))

    def drop(self, machine: Machine, order: DropHome) -> None:
        home = order.home
        if not self._reach(machine, home.node):
            target = self._world.machines[home.node]
            self._world.schedule(machine.rng.randint(1 * MS, 50 * MS), self._drop, target, order.volume, home)

    def _drop(self, target: Machine, volume: str, home: Voter) -> None:
        """Removed only when it is that incarnation, and no record names it (I3)."""
        if not target.listening() or volume not in target.disks:
            return
        state = target.live.volumes.get(volume)
        if state is not None and state.brain.me == home and state.brain.record is None:
            target.run(lambda: target.forget_member(volume))

    # ---- what nobody asked for any more ---------------------------------------------------------------

    def _look(self) -> None:
        world = self._world
        world.schedule(LOOK_NS, self._look)
        unfounded: dict[Voter, int] = {}
        for machine in world.machines.values():
            if machine.node is None or machine.paused:
                continue
            for volume, state in list(machine.node.volumes.items()):
                if state.brain.record is None:
                    since = unfounded[state.brain.me] = self._unfounded.get(state.brain.me, world.now_ns)
                    if world.now_ns - since >= KEEP_NS and self._is_excluded(volume, state.brain.me):
                        machine.run(lambda m=machine, v=volume: m.forget_member(v))  # type: ignore[misc]
        self._unfounded = unfounded

    def _is_excluded(self, volume: str, me: Voter) -> bool:
        """The volume's primary says so; no primary, no removal."""
        for machine in self._world.machines.values():
            if volume in machine.leading and machine.listening():
                slot = machine.live.volumes[volume].committed
                return slot is not None and me not in slot.record.members
        return False
