"""What a script may say, sentence by sentence, and what it does to the simulated world."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from services.replica.brain import events as ev
from stoscore.units import MS
from tests.scenarios.script import BadScript
from tests.simulation.store import GARBAGE

if TYPE_CHECKING:
    from tests.scenarios.stage import Stage
    from tests.simulation.machine import Machine

HUNG_NS = (10 * MS, 600 * MS)
VOLUME = "v1"


def perform(stage: Stage, sentence: str) -> None:
    """Raises BadScript."""
    for pattern, deed in _SENTENCES:
        if found := re.fullmatch(pattern, sentence):
            stage.log("fault", sentence)
            deed(stage, *found.groups())
            return
    raise BadScript(f"no sentence of a scenario: {sentence!r}")


def _machine(stage: Stage, name: str) -> Machine:
    if name not in stage.machines:
        raise BadScript(f"there is no node {name}")
    return stage.machines[name]


# ---- processes ----------------------------------------------------------------------------------------


def _kill(stage: Stage, name: str) -> None:
    _machine(stage, name).kill(power=False)


def _power_off(stage: Stage, name: str) -> None:
    _machine(stage, name).kill(power=True)


def _power_off_all(stage: Stage) -> None:
    for machine in stage.machines.values():
        machine.kill(power=True)


def _start(stage: Stage, name: str) -> None:
    _machine(stage, name).start()


def _start_all(stage: Stage) -> None:
    for machine in stage.machines.values():
        if not machine.alive:
            machine.start()


def _lose(stage: Stage, name: str) -> None:
    machine = _machine(stage, name)
    for volume in sorted(machine.disks):
        machine.lose_store(volume, unreadable=False)


def _unreadable(stage: Stage, name: str) -> None:
    machine = _machine(stage, name)
    for volume in sorted(machine.disks):
        machine.lose_store(volume, unreadable=True)


# ---- network ------------------------------------------------------------------------------------------


def _cut_off(stage: Stage, name: str) -> None:
    _deaf(stage, name)
    _mute(stage, name)


def _deaf(stage: Stage, name: str) -> None:
    stage.network.nats_down.add(_machine(stage, name).name)
    for other in stage.names:
        if other != name:
            stage.network.cut(other, name)


def _mute(stage: Stage, name: str) -> None:
    stage.network.nats_down.add(_machine(stage, name).name)
    for other in stage.names:
        if other != name:
            stage.network.cut(name, other)


def _part(stage: Stage, one: str, other: str) -> None:
    stage.network.cut(one, other)
    stage.network.cut(other, one)


def _nats_away(stage: Stage) -> None:
    stage.network.nats_down.update(stage.names)


def _nats_back(stage: Stage) -> None:
    stage.network.nats_down.clear()


# ---- disks --------------------------------------------------------------------------------------------


def _refuse(stage: Stage, call: str, name: str) -> None:
    for disk in _machine(stage, name).disks.values():
        disk.refuses.add(call)


def _hang(stage: Stage, name: str) -> None:
    _machine(stage, name).disk_hangs = True


def _slow(stage: Stage, name: str) -> None:
    _machine(stage, name).disk_ns = HUNG_NS


def _rot(stage: Stage, nodes: str) -> None:
    """The same block on each, one that nobody is about to write."""
    disks = [_machine(stage, name).disks[VOLUME] for name in re.findall(r"n\d", nodes)]
    used = stage.volumes[VOLUME].plan.hot
    for block in sorted(set(disks[0].cache) - set(used)):
        if (VOLUME, block) not in stage.rotted and all(disk.spoil(block, GARBAGE) for disk in disks):
            stage.rotted.add((VOLUME, block))
            return
    raise BadScript(f"no block to rot on {nodes}")


# ---- services -----------------------------------------------------------------------------------------


def _services(stage: Stage, *, down: int) -> None:
    stage.services_down = down


# ---- the volume ---------------------------------------------------------------------------------------


def _move_primary(stage: Stage, name: str) -> None:
    for machine in stage.machines.values():
        if VOLUME in machine.leading:
            machine.ask(VOLUME, ev.MoveAsked(stage.request(), name, "an upgrade"))


def _policy(stage: Stage, **asked: object) -> None:
    stage.volumes[VOLUME].change_policy(ev.PolicyAsked(0, **asked))  # type: ignore[arg-type]


def _override(stage: Stage, keeper: str, lost: str) -> None:
    stage.overridden.add(VOLUME)
    frontend = stage.volumes[VOLUME].frontend
    if frontend is not None:
        frontend.replaced = True
    asked = ev.OverrideAsked(stage.request(), tuple(re.findall(r"n\d", lost)), "a fire")
    _machine(stage, keeper).ask(VOLUME, asked)


def _grow(stage: Stage, blocks: str) -> None:
    volume = stage.volumes[VOLUME]
    volume.expand(int(blocks) - volume.size_blocks)


def _mode(value: str) -> object:
    return int(value) if value.isdigit() else value


_SENTENCES: tuple[tuple[str, Callable[..., None]], ...] = (
    (r"(n\d) is killed", _kill),
    (r"(n\d) loses power", _power_off),
    (r"everything loses power", _power_off_all),
    (r"(n\d) starts", _start),
    (r"everything starts", _start_all),
    (r"(n\d) stops in order", lambda stage, name: _machine(stage, name).stop()),
    (r"(n\d) is paused", lambda stage, name: _machine(stage, name).pause()),
    (r"(n\d) goes on", lambda stage, name: _machine(stage, name).resume()),
    (r"(n\d)'s directory is gone", _lose),
    (r"(n\d)'s directory can't be read", _unreadable),
    (r"(n\d) is cut off", _cut_off),
    (r"(n\d) hears nobody", _deaf),
    (r"(n\d) is heard by nobody", _mute),
    (r"the link between (n\d) and (n\d) is cut", _part),
    (r"the network heals", lambda stage: stage.network.heal_all(set())),
    (r"NATS is away", _nats_away),
    (r"NATS is back", _nats_back),
    (r"the disk of (n\d) is full", lambda stage, name: _refuse(stage, "write", name)),
    (r"a sync fails on (n\d)", lambda stage, name: _refuse(stage, "sync", name)),
    (r"(n\d) can't store its state", lambda stage, name: _refuse(stage, "save", name)),
    (r"the disk of (n\d) hangs", _hang),
    (r"the disk of (n\d) is slow", _slow),
    (r"(?:a|another) block rots on (n\d(?:(?:, | and )n\d)*)", _rot),
    (r"csi, placement and certs end", lambda stage: _services(stage, down=1)),
    (r"csi, placement and certs start", lambda stage: _services(stage, down=0)),
    (r"the application moves to (n\d)", lambda stage, name: stage.volumes[VOLUME].move_to(name)),
    (r"the application is started again on (n\d)", lambda stage, name: stage.volumes[VOLUME].move_to(name, "dead")),
    (r"the primary is asked to move to (n\d)", _move_primary),
    (r"replicas becomes (\d)", lambda stage, value: _policy(stage, replicas=int(value))),
    (r"failure-mode becomes (\w+)", lambda stage, value: _policy(stage, failure_mode=_mode(value))),
    (r"on-unavailable becomes (\w+)", lambda stage, value: _policy(stage, on_unavailable=value)),
    (
        r"an operator gives up (n\d(?:(?:, | and )n\d)*) and goes on with (n\d)",
        lambda stage, lost, keeper: _override(stage, keeper, lost),
    ),
    (r"the volume grows to (\d+) blocks", _grow),
    (r"snapshot (\w+) is taken", lambda stage, name: stage.volumes[VOLUME].snapshots.take(name)),
    (r"snapshot (\w+) is dropped", lambda stage, name: stage.volumes[VOLUME].snapshots.drop(name)),
    (r"the volume is deleted", lambda stage: stage.volumes[VOLUME].delete()),
    (r"the end", lambda stage: None),
)
