"""A scenario played: the simulator's world with nothing left to chance, and what is told of it."""

from __future__ import annotations

import json
from typing import Any

from services.cli.story import Chapter, tell
from services.replica.brain import Timing, Voter
from services.replica.brain.events import Explain
from services.replica.replication.effects import Damage
from stoscore.messages import DecisionEvent
from stoscore.units import MS, SECOND
from tests.scenarios import steps
from tests.scenarios.script import Script, read, seconds
from tests.simulation.plan import START_NS, NodePlan, Plan, VolumePlan
from tests.simulation.store import Disk
from tests.simulation.volume import SimVolume
from tests.simulation.world import World

SIZE_BLOCKS = 300
HOT = (3, 40, 41, 170)
DEPTH, THINK_NS = 4, 8 * MS
DELAY_NS = (MS // 10, MS)
MADE_NS = 500 * MS
_ID = "0" * 32
"""The simulator has short names for volumes, events have not."""


class Stage(World):
    def __init__(self, script: Script):
        super().__init__(_plan(script))
        self.script = script
        self.story: list[DecisionEvent] = []
        self.healed: list[tuple[int, str]] = []
        """(when, what rot was healed or lost)"""
        self.errors = 0
        self.pause_ns = 0
        self._answered_ns = 0

    @property
    def used_ns(self) -> int:
        """Since the volume is used."""
        return self.now_ns - START_NS

    # ---- what happens ---------------------------------------------------------------------------------

    def _begin(self) -> None:
        """All links are up before the volume is made."""
        for volume in self.volumes.values():
            volume.make_replicas()
        for machine in self.machines.values():
            machine.start(fresh=True)
        self.run_until(MADE_NS)
        self.homes.begin()
        for volume in self.volumes.values():
            volume.found()
        self.run_until(START_NS)

    def deleted(self, volume: SimVolume) -> None:
        """No other one is made of its name."""
        self.tombs[volume.id] = self.volumes.pop(volume.id)

    def play(self) -> None:
        """Raises Violation, BadScript."""
        self._begin()
        self._answered_ns = self.now_ns
        for step in self.script.steps:
            self.schedule(step.at_ns, steps.perform, self, step.what)
        self.run_until(START_NS + self.script.end_ns)
        if self.volumes:
            self._count_pause()
        for volume in sorted({**self.volumes, **self.tombs}):
            wrong = self.registers.volume(volume).history.contradiction()
            if wrong:
                self.violated(f"{volume} is not linearizable: {wrong}")

    def decided(self, node: str, volume: str, explain: Explain) -> None:
        super().decided(node, volume, explain)
        event = DecisionEvent(
            volume=_ID, name=volume, node=node, kind=explain.kind, epoch=explain.epoch, version=explain.version,
            inputs=json.loads(json.dumps(explain.inputs)), outcome=explain.outcome,
            alternatives=list(explain.alternatives), at_ns=self.now_ns,
        )  # fmt: skip
        self.story.append(event)

    def damaged(self, disk: Disk, damage: Damage) -> None:
        super().damaged(disk, damage)
        blocks = ", ".join(str(at) for block, count in damage.blocks for at in range(block, block + count))
        how = f"healed by {damage.source}" if damage.source else "and nobody has it"
        self.healed.append((self.used_ns, f"block {blocks} of {damage.node} was {damage.kind}, {how}"))

    def log(self, *words: Any) -> None:
        super().log(*words)
        if len(words) > 1 and words[1] == "client" and self.now_ns >= START_NS:
            self._count_pause()
            self.errors += bool(words[-1]) and self._is_current(words[2])

    def _is_current(self, frontend: int) -> bool:
        """Not one whose application is gone, and which is told so."""
        volume = self.volumes.get(steps.VOLUME)
        current = volume.frontend if volume is not None and volume.served() else None
        return current is not None and current.number == frontend

    def _count_pause(self) -> None:
        self.pause_ns = max(self.pause_ns, self.now_ns - self._answered_ns)
        self._answered_ns = self.now_ns

    # ---- what is told ---------------------------------------------------------------------------------

    def told(self) -> str:
        return "\n".join(["    " + line if line else "" for line in [*self._user(), *self._chapters(), *self._end()]])

    def _user(self) -> list[str]:
        pause = _rounded(self.pause_ns)
        errors = f"{self.errors} error{'s' * (self.errors > 1)}" if self.errors else "no error"
        healed = [f"{_at(at_ns)}    {what}" for at_ns, what in self.healed]
        return [f"the user        longest pause {pause}, {errors}", *(["", "rot", *healed] if healed else [])]

    def _chapters(self) -> list[str]:
        lines: list[str] = []
        epoch = None
        for chapter in tell(self.story):
            if chapter.event.at_ns < START_NS and "told from" not in self.script.settings:
                continue
            if chapter.epoch != epoch:
                epoch = chapter.epoch
                lines += ["", f"epoch {epoch}" if epoch else "before the first election"]
            lines += self._chapter(chapter)
        return [*lines, ""]

    def _chapter(self, chapter: Chapter) -> list[str]:
        often = f" ({chapter.times} times)" if chapter.times > 1 else ""
        turned_down = [f"{'':12}turned down: {told}" for told in chapter.event.alternatives]
        return [f"{_at(chapter.event.at_ns - START_NS)}    {chapter.text}{often}", *turned_down]

    def _end(self) -> list[str]:
        if steps.VOLUME not in self.volumes:
            return ["the end         the volume is deleted; directories left on " + (self._directories() or "no node")]
        chosen = self.checker.volume(steps.VOLUME).chosen
        assert chosen is not None
        record = chosen.record
        leaders = [name for name, machine in self.machines.items() if self._serves(name) and machine.listening()]
        in_sync = " ".join(voter.node for voter in record.in_sync)
        members = " ".join(f"{m.node}{'' if m.kind == 'data' else ' (witness)'}" for m in record.members)
        lines = [
            f"the end         {leaders[0]} serves" if leaders else "the end         nobody serves",
            f"                members {members}; in sync {in_sync}",
        ]
        for snapshot in record.snapshots:
            holders = " ".join(holder.node for holder in record.holders(snapshot)) or "nobody"
            lines.append(f"                snapshot {snapshot.name} {snapshot.state}, held by {holders}")
        if record.attachment is not None:
            lines.append(f"                attached to {record.attachment.node}")
        return lines

    def _serves(self, name: str) -> bool:
        node = self.machines[name].node
        state = node.volumes.get(steps.VOLUME) if node is not None else None
        if node is None or state is None or state.primary is None or not state.primary.serving:
            return False
        return node.leases.until(state) > self.machines[name].clock_ns()

    def _directories(self) -> str:
        held = [name for name, machine in self.machines.items() if steps.VOLUME in machine.disks]
        return " ".join(held)


def play(name: str) -> Stage:
    stage = Stage(read(name))
    stage.play()
    return stage


def _at(used_ns: int) -> str:
    at = f"{used_ns / SECOND:.2f} s"
    return f"{at:>8}"


def _rounded(ns: int) -> str:
    return f"{round(ns / (10 * MS)) * 10} ms" if ns < SECOND else f"{ns / SECOND:.1f} s"


def _plan(script: Script) -> Plan:
    given = script.settings
    timing = Timing()
    nodes = tuple(NodePlan(name, 0, 0, (timing.lease_ns,)) for name in given["nodes"].split())
    voters = tuple(
        [Voter(name, f"{at:016x}", "data") for at, name in enumerate(given["copies"].split(), 1)]
        + [Voter(name, f"{at:016x}", "witness") for at, name in enumerate(given.get("witness", "").split(), 100)]
    )
    mode = given.get("failure-mode", "alwayson")
    volume = VolumePlan(
        steps.VOLUME, voters, SIZE_BLOCKS, HOT, DEPTH, THINK_NS, 1, given["used on"],
        failure_mode=int(mode) if mode.isdigit() else mode,  # type: ignore[arg-type]
        on_unavailable=given.get("on-unavailable", "suspend"),  # type: ignore[arg-type]
    )  # fmt: skip
    grace_ns = seconds(given["grace"]) if "grace" in given else timing.grace_ns
    return Plan(1, nodes, (volume,), DELAY_NS, (), script.end_ns, 0, grace_ns)
