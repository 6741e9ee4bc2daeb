"""One replica following one primary: it stores in order, confirms what is stored, and refuses the past.

It answers a new primary only after everything older is finished or dropped (T1). Copies never replace a later
write (T4). What it confirmed and does not know to be confirmed everywhere is its tail, kept by the store.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from services.replica.replication.blockmap import BlockMap, Range, regions_of
from services.replica.replication.effects import (
    Answer,
    AnswerDigests,
    AnswerFetch,
    CommitTail,
    Effect,
    HashSeal,
    MarkRegions,
    PrepareSeal,
    Release,
    SealStore,
    StoreCopy,
    StoreWrite,
    StoreWriteMany,
    StoreZero,
    SyncStore,
    UnmarkRegions,
    WriteBack,
)
from services.replica.replication.gate import Gate, Op, op_of
from services.replica.replication.messages import (
    Ack,
    CommitPoint,
    Copied,
    Copy,
    Digest,
    Failed,
    Fetch,
    Flush,
    Flushed,
    Join,
    Joined,
    Prepare,
    Prepared,
    Rooted,
    Rotten,
    Seal,
    Sealed,
    ToReplica,
    Write,
    WriteMany,
    Zero,
)
from services.replica.replication.scrub import FIRST_NUMBER

WRITE_BACK_BLOCKS = 1024
"""Copied, and the disk is told to begin: the sync that ends the catching up would otherwise find all of it to do."""
_OF_ONE_RANGE = (Write, Zero)
ROTTEN_BLOCKS_MAX = 1024
"""Of one report; the rest is found again."""


@dataclass(frozen=True, slots=True)
class Share:
    """What this replica may hold unconfirmed, as its store tells: the tail, or the marked regions (D1)."""

    ranges: tuple[Range, ...]
    last_seq: int
    commit: int
    unclean: bool


class Replica:
    """The follower's side of one volume, alive as long as the volume is open, whoever leads."""

    def __init__(self, marked: Iterable[int]):
        self.gate = Gate(marked)
        self.epoch = 0
        self.link: int | None = None
        """The link that joined us, or None: data on any other link is not ours to take."""
        self.commit = 0
        self.covered = False
        """This primary has compared everything that we may hold unconfirmed. Before that neither our tail nor our
        marks may be forgotten, whatever its commit point says (T2, T3)."""
        self._keep: dict[int, tuple[Range, ...]] = {}
        """Copy on its way in -> the blocks that it may store."""
        self._recent: deque[tuple[int, tuple[Range, ...]]] = deque()
        """(seq, where) of writes that are not known to be committed."""
        self._flushes: deque[Flush | Seal] = deque()
        """They cover every write received before them."""
        self._preparing: set[int] = set()
        self._sealing: dict[int, Seal] = {}
        """Seals of the primary that we follow, from their turn to their root hash."""
        self._syncing: dict[int, tuple[int, Flush | None]] = {}
        """ticket -> (operations that the sync covers, the flush that it answers)"""
        self._ticket = 0
        self._unmarking: int | None = None
        """Ticket of the sync after which quiet regions are unmarked."""
        self._copied = 0
        """Blocks, since the disk was told to begin."""

    # ---- who leads ------------------------------------------------------------------------------------

    def raise_epoch(self, epoch: int) -> list[Effect]:
        """Refuse everything below `epoch` from now on."""
        self.epoch = max(self.epoch, epoch)
        return self.leave()

    def leave(self) -> list[Effect]:
        """Stop following: drop what waits, forget whom to answer."""
        self.link = None
        self._flushes.clear()
        self._preparing.clear()
        self._sealing.clear()
        self._recent.clear()
        self._keep.clear()
        self.covered = False
        self._syncing = {ticket: (covers, None) for ticket, (covers, _) in self._syncing.items()}
        dropped = self.gate.drop_waiting()
        return [Release(op.message.token) for op in dropped if not isinstance(op.message, Zero)]

    def link_lost(self, link: int) -> list[Effect]:
        return self.leave() if link == self.link else []

    def join(self, link: int, message: Join, epoch: int, share: Share) -> list[Effect]:
        """The primary of `epoch`, which this voter has stored durably, asks us to follow. A newer link of the
        same primary replaces the older one (W5)."""
        if epoch < self.epoch:
            return []
        out = self.leave()
        self.epoch = epoch
        self.link = link
        self.commit = share.commit
        joined = Joined(message.number, share.last_seq, share.commit, share.ranges, share.unclean)
        out.append(Answer(link, joined))
        return out

    # ---- data -----------------------------------------------------------------------------------------

    def receive(self, link: int, message: ToReplica, epoch: int, now_ns: int) -> list[Effect]:
        """Data of the primary that joined us; anything else is dropped (invariant 4)."""
        if link != self.link or epoch != self.epoch:
            token = getattr(message, "token", 0)
            return [Release(token)] if token else []
        if isinstance(message, _OF_ONE_RANGE):
            out = self._learn_commit(message.commit)
            self._recent.append((message.seq, ((message.block, message.count),)))
            out += self._submit(op_of(message), now_ns)
            return out
        match message:
            case WriteMany(seq, commit, ranges):
                out = self._learn_commit(commit)
                self._recent.append((seq, ranges))
                out += self._submit(op_of(message), now_ns)
                return out
            case Copy(number, as_of, ranges):
                # Judged as it arrives: writes that arrive later are stored after it, and those that came before
                # may be committed, and so forgotten here, while it waits for a mark.
                self._keep[number] = self._not_replaced(as_of, ranges)
                return self._submit(op_of(message), now_ns)
            case Flush(_, commit, cleans, settled):
                if cleans:
                    self.covered = True
                    self.gate.settle(settled)
                out = self._learn_commit(commit)
                self._flushes.append(message)
                return out + self._start_syncs()
            case Prepare(number):
                self._preparing.add(number)
                return [PrepareSeal(number)]
            case Seal(_, commit):
                out = self._learn_commit(commit)
                self._flushes.append(message)
                return out + self._start_syncs()
            case CommitPoint(commit):
                self.covered = True
                self.gate.settle(commit)  # the first one lies above all that was compared
                return self._learn_commit(commit)
            case Digest(number, level, ranges):
                return [AnswerDigests(link, number, level, ranges), *self._expect(number, level, ranges)]
            case Fetch(number, ranges):
                return [AnswerFetch(link, number, ranges)]
            case Join():
                raise AssertionError("a join has its own entry")

    def _expect(self, number: int, level: int, ranges: tuple[Range, ...]) -> list[Effect]:
        """What is compared block by block while we catch up will nearly all be copied. Were each copy to wait for its
        own region's mark, scattered blocks would wait for the disk once a region."""
        if level or number >= FIRST_NUMBER:
            return []
        missing = self.gate.expect(region for block, count in ranges for region in regions_of(block, count))
        return [MarkRegions(missing)] if missing else []

    def _learn_commit(self, commit: int) -> list[Effect]:
        # A copy is never older than a commit point that came before it, so what is committed need not be kept
        # apart from it; the tail is another matter, see `covered`.
        recent = self._recent
        while recent and recent[0][0] <= commit:
            recent.popleft()
        if commit <= self.commit or not self.covered:
            return []
        self.commit = commit
        return [CommitTail(commit)]

    def _submit(self, op: Op, now_ns: int) -> list[Effect]:
        passes, missing = self.gate.submit(op, now_ns)
        if passes:
            return self._store(op)
        return [MarkRegions(missing)] if missing else []

    def _store(self, op: Op) -> list[Effect]:
        assert self.link is not None
        message = op.message
        if isinstance(message, Copy):
            keep = self._keep.pop(message.number)
            copy = StoreCopy(message.as_of, message.ranges, keep, message.token)
            return [copy, Answer(self.link, Copied(message.number)), *self._write_back(message.ranges)]
        seq = message.seq
        store: StoreWrite | StoreWriteMany | StoreZero
        if isinstance(message, Write):
            store = StoreWrite(seq, message.block, message.count, message.token)
        elif isinstance(message, WriteMany):
            store = StoreWriteMany(seq, message.ranges, message.token)
        else:
            store = StoreZero(seq, message.block, message.count)
        return [store, Answer(self.link, Ack((seq,)))]

    def _write_back(self, ranges: tuple[Range, ...]) -> list[Effect]:
        self._copied += sum(count for _, count in ranges)
        if self._copied < WRITE_BACK_BLOCKS:
            return []
        self._copied = 0
        return [WriteBack()]

    def _not_replaced(self, as_of: int, ranges: tuple[Range, ...]) -> tuple[Range, ...]:
        """T4: without the blocks that a write after `as_of` has reached."""
        later = [where for seq, reached in self._recent if seq > as_of for where in reached]
        if not later:
            return ranges
        keep = BlockMap(ranges)
        for block, count in later:
            keep.discard(block, count)
        return tuple(keep.ranges())

    def marked(self, regions: tuple[int, ...], now_ns: int) -> list[Effect]:
        """The regions' marks are durable."""
        ready = self.gate.on_marked(regions)
        if self.link is None:
            return []
        out = [effect for op in ready for effect in self._store(op)]
        return out + self._start_syncs()

    # ---- durability -----------------------------------------------------------------------------------

    def _start_syncs(self) -> list[Effect]:
        """A flush, or a seal, covers every write received before it: it waits for those at the gate."""
        out: list[Effect] = []
        while self._flushes and not self.gate.waiting():
            wanted = self._flushes.popleft()
            out.append(self._sync(wanted) if isinstance(wanted, Flush) else self._seal(wanted))
        return out

    def _seal(self, seal: Seal) -> Effect:
        self.gate.close()
        self._sealing[seal.seq] = seal
        return SealStore(seal.seq, seal.size_blocks, seal.snapshot)

    def _sync(self, flush: Flush | None) -> Effect:
        self._ticket += 1
        self._syncing[self._ticket] = (self.gate.passed, flush)
        return SyncStore(self._ticket, settles=True) if flush is None else SyncStore(self._ticket, flush.cleans)

    def synced(self, ticket: int) -> list[Effect]:
        covers, flush = self._syncing.pop(ticket, (0, None))
        if flush is not None and self.link is not None:
            return [Answer(self.link, Flushed(flush.ticket))]
        if ticket == self._unmarking:
            self._unmarking = None
            regions = self.gate.unmark(covers, self.commit)
            return [UnmarkRegions(regions)] if regions else []
        return []

    # ---- snapshots ------------------------------------------------------------------------------------

    def seal_prepared(self, number: int, *, ready: bool) -> list[Effect]:
        if number not in self._preparing or self.link is None:
            return []
        self._preparing.discard(number)
        return [Answer(self.link, Prepared(number, ready))]

    def sealed(self, seq: int) -> list[Effect]:
        """Whoever asked for it: what waited at the gate is stored now."""
        ready = self.gate.open()
        if self.link is None:
            return []
        out = [effect for op in ready for effect in self._store(op)]
        seal = self._sealing.get(seq)
        if seal is not None:
            out += [Answer(self.link, Sealed(seq)), HashSeal(seq, seal.size_blocks, seal.snapshot)]
        return out + self._start_syncs()

    def hashed(self, seq: int, root: int | None) -> list[Effect]:
        if self._sealing.pop(seq, None) is None or self.link is None:
            return []
        return [Answer(self.link, Rooted(seq, root))]

    def rotten(self, blocks: Iterable[int]) -> list[Effect]:
        """Blocks that do not match their checksum: the primary sends its own."""
        if self.link is None:
            return []  # whoever joins us next hears of them when they are found again
        ranges = BlockMap((block, 1) for block in sorted(blocks)[:ROTTEN_BLOCKS_MAX]).ranges()
        return [Answer(self.link, Rotten(tuple(ranges)))]

    def failed(self, reason: str) -> list[Effect]:
        """Our disk could not store or sync: say so once and follow nobody until asked again (S3)."""
        link = self.link
        out = self.leave()
        if link is not None:
            out.append(Answer(link, Failed(reason)))
        return out

    # ---- time -----------------------------------------------------------------------------------------

    def next_deadline_ns(self) -> int | None:
        return self.gate.quiet_at_ns() if self.covered and self._unmarking is None else None

    def time_passed(self, now_ns: int) -> list[Effect]:
        due = self.next_deadline_ns()
        if due is None or now_ns < due:
            return []
        self.gate.touch(now_ns)
        sync = self._sync(None)
        self._unmarking = self._ticket
        return [sync]
