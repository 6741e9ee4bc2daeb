"""Some nodes' drivers in one thread, with links and a bus that a test cuts as it likes: nothing is lost, nothing waits.

The simulation has faults, disks and clients; here a test says what happens and looks at what the drivers do.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any

from services.replica.brain import HardState, Record, Voter
from services.replica.brain import events as ev
from services.replica.driver import Data, Decided, HangUp, Node, Reply, Save, TellServing, ToBrain, ToPeer
from services.replica.replication import effects as fx
from services.replica.replication.messages import Ack, Copied, Digests, Failed, Flushed, Joined
from stoscore.units import MIB, MS
from tests.support.replicas import CLEAN
from tests.support.voters import LEASE, TIMING

TO_PRIMARY = Joined | Ack | Flushed | Digests | Copied | Failed
STEP_NS = 5 * MS
APP_LINK = 900
"""The number of the link by which the application's node asks a primary."""


class PureCluster:
    def __init__(self, voters: Iterable[Voter], *, volumes: Iterable[str] = ("v",), others: Iterable[str] = ()):
        """All voters hold all volumes; `others` are nodes without any."""
        self.voters = tuple(voters)
        self.now_ns = 0
        self.lives = 0
        self.bus = True
        self.down: set[str] = set()
        self.cuts: set[frozenset[str]] = set()
        self.told: list[tuple[str, str, ev.Explain]] = []
        self.replies: dict[int, tuple[str, str]] = {}
        self.serving: list[tuple[str, str, int]] = []
        self.answers: list[tuple[str, Any]] = []
        self.sent: Counter[tuple[str, bool]] = Counter()
        """(kind of message, over the bus) -> how many"""
        self._queue: deque[Callable[[], None]] = deque()
        names = [*(voter.node for voter in self.voters), *others]
        self.nodes = {name: Node(name, TIMING, 1000 + at, lambda volume: CLEAN, 0) for at, name in enumerate(names)}
        self._numbers = {name: at + 1 for at, name in enumerate(names)}
        self.volumes = tuple(volumes)
        for voter in self.voters:
            for volume in self.volumes:
                state = HardState(voter, 0, None, None, LEASE)
                self.nodes[voter.node].open(volume, state, 0, marked=frozenset(), unclean=False, fresh=True)
        for a in names:
            for b in names:
                if a != b:
                    self.nodes[a].link_up(b, 0)
        self.run(50)

    def found(self, cause: str = "") -> None:
        data = tuple(voter for voter in self.voters if voter.kind == "data")
        for volume in self.volumes:
            record = Record(volume, volume, 4 * MIB, len(data) - 1, self.voters, data)
            for voter in self.voters:
                self.nodes[voter.node].ask(volume, ev.Founded(record, cause), self.now_ns)
        self.run(500)

    # ---- what a test does -----------------------------------------------------------------------------

    def cut(self, a: str, b: str) -> None:
        """The link between two nodes, both ways; the bus stays."""
        self.cuts.add(frozenset((a, b)))
        self.nodes[a].link_down(b, self.now_ns)
        self.nodes[b].link_down(a, self.now_ns)

    def heal(self, a: str, b: str) -> None:
        self.cuts.discard(frozenset((a, b)))
        self.nodes[a].link_up(b, self.now_ns)
        self.nodes[b].link_up(a, self.now_ns)

    def kill(self, name: str) -> None:
        self.down.add(name)
        for other, node in self.nodes.items():
            if other not in self.down:
                node.link_down(name, self.now_ns)

    def come_back_empty(self, name: str) -> None:
        """Its process was killed, its directories are gone, and it is there again with all its links."""
        self.kill(name)
        self.down.discard(name)
        self.lives += 1
        self.nodes[name] = Node(name, TIMING, 10_000 + self.lives, lambda volume: CLEAN, self.now_ns)
        for other in self.nodes:
            if other != name and self.linked(name, other):
                self.nodes[name].link_up(other, self.now_ns)
                self.nodes[other].link_up(name, self.now_ns)

    def ask(self, name: str, event: ev.Event, volume: str = "v") -> None:
        self.nodes[name].ask(volume, event, self.now_ns)

    def run(self, ms: int) -> None:
        end_ns = self.now_ns + ms * MS
        while self.now_ns < end_ns:
            self._settle()
            self.now_ns += STEP_NS
            for name in sorted(self.nodes.keys() - self.down):
                due = self.nodes[name].next_deadline_ns()
                if due is not None and due <= self.now_ns:
                    self.nodes[name].time_passed(self.now_ns)
        self._settle()

    def until(self, holds: Callable[[], bool], ms: int = 5000) -> int:
        """Runs until it holds; how many milliseconds that took."""
        started_ns = self.now_ns
        while not holds():
            assert self.now_ns < started_ns + ms * MS, "it did not come true"
            self.run(STEP_NS // MS)
        return (self.now_ns - started_ns) // MS

    # ---- what a test sees -----------------------------------------------------------------------------

    def primary(self, volume: str = "v") -> str:
        """The node that serves and holds its lease, "" for none. Two would be a violation."""
        serving = []
        for name in sorted(self.nodes.keys() - self.down):
            node, state = self.nodes[name], self.nodes[name].volumes.get(volume)
            serves = state is not None and state.primary is not None and state.primary.serving
            if state is not None and serves and node.leases.until(state) > self.now_ns:
                serving.append(name)
        assert len(serving) <= 1, serving
        return serving[0] if serving else ""

    def record(self, name: str, volume: str = "v") -> Record:
        record = self.nodes[name].volumes[volume].brain.record
        assert record is not None
        return record

    def in_sync(self, name: str, volume: str = "v") -> list[str]:
        return [voter.node for voter in self.record(name, volume).in_sync]

    def kinds(self, node: str = "") -> list[str]:
        return [explain.kind for name, _, explain in self.told if node in ("", name)]

    # ---- the wires ------------------------------------------------------------------------------------

    def linked(self, a: str, b: str) -> bool:
        return frozenset((a, b)) not in self.cuts and not {a, b} & self.down

    def _settle(self) -> None:
        while True:
            for name in sorted(self.nodes.keys() - self.down):
                for order in self.nodes[name].take():
                    self._perform(name, self.nodes[name], order)
            if not self._queue:
                return
            self._queue.popleft()()

    def _later(self, target: str, what: Callable[[], None]) -> None:
        self._queue.append(lambda: None if target in self.down else what())

    def _perform(self, name: str, node: Node, order: Any) -> None:
        match order:
            case ToPeer(target, message, by_bus):
                self.sent[type(message).__name__, by_bus] += 1
                if self.bus if by_bus else self.linked(name, target):
                    peer = self.nodes[target]
                    self._later(target, lambda: peer.pair_message(name, message, self.now_ns, by_bus=by_bus))
            case ToBrain(message):
                target = message.target.node
                by_bus = not self.linked(name, target)
                self.sent[type(message).__name__, by_bus] += 1
                if self.bus or not by_bus:
                    self._later(target, lambda: self.nodes[target].brain_message(message, self.now_ns))
            case Save(volume, ticket, _):
                self._later(name, lambda: node.disk.saved(volume, ticket, self.now_ns))
            case Data(volume, epoch, effects, owner):
                for effect in effects:
                    self._data(name, node, volume, epoch, effect, owner)
            case Reply(request, code, error):
                self.replies[request] = (code, error)
            case Decided(volume, explain):
                self.told.append((name, volume, explain))
            case TellServing(volume, target, epoch, _):
                self.serving.append((name, target, epoch))
            case HangUp(target):
                self._later(name, lambda: node.link_down(target, self.now_ns))

    def _data(self, name: str, node: Node, volume: str, epoch: int, effect: Any, owner: int) -> None:
        match effect:
            case fx.Tell(peers, message):
                for peer in peers:
                    if self.linked(name, peer):
                        self._tell(name, peer, volume, epoch, message)
            case fx.Answer(link, message):
                asker = next((other for other, number in self._numbers.items() if number == link), "")
                if not isinstance(message, TO_PRIMARY):
                    self.answers.append((name, message))
                elif self.linked(name, asker):
                    primary = self.nodes[asker]
                    self._later(asker, lambda: primary.to_primary(volume, name, epoch, message, self.now_ns))
            case fx.AnswerDigests(link, number, level, _):
                self._data(name, node, volume, epoch, fx.Answer(link, Digests(number, level, 1)), owner)
            case fx.Compare(peer, number):  # all copies are empty, so nothing ever differs
                self._later(name, lambda: node.disk.compared(volume, epoch, peer, number, [], self.now_ns))
            case fx.MarkRegions(regions):
                self._later(name, lambda: node.disk.marked(volume, regions, self.now_ns))
            case fx.SyncStore(ticket):
                self._later(name, lambda: node.disk.synced(volume, owner, ticket, self.now_ns))

    def _tell(self, name: str, peer: str, volume: str, epoch: int, message: Any) -> None:
        replica, number = self.nodes[peer], self._numbers[name]
        self._later(peer, lambda: replica.to_replica(volume, number, name, epoch, message, self.now_ns))
