"""Waiting for the disk: one lane for a volume's hard state, one for its blocks, each one call at a time, first in first
out, as `services/replica/hosted.py` has them. Marks and syncs that arrive while one is under way share the next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from services.replica.brain import HardState
from services.replica.replication import effects as fx
from tests.simulation.store import Disk

if TYPE_CHECKING:
    from tests.simulation.machine import Machine


class Job:
    """A disk call that waits. `begin` is called as it starts and says what it covers, `end` when it is done."""

    __slots__ = ("begin", "covers", "end", "kind", "times")

    def __init__(self, kind: str, times: int, begin: Callable[[], Any], end: Callable[[Any], None]):
        self.kind = kind
        self.times = times
        """How many disk times it takes."""
        self.begin = begin
        self.end = end
        self.covers: Any = None


class Lane:
    """Ends with its process; the call that is under way then may have been done or not. And with its directory: a voter
    is removed when its calls are done, and only then another one may be made there."""

    def __init__(self, machine: Machine, disk: Disk, *, data: bool):
        self._machine = machine
        self._disk = disk
        self._data = data
        self.jobs: deque[Job] = deque()
        self.running: Job | None = None

    def add(self, job: Job) -> None:
        self.jobs.append(job)
        if self.running is None:
            self._begin()

    def _begin(self) -> None:
        machine = self._machine
        job = self.running = self.jobs.popleft()
        job.covers = job.begin()
        takes_ns = machine.disk_time() * job.times + (machine.data_late_ns if self._data else 0)
        machine.disk_busy_ns = max(machine.disk_busy_ns, machine.world.now_ns + takes_ns)
        machine.world.schedule(takes_ns, self._finish, job, machine.life)

    def _finish(self, job: Job, life: int) -> None:
        """The disk goes on while the process is paused; only the process hears of it later."""
        machine = self._machine
        if life != machine.life or machine.node is None or machine.disks.get(self._disk.volume) is not self._disk:
            return
        if machine.disk_hangs:
            machine.hanging.append(lambda: self._finish(job, life))
            return
        self.running = None
        if job.kind in self._disk.refuses or (job.kind == "sync" and self._disk.failure):
            reason, votes = f"{job.kind}: input/output error", job.kind != "save"
            machine.run(lambda: machine.orders.disk_failed(self._disk.volume, reason, votes=votes))
        else:
            job.end(job.covers)
        if self.jobs and self.running is None and life == machine.life:
            self._begin()


class VolumeLanes:
    """What one volume's disk has to do."""

    def __init__(self, machine: Machine, disk: Disk):
        self._machine = machine
        self._disk = disk
        self._states = Lane(machine, disk, data=False)
        self._blocks = Lane(machine, disk, data=True)
        self._beside = Lane(machine, disk, data=True)
        self._to_mark: set[int] = set()
        self._to_sync: list[tuple[int, fx.SyncStore]] = []

    def save(self, ticket: int, state: HardState) -> None:
        machine, disk = self._machine, self._disk

        def end(_: Any) -> None:
            machine.orders.state_durable(disk, state)
            machine.run(lambda: machine.live.disk.saved(disk.volume, ticket, machine.clock_ns()))

        self._states.add(Job("save", 1, lambda: state, end))

    def mark(self, regions: tuple[int, ...]) -> None:
        machine, disk = self._machine, self._disk
        waiting = bool(self._to_mark)
        self._to_mark.update(regions)
        if waiting:
            return

        def begin() -> tuple[int, ...]:
            taken = tuple(sorted(self._to_mark))
            self._to_mark.clear()
            return taken

        def end(taken: tuple[int, ...]) -> None:
            disk.mark(taken)
            machine.run(lambda: machine.live.disk.marked(disk.volume, taken, machine.clock_ns()))

        self._blocks.add(Job("mark", 1, begin, end))

    def sync(self, owner: int, effect: fx.SyncStore) -> None:
        machine, disk = self._machine, self._disk
        waiting = bool(self._to_sync)
        self._to_sync.append((owner, effect))
        if waiting:
            return

        def begin() -> tuple[list[tuple[int, fx.SyncStore]], dict[int, int], dict[int, int]]:
            taken = list(self._to_sync)
            self._to_sync.clear()
            settles = any(effect.settles or effect.cleans for _, effect in taken)
            return taken, disk.snapshot(), dict(disk.unsettled) if settles else {}

        def end(covers: tuple[list[tuple[int, fx.SyncStore]], dict[int, int], dict[int, int]]) -> None:
            waits, snapshot, unsettled = covers
            cleans = any(effect.cleans for _, effect in waits)
            disk.synced(snapshot)
            disk.settled(unsettled)
            if cleans:
                disk.clean()
            machine.run(lambda: self._synced(waits, cleans))

        self._blocks.add(Job("sync", 2, begin, end))

    def _synced(self, waits: list[tuple[int, fx.SyncStore]], cleans: bool) -> None:
        machine, volume, now = self._machine, self._disk.volume, self._machine.clock_ns()
        if cleans:
            machine.live.disk.store_changed(volume, now, unclean=self._disk.unclean)
        for owner, effect in waits:
            machine.live.disk.synced(volume, owner, effect.ticket, now)

    # ---- snapshots ------------------------------------------------------------------------------------

    def prepare_seal(self, owner: int, number: int) -> None:
        """The next layer takes room; then what is dirty is synced."""
        machine, disk = self._machine, self._disk

        def told(failure: str) -> None:
            told_of = disk.volume, owner, number, failure
            machine.run(lambda: machine.live.disk.seal_prepared(*told_of, machine.clock_ns()))

        def synced(snapshot: dict[int, int]) -> None:
            disk.synced(snapshot)
            told("")

        def end(_: Any) -> None:
            if "write" in disk.refuses:
                told("no space left on device")
            else:
                self._blocks.add(Job("sync", 2, disk.snapshot, synced))

        self._beside.add(Job("prepare", 3, lambda: None, end))

    def seal(self, layer: str, seq: int) -> None:
        machine, disk = self._machine, self._disk

        def end(sealing: tuple[str, Any]) -> None:
            disk.seal(*sealing)
            machine.log(disk.volume, "has sealed", layer)
            machine.run(lambda: machine.live.disk.sealed(disk.volume, seq, machine.clock_ns()))
            machine.run(lambda: machine.orders.drop_unwanted(disk.volume))

        self._blocks.add(Job("seal", 2, lambda: (layer, disk.freeze()), end))

    def hash_seal(self, owner: int, layer: str, effect: fx.HashSeal) -> None:
        machine, disk = self._machine, self._disk

        def end(_: Any) -> None:
            if layer not in disk.sealed:
                return  # dropped meanwhile: nobody wants to know
            root = disk.sealed[layer].root(effect.size_blocks)
            machine.run(lambda: machine.live.disk.hashed(disk.volume, owner, effect.seq, root, machine.clock_ns()))

        self._beside.add(Job("hash", 1, lambda: None, end))

    def drop(self, layers: list[str]) -> None:
        machine, disk = self._machine, self._disk

        def end(_: Any) -> None:
            for layer in layers:
                disk.sealed.pop(layer, None)
                machine.log(disk.volume, "drops", layer)

        self._blocks.add(Job("drop", 1, lambda: None, end))

    def seal_under_way(self) -> tuple[str, Any] | None:
        """It may have been done or not."""
        job = self._blocks.running
        return job.covers if job is not None and job.kind == "seal" else None

    def erase(self) -> None:
        machine, disk = self._machine, self._disk

        def end(_: Any) -> None:
            disk.cache.clear()
            disk.dirty.clear()
            disk.rotten.clear()
            disk.sealed.clear()
            machine.run(lambda: machine.live.disk.erased(disk.volume, machine.clock_ns()))

        self._blocks.add(Job("write", 1, lambda: None, end))

    # ---- the end of the process -----------------------------------------------------------------------

    def state_under_way(self) -> HardState | None:
        job = self._states.running
        return job.covers if job is not None else None

    def marking(self) -> set[int]:
        """Regions whose mark may or may not have arrived."""
        job = self._blocks.running
        return set(job.covers) if job is not None and job.kind == "mark" else set()
