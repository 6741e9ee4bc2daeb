"""One node of the simulation: the production `Node` and the adapters that a real shell would have around it.

Every order is executed in order, disk calls that wait go to one worker per volume, first in, first out. A killed
machine loses its process and keeps the page cache; a paused one handles nothing and later everything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any

from services.replica.brain import HardState, Voter
from services.replica.brain import events as ev
from services.replica.brain import messages as ms
from services.replica.driver import (
    Data,
    Decided,
    Erase,
    HangUp,
    Node,
    RecordChanged,
    Remove,
    Reply,
    Save,
    TellServing,
    ToBrain,
    ToPeer,
)
from services.replica.replication import effects as fx
from services.replica.replication.messages import (
    SEQ_BITS,
    Ack,
    Copied,
    Copy,
    Digests,
    Done,
    Failed,
    Flushed,
    Io,
    Joined,
    OpenRefused,
)
from services.replica.replication.replica import Share
from stoscore.units import MS
from tests.simulation.network import Link
from tests.simulation.store import Disk

if TYPE_CHECKING:
    from tests.simulation.client import Frontend
    from tests.simulation.world import World

TO_PRIMARY = (Joined, Ack, Flushed, Digests, Copied, Failed)


@dataclass(slots=True)
class Job:
    """A disk call that waits."""

    kind: str
    work_ns: int
    begin: Callable[[], Any]
    end: Callable[[Any], None]
    regions: tuple[int, ...] = ()
    state: HardState | None = None
    snapshot: Any = None


class Worker:
    """The worker thread of one volume: one call at a time."""

    def __init__(self) -> None:
        self.jobs: deque[Job] = deque()


class Machine:
    def __init__(self, world: World, name: str, ppm: int, offset_ns: int):
        self.world = world
        self.name = name
        self.rng = Random(f"{world.seed}/{name}")
        self.ppm = ppm
        self.offset_ns = offset_ns
        self.disks: dict[str, Disk] = {}
        self.node: Node | None = None
        self.life = 0
        """Rises with every process; what an older one scheduled is void."""
        self.paused = False
        self.inbox: deque[Callable[[], None]] = deque()
        self.out: dict[str, Link] = {}
        self.incoming: dict[int, Link] = {}
        self.workers: dict[str, Worker] = {}
        self.tokens: dict[int, tuple[int, ...]] = {}
        self.next_token = 1
        self.timer_ns: int | None = None
        self.spins = 0
        self.frontends: dict[str, Frontend] = {}
        self.asked: dict[tuple[int, int, int], tuple[Io, int, tuple[int, ...], int, bool]] = {}
        """(link, session, request) -> (io, block, contents, count, fua) of requests at this primary."""
        self.disk_ns = (MS // 5, 3 * MS)
        self.fuse: int | None = None
        """Kill the process after so many orders."""
        self._pumping = False
        self._ran_ns = 0
        self.leading: dict[str, int] = {}

    # ---- clock ----------------------------------------------------------------------------------------

    def clock_ns(self) -> int:
        """This machine's monotonic clock: an offset and a drift of its own."""
        now = self.world.now_ns
        return self.offset_ns + now + now * self.ppm // 1_000_000

    def _world_ns(self, local_ns: int) -> int:
        return max(0, (local_ns - self.offset_ns) * 1_000_000 // (1_000_000 + self.ppm) + 1)

    # ---- life -----------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        return self.node is not None

    def listening(self) -> bool:
        return self.alive and not self.paused

    def found(self, volume: str, me: Voter, size_blocks: int) -> None:
        disk = Disk(volume, me, size_blocks)
        disk.state = HardState(me, 0, None, None, 0)
        self.disks[volume] = disk

    def start(self, *, fresh: bool = False) -> None:
        assert self.node is None
        self.life += 1
        self.paused = False
        self.inbox.clear()
        now = self.clock_ns()
        self.node = Node(self.name, self.world.timing, self.rng.getrandbits(48), self._share_of, now)
        self.log("starts", "fresh" if fresh else "again")
        for volume in sorted(self.disks):
            disk = self.disks[volume]
            assert disk.state is not None
            state = HardState.decode(disk.state.encode())
            self.workers[volume] = Worker()
            self.node.open(volume, state, now, marked=frozenset(disk.marked), unclean=disk.unclean, fresh=fresh)
        for peer in self.world.names:
            if peer != self.name:
                self._redial(peer, self.rng.randint(0, 20 * MS))
        self._pump()

    def kill(self, *, power: bool) -> None:
        """The process dies; with `power`, the machine under it does."""
        if self.node is None:
            return
        self.log("loses power" if power else "is killed")
        self.life += 1
        self.node = None
        self.fuse = None
        for volume, disk in sorted(self.disks.items()):
            marking: set[int] = set()
            for job in self.workers[volume].jobs if volume in self.workers else ():
                marking.update(job.regions)
            for job in list(self.workers[volume].jobs)[:1] if volume in self.workers else ():
                if job.state is not None and self.rng.random() < 0.5:
                    self._state_durable(disk, job.state)
            if power:
                disk.power_lost(self.rng, marking)
            else:
                disk.killed(self.rng, marking)
        self.workers.clear()
        self.inbox.clear()
        self.tokens.clear()
        self.asked.clear()
        self.leading.clear()
        self.out.clear()
        self.incoming.clear()
        self.timer_ns = None
        self.paused = False
        for frontend in list(self.frontends.values()):
            frontend.died()
        self.frontends.clear()
        self.world.network.process_died(self.name, told=not power)

    def pause(self) -> None:
        if self.alive:
            self.log("is paused")
            self.paused = True

    def resume(self) -> None:
        if not self.paused:
            return
        self.log("goes on")
        self.paused = False
        inbox, self.inbox = self.inbox, deque()
        for item in inbox:
            if self.paused:
                self.inbox.append(item)
            else:
                item()

    def fail_disk(self, volume: str) -> None:
        """Its next sync fails: the directory counts for nothing until it is opened again."""
        disk = self.disks.get(volume)
        if self.node is None or disk is None or disk.broken or disk.me.kind != "data":
            return
        self.log(volume, "its disk fails")
        disk.broken = True

        def tell() -> None:
            assert self.node is not None
            self.node.store_changed(volume, self.clock_ns(), unclean=True, failure="a sync failed")

        self.run(tell)

    def later(self, delay_ns: int, what: Callable[[], None]) -> None:
        """Something that this process waits for."""
        life = self.life

        def fire() -> None:
            if life == self.life:
                self.run(what)

        self.world.schedule(delay_ns, fire)

    def run(self, what: Callable[[], None]) -> None:
        """One event of this process; queued while it is paused."""
        if self.node is None:
            return
        if self.paused:
            life = self.life

            def queued() -> None:
                if life == self.life:
                    self.run(what)

            self.inbox.append(queued)
            return
        what()
        self._pump()

    # ---- links ----------------------------------------------------------------------------------------

    def _redial(self, node: str, delay_ns: int) -> None:
        def dial() -> None:
            if node in self.out:
                return
            if self.world.network.dial(self, node) is None:
                self._redial(node, self.rng.randint(20 * MS, 150 * MS))

        self.later(delay_ns, dial)

    def dialled(self, link: Link) -> None:
        peer = link.acceptor.name
        self.out[peer] = link
        self.log("link up to", peer, link.number)
        assert self.node is not None
        self.node.link_up(peer, self.clock_ns())
        for frontend in list(self.frontends.values()):
            frontend.link_up(peer)

    def accepted(self, link: Link) -> None:
        for older in list(self.incoming.values()):
            if older.dialler is link.dialler:  # W5
                older.acceptor_knows = True
                self.world.network.break_link(older)
                self.run(lambda older=older: self._incoming_lost(older))  # type: ignore[misc]
        self.incoming[link.number] = link

    def dialler_end(self, link: Link) -> None:
        def ended() -> None:
            peer = link.acceptor.name
            if self.out.get(peer) is not link:
                return
            del self.out[peer]
            self.log("link down to", peer, link.number)
            assert self.node is not None
            self.node.link_down(peer, self.clock_ns())
            for frontend in list(self.frontends.values()):
                frontend.link_down(peer)
            self._redial(peer, self.rng.randint(5 * MS, 150 * MS))

        self.run(ended)

    def acceptor_end(self, link: Link) -> None:
        self.run(lambda: self._incoming_lost(link))

    def _incoming_lost(self, link: Link) -> None:
        if self.incoming.pop(link.number, None) is not None:
            assert self.node is not None
            self.node.incoming_link_lost(link.number, self.clock_ns())

    def from_dialler(self, link: Link, message: Any) -> None:
        def arrive() -> None:
            if link.number in self.incoming:
                self._on_incoming(link.number, link.dialler.name, message)

        self.run(arrive)

    def from_acceptor(self, link: Link, message: Any) -> None:
        def arrive() -> None:
            if self.out.get(link.acceptor.name) is link:
                self._on_answer(link.acceptor.name, message)

        self.run(arrive)

    def _on_incoming(self, link: int, sender: str, message: Any) -> None:
        node = self.node
        assert node is not None
        now = self.clock_ns()
        match message:
            case ("pair", pair):
                node.pair_message(sender, pair, now)
            case ("brain", brain):
                node.brain_message(brain, now)
            case ("data", volume, epoch, data, payload):
                self._note(sender, "->", volume, epoch, data)
                node.to_replica(volume, link, sender, epoch, self._received(data, payload), now)
            case ("open", volume, attach_epoch, opened):
                self._note(sender, "->", volume, opened, "attach epoch", attach_epoch)
                node.open_session(volume, link, sender, attach_epoch, opened, now)
            case ("request", volume, request, payload):
                self._note(sender, "->", volume, request, payload)
                self.asked[link, request.session, request.request] = (
                    request.io,
                    request.block,
                    payload,
                    request.count,
                    request.fua,
                )
                node.request(volume, link, self._received(request, payload), now)
            case ("serving", volume, epoch):
                if volume in self.frontends:
                    self.frontends[volume].serving(sender, epoch)
            case _:
                raise AssertionError(message)

    def _on_answer(self, sender: str, message: Any) -> None:
        volume, epoch, data, payload = message
        self._note(sender, "=>", volume, epoch, data)
        assert self.node is not None
        if isinstance(data, TO_PRIMARY):
            self.node.to_primary(volume, sender, epoch, self._received(data, payload), self.clock_ns())
        elif volume in self.frontends:
            self.frontends[volume].answer(sender, epoch, data, payload)

    def _received(self, message: Any, payload: tuple[int, ...]) -> Any:
        """The payload of a message gets a token of its own in this process."""
        if not getattr(message, "token", 0):
            return message
        return replace(message, token=self.keep(payload))

    def keep(self, payload: tuple[int, ...]) -> int:
        token = self.next_token
        self.next_token += 1
        self.tokens[token] = payload
        return token

    def to_frontend_link(self, node: str, message: Any) -> bool:
        """From a frontend here to the node that it takes for the primary."""
        if node == self.name:
            self.later(MS // 20, lambda: self._on_incoming(-1, self.name, message))
            return True
        link = self.out.get(node)
        if link is not None:
            self.world.network.send(link, message)
        return link is not None

    def answer(self, link: int, message: Any) -> None:
        if link == -1:
            self.later(MS // 20, lambda: self._on_answer(self.name, message))
        elif link in self.incoming:
            self.world.network.send(self.incoming[link], message, back=True)

    # ---- time -----------------------------------------------------------------------------------------

    def _set_timer(self) -> None:
        assert self.node is not None
        due = self.node.next_deadline_ns()
        if due is None:
            self.timer_ns = None
            return
        at = max(self.world.now_ns, self._world_ns(due))
        if self.timer_ns is not None and self.timer_ns <= at:
            return
        self.timer_ns = at
        self.later(at - self.world.now_ns + self.rng.randint(0, MS), lambda: self._timer(at))

    def _timer(self, at_ns: int) -> None:
        if self.timer_ns != at_ns:
            return
        self.timer_ns = None
        node = self.node
        assert node is not None
        now = self.clock_ns()
        due = node.next_deadline_ns()
        if due is not None and due <= now:
            node.time_passed(now)
            again = node.next_deadline_ns()
            self.spins = self.spins + 1 if again is not None and again <= now else 0
            if self.spins > 20:
                self.world.violated(f"{self.name} spins: time_passed leaves its deadline in the past")

    # ---- orders ---------------------------------------------------------------------------------------

    def _pump(self) -> None:
        if self._pumping:
            return
        self._pumping = True
        try:
            while self.node is not None:
                orders = self.node.take()
                if not orders:
                    break
                for order in orders:
                    if self.fuse is not None:
                        self.fuse -= 1
                        if self.fuse <= 0:
                            self.kill(power=self.rng.random() < 0.3)
                    if self.node is None:
                        return
                    self._execute(order)
        finally:
            self._pumping = False
        self._look()
        self._set_timer()

    def _execute(self, order: Any) -> None:
        world = self.world
        match order:
            case ToPeer(node, message):
                if node in self.out:
                    world.network.send(self.out[node], ("pair", message))
            case ToBrain(message):
                self._to_brain(message)
            case Save(volume, ticket, state):
                disk = self.disks[volume]
                self._job(
                    volume,
                    Job(
                        "save",
                        self._disk_time(),
                        lambda: None,
                        lambda _: self._saved(disk, volume, ticket, state),
                        state=state,
                    ),
                )
            case Data(volume, epoch, effect, owner):
                self._effect(volume, epoch, effect, owner)
            case Reply(request, code, error):
                world.replied(self.name, request, code, error)
            case Decided(volume, explain):
                self.log(volume, explain.kind, explain.outcome, explain.inputs, explain.alternatives)
            case RecordChanged(volume, slot):
                world.checker.told_committed(volume, slot)
            case TellServing(volume, node, epoch, _):
                if node == self.name:
                    self.later(MS // 20, lambda: self._on_incoming(-1, self.name, ("serving", volume, epoch)))
                elif node in self.out:
                    world.network.send(self.out[node], ("serving", volume, epoch))
            case HangUp(node):
                if node in self.out:
                    self.log("hangs up on", node)
                    world.network.close_dialler(self.out[node])
            case Erase(volume):
                disk = self.disks[volume]
                disk.cache.clear()
                disk.dirty.clear()
                self.later(MS, lambda: self._node().erased(volume, self.clock_ns()))
            case Remove(volume):
                del self.disks[volume]
            case _:
                raise AssertionError(order)

    def _node(self) -> Node:
        assert self.node is not None
        return self.node

    def _to_brain(self, message: ms.BrainMessage) -> None:
        self.world.checker.leaves(self.disks[message.volume], message)
        self._note("brain ->", message.target.node, message)
        target = message.target.node
        if target in self.out:
            self.world.network.send(self.out[target], ("brain", message))
            return
        machine = self.world.machines[target]

        def deliver() -> None:
            machine.run(lambda: machine._node().brain_message(message, machine.clock_ns()))

        self.world.network.publish(self.name, target, deliver, lossy=self.world.faulty)

    # ---- disk -----------------------------------------------------------------------------------------

    def _disk_time(self) -> int:
        return self.rng.randint(*self.disk_ns)

    def _job(self, volume: str, job: Job) -> None:
        jobs = self.workers[volume].jobs
        jobs.append(job)
        if len(jobs) == 1:
            self._begin(volume)

    def _begin(self, volume: str) -> None:
        job = self.workers[volume].jobs[0]
        job.snapshot = job.begin()
        life = self.life

        def finish() -> None:
            # The disk goes on while the process is paused; only the process hears of it later.
            if life != self.life or self.node is None:
                return
            jobs = self.workers[volume].jobs
            if not jobs or jobs[0] is not job:
                return
            jobs.popleft()
            disk = self.disks.get(volume)
            if disk is not None and not disk.broken:
                job.end(job.snapshot)
            if jobs and life == self.life:
                self._begin(volume)

        self.world.schedule(job.work_ns, finish)

    def _state_durable(self, disk: Disk, state: HardState) -> None:
        disk.state = state
        self.world.checker.stored(disk, state)

    def _saved(self, disk: Disk, volume: str, ticket: int, state: HardState) -> None:
        self._state_durable(disk, state)
        self.run(lambda: self._node().saved(volume, ticket, self.clock_ns()))

    def _marked(self, disk: Disk, regions: tuple[int, ...]) -> None:
        disk.mark(regions)
        self.run(lambda: self._node().marked(disk.volume, regions, self.clock_ns()))

    def _synced(self, disk: Disk, snapshot: dict[int, int], effect: fx.SyncStore, owner: int) -> None:
        disk.synced(snapshot)
        if effect.cleans:
            disk.clean()

        def tell() -> None:
            node = self._node()
            if effect.cleans:
                node.store_changed(disk.volume, self.clock_ns(), unclean=False)
            node.synced(disk.volume, owner, effect.ticket, self.clock_ns())

        self.run(tell)

    def _share_of(self, volume: str) -> Share:
        return self.disks[volume].share()

    # ---- data -----------------------------------------------------------------------------------------

    def _effect(self, volume: str, epoch: int, effect: fx.Effect, owner: int) -> None:
        checker = self.world.checker
        if isinstance(effect, fx.Answer):
            self._answer(volume, epoch, effect.link, effect.message)
            return
        if isinstance(effect, fx.Release):
            del self.tokens[effect.token]
            return
        disk = self.disks[volume]
        match effect:
            case fx.Tell(peers, message):
                payload = self.tokens[message.token] if getattr(message, "token", 0) else ()
                for peer in peers:
                    if peer in self.out:
                        self.world.network.send(self.out[peer], ("data", volume, epoch, message, payload))
            case fx.AnswerRead():
                self._answer_read(volume, epoch, effect)
            case fx.AnswerDigests(link, number, level, ranges):
                values = tuple(v for index, count in ranges for v in disk.digests(level, index, count))
                self.answer(link, (volume, epoch, Digests(number, level, 1), values))
            case fx.StoreWrite(seq, block, count, token):
                checker.stores(disk, self._node(), epoch, seq)
                contents = self.tokens.pop(token)
                assert len(contents) == count
                disk.write(seq, block, contents)
                self._note("stores", volume, seq & ((1 << SEQ_BITS) - 1), block, contents)
            case fx.StoreZero(seq, block, count):
                checker.stores(disk, self._node(), epoch, seq)
                disk.write(seq, block, (0,) * count)
                self._note("zeroes", volume, seq & ((1 << SEQ_BITS) - 1), block, count)
            case fx.StoreCopy():
                checker.stores(disk, self._node(), epoch, effect.seq)
                self._store_copy(disk, effect)
            case fx.MarkRegions(regions):
                self._job(
                    volume,
                    Job("mark", self._disk_time(), lambda: None, lambda _: self._marked(disk, regions), regions),
                )
            case fx.UnmarkRegions(regions):
                disk.unmark(regions)
            case fx.SyncStore():
                self._job(
                    volume,
                    Job(
                        "sync",
                        2 * self._disk_time(),
                        disk.snapshot,
                        lambda snapshot: self._synced(disk, snapshot, effect, owner),
                    ),
                )
            case fx.CommitTail(seq):
                disk.tail_commit(seq)
            case fx.Compare():
                self._compare(disk, epoch, effect)
            case fx.SendCopy(peer, number, as_of, ranges):
                payload = tuple(c for block, count in ranges for c in disk.read(block, count))
                if peer in self.out:
                    copy = Copy(number, as_of, ranges, 1)
                    self.world.network.send(self.out[peer], ("data", volume, epoch, copy, payload))
            case fx.StartedServing() | fx.ResyncDone():
                self.log(volume, effect)
            case _:
                raise AssertionError(effect)

    def _store_copy(self, disk: Disk, effect: fx.StoreCopy) -> None:
        contents = iter(self.tokens.pop(effect.token))
        by_block = {b: next(contents) for block, count in effect.ranges for b in range(block, block + count)}
        for block, count in effect.keep:
            disk.copy(effect.seq, block, tuple(by_block[b] for b in range(block, block + count)))
        self._note("copies", disk.volume, effect.keep, by_block)

    def _compare(self, disk: Disk, epoch: int, effect: fx.Compare) -> None:
        theirs = iter(self.tokens.pop(effect.token))
        differing: list[tuple[int, int]] = []
        for index, count in effect.ranges:
            for at, mine in enumerate(disk.digests(effect.level, index, count), index):
                if mine == next(theirs):
                    continue
                if differing and sum(differing[-1]) == at:
                    differing[-1] = (differing[-1][0], differing[-1][1] + 1)
                else:
                    differing.append((at, 1))
        assert self.node is not None
        self.node.compared(disk.volume, epoch, effect.peer, effect.number, differing, self.clock_ns())

    def _answer(self, volume: str, epoch: int, link: int, message: Any) -> None:
        checker = self.world.checker
        if isinstance(message, Joined):
            checker.joins(self.disks[volume], epoch)
        if isinstance(message, OpenRefused):
            self._note("refuses", volume, message)
        if isinstance(message, Done):
            asked = self.asked.pop((link, message.session, message.request), None)
            if asked is None:
                self.world.violated(f"{self.name} answers {message} twice or unasked")
            elif not message.errno:
                io, block, contents, count, fua = asked
                if io in (Io.WRITE, Io.ZERO) and not fua:
                    checker.acknowledged(volume, self.name, epoch, block, contents or (0,) * count)
                elif io is Io.FLUSH:
                    checker.flushed(volume, self.name, epoch, message.session, message.request)
        self.answer(link, (volume, epoch, message, ()))

    def _answer_read(self, volume: str, epoch: int, effect: fx.AnswerRead) -> None:
        """The content is read at once, the disk takes its time, the lease is looked at as the answer leaves (P4)."""
        contents = self.disks[volume].read(effect.block, effect.count)

        def leave() -> None:
            node = self._node()
            state = node.volumes.get(volume)
            if state is None or state.primary is None or state.primary.epoch != epoch:
                return
            if node.lease_until(state) <= self.clock_ns():
                self._note("parks", volume, effect)
                node.park(volume, effect)
                return
            self.world.checker.reads(volume, self.name, epoch)
            self.asked.pop((effect.link, effect.session, effect.request), None)
            done = Done(effect.session, effect.request, 0)
            self.answer(effect.link, (volume, epoch, done, contents))

        self.later(self._disk_time() // 4, leave)

    # ---- looking in -----------------------------------------------------------------------------------

    def _look(self) -> None:
        """What the checker wants to know after every event."""
        if self.node is None:
            return
        for volume in self.node.volumes.values():
            brain = volume.brain
            if brain.role == "leader":
                if self.leading.get(volume.id) != brain.epoch:
                    self.leading[volume.id] = brain.epoch
                    self.world.checker.elected(self, volume)
                self.world.checker.lease(self, volume.id)
            elif volume.id in self.leading:
                del self.leading[volume.id]

    def log(self, *words: Any) -> None:
        self.world.log(self.name, *words)

    def _note(self, *words: Any) -> None:
        self.world.log(self.name, *words)

    def ask(self, volume: str, event: ev.Event) -> None:
        self.run(lambda: self._node().ask(volume, event, self.clock_ns()))
