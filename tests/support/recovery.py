"""The voters of one volume after a power loss: their brains, what is on the way between them, and who leads first.

Nothing is written before somebody leads. So a member has lost acknowledged writes exactly when it was not required for
them or has lost power since.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from services.replica.brain import Brain, HardState, Slot, Stamp, Voter
from services.replica.brain import events as ev
from services.replica.brain import messages as ms
from services.replica.brain.quorum import majority
from stoscore.units import MS
from tests.support.reigns import Past
from tests.support.voters import LEASE, NO_FACTS, TIMING, hard

SETTLED_STEP_NS = 50 * MS
SETTLED_STEPS = 200


@dataclass
class Recovery:
    disks: dict[Voter, HardState]
    committed: list[Slot]
    required: frozenset[Voter]
    """Who had every acknowledged write."""
    unclean: set[Voter] = field(default_factory=set)
    """Who has lost power since (S3)."""
    brains: dict[Voter, Brain] = field(default_factory=dict)
    cut: set[Voter] = field(default_factory=set)
    on_the_way: list[ms.BrainMessage] = field(default_factory=list)
    confirmed: defaultdict[Stamp, set[Voter]] = field(default_factory=lambda: defaultdict(set))
    """Record -> who stored it in answer to its leader."""
    led: Slot | None = None
    """What the first leader committed first."""
    now_ns: int = LEASE
    story: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, past: Past) -> Recovery:
        disks = {voter: hard(voter, stored, past.epochs[voter]) for voter, stored in past.stored.items()}
        made = cls(disks, list(past.committed), past.required)
        made.story += [f"committed {told(each)}" for each in past.committed]
        made.story += [f"{voter.node} has {told(stored)}" for voter, stored in past.stored.items()]
        made.story += [f"acknowledged by {nodes(past.required)}"]
        return made

    def tell(self, what: str) -> None:
        self.story.append(f"{self.now_ns // MS:6} ms  {what}")

    # ---- what happens to voters -----------------------------------------------------------------------

    def start(self, voter: Voter) -> None:
        unclean = voter in self.unclean
        self.tell(f"{voter.node} starts, {'unclean' if unclean else 'clean'}")
        self.brains[voter] = Brain(self.disks[voter], TIMING, now_ns=self.now_ns, fresh=False, unclean=unclean)
        if voter not in self.cut:
            self._meet(voter)

    def stop(self, voter: Voter) -> None:
        """What is on the way to it may reach the process after it."""
        self.tell(f"{voter.node} stops")
        del self.brains[voter]
        self.on_the_way = [it for it in self.on_the_way if not it.sender == it.target == voter]
        self._part(voter)

    def lose_power(self, voter: Voter) -> None:
        self.tell(f"{voter.node} loses power")
        if voter.kind == "data":
            self.unclean.add(voter)
        if voter in self.brains:
            self.stop(voter)

    def cut_off(self, voter: Voter) -> None:
        self.tell(f"{voter.node} is cut off")
        self._part(voter)
        self.cut.add(voter)

    def heal(self, voter: Voter) -> None:
        self.tell(f"{voter.node} is linked again")
        self.cut.discard(voter)
        self._meet(voter)

    def wait(self, passed_ns: int, awake: Iterable[Voter]) -> None:
        """Of whoever's time has come, only those who are awake notice."""
        self.now_ns += passed_ns
        for voter in awake:
            due_ns = self.brains[voter].next_deadline_ns(NO_FACTS)
            if due_ns is not None and due_ns <= self.now_ns:
                self._step(voter, ev.TimePassed())

    def deliver(self, which: int, *, lost: bool) -> None:
        """What a voter says to itself is never lost: it waits for the disk alone."""
        message = self.on_the_way.pop(which)
        sender, target = message.sender, message.target
        if sender == target or not (lost or {sender, target} & self.cut):
            self.tell(f"{sender.node} -> {target.node}: {message.kind}")
            self._step(target, ev.Received(message))

    def settle(self) -> None:
        """Everybody is there, and hears everybody."""
        for voter in sorted(self.cut):
            self.heal(voter)
        for voter in self.disks:
            if voter not in self.brains:
                self.start(voter)
        for _ in range(SETTLED_STEPS):
            while self.on_the_way and self.led is None:
                self.deliver(0, lost=False)
            if self.led is not None:
                return
            self.wait(SETTLED_STEP_NS, tuple(self.brains))

    def somebody_may_lead(self) -> bool:
        """Invariant 8: a clean in-sync replica is left."""
        last = max(self.committed, key=lambda each: each.stamp)
        return any(voter not in self.unclean for voter in last.record.in_sync)

    # ---- inside ---------------------------------------------------------------------------------------

    def _meet(self, voter: Voter) -> None:
        for other in self._linked(voter):
            self._step(voter, ev.PeerUp(other.node))
            self._step(other, ev.PeerUp(voter.node))

    def _part(self, voter: Voter) -> None:
        for other in self._linked(voter):
            self._step(voter, ev.PeerDown(other.node))
            self._step(other, ev.PeerDown(voter.node))

    def _linked(self, voter: Voter) -> list[Voter]:
        return [other for other in self.brains if other != voter and not {voter, other} & self.cut]

    def _step(self, voter: Voter, event: ev.Event) -> None:
        if voter not in self.brains:
            return
        batch = self.brains[voter].step(event, self.now_ns, NO_FACTS)
        if batch.durable is not None:
            self.disks[voter] = batch.durable
        for effect in (*batch.now, *batch.after):
            match effect:
                case ev.Send(message):
                    self._send(message)
                case ev.Explain(kind, outcome):
                    self.tell(f"{voter.node} {kind}: {outcome}")
                case ev.Lead(first) if self.led is None:
                    self.led = first
                    self.tell(f"{voter.node} leads: {told(first)}")

    def _send(self, message: ms.BrainMessage) -> None:
        self.on_the_way.append(message)
        stored = self.disks[message.sender].slot
        if isinstance(message, ms.Accepted) and stored is not None:
            confirmed = self.confirmed[message.stamp]
            confirmed.add(message.sender)
            if len(confirmed) == majority(len(stored.record.voters)):
                self.committed.append(stored)


def nodes(voters: Iterable[Voter]) -> str:
    return "{" + ",".join(sorted(voter.node for voter in voters)) + "}"


def told(slot: Slot) -> str:
    return f"version {slot.stamp.version} of epoch {slot.stamp.epoch}, in sync {nodes(slot.record.in_sync)}"


def objection(recovery: Recovery) -> str:
    """Why S3 forbids whoever leads, or "": it has every acknowledged write; or it is unclean, and so is everybody in
    sync by the last record that was committed before its reign."""
    led = recovery.led
    if led is None or led.record.primary in recovery.required - recovery.unclean:
        return ""
    before = max((each for each in recovery.committed if each.stamp.epoch < led.stamp.epoch), key=lambda it: it.stamp)
    clean = [voter for voter in before.record.in_sync if voter not in recovery.unclean]
    if clean:
        return f"acknowledged writes are lost beside {nodes(clean)}, in sync and clean"
    return "" if led.record.primary in recovery.unclean else "it is clean, and behind"
