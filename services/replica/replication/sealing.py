"""One seal after another at a primary: every copy in sync keeps the same moment (rule K4).

    preparing   every copy makes its next layer, which takes long, beside the writes
    holding     new writes wait; those under way are confirmed, until the window is empty
    sealing     the Seal has a sequence number of its own and is sent: every copy syncs and begins its next layer
    hashing     writes go on; every copy says the root hash of what it sealed

What waits for the disk in the middle is only what was written since a copy was prepared. A copy that gives no answer
while writes are held is let go like one that does not confirm a write; one that can't prepare, or takes too long where
nobody waits for it, stays in sync and is no holder. Nothing of it outlives the reign: the next primary seals again,
under a number of its own.

One that is taken in step (`stoscore/volumes/stepping.py`) stops twice for whoever takes it: prepared, it holds when he
says so, and holding, it seals when he says that all volumes of its group hold. Both end by themselves: a death of his
costs the snapshot, and writes wait no longer than he had asked for.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import IntEnum

from services.replica.replication.effects import (
    Effect,
    PrepareSeal,
    ReportNotSealed,
    ReportSealed,
    ReportStep,
    SealStore,
    Tell,
    WritesHeld,
)
from services.replica.replication.messages import Prepare, Request, RequestMany, Seal
from stoscore.units import SECOND

BESIDE_PATIENCE_NS = 60 * SECOND
"""How long a copy may take to prepare, or to hash, after our own has: nobody waits for it but whoever asked for the
snapshot."""
HOLD_PATIENCE_NS = 30 * SECOND
"""How long the other volumes of a group may take to prepare: nobody waits but other snapshots."""


class Stage(IntEnum):
    IDLE = 0
    PREPARING = 1
    PREPARED = 2
    """Ready to hold, while the volume is about to be led elsewhere and takes nothing new anyway."""
    HOLDING = 3
    SEALING = 4
    HASHING = 5


@dataclass(frozen=True, slots=True)
class Order:
    """What the brain asked for. `asked` tells it from an earlier snapshot of that name."""

    name: str
    asked: int
    nodes: frozenset[str]
    in_step: bool = False
    """It holds, and seals, when it is told to."""


@dataclass(slots=True)
class Sealing:
    """The primary's. Its own copy is named like the others, by its node."""

    me: str
    stage: Stage = Stage.IDLE
    holds: bool = False
    """New writes wait."""
    held: list[tuple[int, Request | RequestMany]] = field(default_factory=list)
    """(link, request), in order."""
    order: Order | None = None
    next_order: Order | None = None
    number: int = 0
    """Of the latest Prepare."""
    seq: int = 0
    size_blocks: int = 0
    given_up: bool = False
    """What is being sealed is not wanted any more, or has failed already."""
    taking_part: set[str] = field(default_factory=set)
    """Who is still expected to hold the layer."""
    waits_for: set[str] = field(default_factory=set)
    """Who has not finished the present stage."""
    since_ns: int = 0
    held_since_ns: int | None = None
    """Until it is told how long they were."""
    wait_until_ns: int | None = None
    """One that is taken in step goes on by a word from outside, or ends then."""
    roots: dict[str, int] = field(default_factory=dict)
    wanted: bool = False
    """By the committed record a snapshot is to be taken, or is being taken."""

    @property
    def unanswered(self) -> int:
        """Requests that wait."""
        return sum(len(asked.asks) if isinstance(asked, RequestMany) else 1 for _, asked in self.held)

    # ---- begin and end --------------------------------------------------------------------------------

    def ask(self, order: Order) -> None:
        self.next_order = order

    def keep(self, pending: Collection[tuple[str, int]]) -> None:
        """By the committed record only these (name, asked) are still wanted."""
        self.wanted = bool(pending)
        if self.next_order is not None and (self.next_order.name, self.next_order.asked) not in pending:
            self.next_order = None
        order = self.order
        if order is None or (order.name, order.asked) in pending:
            return
        self._give_up()

    def _give_up(self) -> None:
        if self.stage is Stage.SEALING:
            self.given_up = True  # the disks are at it, and nobody may write before they are done
        else:
            self._end()

    def begin(self, following: Collection[str], size_blocks: int, now_ns: int) -> list[Effect]:
        """With those of the copies asked for that follow us, in sync."""
        order = self.next_order
        if order is None or self.stage is not Stage.IDLE:
            return []
        self.order, self.next_order = order, None
        others = {node for node in order.nodes if node in following}
        self.stage, self.size_blocks, self.since_ns = Stage.PREPARING, size_blocks, now_ns
        self.number += 1
        self.taking_part = {self.me, *others}
        self.waits_for = set(self.taking_part)
        self.roots = {}
        told: list[Effect] = [Tell(tuple(sorted(others)), Prepare(self.number))] if others else []
        return [*told, PrepareSeal(self.number)]

    def _end(self) -> None:
        self.stage, self.holds, self.order, self.given_up = Stage.IDLE, False, None, False
        self.wait_until_ns = None
        self.taking_part, self.waits_for = set(), set()

    def stop(self) -> list[tuple[int, Request | RequestMany]]:
        """The reign ends: what was held."""
        self._end()
        self.next_order = None
        return self.take_held()

    def take_held(self) -> list[tuple[int, Request | RequestMany]]:
        held, self.held = self.held, []
        return held

    # ---- preparing ------------------------------------------------------------------------------------

    def prepared(self, node: str, number: int, now_ns: int, *, ready: bool) -> None:
        if self.stage is not Stage.PREPARING or number != self.number or node not in self.waits_for:
            return
        if node == self.me:
            self.since_ns = now_ns
        if not ready:
            self.taking_part.discard(node)
        self._finished(node)

    def fails(self, reason: str) -> list[Effect]:
        """Our own copy can't make a layer."""
        return self._not_sealed(reason) if self.stage is Stage.PREPARING else []

    def _stepped(self) -> Order | None:
        return self.order if self.order is not None and self.order.in_step else None

    def _not_sealed(self, reason: str, *, lapsed: bool = False) -> list[Effect]:
        order = self.order
        assert order is not None
        self._give_up()
        return [ReportNotSealed(order.name, order.asked, reason, lapsed)]

    def hold(self, now_ns: int) -> list[Effect]:
        """All copies are prepared: new writes wait from here on, or as soon as one that is taken in step is told to."""
        if self.stage is not Stage.PREPARED:
            return []
        order = self._stepped()
        if order is None:
            self._hold(now_ns)
            return []
        if self.wait_until_ns is not None:
            return []
        self.wait_until_ns = now_ns + HOLD_PATIENCE_NS
        return [ReportStep(order.name, order.asked, "prepared")]

    def _hold(self, now_ns: int) -> None:
        self.stage, self.holds, self.held_since_ns = Stage.HOLDING, True, now_ns

    def let_go(self) -> list[Effect]:
        """Nothing new is taken: there is nothing to hold. One that is taken in step has held to no purpose."""
        if self.stage is not Stage.HOLDING:
            return []
        if self._stepped() is not None:
            return self._not_sealed("the volume is about to be led elsewhere", lapsed=True)
        self.stage, self.holds = Stage.PREPARED, False
        return []

    # ---- in step with other volumes ---------------------------------------------------------------------

    def hold_until(self, asked: int, until_ns: int, now_ns: int, *, moving: bool) -> list[Effect]:
        """New writes wait until then at the latest; those that have come are in the snapshot."""
        order = self._stepped()
        if order is None or order.asked != asked or self.stage not in (Stage.PREPARED, Stage.HOLDING):
            return []
        if self.stage is Stage.PREPARED:
            if moving:
                return self._not_sealed("the volume is about to be led elsewhere", lapsed=True)
            self._hold(now_ns)
            self.wait_until_ns = until_ns
        return [ReportStep(order.name, asked, "held")]

    def seal_held(self, asked: int) -> list[Effect]:
        """All of the group hold now. What does not hold, any more or yet, is no part of it."""
        order = self._stepped()
        if order is None or order.asked != asked or self.stage > Stage.HOLDING:
            return []
        if self.stage is not Stage.HOLDING:
            return self._not_sealed("it did not hold the writes when it was to be sealed", lapsed=True)
        self.wait_until_ns = None
        return []

    @property
    def may_seal(self) -> bool:
        """It holds, and nobody else has to be waited for but the writes under way."""
        return self.stage is Stage.HOLDING and self.wait_until_ns is None

    # ---- sealing --------------------------------------------------------------------------------------

    def seal(self, seq: int, commit: int, now_ns: int) -> list[Effect]:
        """The window is empty."""
        assert self.stage is Stage.HOLDING
        assert self.order is not None
        self.stage, self.seq, self.since_ns = Stage.SEALING, seq, now_ns
        self.waits_for = set(self.taking_part)
        others = tuple(sorted(self.taking_part - {self.me}))
        name = self.order.name
        told: list[Effect] = [Tell(others, Seal(seq, commit, self.size_blocks, name))] if others else []
        return [*told, SealStore(seq, self.size_blocks, name)]

    def sealed(self, node: str, seq: int) -> None:
        if self.stage is Stage.SEALING and seq == self.seq:
            self._finished(node)

    def _finished(self, node: str) -> None:
        """One more has finished the stage, or takes part no more."""
        self.waits_for.discard(node)
        if self.waits_for:
            return
        if self.stage is Stage.PREPARING:
            self.stage = Stage.PREPARED
        elif self.stage is Stage.SEALING and self.given_up:
            self._end()
        elif self.stage is Stage.SEALING:
            self.stage, self.holds = Stage.HASHING, False
            self.waits_for = self.taking_part - self.roots.keys()

    def tell_held(self, now_ns: int) -> list[Effect]:
        """Sealed everywhere, and writes go on: how long they waited, and in step, that this volume is done."""
        if self.held_since_ns is None or self.order is None:
            return []
        held_ns, self.held_since_ns = now_ns - self.held_since_ns, None
        out: list[Effect] = [WritesHeld(self.order.name, held_ns, self.unanswered)]
        return [*out, ReportStep(self.order.name, self.order.asked, "sealed")] if self.order.in_step else out

    # ---- hashing --------------------------------------------------------------------------------------

    def rooted(self, node: str, seq: int, root: int | None, now_ns: int) -> list[Effect]:
        """A copy may hash before the slowest one has sealed. None: its checksums are not proved, so it holds nothing
        that another one could be compared with."""
        if self.stage not in (Stage.SEALING, Stage.HASHING) or seq != self.seq or node not in self.taking_part:
            return []
        if root is None and node == self.me:
            return self._not_sealed(f"{node}'s copy is damaged: some of its checksums are not proved")
        if root is None:
            self.lost(node)
            return []
        self.roots[node] = root
        if node == self.me:
            self.since_ns = now_ns
        if self.stage is Stage.HASHING:
            self.waits_for.discard(node)
        return []

    def result(self) -> tuple[list[Effect], dict[str, str]] | None:
        """When all have hashed: the report, and who is to go, and why: it holds something else than we. Two or more
        that hold the same, and all of them not what we hold, do not go on our word: then there is no snapshot."""
        if self.stage is not Stage.HASHING or self.waits_for:
            return None
        order, ours = self.order, self.roots[self.me]
        assert order is not None
        holders = tuple(sorted(node for node in self.taking_part if self.roots[node] == ours))
        others = sorted(node for node in self.taking_part if self.roots[node] != ours)
        if holders == (self.me,) and len(others) > 1 and len({self.roots[node] for node in others}) == 1:
            reason = f"{self.me}'s copy differs from those of {' and '.join(others)}, which agree"
            return self._not_sealed(reason), {}
        report = ReportSealed(order.name, order.asked, self.seq, self.size_blocks, ours, holders)
        self._end()
        return [report], dict.fromkeys(others, f"the layer of snapshot {order.name} differs from {self.me}'s")

    # ---- copies that are lost, and time -----------------------------------------------------------------

    def lost(self, node: str) -> None:
        """It takes part no more."""
        if node in self.taking_part:
            self.taking_part.discard(node)
            self.roots.pop(node, None)
            self._finished(node)

    def owed_since_ns(self, node: str) -> int | None:
        """Writes are held, and this copy has not sealed."""
        return self.since_ns if self.stage is Stage.SEALING and node in self.waits_for else None

    def next_deadline_ns(self) -> int | None:
        return self.wait_until_ns if self.wait_until_ns is not None else self._beside_deadline_ns()

    def _beside_deadline_ns(self) -> int | None:
        """When whoever is slow where nobody waits for it does not take part any more."""
        if self.stage not in (Stage.PREPARING, Stage.HASHING) or self.me in self.waits_for or not self.waits_for:
            return None
        return self.since_ns + BESIDE_PATIENCE_NS

    def late(self, now_ns: int) -> list[str]:
        due = self._beside_deadline_ns()
        return sorted(self.waits_for) if due is not None and now_ns >= due else []

    def time_passed(self, now_ns: int) -> list[Effect]:
        """Nobody goes on with what is taken in step: *who took it died, and the volume stood still*."""
        if self.wait_until_ns is None or now_ns < self.wait_until_ns:
            return []
        held = "held for" if self.stage is Stage.HOLDING else "prepared for"
        return self._not_sealed(f"nobody went on with what it was {held}", lapsed=True)

    def excuse(self, now_ns: int) -> None:
        self.since_ns = now_ns
