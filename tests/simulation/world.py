"""One simulated cluster: events in virtual nanoseconds, machines, links, clients, faults. One seed, one history.

    founded --> faults, and nothing may go wrong --> some heal: a majority with a clean copy must make progress
                                                 --> all heal: every copy in sync, every request answered, all equal

"Some": nodes are left behind as they must be survived: dead, paused, cut off, with a disk that hangs or failed
(invariant 8).
"""

from __future__ import annotations

import hashlib
import heapq
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

from services.replica.brain import Voter
from services.replica.brain.events import Explain
from services.replica.driver import Reply
from services.replica.driver.volume import DISK_PATIENCE_NS
from services.replica.replication.effects import Damage
from stoscore.units import MS, SECOND
from tests.simulation import knobs, nemesis
from tests.simulation.checker import Checker
from tests.simulation.coverage import Coverage
from tests.simulation.healing import enough, is_an_operators, leave_behind, obstacle, relent
from tests.simulation.homes import Homes
from tests.simulation.machine import DISK_NS, Machine
from tests.simulation.network import Network
from tests.simulation.plan import FAULTS_MIN, OPERATIONS_MIN, START_NS, Plan, VolumePlan, draw
from tests.simulation.register import Registers
from tests.simulation.store import Disk
from tests.simulation.story import line, of_violation
from tests.simulation.volume import SimVolume

if TYPE_CHECKING:
    from tests.simulation.overriding import Operator

SOME_HEALED_NS = 20 * SECOND
"""A majority and one clean copy of every volume are there: this long until each is served again."""
ALL_HEALED_NS = 20 * SECOND
"""Everything healed: this long until all copies are in sync and everything asked is answered."""
EVENTS_MAX = 300_000
"""A seed has 20,000. One that has so many asks for the same again and again, without a pause."""
STORY = 4000
SPARE_NS = 200 * MS
"""Between two spare faults."""


class Violation(AssertionError):
    """An invariant does not hold; carries the plan and the last events."""

    def __init__(self, plan: Plan, what: str, events: list[tuple[int, tuple[Any, ...]]]):
        super().__init__(plan, what, events)  # from which pickle makes it again
        self.plan = plan
        self.what = what
        self.events = events

    def __str__(self) -> str:
        return f"seed {self.plan.seed}: {self.what}"

    def story(self, length: int = 60) -> list[str]:
        return of_violation(self.what, self.events, length)


class World:
    def __init__(self, plan: Plan | int, *, verbose: bool = False, traced: bool = False):
        """`plan`: or the seed that draws one. `traced`: hash every event, to compare two runs."""
        self.plan = draw(plan) if isinstance(plan, int) else plan
        self.now_ns = 0
        self.faulty = True
        self.draining = False
        self.left_behind: frozenset[str] = frozenset()
        self.operations = 0
        self.frontends = 0
        self.coverage = Coverage()
        self.checker = Checker(self)
        self.registers = Registers(self)
        self._verbose = verbose
        self._told = verbose or traced
        self._trace = hashlib.blake2b(digest_size=16) if traced else None
        self._queue: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0
        self._events: deque[tuple[int, tuple[Any, ...]]] = deque(maxlen=STORY)
        self._content = 0
        self._requests = 0
        self.dice = Random(f"{self.plan.seed}/world")
        network_dice = Random(f"{self.plan.seed}/network")
        self.network = Network(network_dice, self.plan.delay_ns, self)
        self.names = [node.name for node in self.plan.nodes]
        self.machines = {node.name: Machine(self, node) for node in self.plan.nodes}
        for machine in self.machines.values():
            self.network.join(machine.wires)
        self.homes = Homes(self)
        self._share = -(-self.plan.operations // len(self.plan.volumes))
        self.volumes = {volume.name: SimVolume(self, volume, self._share) for volume in self.plan.volumes}
        self.services_down = 0
        """How many faults keep csi, placement and certs away: nothing new is asked for, and no home is found."""
        self.making = 0
        """Volumes that are about to be made."""
        self.rotted: set[tuple[str, int]] = set()
        """(volume, block) of all that has ever rotten."""
        self.overridden: set[str] = set()
        """Volumes that an operator had go on without their majority."""
        self.deciding: dict[str, Operator] = {}
        """Those where it has not happened yet."""
        self.undecided: set[str] = set()
        """Volumes of which no voter can know who has what was acknowledged (S3), once everything has healed."""
        self.tombs: dict[str, SimVolume] = {}
        """Volumes whose deletion was confirmed."""

    # ---- time -----------------------------------------------------------------------------------------

    def schedule(self, delay_ns: int, what: Callable[..., None], *arguments: Any) -> None:
        self._count += 1
        if self._count == EVENTS_MAX:
            self.violated(f"it does not end: {EVENTS_MAX} events until {self.now_ns // MS} ms")
        heapq.heappush(self._queue, (self.now_ns + delay_ns, self._count, what, arguments))

    def run_until(self, end_ns: int, done: Callable[[], bool] | None = None) -> bool:
        steps, queue, pop = 0, self._queue, heapq.heappop
        while queue and queue[0][0] <= end_ns:
            self.now_ns, _, what, arguments = pop(queue)
            what(*arguments)
            steps += 1
            if done is not None and steps % 64 == 0 and done():
                return True
        self.now_ns = max(self.now_ns, end_ns)
        return done is not None and done()

    @property
    def owes_requests(self) -> bool:
        """Fewer than planned were made: a volume was deleted with work left."""
        return self.operations < self.plan.operations

    # ---- small things ---------------------------------------------------------------------------------

    def contents(self, count: int) -> tuple[int, ...]:
        """Of as many blocks, each unlike any other."""
        first = self._content + 1
        self._content += count
        return tuple(range(first, first + count))

    def request(self) -> int:
        self._requests += 1
        return self._requests

    def incarnation(self) -> str:
        return f"{self.dice.getrandbits(64):016x}"

    def voters(self, volume: str) -> tuple[Voter, ...]:
        """As the last committed record has them."""
        chosen = self.checker.volume(volume).chosen
        return chosen.record.voters if chosen is not None else self.volumes[volume].plan.voters

    def voter_nodes(self, volume: str) -> list[str]:
        return [voter.node for voter in self.voters(volume)]

    def data_nodes(self, volume: str) -> list[str]:
        return [voter.node for voter in self.voters(volume) if voter.kind == "data"]

    def fragile(self) -> bool:
        """A voter has lost its store and no record without it is committed yet. What it knew is lost: whether a smaller
        in-sync set that only it and a power loss's victim had stored was ever committed. Both at once are the
        operator's case, and not simulated."""
        return any(
            agreed.chosen is not None and not agreed.gone.isdisjoint(agreed.chosen.record.members)
            for agreed in self.checker.volumes.values()
        )

    def deleted(self, volume: SimVolume) -> None:
        """Its primary has committed the tombstone. After a while there is another one of its name (I2)."""
        if volume.id in self.volumes:
            self.tombs[volume.id] = self.volumes.pop(volume.id)
            plan = volume.anew(len(self.tombs) + 1)
            self.making += 1
            self.schedule(self.dice.randint(0, 500 * MS), self._make, plan)

    def _make(self, plan: VolumePlan) -> None:
        """Its replicas may be made only where a node is there to make them; whoever asks tries again."""
        if not all(self.machines[voter.node].listening() for voter in plan.voters):
            self.schedule(100 * MS, self._make, plan)
            return
        self.making -= 1
        if plan.node in self.left_behind:  # nobody uses it there until everything heals
            plan = replace(plan, node=self.dice.choice([name for name in self.names if name not in self.left_behind]))
        volume = self.volumes[plan.name] = SimVolume(self, plan, self._share // 4)
        volume.make_replicas()
        volume.found()

    def may_be_rotten(self, volume: str, block: int, count: int) -> bool:
        """Some copy has rotten there, at this moment or since the read was asked."""
        return any((volume, at) in self.rotted for at in range(block, block + count))

    def replied(self, machine: Machine, reply: Reply) -> None:
        asking: list[SimVolume | Operator] = [*self.volumes.values(), *self.tombs.values(), *self.deciding.values()]
        any(one.replied(machine, reply) for one in asking)

    def decided(self, node: str, volume: str, explain: Explain) -> None:
        self.coverage.decided(explain.kind)

    def damaged(self, disk: Disk, damage: Damage) -> None:
        self.coverage.damage(damage.kind if damage.source else "lost")
        if damage.kind == "differing":
            self.checker.differed(disk.volume, damage)

    def _repair_hopeless(self, disk: Disk) -> bool:
        """Rot heals where another copy has the block; where none has, an operator restores it from somewhere else.
        True: there was such a block."""
        chosen = self.checker.volume(disk.volume).chosen
        members = chosen.record.in_sync if chosen is not None else ()
        others = [
            other
            for voter in members
            if voter.node not in self.left_behind
            if (other := self.machines[voter.node].disks.get(disk.volume)) is not None
            if other is not disk and other.me == voter and not other.unclean and not other.failure
        ]
        repaired = False
        for block in sorted(disk.rotten):
            if disk.me not in members or all(block in other.rotten for other in others):
                del disk.rotten[block]
                disk.restored_ns[block] = self.now_ns
                repaired = True
        return repaired

    # ---- story ----------------------------------------------------------------------------------------

    def log(self, *words: Any) -> None:
        self._events.append((self.now_ns, words))
        if self._told:
            told = line(self.now_ns, words)
            if self._verbose:
                print(told)
            if self._trace is not None:
                self._trace.update(told.encode())

    def trace(self) -> str:
        assert self._trace is not None, "not traced"
        return self._trace.hexdigest()

    def violated(self, what: str) -> None:
        self.log("VIOLATION", what)
        raise Violation(self.plan, what, list(self._events))

    # ---- the run --------------------------------------------------------------------------------------

    def run(self) -> None:
        """Raises Violation."""
        with knobs.turned(self.plan.knobs):
            try:
                self._run()
            except Violation:
                raise
            except Exception as error:
                self.log("ERROR", traceback.format_exc())
                what = f"{type(error).__name__}: {error}"
                raise Violation(self.plan, what, list(self._events)) from error

    def _run(self) -> None:
        self._begin()
        for fault in self.plan.faults:
            self.schedule(fault.at_ns - self.now_ns, nemesis.strike, self, fault)
        self.run_until(START_NS + self.plan.faults_ns)
        for fault in self.plan.spare:
            if self.coverage.struck >= FAULTS_MIN:
                break
            nemesis.strike(self, fault)
            self.run_until(self.now_ns + SPARE_NS)
        self._heal_some()
        self._heal_all()
        self._check_effort()
        for volume in sorted(self.volumes):
            self.checker.copies(volume)
        for volume in sorted({**self.volumes, **self.tombs}):
            wrong = self.registers.volume(volume).history.contradiction()
            if wrong:
                self.violated(f"{volume} is not linearizable: {wrong}")

    def _check_effort(self) -> None:
        """A run that asks and breaks too little proves too little. (A plan that was made smaller may.)"""
        enough_asked = self.operations >= min(self.plan.operations, OPERATIONS_MIN)
        assert enough_asked or self.undecided, f"{self.operations} requests are too few"
        full = len(self.plan.faults) >= FAULTS_MIN
        assert not full or self.coverage.struck >= FAULTS_MIN, f"{self.coverage.struck} faults are too few"

    def _begin(self) -> None:
        for volume in self.volumes.values():
            volume.make_replicas()
        for machine in self.machines.values():
            machine.start(fresh=True)
        self.run_until(50 * MS)
        self.homes.begin()
        for volume in list(self.volumes.values()):
            volume.found()
        self.run_until(START_NS)

    def _heal_some(self) -> None:
        self.faulty = False
        self.left_behind = leave_behind(self)
        self._heal()
        # Whose disk hangs is noticed so long after it was asked for something, which it may never be before the end.
        hung = any(self.machines[name].disk_hangs for name in self.left_behind)
        until_ns = self.now_ns + SOME_HEALED_NS + (DISK_PATIENCE_NS + SOME_HEALED_NS if hung else 0)
        healed = self._gets_well(until_ns - self.now_ns, lambda: not obstacle(self, all_nodes=False))
        # What was in the sockets of a paused node may have committed a record that needs who is left behind.
        if not healed and enough(self, set(self.left_behind)):
            self.violated(f"invariant 8: no progress without {sorted(self.left_behind)}: {self._obstacle(False)}")

    def _heal_all(self) -> None:
        self.left_behind = frozenset()
        self._heal()
        # A call that a slow disk had begun may still put its copy out of the set.
        self.run_until(max(machine.disk_busy_ns for machine in self.machines.values()))
        healed = self._gets_well(ALL_HEALED_NS, self._all_is_well)
        for name in [name for name in self.volumes if not healed and is_an_operators(self, name)]:
            self.log(name, "waits for an operator")
            self.undecided.add(name)
            del self.volumes[name]
        if not healed and not self._all_is_well():
            self.violated(f"invariant 8: no progress after everything healed: {self._obstacle(True)}")
        self.draining = True
        if not self.run_until(self.now_ns + ALL_HEALED_NS, lambda: not self._obstacle(True)):
            self.violated(f"invariant 8: not everything is answered: {self._obstacle(True)}")
        self.run_until(self.now_ns + 1 * SECOND)
        if self._obstacle(True):
            self.violated(f"invariant 8: it does not stay healthy: {self._obstacle(True)}")

    def _gets_well(self, within_ns: int, well: Callable[[], bool]) -> bool:
        """A beat that was late may have put whoever could have given a rotten block out of the set since then. The
        operator is called when it does not get well, and looks again."""
        if self.run_until(self.now_ns + within_ns, well):
            return True
        there = [machine for machine in self.machines.values() if machine.name not in self.left_behind]
        repaired = [self._repair_hopeless(disk) for machine in there for disk in machine.disks.values()]
        return any(repaired) and self.run_until(self.now_ns + within_ns, well)

    def _all_is_well(self) -> bool:
        relent(self)
        return not self._obstacle(True)

    def _obstacle(self, all_nodes: bool) -> str:
        return obstacle(self, all_nodes=all_nodes)

    def _heal(self) -> None:
        """Everything but who is left behind."""
        left = set(self.left_behind)
        self.log("everything heals, without" if left else "everything heals", *sorted(left))
        self.network.heal_all(left)
        self.services_down = 0
        for machine in self.machines.values():
            if machine.name in left:
                continue
            machine.disk_ns = DISK_NS
            machine.data_late_ns = 0
            machine.fuse = None
            for disk in machine.disks.values():
                disk.refuses.clear()
                self._repair_hopeless(disk)
            machine.unhang()
            machine.resume()
            if machine.stopping or any(disk.failure for disk in machine.disks.values()):
                machine.kill(power=False)
            if not machine.alive:
                machine.start()
        for volume in self.volumes.values():
            if volume.wanted in left:
                volume.move_to(self.dice.choice([name for name in self.names if name not in left]))
