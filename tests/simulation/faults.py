"""The faults: what can happen to processes, networks and disks, and who is hit. Reviewed like production code: what is
left out here is not tested.

A fault is drawn with its moment by plan.py and acts when its moment has come, with dice of its own; whom it hits is
decided then ("the primary"). What lasts ends by itself, or when everything heals. `motifs.py` strings several of them
together for troubles that need two or three at the right distance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from random import Random
from typing import TYPE_CHECKING

from services.replica.brain import Record, Stamp, Voter
from services.replica.brain import events as ev
from stoscore.units import MS, REGION_BLOCKS, SECOND
from tests.simulation.store import GARBAGE

if TYPE_CHECKING:
    from tests.simulation.machine import Machine
    from tests.simulation.world import World

Pairs = list[tuple[str, str]]
LOST_GRACE_NS_MAX = 3 * SECOND
"""A store is lost only where a new one is made while the run lasts."""


class Struck:
    """One fault as it strikes: the world, its dice, and the blows it deals."""

    def __init__(self, world: World, dice: Random):
        self.world = world
        self.dice = dice

    # ---- who ------------------------------------------------------------------------------------------

    def volume(self) -> str:
        """One of the volumes that there are; all may be on their way from one life to the next."""
        return self.dice.choice(sorted(self.world.volumes or self.world.tombs))

    def some(self) -> Machine:
        return self.world.machines[self.dice.choice(self.world.names)]

    def primary(self, volume: str | None = None) -> Machine:
        """Who leads (the latest epoch), or anybody."""
        volume = volume or self.volume()
        leaders = [(m.leading[volume], m.name) for m in self.world.machines.values() if volume in m.leading]
        return self.world.machines[max(leaders)[1]] if leaders else self.some()

    def backup(self, volume: str | None = None) -> Machine:
        """A data replica that does not lead, or anybody."""
        volume = volume or self.volume()
        primary = self.primary(volume)
        nodes = [node for node in self.world.data_nodes(volume) if node != primary.name]
        return self.world.machines[self.dice.choice(nodes)] if nodes else self.some()

    def voters(self, volume: str) -> list[str]:
        return self.world.voter_nodes(volume)

    def others(self, name: str) -> list[str]:
        return [other for other in self.world.names if other != name]

    def lasting(self) -> int:
        return self.dice.randint(20 * MS, self.dice.choice((200 * MS, 1 * SECOND, 4 * SECOND)))

    def after(self, delay_ns: int, what: Callable[[], None]) -> None:
        """Only as long as faults are in season."""
        self.world.schedule(delay_ns, self._if_faulty, what)

    def when(self, at: Machine, seen: Callable[[], bool], what: Callable[[], None], within_ns: int) -> None:
        """At the very moment at which something is seen on a machine."""
        at.watch(seen, lambda: self._if_faulty(what), within_ns)

    def _if_faulty(self, what: Callable[[], None]) -> None:
        if self.world.faulty:
            what()

    def _note(self, kind: str, lasts_ns: int = 0, *words: object) -> None:
        self.world.coverage.fault(kind, self.world.now_ns, lasts_ns)
        self.world.log("fault", kind, *words, f"for {lasts_ns // MS} ms" if lasts_ns else "")

    def loses(self, kind: str, *words: object) -> None:
        self._note(kind, 0, *words)

    # ---- processes ------------------------------------------------------------------------------------

    def kill(self, machine: Machine, away_ns: int | None = None) -> None:
        away = self.lasting() if away_ns is None else away_ns
        self._note("kill", away, machine.name)
        machine.kill(power=False)
        self._start_after(machine, away)

    def power_off(self, machine: Machine, away_ns: int | None = None) -> None:
        away = self.lasting() if away_ns is None else away_ns
        if self.world.fragile():
            self.kill(machine, away)
            return
        self._note("power", away, machine.name)
        machine.kill(power=True)
        self._start_after(machine, away)

    def stop(self, machine: Machine, away_ns: int | None = None) -> None:
        away = self.lasting() if away_ns is None else away_ns
        self._note("stop", away, machine.name)
        machine.stop()
        self._start_when_down(machine, away)

    def _start_after(self, machine: Machine, away_ns: int) -> None:
        self.world.schedule(away_ns, self._start, machine)

    def _start_when_down(self, machine: Machine, away_ns: int) -> None:
        if machine.stopping:  # it hands over first
            self.world.schedule(20 * MS, self._start_when_down, machine, away_ns)
        else:
            self._start_after(machine, away_ns)

    def _start(self, machine: Machine) -> None:
        if not machine.alive and machine.name not in self.world.left_behind:
            machine.start()

    def light_fuse(self, machine: Machine, orders: int) -> None:
        """Killed in the middle of a row of orders."""
        if machine.alive:
            self._note("fuse", 0, machine.name, orders)
            machine.fuse = orders
            self._start_after(machine, self.lasting())
            self._start_after(machine, 6 * SECOND)

    def pause(self, machine: Machine, lasts_ns: int | None = None) -> None:
        lasts = self.lasting() if lasts_ns is None else lasts_ns
        self._note("pause", lasts, machine.name)
        machine.pause()
        life = machine.life
        self.after(lasts, lambda: machine.resume() if machine.life == life else None)

    # ---- network --------------------------------------------------------------------------------------

    def cut(self, pairs: Pairs, lasts_ns: int | None = None) -> None:
        network = self.world.network
        lasts = self.lasting() if lasts_ns is None else lasts_ns
        one_way = any(pair[::-1] not in pairs for pair in pairs)
        self._note("cut one way" if one_way else "cut", lasts, pairs)
        for pair in pairs:
            network.cut(*pair)

        def heal() -> None:
            self.world.log("heals", pairs)
            for pair in pairs:
                network.heal(*pair)

        self.after(lasts, heal)

    def both_ways(self, one: str, others: Iterable[str]) -> Pairs:
        return [pair for other in others for pair in ((one, other), (other, one))]

    def around(self, name: str, ways: str) -> Pairs:
        others = self.others(name)
        return [(name, other) for other in others if ways != "in"] + [(o, name) for o in others if ways != "out"]

    def isolate(self, name: str, lasts_ns: int | None = None) -> None:
        if self.dice.random() < 0.5:
            self.nats_down([name], lasts_ns)
        self.cut(self.around(name, self.dice.choice(("in", "out", "both"))), lasts_ns)

    def flap(self, pairs: Pairs) -> None:
        """Cut, healed, cut again: each time as long as an election takes, or a beat."""
        for _ in range(self.dice.randint(3, 8)):
            start = self.dice.randint(0, 3 * SECOND)
            self.after(start, lambda: self.cut(pairs, self.dice.choice((60 * MS, 200 * MS, 600 * MS))))

    def lag(self, pairs: Pairs, delay_ns: tuple[int, int], lasts_ns: int | None = None) -> None:
        """Messages take longer, one way: what the one believes about the other is old."""
        lasts = self.lasting() if lasts_ns is None else lasts_ns
        self._note("lag", lasts, pairs, delay_ns)
        lags = self.world.network.lags
        for pair in pairs:
            lags[pair] = delay_ns
        self.after(lasts, lambda: [lags.pop(pair, None) for pair in pairs] and None)

    def break_links(self, count: int) -> None:
        links = self.world.network.links()
        if links:
            self._note("break", 0, count)
            for link in self.dice.sample(links, min(len(links), count)):
                self.world.network.break_link(link, told=self.dice.random() < 0.8)

    def slow_network(self) -> None:
        network, lasts = self.world.network, self.lasting()
        self._note("slow network", lasts)
        network.delay_ns = (MS, self.dice.choice((20 * MS, 80 * MS, 200 * MS)))

        def heal() -> None:
            network.delay_ns = network.usual_ns

        self.after(lasts, heal)

    def nats_down(self, names: list[str], lasts_ns: int | None = None) -> None:
        lasts = self.lasting() if lasts_ns is None else lasts_ns
        self._note("nats", lasts, names)
        down = self.world.network.nats_down
        down.update(names)
        self.after(lasts, lambda: down.difference_update(names))

    # ---- disks ----------------------------------------------------------------------------------------

    def slow_disk(self, machine: Machine, most_ns: int | None = None, lasts_ns: int | None = None) -> None:
        lasts = self.lasting() if lasts_ns is None else lasts_ns
        self._note("slow disk", lasts, machine.name)
        usual = machine.disk_ns
        machine.disk_ns = (10 * MS, most_ns or self.dice.choice((100 * MS, 600 * MS, 2 * SECOND)))

        def heal() -> None:
            machine.disk_ns = min(usual, (MS // 5, 3 * MS))

        self.after(lasts, heal)

    def slow_data(self, machine: Machine, late_ns: int, lasts_ns: int) -> None:
        """Marks and syncs alone."""
        self._note("slow disk", lasts_ns, machine.name)
        machine.data_late_ns = late_ns

        def heal() -> None:
            machine.data_late_ns = 0

        self.after(lasts_ns, heal)

    def hang_disk(self, machine: Machine) -> None:
        lasts = self.lasting()
        self._note("hung disk", lasts, machine.name)
        machine.disk_hangs = True
        self.after(lasts, machine.unhang)

    def fail_disk(self, machine: Machine, call: str, away_ns: int | None = None) -> None:
        """One volume's next call of that kind fails; the process is started again after a while."""
        volumes = sorted(machine.disks)
        if volumes and not self.world.fragile():
            volume = self.dice.choice(volumes)
            self._note(f"failed {call}", 0, machine.name, volume)
            machine.disks[volume].refuses.add(call)
            self._restart_later(machine, {volume})

    def fill_disk(self, machine: Machine) -> None:
        """No volume there can write until there is room again."""
        if self.world.fragile():
            return
        self._note("full disk", 0, machine.name)
        for disk in machine.disks.values():
            disk.refuses.add("write")
        self._restart_later(machine, set(machine.disks))

    def _restart_later(self, machine: Machine, volumes: set[str]) -> None:
        def repaired() -> None:
            for volume in volumes & set(machine.disks):
                machine.disks[volume].refuses.clear()
            if any(disk.failure for disk in machine.disks.values()) and machine.alive:
                machine.kill(power=False)
                self._start_after(machine, 100 * MS)

        self.after(self.lasting(), repaired)

    def rot(self, machine: Machine) -> None:
        """One block, or one after the other; sometimes a copy that was away, and lacks a lot, is there to heal from."""
        if self.dice.random() < 0.4:
            self.kill(self.backup(), self.dice.randint(100 * MS, 1 * SECOND))
        for _ in range(self.dice.choice((1, 4, 20, 60))):
            self.after(self.dice.randint(0, 2 * SECOND), lambda: self._rot_one(machine))

    def _rot_one(self, machine: Machine) -> None:
        volumes = sorted(machine.disks)
        if volumes:
            disk = machine.disks[self.dice.choice(volumes)]
            block = disk.rot(self.dice)
            if block is not None:
                self._rotted(machine, disk.volume, block)

    def _rotted(self, machine: Machine, volume: str, block: int) -> None:
        self.world.rotted.add((volume, block))
        self._note("bit rot", 0, machine.name, volume, block)

    def lacked(self, volume: str, backup: Machine) -> list[int]:
        """The blocks of the primary that a copy which is being brought up to date does not have."""
        primary = self.primary(volume)
        state = primary.node.volumes.get(volume) if primary.node is not None else None
        peer = state.primary.peers.get(backup.name) if state is not None and state.primary is not None else None
        if peer is None or peer.phase != "syncing" or volume not in backup.disks:
            return []
        mine, other = primary.disks[volume], backup.disks[volume].cache
        return [b for b, content in mine.cache.items() if content != other.get(b, 0) and b not in mine.dirty]

    def rot_what_lacks(self, volume: str, backup: Machine) -> None:
        lacked, primary = sorted(self.lacked(volume, backup)), self.primary(volume)
        for block in self.dice.sample(lacked, min(len(lacked), 4)):
            old = backup.disks[volume].cache.get(block, 0)
            for machine in self.world.machines.values():
                disk = machine.disks.get(volume)
                if (
                    disk is not None
                    and machine is not backup
                    and disk.spoil(block, old if machine is primary else GARBAGE)
                ):
                    self._rotted(machine, volume, block)

    # ---- volumes --------------------------------------------------------------------------------------

    def move(self, volume: str, steal: str = "") -> None:
        """Attached elsewhere."""
        if volume in self.world.volumes:
            self._note("move", 0, volume)
            self.world.volumes[volume].move_to(self.dice.choice(self.world.names), steal)

    def lose_application(self, volume: str) -> None:
        """The node where it is attached dies, or seems to; its pod is started elsewhere (P6)."""
        if volume not in self.world.volumes:
            return
        holder = self.world.machines[self.world.volumes[volume].wanted]
        blow = self.dice.choice((self.kill, self.pause, lambda m, t: self.cut(self.around(m.name, "both"), t)))
        blow(holder, self.dice.randint(700 * MS, 3 * SECOND))
        self.after(self.dice.randint(0, 1 * SECOND), lambda: self.move(volume, "dead"))

    def change_policy(self, volume: str) -> None:
        dice, copies = self.dice, self.dice.randint(1, max(1, min(len(self.world.names) - 1, 4)))
        asked = dice.choice((
            ev.PolicyAsked(0, replicas=copies - 1),
            ev.PolicyAsked(0, failure_mode=dice.choice(("hard", "soft", "alwayson", dice.randint(1, copies)))),
            ev.PolicyAsked(0, on_unavailable=dice.choice(("suspend", "error"))),
        ))  # fmt: skip
        if volume in self.world.volumes:
            self._note("policy", 0, volume, asked)
            self.world.volumes[volume].change_policy(asked)

    def expand(self, volume: str) -> None:
        if volume in self.world.volumes and not self.world.volumes[volume].deleting:
            more = self.dice.choice((1, 100, 1500, REGION_BLOCKS + 1))
            self._note("expand", 0, volume, more)
            self.world.volumes[volume].expand(more)

    def services_away(self) -> None:
        lasts = self.lasting()
        self._note("services", lasts)
        self.world.services_down += 1

        def back() -> None:
            self.world.services_down -= 1

        self.after(lasts, back)

    def move_primary(self, volume: str) -> None:
        primary = self.primary(volume)
        if volume in primary.leading and primary.listening():
            wanted = self.dice.choice(("", self.dice.choice(self.world.names)))
            self._note("move primary", 0, volume, wanted)
            primary.ask(volume, ev.MoveAsked(self.world.request(), wanted, "the simulation wants it"))

    def delete(self, volume: str) -> None:
        if volume in self.world.volumes and not self.world.volumes[volume].deleting:
            self._note("delete", 0, volume)
            self.world.volumes[volume].delete()

    # ---- stores ---------------------------------------------------------------------------------------

    def lose_store(self, machine: Machine) -> None:
        """Killed; when no volume counts on its copies any more, they are gone. Then it starts."""
        if self.world.plan.grace_ns > LOST_GRACE_NS_MAX:
            return
        self._note("lost store", 2 * SECOND, machine.name)
        machine.kill(power=False)
        self._lose_when_out(machine, self.dice.randint(10, 40), self.dice.random() < 0.3)

    def _lose_when_out(self, machine: Machine, looks: int, unreadable: bool) -> None:
        if machine.alive or not looks:
            self._start(machine)
            return
        if any(not self._can_lose(volume, disk.me) for volume, disk in machine.disks.items()):
            self.world.schedule(100 * MS, self._lose_when_out, machine, looks - 1, unreadable)
            return
        for volume in sorted(machine.disks):
            machine.lose_store(volume, unreadable=unreadable)
        self._start(machine)

    def _can_lose(self, volume: str, me: Voter) -> bool:
        """Neither the committed record nor one on its way counts on its data, and a majority is left without it."""
        agreed = self.world.checker.volume(volume)
        if agreed.chosen is None or not self.world.faulty:
            return False
        for record in [agreed.chosen.record, *self._on_their_way(volume, agreed.chosen.stamp)]:
            gone = sum(voter in agreed.gone or voter == me for voter in record.voters)
            if me in record.in_sync or (len(record.voters) - gone) * 2 <= len(record.voters):
                return False
            if any(self._doubtful(volume, voter) for voter in record.in_sync):
                return False
        return True

    def _doubtful(self, volume: str, voter: Voter) -> bool:
        """It may have lost what was not flushed, or is about to."""
        disk = self.world.machines[voter.node].disks.get(volume)
        return disk is None or disk.unclean or bool(disk.refuses)

    def _on_their_way(self, volume: str, chosen: Stamp) -> Iterator[Record]:
        for machine in self.world.machines.values():
            state = machine.node.volumes.get(volume) if machine.node is not None else None
            disk = machine.disks.get(volume)
            for slot in (state.brain.state.slot if state else None, disk.state.slot if disk and disk.state else None):
                if slot is not None and slot.stamp > chosen:
                    yield slot.record


def _several(struck: Struck) -> list[Machine]:
    names = struck.world.names
    return [struck.world.machines[name] for name in struck.dice.sample(names, struck.dice.randint(2, len(names)))]


def _either(struck: Struck) -> Machine:
    return struck.primary() if struck.dice.random() < 0.5 else struck.some()


def _pair(struck: Struck) -> tuple[str, str]:
    source, target = struck.dice.sample(struck.world.names, 2)
    return source, target


def _each(struck: Struck, blow: Callable[[Machine], None]) -> None:
    for machine in _several(struck):
        blow(machine)


SIMPLE: dict[str, tuple[int, Callable[[Struck], None]]] = {
    "kill one": (8, lambda s: s.kill(s.some())),
    "kill primary": (5, lambda s: s.kill(s.primary())),
    "kill in the middle": (6, lambda s: s.light_fuse(_either(s), s.dice.randint(1, 60))),
    "kill several": (3, lambda s: _each(s, s.kill)),
    "stop one": (3, lambda s: s.stop(_either(s))),
    "power off one": (4, lambda s: s.power_off(_either(s))),
    "power off several": (3, lambda s: _each(s, s.power_off)),
    "power off all": (3, lambda s: [s.power_off(m) for m in s.world.machines.values()] and None),
    "pause one": (5, lambda s: s.pause(s.some())),
    "pause primary": (4, lambda s: s.pause(s.primary())),
    "cut one way": (5, lambda s: s.cut([_pair(s)])),
    "cut both ways": (4, lambda s: s.cut([pair := _pair(s), pair[::-1]])),
    "isolate": (5, lambda s: s.isolate(s.some().name)),
    "isolate primary": (4, lambda s: s.isolate(s.primary().name)),
    "flap": (3, lambda s: s.flap(s.around(_either(s).name, s.dice.choice(("in", "out", "both"))))),
    "lag": (3, lambda s: s.lag([_pair(s)], (20 * MS, s.dice.choice((100 * MS, 400 * MS))))),
    "break links": (7, lambda s: s.break_links(s.dice.choice((1, 1, 2, 6)))),
    "slow network": (3, lambda s: s.slow_network()),
    "nats away": (3, lambda s: s.nats_down(s.world.names)),
    "slow disk": (4, lambda s: s.slow_disk(s.some())),
    "hang disk": (2, lambda s: s.hang_disk(_either(s))),
    "write error": (2, lambda s: s.fail_disk(_either(s), "write")),
    "sync error": (2, lambda s: s.fail_disk(_either(s), "sync")),
    "mark error": (1, lambda s: s.fail_disk(_either(s), "mark")),
    "save error": (1, lambda s: s.fail_disk(_either(s), "save")),
    "disk full": (2, lambda s: s.fill_disk(_either(s))),
    "bit rot": (2, lambda s: s.rot(_either(s))),
    "lose a store": (3, lambda s: s.lose_store(s.some())),
    "move": (3, lambda s: s.move(s.volume())),
    "steal": (1, lambda s: s.move(s.volume(), "an operator says so")),
    "suspect the application": (2, lambda s: s.move(s.volume(), "dead")),
    "lose the application": (3, lambda s: s.lose_application(s.volume())),
    "move primary": (6, lambda s: s.move_primary(s.volume())),
    "change policy": (3, lambda s: s.change_policy(s.volume())),
    "expand": (2, lambda s: s.expand(s.volume())),
    "services away": (1, lambda s: s.services_away()),
    "delete": (1, lambda s: s.delete(s.volume())),
}
"""Kind -> (weight, what it does)."""
BLOWS = (
    "kill", "fuse", "stop", "power", "pause", "cut", "cut one way", "lag", "break", "slow network", "nats", "slow disk",
    "hung disk", "failed write", "failed sync", "failed mark", "failed save", "full disk", "bit rot", "lost store",
    "move", "move primary", "policy", "expand", "services", "delete", "lost majority",
)  # fmt: skip
"""What the coverage table counts."""
