"""One node of the simulation: a process with the production `Node` in it, a clock of its own, and what befalls both.

    wires.py    what comes in over links and the bus, and the links' life
    orders.py   what the node orders, performed as the production shell does
    lanes.py    the disk calls that wait

A killed machine loses its process and keeps the page cache; one that loses power keeps what was durable; a paused one
handles nothing, and everything later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

from services.replica.brain import HardState, Voter
from services.replica.brain import events as ev
from services.replica.driver import Node, Order
from services.replica.replication.pace import PaceLimits
from services.replica.replication.recovery import RecoveryLimits
from stoscore.units import MIB, MS, REGION_BLOCKS, SECOND
from tests.simulation.lanes import VolumeLanes
from tests.simulation.orders import Orders
from tests.simulation.plan import NodePlan
from tests.simulation.store import Disk
from tests.simulation.wires import Wires

if TYPE_CHECKING:
    from tests.simulation.client import Frontend
    from tests.simulation.world import World

DISK_NS = (MS // 5, 3 * MS)
HAND_OVER_NS = 2 * SECOND
SCRUB_NS = 1 * SECOND
TOLD_LATE_NS = 5 * SECOND
HAND_OVER_LOOK_NS = 5 * MS
ROUNDS_MAX = 10_000
"""Orders that lead to orders, in one event. A few are usual."""


class Machine:
    def __init__(self, world: World, plan: NodePlan):
        self.world = world
        self.plan = plan
        self.name = plan.name
        self.rng = Random(f"{world.plan.seed}/{plan.name}")
        self.disks: dict[str, Disk] = {}
        self.node: Node | None = None
        self.life = 0
        """Rises with every process and every end of one; what an older one scheduled is void."""
        self.starts = 0
        self.paused = False
        self.lanes: dict[str, VolumeLanes] = {}
        self.frontends: dict[str, Frontend] = {}
        self.leading: dict[str, int] = {}
        """Volume -> epoch in which this process leads it."""
        self.disk_ns = DISK_NS
        self.data_late_ns = 0
        """How much longer marks and syncs take: hard states may be on another device."""
        self.disk_busy_ns = 0
        """Until when the slowest of the disk calls that have begun takes."""
        self.disk_hangs = False
        self.hanging: list[Callable[[], None]] = []
        """Disk calls that are done and can't say so while the disk hangs."""
        self.unreadable: set[str] = set()
        """Volumes whose directory here can't be read: lost voters."""
        self.heard_ns: dict[str, int] = {}
        """Node -> when it was last heard, in the world's time."""
        self._beat_ns: dict[str, int] = {}
        self._missed_ns: dict[str, int] = {}
        """Node -> when it was last heard again after a silence as long as a lease."""
        self.stopping = False
        self.fuse: int | None = None
        """Kill the process after so many orders."""
        self.promises_heard = 0
        """Messages between pairs that arrived here and tell of a promise: no lease grows without one."""
        self._looked = (-1, -1)
        """Steps of brains and promises heard when the checks last looked here: what they judge follows from these."""
        self._clock_of_ns = -1
        self._clock_ns = 0
        """What this clock showed when it was looked at last, at which moment of the world."""
        self.wires = Wires(self)
        self.log = partial(world.log, self.name)
        self.orders = Orders(self)
        self._inbox: deque[tuple[int, Callable[..., None], tuple[Any, ...]]] = deque()
        self._timer_ns: int | None = None
        self._timer_due: int | None = None
        """What the timer was set for, on this machine's clock."""
        self._silence_ns = 0
        """Who was not heard for so long is silent: a lease, less what two clocks may differ."""
        self._watched: list[tuple[int, Callable[[], bool], Callable[[], None]]] = []
        """(until, what to wait for, what to do then)"""
        self._spins = 0
        self._pumping = False

    # ---- clock ----------------------------------------------------------------------------------------

    def clock_ns(self) -> int:
        """This machine's monotonic clock: an offset and a drift of its own."""
        now = self.world.now_ns
        if now != self._clock_of_ns:
            self._clock_of_ns = now
            self._clock_ns = self.plan.offset_ns + now + now * self.plan.ppm // 1_000_000
        return self._clock_ns

    def world_ns(self, local_ns: int) -> int:
        """The first moment of the world at which `clock_ns` shows at least `local_ns`."""
        return max(0, (local_ns - self.plan.offset_ns) * 1_000_000 // (1_000_000 + self.plan.ppm) + 1)

    def disk_time(self) -> int:
        least, most = self.disk_ns
        return least + int(self.rng.random() * (most - least))

    # ---- who is heard ---------------------------------------------------------------------------------

    def hears(self, node: str) -> None:
        now = self.world.now_ns
        if now - self.heard_ns.get(node, -SECOND) >= self._silence_ns:
            self._missed_ns[node] = now
        self.heard_ns[node] = now

    def hears_beat(self, node: str) -> None:
        """A node is alive by its beats, whatever else still arrives from it (P6)."""
        self._beat_ns[node] = self.world.now_ns

    def missed(self, node: str) -> bool:
        """No beat of it for as long as a lease, or no word until a moment ago: what was decided then is told now."""
        told_late = self.world.now_ns - self._missed_ns.get(node, 0) < TOLD_LATE_NS
        return told_late or self._is_silent(node) or self._is_long_ago(self._beat_ns, node)

    def _is_silent(self, node: str) -> bool:
        return self._is_long_ago(self.heard_ns, node)

    def _is_long_ago(self, moments: dict[str, int], node: str) -> bool:
        return self.world.now_ns - moments.get(node, -SECOND) >= self._silence_ns

    # ---- life -----------------------------------------------------------------------------------------

    @property
    def live(self) -> Node:
        assert self.node is not None
        return self.node

    @property
    def alive(self) -> bool:
        return self.node is not None

    def listening(self) -> bool:
        return self.alive and not self.paused

    def make_replica(self, volume: str, me: Voter, size_blocks: int) -> None:
        """A directory, made before the process starts or while it runs."""
        disk = self.disks[volume] = Disk(volume, me, size_blocks)
        disk.state = HardState(me, 0, None, None, self.world.plan.timing(self.plan, max(self.starts, 1)).lease_ns)
        if self.node is not None:
            self.run(lambda: self._open(volume, fresh=True))

    def can_make(self, volume: str) -> bool:
        """A node has one member of a volume, and makes none beside a directory that it can't read (I1)."""
        return volume not in self.disks and volume not in self.unreadable

    def start(self, *, fresh: bool = False) -> None:
        assert self.node is None
        self.life += 1
        self.starts += 1
        now = self.clock_ns()
        timing = self.world.plan.timing(self.plan, self.starts)
        self._silence_ns = -(-timing.lease_ns * 100 // 102)
        self.node = Node(self.name, timing, self.rng.getrandbits(48), self._share_of, now, _recovery(self.name))
        self._looked = (-1, -1)
        self.log("starts", f"lease {timing.lease_ns // MS} ms")
        self.node.lost.update(self.unreadable)
        for volume in sorted(self.disks):
            self._open(volume, fresh=fresh)
        self.wires.begin()
        self.later(SCRUB_NS, self._scrub)
        self._pump()
        for volume in sorted(self.disks):
            self.world.checker.leases(volume)

    def _open(self, volume: str, *, fresh: bool) -> None:
        disk = self.disks[volume]
        assert disk.state is not None
        # As the shell does: longer promises than any before are made only when a restart knows of them (P3).
        lease = max(disk.state.lease_max_ns, self.live.timing.lease_ns)
        disk.state = self.world.checker.written(replace(disk.state, lease_max_ns=lease))
        disk.closed = False
        self.lanes[volume] = VolumeLanes(self, disk)
        marked = frozenset(disk.marked)
        self.live.open(volume, disk.state, self.clock_ns(), marked=marked, unclean=disk.unclean, fresh=fresh)

    def _scrub(self) -> None:
        """All of every copy at once, now and then."""
        self.later(SCRUB_NS, self._scrub)
        for volume, disk in sorted(self.disks.items()):
            if volume not in self.live.volumes or disk.failure:
                continue
            if disk.rotten:
                self.live.disk.rotten(volume, sorted(disk.rotten), self.clock_ns())
            self.live.disk.compare(volume, 0, -(-disk.size_blocks // REGION_BLOCKS), self.clock_ns())

    def _share_of(self, volume: str) -> Any:
        return self.disks[volume].share()

    def forget_member(self, volume: str) -> None:
        """A member that no record ever named."""
        self.log(volume, "removes a member that no record names")
        self.live.forget(volume)
        del self.disks[volume]
        del self.lanes[volume]

    def lose_store(self, volume: str, *, unreadable: bool) -> None:
        """While it is down: the directory is gone, or is there and nobody can read it."""
        assert self.node is None
        self.log(volume, "its directory", "can't be read any more" if unreadable else "is gone")
        self.world.checker.lost(volume, self.disks.pop(volume).me)
        if unreadable:
            self.unreadable.add(volume)

    def kill(self, *, power: bool) -> None:
        """The process dies; with `power`, the machine under it does."""
        if self.node is None:
            return
        self.log("loses power" if power else "is killed")
        for volume, lanes in sorted(self.lanes.items()):
            disk = self.disks[volume]
            state = lanes.state_under_way()
            if state is not None and self.rng.random() < 0.5:
                self.orders.state_durable(disk, state)
            elif state is not None:
                self.orders.make_room(disk, state)
            sealing = lanes.seal_under_way()
            if sealing is not None and self.rng.random() < 0.5:
                disk.seal(*sealing)
            if power:
                disk.power_lost(self.rng, lanes.marking())
            else:
                disk.killed(self.rng, lanes.marking())
        self._end(told=not power)

    def stop(self) -> None:
        """The orderly end: every volume is handed over, what is left is let go of, then the store is closed."""
        if not self.listening() or self.stopping:
            return
        self.log("stops in order")
        self.stopping = True
        self.run(lambda: self.live.hand_over(self.clock_ns()))
        self.later(0, lambda: self._stop(self.world.now_ns + HAND_OVER_NS))

    def _stop(self, at_latest_ns: int) -> None:
        if self.live.handing_over and self.world.now_ns < at_latest_ns:
            self.later(HAND_OVER_LOOK_NS, lambda: self._stop(at_latest_ns))
            return
        self.live.resign(self.clock_ns())
        self._pump()
        if self.node is not None:
            self._close()

    def _close(self) -> None:
        for volume, lanes in sorted(self.lanes.items()):
            state = lanes.state_under_way()
            if state is not None:
                self.orders.state_durable(self.disks[volume], state)
            self.disks[volume].mark(lanes.marking())
            self.disks[volume].close(self.rng)
        self._end(told=True)

    def _end(self, *, told: bool) -> None:
        self.life += 1
        self.node = None
        self.fuse = None
        self.paused = False
        self.stopping = False
        self.hanging.clear()
        self.lanes.clear()
        self.leading.clear()
        self.heard_ns.clear()
        self._inbox.clear()
        self._timer_ns = None
        self.orders.end()
        for frontend in list(self.frontends.values()):
            frontend.died()
        self.frontends.clear()
        self.wires.end()
        self.world.network.process_died(self.name, told=told)

    def pause(self) -> None:
        if self.alive and not self.paused:
            self.log("is paused")
            self.paused = True

    def resume(self) -> None:
        if not self.paused:
            return
        self.log("goes on")
        self.paused = False
        inbox, self._inbox = self._inbox, deque()
        for life, what, arguments in inbox:
            self._fire(life, what, *arguments)

    def unhang(self) -> None:
        self.disk_hangs = False
        hanging, self.hanging = self.hanging, []
        for finish in hanging:
            finish()

    # ---- events ---------------------------------------------------------------------------------------

    def later(self, delay_ns: int, what: Callable[..., None], *arguments: Any) -> None:
        """Something that this process waits for."""
        self.world.schedule(delay_ns, self._fire, self.life, what, *arguments)

    def _fire(self, life: int, what: Callable[..., None], *arguments: Any) -> None:
        if life == self.life and self.node is not None:
            self.run(what, *arguments)

    def run(self, what: Callable[..., None], *arguments: Any) -> None:
        """One event of this process; queued while it is paused."""
        if self.node is None:
            return
        if self.paused:
            self._inbox.append((self.life, what, arguments))
            return
        what(*arguments)
        if not self._pumping:
            self._pump()

    def ask(self, volume: str, event: ev.Event) -> None:
        self.run(lambda: self.live.ask(volume, event, self.clock_ns()))

    def _pump(self) -> None:
        """Perform what the node ordered, and what that led to; then look at what is so now."""
        node = self.node
        if node is None:
            return
        orders = node.take()
        if orders:
            self._pumping = True
            try:
                self._perform(node, orders)
            finally:
                self._pumping = False
            if self.node is None:
                return
        if self._looked[0] != node.stepping.steps or self._looked[1] != self.promises_heard:
            self._looked = node.stepping.steps, self.promises_heard
            self.world.checker.look(self)
        if self._watched:
            self._look_out()
        due = node.next_deadline_ns()
        if due != self._timer_due or self._timer_ns is None:
            self._set_timer(due)

    def _perform(self, node: Node, orders: list[Order]) -> None:
        rounds, perform = 0, self.orders.perform
        while orders:
            rounds += 1
            if rounds > ROUNDS_MAX:
                self.world.violated(f"{self.name} goes round in circles: its orders lead to orders, {orders}")
            for order in orders:
                if self.fuse is not None:
                    self._burn()
                    if self.node is None:
                        return
                perform[type(order)](order)
            orders = node.take()

    def watch(self, seen: Callable[[], bool], what: Callable[[], None], within_ns: int) -> None:
        """At the very moment at which something is seen after an event of this process, which no dice would hit."""
        self._watched.append((self.world.now_ns + within_ns, seen, what))

    def _look_out(self) -> None:
        now = self.world.now_ns
        self._watched = [waiting for waiting in self._watched if waiting[0] >= now]
        for waiting in list(self._watched):
            if waiting[1]():
                self._watched.remove(waiting)
                self.world.schedule(0, waiting[2])

    def _burn(self) -> None:
        assert self.fuse is not None
        self.fuse -= 1
        if self.fuse <= 0:
            self.kill(power=self.rng.random() < 0.3 and not self.world.fragile())

    # ---- time -----------------------------------------------------------------------------------------

    def _set_timer(self, due: int | None) -> None:
        if due is None:
            self._timer_ns = None
            return
        self._timer_due = due
        at = max(self.world.now_ns, self.world_ns(due))
        if self._timer_ns is not None and self._timer_ns <= at:
            return
        self._timer_ns = at
        delay = at - self.world.now_ns + int(self.rng.random() * MS)
        self.world.schedule(delay, self._timer, self.life, at)

    def _timer(self, life: int, at_ns: int) -> None:
        if life == self.life and self._timer_ns == at_ns:
            self.run(lambda: self._timer_rang(at_ns))

    def _timer_rang(self, at_ns: int) -> None:
        if self._timer_ns != at_ns:
            return
        self._timer_ns = None
        node, now = self.live, self.clock_ns()
        due = node.next_deadline_ns()
        if due is not None and due <= now:
            node.time_passed(now)
            again = node.next_deadline_ns()
            self._spins = self._spins + 1 if again is not None and again <= now else 0
            if self._spins > 20:
                self.world.violated(f"{self.name} spins: time_passed leaves its deadline in the past")


def _recovery(name: str) -> RecoveryLimits:
    """Production's budget is never used up in a world so small. Most nodes have next to none: whoever is refused has to
    get its turn, whatever fails meanwhile."""
    if name not in ("n1", "n2", "n3"):
        return RecoveryLimits()
    return RecoveryLimits(PaceLimits(floor=MIB, ceiling=4 * MIB), copies_in_flight=1)
