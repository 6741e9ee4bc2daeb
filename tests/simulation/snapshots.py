"""A client that takes snapshots of one volume and drops them: a few names, again and again, while everything goes
wrong.

Each name is wanted or not; what is wanted is asked for until it is answered. What is sealed while its primary dies is
where the rules are needed, so now and then a blow waits for that moment.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from services.replica.brain import events as ev
from services.replica.driver import Reply
from services.replica.replication.sealing import Stage
from stoscore.units import MS
from tests.simulation.faults import Struck

if TYPE_CHECKING:
    from tests.simulation.machine import Machine
    from tests.simulation.world import World

NAMES = ("red", "green", "blue")
PAUSE_NS = (50 * MS, 1200 * MS)
BLOW_SHARE = 0.4
BLOW_WITHIN_NS = 2000 * MS


class Snapshots:
    def __init__(self, world: World, volume: str, *, wanted: bool):
        self._world = world
        self._volume = volume
        self._dice = Random(f"{world.plan.seed}/{volume}/snapshots")
        self.asked_ns: dict[str, int] = {}
        """Name -> when it was asked for, after it had last been dropped."""
        self._taken: set[str] = set()
        self._wishes: dict[str, bool] = {}
        """Name -> to be taken, or to be dropped; until that is answered."""
        self._asked: dict[int, tuple[str, bool, int]] = {}
        """Request -> name, to be taken or dropped, and since when that is wished: whoever led once answers late, and
        what was asked for may have been dropped and be wanted again."""
        if wanted:
            world.schedule(self._dice.randint(*PAUSE_NS), self._wish)

    @property
    def wishing(self) -> bool:
        return bool(self._wishes)

    def drop_all(self) -> None:
        """The volume is to be deleted."""
        for name in sorted(self._taken | self._wishes.keys()):
            self.drop(name)

    # ---- what is wanted -------------------------------------------------------------------------------

    def _wish(self) -> None:
        world, dice = self._world, self._dice
        volume = world.volumes.get(self._volume)
        if volume is None or volume.deleting or not world.faulty:
            return
        world.schedule(dice.randint(*PAUSE_NS), self._wish)
        name = dice.choice(NAMES)
        if self._wishes.get(name):
            if dice.random() < 0.3:
                self.drop(name)
        elif name in self._taken:
            self.drop(name)
        elif name not in self._wishes:
            self.take(name)
            if dice.random() < BLOW_SHARE:
                self._blow()

    def take(self, name: str) -> None:
        """One that is not there."""
        self._world.log("wants snapshot", self._volume, name)
        self._wishes[name] = True
        self.asked_ns[name] = self._world.now_ns

    def drop(self, name: str) -> None:
        self._wishes[name] = False

    def _blow(self) -> None:
        """At the moment when a seal is at this stage, the primary is struck."""
        struck, dice, volume = Struck(self._world, self._dice), self._dice, self._volume
        primary, stage = struck.primary(volume), dice.choice((Stage.HOLDING, Stage.SEALING, Stage.HASHING))

        def seen() -> bool:
            state = primary.node.volumes.get(volume) if primary.node is not None else None
            return state is not None and state.primary is not None and state.primary.sealing_stage is stage

        blow = dice.choice((struck.kill, struck.kill, struck.pause, lambda m: struck.isolate(m.name)))
        struck.when(primary, seen, lambda: struck.after(dice.randint(0, 4 * MS), lambda: blow(primary)), BLOW_WITHIN_NS)

    # ---- asked and answered ---------------------------------------------------------------------------

    def ask(self, request: int) -> ev.Event:
        name = self._dice.choice(sorted(self._wishes))
        take = self._wishes[name]
        self._asked[request] = name, take, self.asked_ns[name]
        return ev.TakeAsked(request, name, self._world.now_ns // MS) if take else ev.DropAsked(request, name)

    def replied(self, machine: Machine, reply: Reply) -> bool:
        asked = self._asked.pop(reply.request, None)
        if asked is None:
            return False
        name, take, since_ns = asked
        self._world.log(machine.name, "snapshot" if take else "unsnapshot", self._volume, name, reply.code or "OK")
        if reply.code == "RESOURCE_EXHAUSTED" and self._wishes.get(name):
            self._wishes[name] = False  # given up: nothing of it stays
        if reply.code == "DATA_LOSS" and take:
            self._wishes[name] = False  # its holders are lost for good
        if reply.code or self._wishes.get(name) is not take or self.asked_ns[name] != since_ns:
            return True
        self._check(machine, name, take=take)
        del self._wishes[name]
        self._taken = self._taken | {name} if take else self._taken - {name}
        return True

    def _check(self, machine: Machine, name: str, *, take: bool) -> None:
        chosen = self._world.checker.volume(self._volume).chosen
        known = chosen.record.snapshot(name) if chosen is not None else None
        if take and (known is None or known.state != "ready" or not known.holders):
            self._world.violated(f"K4: {machine.name} answers that {name} of {self._volume} is ready: {known}")
        if not take and known is not None:
            self._world.violated(f"K4: {machine.name} answers that {name} of {self._volume} is dropped: {known}")
