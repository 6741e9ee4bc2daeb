"""What the primary knows of one other data replica, as a tiny machine of its own.

    away --link--> joining --joined--> syncing --nothing left--> settling --all acked--> flushing --> waiting
                      |                ^  |                (every new write needs it too)              | admitted
                      +--> giving -----+  +------- take-over: nothing left -------> live <-------------+

Away, what it misses is collected in `missed`; from `syncing` on it receives every write. `giving`: it is made what the
volume was at the snapshots that it lacks (`past`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from services.replica.replication.blockmap import BlockMap, Range
from services.replica.replication.effects import Effect, ReportFailed
from services.replica.replication.estimate import Estimate
from services.replica.replication.past import Giving
from services.replica.replication.resync import Resync
from services.replica.replication.scrub import FIRST_NUMBER, Scrub
from stoscore.units import MS

JOIN_RETRY_NS = 100 * MS
JOIN_RETRY_NS_MAX = 2000 * MS
FAILED_RETRY_NS = 2000 * MS
FAILED_RETRY_NS_MAX = 8000 * MS

Phase = Literal["away", "joining", "giving", "syncing", "synced", "settling", "flushing", "waiting", "live"]


@dataclass(slots=True)
class CatchingUp:
    """What one catching up was foretold to cost, and has cost."""

    began_ns: int
    """When it joined, then when it was foretold: what is promised is promised from there."""
    under_way: set[int]
    """Writes that were not confirmed when it joined, and that it does not get as writes."""
    noted: bool = False
    """What it may hold of unconfirmed writes by comparison alone was copied."""
    copied_ns: int = 0
    """When the last copy was confirmed."""
    compared_before: int = 0
    """Blocks of the sample, compared by then."""
    estimate: Estimate | None = None
    compared: int = 0
    sent: int = 0
    pieces: int = 0
    held_back: bool = False
    """The budget refused it something, so its time was not its own."""


@dataclass(slots=True)
class Peer:
    node: str
    bit: int
    phase: Phase = "away"
    up: bool = False
    missed: BlockMap = field(default_factory=BlockMap)
    missed_all: bool = False
    """The map can't be trusted: another primary may have written while this replica was away."""
    unacked: dict[int, tuple[Range, ...]] = field(default_factory=dict)
    """Every write sent and not confirmed."""
    takes_many: bool = True
    """It knows WriteMany, by its own word when it joined last."""
    takes_packed: bool = False
    """It reads copies that are packed, by its own word when it joined last."""
    takes_past: bool = False
    """It seals what was, by its own word when it joined last."""
    takes_levels: bool = False
    """It knows all levels of the hash tree, by its own word when it joined last."""
    giving: Giving | None = None
    """The snapshot that it is being given."""
    told: set[int] = field(default_factory=set)
    """The seals of snapshots that a record lists which it has stored: it keeps their layers."""
    passed: set[int] = field(default_factory=set)
    """The seals of snapshots that it was given since its link came up, or that it can't be given."""
    returns: int = 0
    """How often it has gone back from the present since its link came up."""
    takes_none: bool = False
    """It failed while it was given one, maybe for want of room: the volume matters more."""
    resync: Resync | None = None
    catching_up: CatchingUp | None = None
    """From the beginning of `resync` until the peer has synced what it got."""
    scrub: Scrub | None = None
    """What is compared with it, or sent again, although it is in sync."""
    join_number: int = 0
    retry_at_ns: int = 0
    settle_seq: int = 0
    flush_ticket: int = 0
    unclean: bool = False
    failed: bool = False
    """Reported to the brain in this epoch and not admitted since."""
    commit_sent: int = 0
    joins: int = 0
    """Asked to join and not answered, in a row."""
    drops: int = 0
    """How often it was dropped for its silence or failure on this link."""
    heard_ns: int = 0
    """When it last answered, or was first asked for something after it owed nothing."""
    flush_ns: int = 0
    """When it was asked for the sync that ends its catching up."""

    def receives(self) -> bool:
        """Does it get every new write?"""
        return self.phase not in ("away", "joining", "giving")

    def confirms(self) -> bool:
        """Must every new write wait for it, whatever the record says yet (S1, S4)?"""
        return self.phase in ("settling", "flushing", "waiting")

    def learns_commit(self) -> bool:
        """Has everything that it held unconfirmed been compared (T2)?"""
        return self.phase in ("waiting", "live")

    def owes(self) -> bool:
        """Does it owe a message other than the end of a sync?"""
        return bool(self.unacked) or self.phase in ("joining", "syncing", "settling")

    def comparing(self, number: int) -> Resync | None:
        """What the answer with this number belongs to."""
        return self.scrub if number >= FIRST_NUMBER else self.resync

    def come_up(self, now_ns: int) -> None:
        """Its link has."""
        self.up = True
        self.joins = self.drops = self.returns = 0
        self.passed.clear()
        self.heard_ns = now_ns

    def ask_to_join(self, now_ns: int) -> int:
        """The number that its answer is to have. Only the answer to the newest counts, so a pause shorter than the
        round trip would ask for ever."""
        self.phase = "joining"
        self.join_number += 1
        self.retry_at_ns = now_ns + min(JOIN_RETRY_NS << self.joins, JOIN_RETRY_NS_MAX)
        self.joins = min(self.joins + 1, 10)
        return self.join_number

    def hold_off(self, now_ns: int) -> None:
        """It is asked again after a while. Others wait while it catches up: one that fails again and again must not
        stop them half of the time."""
        self.phase = "joining"
        self.retry_at_ns = now_ns + min(FAILED_RETRY_NS << self.drops, FAILED_RETRY_NS_MAX)
        self.drops = min(self.drops + 1, 10)
        self.heard_ns = self.retry_at_ns

    def lose(self) -> None:
        """The link ended: everything not confirmed is missed."""
        for ranges in self.unacked.values():
            self.missed.update(BlockMap(ranges))
        self.unacked.clear()
        if self.giving is not None:
            self.missed_all = True
            self.giving = self.resync = None
        if self.resync is not None:
            rest, everything = self.resync.unfinished()
            self.missed.update(rest)
            self.missed_all = self.missed_all or everything
            self.resync = None
        self.catching_up = None
        if self.scrub is not None:
            self.missed.update(self.scrub.unfinished()[0])
            self.scrub = None
        self.phase = "away"

    def report_failed(self, reason: str) -> list[Effect]:
        """To the brain, once until it is admitted again."""
        if self.failed:
            return []
        self.failed = True
        return [ReportFailed(self.node, reason)]

    def excuse(self, now_ns: int) -> None:
        """We were paused ourselves: its time to answer begins now."""
        self.heard_ns = self.flush_ns = now_ns
        if self.giving is not None:
            self.giving.excuse(now_ns)
