"""One simulated cluster: events in virtual nanoseconds, machines, links, clients, faults. One seed, one history.

First safety under faults; then everything heals and the volume must make progress, bring all copies into sync and
hold identical content (invariant 8).
"""

from __future__ import annotations

import heapq
import traceback
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from services.replica.brain import Record, Timing, Voter
from services.replica.brain import events as ev
from services.replica.replication.frontend import RequestKind
from stoscore.units import BLOCK_BYTES, MS, SECOND
from tests.simulation.checker import Checker
from tests.simulation.client import Frontend
from tests.simulation.faults import Faults
from tests.simulation.machine import Machine
from tests.simulation.network import Network

FAULTS_NS = 10 * SECOND
PROGRESS_NS = 20 * SECOND
"""Everything healed: this long until all copies are in sync and everything asked is answered."""
STORY = 400


class Violation(AssertionError):
    """An invariant does not hold; carries the story of the last events."""

    def __init__(self, seed: int, what: str, story: list[str]):
        super().__init__(f"seed {seed}: {what}")
        self.seed = seed
        self.what = what
        self.story = story


class SimVolume:
    """One volume, its attachment and who moves it."""

    def __init__(self, world: World, volume: str, voters: tuple[Voter, ...], size_blocks: int, depth: int):
        self.world = world
        self.id = volume
        self.voters = voters
        self.size_blocks = size_blocks
        self.depth = depth
        self.hot = [world.rng.randrange(size_blocks) for _ in range(world.rng.choice((2, 6, 20)))]
        self.wanted = world.rng.choice(world.names)
        self.frontend: Frontend | None = None
        self._asked: dict[int, str] = {}
        self._detach = False

    def record(self) -> Record:
        data = tuple(voter for voter in self.voters if voter.kind == "data")
        return Record(self.id, self.id, self.size_blocks * BLOCK_BYTES, len(data) - 1, self.voters, data)

    def move_to(self, node: str) -> None:
        if node != self.wanted:
            self.world.log("faults", "moves", self.id, "to", node)
            self.wanted = node
            self._detach = True
            if self.frontend is not None:
                self.frontend.replaced = True

    def tend(self) -> None:
        """Attach where it is wanted, and start a frontend there, again after its process died."""
        self.world.schedule(50 * MS, self.tend)
        frontend = self.frontend
        if frontend is not None and frontend.alive and not frontend.replaced:
            return
        leaders = [m for m in self.world.machines.values() if self.id in m.leading and m.listening()]
        if not leaders:
            return
        machine = self.world.rng.choice(leaders)
        request = self.world.request()
        if self._detach:
            self._asked[request] = "detach"
            machine.ask(self.id, ev.DetachAsked(request, None))
        else:
            self._asked[request] = "attach"
            machine.ask(self.id, ev.AttachAsked(request, self.wanted))

    def replied(self, machine: Machine, request: int, code: str, error: str) -> bool:
        asked = self._asked.pop(request, None)
        if asked is None:
            return False
        self.world.log(machine.name, asked, self.id, code or "OK", error)
        if code:
            return True
        if asked == "detach":
            self._detach = False
            return True
        assert machine.node is not None
        record = machine.node.volumes[self.id].brain.record
        assert record is not None
        target = self.world.machines[self.wanted]
        stale = self.frontend is not None and self.frontend.alive and not self.frontend.replaced
        if record.attachment is None or record.attachment.node != self.wanted or self._detach or stale:
            return True
        if not target.listening():
            return True
        self.world.frontends += 1
        self.frontend = Frontend(target, self.id, record.attach_epoch, self.world.frontends, self.depth)
        return True


class World:
    def __init__(self, seed: int, *, faults_ns: int = FAULTS_NS, verbose: bool = False):
        self.seed = seed
        self.verbose = verbose
        self.rng = Random(f"{seed}/world")
        self.fault_rng = Random(f"{seed}/faults")
        self.timing = Timing()
        self.now_ns = 0
        self.faults_ns = faults_ns
        self.faulty = True
        self.draining = False
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self._story: deque[tuple[int, tuple[Any, ...]]] = deque(maxlen=STORY)
        self._content = 0
        self._requests = 0
        self.frontends = 0
        self.network = Network(Random(f"{seed}/network"), lambda: self.now_ns, self.schedule)
        self.checker = Checker(self)
        rng = self.rng
        count = rng.choice((3, 3, 4, 5, 5))
        self.names = [f"n{index + 1}" for index in range(count)]
        self.machines: dict[str, Machine] = {}
        for name in self.names:
            ppm = rng.randint(-self.timing.drift_ppm // 2, self.timing.drift_ppm // 2) * 98 // 100
            machine = Machine(self, name, ppm, rng.randint(0, 1000 * SECOND))
            self.machines[name] = machine
            self.network.join(machine)
        self.think_ns = rng.choice((5 * MS, 20 * MS, 40 * MS, 100 * MS))
        self.volumes: dict[str, SimVolume] = {}
        for index in range(rng.choice((1, 1, 2))):
            self._add_volume(f"v{index + 1}")

    def _add_volume(self, volume: str) -> None:
        rng = self.rng
        kinds = [kind for kind in ("d", "dwd", "dwd", "ddd", "ddd", "dddwd") if len(kind) <= len(self.names)]
        kinds = kinds[1:] if rng.random() < 0.9 else kinds
        kind = rng.choice(kinds)
        nodes = rng.sample(self.names, len(kind))
        voters = tuple(
            Voter(node, f"{rng.getrandbits(32):08x}", "data" if letter == "d" else "witness")
            for node, letter in zip(nodes, kind, strict=True)
        )
        size = rng.choice((64, 300, 1500, 3000, 140_000))
        self.volumes[volume] = SimVolume(self, volume, voters, size, rng.choice((2, 4, 8)))
        for voter in voters:
            self.machines[voter.node].found(volume, voter, size)

    # ---- time -----------------------------------------------------------------------------------------

    def schedule(self, delay_ns: int, what: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (self.now_ns + delay_ns, self._count, what))

    def run_until(self, end_ns: int, done: Callable[[], bool] | None = None) -> bool:
        steps = 0
        while self._queue and self._queue[0][0] <= end_ns:
            self.now_ns, _, what = heapq.heappop(self._queue)
            what()
            steps += 1
            if done is not None and steps % 64 == 0 and done():
                return True
        self.now_ns = max(self.now_ns, end_ns)
        return done is not None and done()

    # ---- small things ---------------------------------------------------------------------------------

    def content(self) -> int:
        self._content += 1
        return self._content

    def request(self) -> int:
        self._requests += 1
        return self._requests

    def voters(self, volume: str) -> list[str]:
        return [voter.node for voter in self.volumes[volume].voters if voter.kind == "data"]

    def size_blocks(self, volume: str) -> int:
        return self.volumes[volume].size_blocks

    def workload(self, volume: str) -> tuple[RequestKind, int, int]:
        """(kind, block, count) of the next request."""
        rng, sim = self.rng, self.volumes[volume]
        kinds = (RequestKind.WRITE, RequestKind.READ, RequestKind.ZERO, RequestKind.FLUSH)
        kind = rng.choices(kinds, (60, 30, 4, 6))[0]
        if kind is RequestKind.FLUSH:
            return kind, 0, 0
        block = rng.choice(sim.hot) if rng.random() < 0.7 else rng.randrange(sim.size_blocks)
        count = rng.choices((1, 2, 4, 40), (80, 10, 8, 2))[0]
        return kind, block, min(count, sim.size_blocks - block)

    def replied(self, name: str, request: int, code: str, error: str) -> None:
        for volume in self.volumes.values():
            if volume.replied(self.machines[name], request, code, error):
                return

    # ---- story ----------------------------------------------------------------------------------------

    def log(self, *words: Any) -> None:
        self._story.append((self.now_ns, words))
        if self.verbose:
            print(_line(self.now_ns, words))

    def story(self) -> list[str]:
        return [_line(at, words) for at, words in self._story]

    def violated(self, what: str) -> None:
        self.log("VIOLATION", what)
        raise Violation(self.seed, what, self.story())

    # ---- the run --------------------------------------------------------------------------------------

    def begin(self) -> None:
        for name in self.names:
            self.machines[name].start(fresh=True)
        self.run_until(50 * MS)
        for volume in self.volumes.values():
            record = volume.record()
            for voter in volume.voters:
                self.machines[voter.node].ask(volume.id, ev.Founded(record))
            volume.tend()

    def run(self) -> None:
        try:
            self._run()
        except Violation:
            raise
        except Exception as error:
            self.log("ERROR", traceback.format_exc())
            raise Violation(self.seed, f"{type(error).__name__}: {error}", self.story()) from error

    def _run(self) -> None:
        self.begin()
        self.run_until(2 * SECOND)
        Faults(self).begin()
        self.run_until(2 * SECOND + self.faults_ns)
        self.heal()
        if not self.run_until(self.now_ns + PROGRESS_NS, self._recovered):
            self.violated(f"invariant 8: no progress after everything healed: {self._obstacle()}")
        self.draining = True
        if not self.run_until(self.now_ns + PROGRESS_NS, self._drained):
            self.violated(f"invariant 8: {self._obstacle()}")
        self.run_until(self.now_ns + 1 * SECOND)
        if not self._recovered():
            self.violated(f"invariant 8: it does not stay healthy: {self._obstacle()}")
        for volume in sorted(self.volumes):
            self.checker.copies(volume)

    def heal(self) -> None:
        self.log("faults", "everything heals")
        self.faulty = False
        self.network.heal_all()
        for machine in self.machines.values():
            machine.disk_ns = (MS // 5, 3 * MS)
            machine.fuse = None
            machine.resume()
            if any(disk.broken for disk in machine.disks.values()):
                machine.kill(power=False)
            if not machine.alive:
                machine.start()
        self._answered = {name: volume.frontend.answered if volume.frontend else 0 for name, volume in self._volumes()}

    def _volumes(self) -> list[tuple[str, SimVolume]]:
        return sorted(self.volumes.items())

    def _obstacle(self) -> str:
        """What is not as it has to be in a healed cluster, or ""."""
        for name, volume in self._volumes():
            frontend = volume.frontend
            chosen = self.checker.volume(name).chosen
            data = {voter for voter in volume.voters if voter.kind == "data"}
            if chosen is None or set(chosen.record.in_sync) != data:
                return f"{name}: not in sync: {chosen}"
            states = [m.node.volumes[name] for m in self.machines.values() if m.node and name in m.node.volumes]
            primaries = [s.primary.me for s in states if s.primary is not None and s.primary.serving]
            if len(primaries) != 1:
                return f"{name}: served by {primaries}"
            for machine in self.machines.values():
                disk = machine.disks.get(name)
                if disk is not None and disk.unclean:
                    return f"{name}: unclean on {machine.name}"
            if frontend is None or not frontend.alive or frontend.replaced:
                return f"{name}: no frontend"
            if self.draining and frontend.open:
                return f"{name}: not answered: {frontend.open}"
            if not self.draining and frontend.answered < 3:
                return f"{name}: frontend {frontend.number} answers nothing: {frontend.open}"
        return ""

    def _recovered(self) -> bool:
        return not self._obstacle()

    def _drained(self) -> bool:
        return not self._obstacle()


def _line(at_ns: int, words: tuple[Any, ...]) -> str:
    return f"{at_ns / SECOND:10.6f} " + " ".join(str(word) for word in words)
