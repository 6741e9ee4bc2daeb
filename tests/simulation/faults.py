"""The fault mix: which faults come, how often, for how long. Reviewed like production code: what it leaves out is not
tested. Everything is drawn from the seed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from stoscore.units import MS, SECOND

if TYPE_CHECKING:
    from tests.simulation.machine import Machine
    from tests.simulation.world import World


class Faults:
    def __init__(self, world: World):
        self.world = world
        self.rng = world.fault_rng
        self._mix: list[tuple[int, Callable[[], None]]] = [
            (10, self.kill_one),
            (5, self.kill_primary),
            (5, self.kill_soon),
            (3, self.kill_several),
            (4, self.power_off_one),
            (3, self.power_off_several),
            (3, self.power_off_all),
            (6, self.pause_one),
            (4, self.pause_primary),
            (6, self.cut_one_way),
            (4, self.cut_both_ways),
            (6, self.isolate),
            (3, self.isolate_primary),
            (10, self.break_links),
            (5, self.slow_disk),
            (4, self.slow_network),
            (3, self.nats_away),
            (4, self.move),
            (2, self.fail_disk),
        ]

    def begin(self) -> None:
        self._again()

    def _again(self) -> None:
        high = self.rng.choice((100 * MS, 500 * MS, 500 * MS, 2 * SECOND))
        self.world.schedule(self.rng.randint(10 * MS, high), self._one)

    def _one(self) -> None:
        if not self.world.faulty:
            return
        weights = [weight for weight, _ in self._mix]
        self.rng.choices([fault for _, fault in self._mix], weights)[0]()
        self._again()

    # ---- who ------------------------------------------------------------------------------------------

    def _some(self) -> Machine:
        return self.world.machines[self.rng.choice(self.world.names)]

    def _primary(self) -> Machine:
        volume = self.rng.choice(sorted(self.world.volumes))
        leaders = [m for m in self.world.machines.values() if volume in m.leading]
        return leaders[-1] if leaders else self._some()

    def _while(self) -> int:
        return self.rng.randint(20 * MS, self.rng.choice((200 * MS, 1 * SECOND, 4 * SECOND)))

    # ---- processes ------------------------------------------------------------------------------------

    def _kill(self, machine: Machine, *, power: bool, away_ns: int | None = None) -> None:
        machine.kill(power=power)
        away = self._while() if away_ns is None else away_ns
        self.world.schedule(away, lambda: machine.alive or machine.start())

    def kill_one(self) -> None:
        self._kill(self._some(), power=False)

    def kill_primary(self) -> None:
        self._kill(self._primary(), power=False)

    def kill_soon(self) -> None:
        """In the middle of a row of orders."""
        machine = self._primary() if self.rng.random() < 0.5 else self._some()
        if machine.alive:
            machine.fuse = self.rng.randint(1, 60)
            self.world.schedule(6 * SECOND, lambda: machine.alive or machine.start())

    def kill_several(self) -> None:
        for name in self.rng.sample(self.world.names, self.rng.randint(2, len(self.world.names))):
            self._kill(self.world.machines[name], power=False)

    def power_off_one(self) -> None:
        machine = self._primary() if self.rng.random() < 0.5 else self._some()
        self._kill(machine, power=True)

    def power_off_several(self) -> None:
        for name in self.rng.sample(self.world.names, self.rng.randint(2, len(self.world.names))):
            self._kill(self.world.machines[name], power=True)

    def power_off_all(self) -> None:
        for machine in self.world.machines.values():
            self._kill(machine, power=True)

    def _pause(self, machine: Machine) -> None:
        machine.pause()
        life = machine.life
        self.world.schedule(self._while(), lambda: machine.resume() if machine.life == life else None)

    def pause_one(self) -> None:
        self._pause(self._some())

    def pause_primary(self) -> None:
        self._pause(self._primary())

    # ---- network --------------------------------------------------------------------------------------

    def _cut(self, pairs: list[tuple[str, str]]) -> None:
        network = self.world.network
        self.world.log("faults", "cut", pairs)
        for pair in pairs:
            network.cut(*pair)

        def heal() -> None:
            self.world.log("faults", "heal", pairs)
            for pair in pairs:
                network.heal(*pair)

        self.world.schedule(self._while(), heal)

    def cut_one_way(self) -> None:
        source, target = self.rng.sample(self.world.names, 2)
        self._cut([(source, target)])

    def cut_both_ways(self) -> None:
        source, target = self.rng.sample(self.world.names, 2)
        self._cut([(source, target), (target, source)])

    def _isolate(self, name: str) -> None:
        others = [other for other in self.world.names if other != name]
        ways = self.rng.choice(("in", "out", "both"))
        pairs = [(name, other) for other in others if ways != "in"] + [(o, name) for o in others if ways != "out"]
        if self.rng.random() < 0.5:
            self._nats(name)
        self._cut(pairs)

    def isolate(self) -> None:
        self._isolate(self._some().name)

    def isolate_primary(self) -> None:
        self._isolate(self._primary().name)

    def break_links(self) -> None:
        links = self.world.network.links()
        if links:
            for link in self.rng.sample(links, min(len(links), self.rng.choice((1, 1, 2, 6)))):
                self.world.network.break_link(link, told=self.rng.random() < 0.8)

    def slow_network(self) -> None:
        network = self.world.network
        network.delay_ns = (MS, self.rng.choice((20 * MS, 80 * MS, 200 * MS)))

        def heal() -> None:
            network.delay_ns = network.usual_ns

        self.world.schedule(self._while(), heal)

    def _nats(self, name: str) -> None:
        self.world.network.nats_down.add(name)
        self.world.schedule(self._while(), lambda: self.world.network.nats_down.discard(name))

    def nats_away(self) -> None:
        for name in self.world.names:
            self._nats(name)

    # ---- disks and frontends --------------------------------------------------------------------------

    def slow_disk(self) -> None:
        machine = self._some()
        machine.disk_ns = (10 * MS, self.rng.choice((100 * MS, 600 * MS, 2 * SECOND)))

        def heal() -> None:
            machine.disk_ns = (MS // 5, 3 * MS)

        self.world.schedule(self._while(), heal)

    def fail_disk(self) -> None:
        machine = self._some()
        for volume in sorted(machine.disks):
            if self.rng.random() < 0.7:
                machine.fail_disk(volume)
        life = machine.life

        def restart() -> None:
            if self.world.faulty and machine.life == life and machine.alive:
                machine.kill(power=False)
                self.world.schedule(100 * MS, lambda: machine.alive or machine.start())

        self.world.schedule(self._while(), restart)

    def move(self) -> None:
        volume = self.rng.choice(sorted(self.world.volumes))
        self.world.volumes[volume].move_to(self.rng.choice(self.world.names))
