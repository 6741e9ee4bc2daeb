"""The primary of one epoch: takes over, orders writes, confirms them, brings peers up to date.

    request --> seq, region marked --> own store + every receiving peer, at the same time --> all of the
    required set confirmed --> answer. Everything at or below `commit` is confirmed everywhere.

It serves only when every member of the required set has been compared with it (T2) or has left by a committed
record. It never decides membership: it reports to the brain and is told who the members are, whom to require (S1)
and whether enough of them are in sync for writes to be answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from errno import EIO

from services.replica.replication.blockmap import BlockMap, Range
from services.replica.replication.budget import Key, Rank
from services.replica.replication.effects import (
    Answer,
    AnswerRead,
    AnswerReadMany,
    AnswerStatus,
    CommitTail,
    Compare,
    Damage,
    Effect,
    HashSeal,
    MarkRegions,
    NotGiven,
    Release,
    ReportCaughtUp,
    ReportFailed,
    ReportFollows,
    ReportGiven,
    ReportSettled,
    ReportStep,
    ResyncBegins,
    ResyncDone,
    SendCopy,
    StartedServing,
    StoreWrite,
    StoreWriteMany,
    StoreZero,
    SyncStore,
    Tell,
    UnmarkRegions,
    WritesHeld,
)
from services.replica.replication.estimate import Estimate, Took, Work, bytes_of
from services.replica.replication.flushes import Flushes
from services.replica.replication.gate import Gate, Op, op_of, ranges_of
from services.replica.replication.healing import Healing, Source
from services.replica.replication.messages import (
    SEQ_BITS,
    Ack,
    CommitPoint,
    Copied,
    Copy,
    Digests,
    Done,
    DoneMany,
    Failed,
    Fetched,
    Flush,
    Flushed,
    Io,
    Join,
    Joined,
    OpenRefused,
    Prepare,
    Prepared,
    Refusal,
    Request,
    RequestMany,
    Rooted,
    Rotten,
    Seal,
    Sealed,
    ToPrimary,
    Write,
    WriteMany,
    Zero,
    first_seq,
)
from services.replica.replication.past import PATIENCE_NS as GIVING_PATIENCE_NS
from services.replica.replication.past import RETURNS_MAX, Giving, Moment, Past
from services.replica.replication.peer import CatchingUp, Peer
from services.replica.replication.recovery import Recovery, RecoveryLimits
from services.replica.replication.replica import Share
from services.replica.replication.resync import FANOUT, Resync, always
from services.replica.replication.scrub import FIRST_NUMBER, Scrub
from services.replica.replication.sealing import Order, Sealing, Stage
from services.replica.replication.sessions import Sessions
from services.replica.replication.withheld import Withheld, Writes
from stoscore.units import MS, REGION_BLOCKS

SELF_BIT = 1
_READ, _STATUS, _FLUSH, _WRITE = Io.READ, Io.STATUS, Io.FLUSH, Io.WRITE
_OPEN, _FAILED = Writes.OPEN, Writes.FAILED
JOIN_RETRY_NS = 100 * MS
JOIN_RETRY_NS_MAX = 2000 * MS
FAILED_RETRY_NS = 2000 * MS
FAILED_RETRY_NS_MAX = 8000 * MS
PATIENCE_NS = 2000 * MS
"""A peer that owes an answer and gives none for so long is not in sync any more: its link and its beats live, its
disk does not."""
COMMIT_IDLE_NS = 50 * MS


@dataclass(slots=True)
class Entry:
    """A write that is not yet at or below the commit point, and the requests that it answers."""

    seq: int
    link: int
    session: int
    requests: tuple[int, ...]
    fua: bool
    since_ns: int
    ranges: tuple[Range, ...]
    acked: int = 0
    settled: bool = False
    """Everybody required has it: answered, or its answer is withheld."""


class Primary:
    """One reign: from `Lead` to `StopLeading`."""

    def __init__(
        self,
        *,
        me: str,
        epoch: int,
        peers: Iterable[str],
        in_sync: Iterable[str],
        size_blocks: int,
        gate: Gate,
        share: Share,
        attach_epoch: int,
        attached_node: str | None,
        writes: Writes = Writes.OPEN,
        volume: str = "",
        recovery: Recovery | None = None,
    ):
        """`peers`: the nodes of the other data copies; `in_sync`: nodes of the record; `share`: our own; `recovery`:
        the node's."""
        self.me = me
        self._volume = volume
        self._recovery = recovery if recovery is not None else Recovery(RecoveryLimits())
        self.epoch = epoch
        self.size_blocks = size_blocks
        self.gate = gate
        self.share = share
        self.serving = False
        self.writes_are = writes
        self.peers: dict[str, Peer] = {}
        self._next_bit = SELF_BIT
        self._required = frozenset(in_sync)
        for node in sorted(peers):
            self._add_peer(node, in_sync=node in self._required)
        self._mask = 0
        self._receiving: tuple[Peer, ...] = ()
        self._receivers: tuple[str, ...] = ()
        self._away: tuple[Peer, ...] = ()
        self.takes_many = True
        """Every copy knows WriteMany, as far as is known: else what comes together has to be asked for one by one."""
        self._window: dict[int, Entry] = {}
        self._beside = 0
        """Requests of the window's entries beyond the first of each."""
        self._next_seq = first_seq(epoch) + 1
        self.commit = share.commit
        self._commit_at_ns = 0
        self._flushes = Flushes()
        self._background: dict[int, int] = {}
        self._cleaning: int | None = None
        self._now_ns = 0
        self._sessions = Sessions(attached_node, attach_epoch)
        self._withheld: list[Withheld] = []
        self._healing = Healing(me, self._sources)
        self._sealing = Sealing(me)
        self._pasts: tuple[Past, ...] = ()
        """What our own copy can give to those that catch up, oldest first."""
        self._moving = False
        self._settled = False
        self.writes = 0
        self.reads = 0
        self.compared_blocks = 0
        self.copied_blocks = 0
        self._refresh()

    # ---- peers come and go ----------------------------------------------------------------------------

    def _add_peer(self, node: str, *, in_sync: bool) -> None:
        """Its bit is never used again: a write on its way may carry that of a peer that was let go."""
        self._next_bit <<= 1
        peer = Peer(node, self._next_bit)
        peer.missed = BlockMap(self.share.ranges)
        peer.missed_all = not in_sync
        self.peers[node] = peer

    def members(self, nodes: Iterable[str], up: Iterable[str], now_ns: int) -> list[Effect]:
        """The record names these other data copies now: new ones are asked to follow, the rest is let go."""
        wanted, reachable = frozenset(nodes), frozenset(up)
        gone = [node for node in self.peers if node not in wanted]
        new = sorted(wanted - set(self.peers))
        for node in gone:
            self._recovery.budget.gone(self._key(node))
            self._sealing.lost(node)
            del self.peers[node]
        out: list[Effect] = []
        for node in new:
            self._add_peer(node, in_sync=False)
            if node in reachable:
                out += self.peer_up(node, now_ns)
        self._refresh()
        return out + self._recheck() if gone else out

    def start(self, up: Iterable[str], now_ns: int) -> list[Effect]:
        """Ask every reachable peer to follow; report the in-sync ones that are not."""
        self._now_ns = now_ns
        out: list[Effect] = []
        reachable = set(up)
        for node, peer in self.peers.items():
            if node in reachable:
                out += self.peer_up(node, now_ns)
            elif node in self._required:
                out += self._report_failed(peer, "its link is down")
        return out + self._check_take_over()

    def peer_up(self, node: str, now_ns: int) -> list[Effect]:
        peer = self.peers.get(node)
        if peer is None or peer.up:
            return []
        peer.up = True
        peer.joins = peer.drops = peer.returns = 0
        peer.passed.clear()
        peer.heard_ns = now_ns
        return self._ask_to_join(peer, now_ns)

    def _ask_to_join(self, peer: Peer, now_ns: int) -> list[Effect]:
        peer.phase = "joining"
        peer.join_number += 1
        # Only the answer to the newest counts, so a pause shorter than the round trip would ask for ever.
        peer.retry_at_ns = now_ns + min(JOIN_RETRY_NS << peer.joins, JOIN_RETRY_NS_MAX)
        peer.joins = min(peer.joins + 1, 10)
        self._refresh()
        return [Tell((peer.node,), Join(peer.join_number))]

    def peer_down(self, node: str, reason: str) -> list[Effect]:
        """The link ended, or the peer is silent."""
        peer = self.peers.get(node)
        if peer is None or not peer.up:
            return []
        peer.up = False
        return self._lose(peer, reason)

    def _lose(self, peer: Peer, reason: str) -> list[Effect]:
        # Waiting: the brain has been told that it caught up and may be about to admit it.
        required = peer.node in self._required or peer.phase == "waiting"
        peer.lose()
        self._sealing.lost(peer.node)
        self._recovery.budget.gone(self._key(peer.node))
        self._refresh()
        out = self._after_healing(self._healing.lost(peer.node, self._now_ns))
        if required:
            # Said again though it was said before: the brain forgets a failure of a member that came back meanwhile.
            peer.failed = False
            out += self._report_failed(peer, reason)
        return out + self._recheck()

    def _report_failed(self, peer: Peer, reason: str) -> list[Effect]:
        if peer.failed:
            return []
        peer.failed = True
        return [ReportFailed(peer.node, reason)]

    def require(self, nodes: Iterable[str], writes: Writes = Writes.OPEN) -> list[Effect]:
        """The brain: a write needs all of these from now on (S1), and this is what becomes of its answer.

        Who leaves the set and was not lost has caught up again since it failed, and the word of that is on its way:
        until it is admitted, or lost, everything waits for it all the same. *Its failure had waited for its turn longer
        than it took to catch up; a flush was answered without it, and then it was admitted, unsynced (S4).*"""
        self._required = frozenset(nodes)
        self.writes_are = writes
        for node, peer in self.peers.items():
            if node not in self._required and peer.phase == "live":
                peer.phase = "waiting"
            elif node in self._required and peer.phase in ("waiting", "live"):
                peer.phase = "live"
                peer.failed = False
        self._refresh()
        return [*self._let_go(), *self._recheck(), *self._hurry()]

    def _recheck(self) -> list[Effect]:
        """Who is needed has changed: what waited for somebody who is needed no more can be answered."""
        out = self._check_take_over()
        for entry in list(self._window.values()):
            out += self._check(entry)
        for ticket in list(self._flushes.waiting):
            out += self._check_flush(ticket)
        return [*out, *self._advance(), *self._go_on_sealing()]

    def _refresh(self) -> None:
        """Derived: the bits that a write needs, who receives it, who misses it."""
        self._mask = SELF_BIT
        for node, peer in self.peers.items():
            if node in self._required or peer.confirms():
                self._mask |= peer.bit
        self._receiving = tuple(peer for peer in self.peers.values() if peer.receives())
        self._receivers = tuple(peer.node for peer in self._receiving)
        self._away = tuple(peer for peer in self.peers.values() if not peer.receives())
        self.takes_many = all(peer.takes_many for peer in self.peers.values())

    # ---- take-over and resync -------------------------------------------------------------------------

    def receive(self, node: str, message: ToPrimary, now_ns: int) -> list[Effect]:
        """From a peer's replica, in this epoch, on our link to it."""
        peer = self.peers.get(node)
        if peer is None:
            return []
        self._now_ns = peer.heard_ns = now_ns
        match message:
            case Ack(seqs):
                return self._acked(peer, seqs)
            case Flushed(ticket):
                return self._peer_flushed(peer, ticket)
            case Joined():
                return self._joined(peer, message)
            case Digests(number, level, token):
                resync = peer.comparing(number)
                asked = resync.asked(number) if resync else None
                if asked is None or asked[0] != level:
                    return [Release(token)]
                return [Compare(node, number, level, asked[1], token, resync.of if resync else None)]
            case Fetched():
                return self._after_healing(self._healing.fetched(node, message, now_ns))
            case Rotten(ranges):
                return self._rotten_there(peer, ranges)
            case Prepared() | Sealed() | Rooted() if peer.giving is not None:
                return self._given(peer, peer.giving, message)
            case Prepared(number, ready):
                self._sealing.prepared(node, number, now_ns, ready=ready)
                return self._go_on_sealing()
            case Sealed(seq):
                self._sealing.sealed(node, seq)
                return self._go_on_sealing()
            case Rooted(seq, root):
                return [*self._sealing.rooted(node, seq, root, now_ns), *self._go_on_sealing()]
            case Copied(number) if number >= FIRST_NUMBER:
                return self._copied_again(peer, number)
            case Copied(number):
                if peer.resync is None:
                    return []
                if peer.resync.copying(number):
                    self._recovery.budget.arrived(self._key(node))
                peer.resync.copied(number)
                return self._pump(peer)
            case Failed(reason):
                out: list[Effect] = []
                if peer.giving is not None:
                    peer.takes_none = True
                    out.append(NotGiven(node, peer.giving.past.moment.snapshot, reason))
                return out + self._drop(peer, reason, now_ns)

    def _drop(self, peer: Peer, reason: str, now_ns: int) -> list[Effect]:
        """Its link lives and it does not confirm: it may join again after a while."""
        lost = self._lose(peer, reason)
        if peer.up:
            peer.phase = "joining"
            # Others wait while it catches up: one that fails again and again must not stop them half of the time.
            peer.retry_at_ns = now_ns + min(FAILED_RETRY_NS << peer.drops, FAILED_RETRY_NS_MAX)
            peer.drops = min(peer.drops + 1, 10)
            peer.heard_ns = peer.retry_at_ns
        return lost

    def _many_wait(self) -> bool:
        """For their marks, or for a seal."""
        many = any(isinstance(op.message, WriteMany) for op in self.gate.waiting_ops())
        return many or any(isinstance(asked, RequestMany) for _, asked in self._sealing.held)

    def _joined(self, peer: Peer, message: Joined) -> list[Effect]:
        if peer.phase != "joining" or message.number != peer.join_number:
            return []
        out: list[Effect] = []
        peer.takes_many, peer.takes_packed = message.takes_many, message.takes_packed
        peer.takes_past = message.takes_past
        if not peer.takes_many and self._many_wait():
            self._refresh()
            return self._drop(peer, "it has to wait for writes that its version does not know", self._now_ns)
        peer.unclean = message.unclean
        if message.unclean and not self.share.unclean and peer.node in self._required:
            # S3: it may have lost what it confirmed; none of its answers counts before it left and caught up.
            out += self._report_failed(peer, "its host lost power before everything was flushed")
        peer.missed.update(BlockMap(message.share))
        peer.joins = 0
        past = self._lacks(peer)
        return out + (self._give(peer, past) if past is not None else self._bring_up_to_date(peer))

    def _bring_up_to_date(self, peer: Peer) -> list[Effect]:
        """From here on it receives every write."""
        peer.resync = Resync(peer.node, self.size_blocks, peer.missed, peer.missed_all)
        peer.missed, peer.missed_all = BlockMap(), False
        waiting = self.gate.waiting_ops()
        peer.catching_up = CatchingUp(self._now_ns, self._window.keys() - {op.seq for op in waiting})
        peer.phase = "syncing"
        out: list[Effect] = []
        self._healing.another_follows()
        self._refresh()
        for op in waiting:
            # Not in our own store yet, so a comparison can't find it missing; not sent on this link either.
            assert not isinstance(op.message, Copy)
            peer.unacked[op.seq] = ranges_of(op.message)
            out.append(Tell((peer.node,), op.message))
        out += self._pump(peer)
        if peer.failed or peer.node not in self._required:
            out.append(ReportFollows(peer.node))
        return out

    def compared(self, node: str, number: int, differing: Iterable[tuple[int, int]]) -> list[Effect]:
        """The shell compared a peer's digests with our store."""
        peer = self.peers.get(node)
        resync = peer.comparing(number) if peer is not None else None
        if peer is None or resync is None:
            return []
        resync.compared(number, differing)
        return self._pump_scrub(peer) if resync is peer.scrub else self._pump(peer)

    def _as_of(self) -> int:
        """Every write at or below is in our own store."""
        waiting = self.gate.first_waiting_seq()
        return self._next_seq - 1 if waiting is None else waiting - 1

    def _pump(self, peer: Peer) -> list[Effect]:
        resync = peer.resync
        assert resync is not None
        taking_over = not self.serving and not peer.failed and peer.node in self._required
        out = self._foretell(peer, resync) if not taking_over and resync.sampled() else []
        # Applications wait for a take-over; what it copies is what was under way, and waits for nobody.
        may_send = always if taking_over else self._may_send(peer, resync)
        out += resync.pump(self._as_of(), may_send, self._recovery.copy_blocks)
        if resync.done() and peer.giving is None and not taking_over:
            if not self.serving and peer.node not in self._required:
                return out  # what our own tail names may be undone until then: `_serve` goes on with it
            resync.force(self._not_noted(peer))
            out += resync.pump(self._as_of(), may_send, self._recovery.copy_blocks)
        if not resync.done():
            return out
        if peer.giving is None and peer.returns < RETURNS_MAX:
            if self._lacks(peer) is not None:
                return out + self._go_back(peer)
            if self._may_lack(peer):
                return out
        self._recovery.budget.gone(self._key(peer.node))
        self.compared_blocks += resync.blocks_compared
        self.copied_blocks += resync.blocks_sent
        peer.resync = None
        if peer.giving is not None:
            peer.giving.asked_ns = self._now_ns
            return [*out, Tell((peer.node,), Prepare(peer.join_number))]
        if taking_over:
            out.append(ResyncDone(peer.node, resync.blocks_compared, resync.blocks_sent))
            peer.catching_up = None
            peer.phase = "synced"
            return out + self._check_take_over()
        if peer.catching_up is not None:
            peer.catching_up.compared, peer.catching_up.sent = resync.blocks_compared, resync.blocks_sent
            peer.catching_up.pieces, peer.catching_up.copied_ns = resync.pieces_found, self._now_ns
        # S1 and S4: from here on every write and flush needs this peer; when the older ones are confirmed,
        # it syncs, and only then the brain is asked to admit it.
        peer.phase = "settling"
        peer.settle_seq = self._next_seq - 1
        self._refresh()
        return out + self._settle(peer)

    # ---- what it lacks of the past ---------------------------------------------------------------------

    def _missing(self, peer: Peer) -> list[Past]:
        """The snapshots that it is to be given, oldest first."""
        if not self._may_wait(peer):
            return []
        return [past for past in self._pasts if peer.node in past.nodes and past.moment.seal not in peer.passed]

    def _lacks(self, peer: Peer) -> Past | None:
        """The first that it will keep: a layer that its own record does not list goes as soon as it is sealed. *It said
        its root hash, so it was a holder, and dropped the layer.*"""
        return next((past for past in self._missing(peer) if past.moment.seal in peer.told), None)

    def _may_lack(self, peer: Peer) -> bool:
        """It has come to the present, and one is being taken without it, or is there and its record has not come to it:
        it comes into the set when it has got that."""
        return (self._sealing.wanted and self._may_wait(peer)) or bool(self._missing(peer))

    def _may_wait(self, peer: Peer) -> bool:
        """Nobody who counts is set back, and no application waits for the past: where writes are not answered until
        there is one copy more, that comes first."""
        counts = peer.node in self._required or self.writes_are is not _OPEN
        return peer.takes_past and not peer.takes_none and not counts

    def _give(self, peer: Peer, past: Past) -> list[Effect]:
        """Make it what the volume was, whatever it is now."""
        peer.phase, peer.giving, peer.missed_all = "giving", Giving(past), True
        peer.resync = Resync(peer.node, self.size_blocks, BlockMap(), everything=True, of=past.moment)
        self._refresh()
        return [*self._pump(peer), ReportFollows(peer.node)]

    def _given(self, peer: Peer, giving: Giving, message: Prepared | Sealed | Rooted) -> list[Effect]:
        """It has every block of that moment: it seals, and its root hash says whether that is true."""
        past = giving.past
        if giving.asked_ns is None:
            return []
        giving.asked_ns = self._now_ns
        match message:
            case Prepared(number, ready) if number == peer.join_number:
                if not ready:
                    return self._pass_over(peer, giving, "it can't make another layer")
                seal = Seal(past.moment.seal, self.commit, past.size_blocks, past.moment.snapshot)
                return [Tell((peer.node,), seal)]
            case Rooted(seq, root) if seq == past.moment.seal:
                peer.passed.add(seq)
                peer.giving = None
                out: list[Effect] = [ReportGiven(peer.node, past.moment)]
                if root != past.root:
                    out = [NotGiven(peer.node, past.moment.snapshot, "its root hash is another")]
                following = self._lacks(peer)
                return out + (self._give(peer, following) if following is not None else self._bring_up_to_date(peer))
        return []

    def _hurry(self) -> list[Effect]:
        """Whoever waits, or is set back, is needed now."""
        out: list[Effect] = []
        for peer in list(self.peers.values()) if self.writes_are is not _OPEN else ():
            if peer.giving is not None:
                out += self._join_again(peer, "writes wait for it")
            elif self._is_parked(peer):
                out += self._pump(peer)
        return out

    def _is_parked(self, peer: Peer) -> bool:
        """It has come to the present, and may lack a snapshot."""
        return peer.phase == "syncing" and peer.resync is not None and peer.resync.done()

    def past_unreadable(self, node: str, moment: Moment, now_ns: int) -> list[Effect]:
        """Our own copy can't give it."""
        self._now_ns = now_ns
        peer = self.peers.get(node)
        if peer is None or peer.giving is None or peer.giving.past.moment != moment:
            return []
        return self._pass_over(peer, peer.giving, "the snapshot can't be read here")

    def _pass_over(self, peer: Peer, giving: Giving, reason: str) -> list[Effect]:
        """It goes on without that snapshot."""
        moment = giving.past.moment
        peer.passed.add(moment.seal)
        return [NotGiven(peer.node, moment.snapshot, reason), *self._join_again(peer, reason)]

    def _go_back(self, peer: Peer) -> list[Effect]:
        """It has come to the present, or is about to, and is given a snapshot first."""
        peer.returns += 1
        return self._join_again(peer, "it is given a snapshot first")

    def _join_again(self, peer: Peer, reason: str) -> list[Effect]:
        """A new beginning: nothing that was said before it is on its way any more, either way."""
        lost = self._lose(peer, reason)
        return lost + (self._ask_to_join(peer, self._now_ns) if peer.up else [])

    def told(self, nodes: Iterable[str], now_ns: int) -> list[Effect]:
        """The brain: these members have stored a record with the snapshots that we know. Who has got nothing of the
        present yet goes back at once, the others when they have come to it."""
        self._now_ns = now_ns
        known, out = {past.moment.seal for past in self._pasts}, list[Effect]()
        for peer in [peer for node in nodes if (peer := self.peers.get(node)) is not None]:
            peer.told |= known
            begins = peer.phase == "syncing" and peer.resync is not None and not peer.resync.has_begun
            if self._is_parked(peer):
                out += self._pump(peer)
            elif begins and self._lacks(peer) is not None and peer.returns < RETURNS_MAX:
                out += self._go_back(peer)
        return out

    def _not_noted(self, peer: Peer) -> list[Range]:
        """Blocks of our unconfirmed writes that it may hold by comparison alone: they are copied, once, equal or not,
        and so named in its tail and marked there (D1, T2). *A, B in sync, B stores nothing; A zeroes a block, and C,
        new and empty, is equal there and is admitted. A dies, B leads with what it has: C differed from B, in a block
        that no tail named.*"""
        catching_up = peer.catching_up
        if catching_up is None or catching_up.noted:
            return []
        catching_up.noted = True
        unsure = BlockMap()
        for seq in catching_up.under_way & self._window.keys():
            unsure.update(BlockMap(self._window[seq].ranges))
        return list(unsure.ranges())

    # ---- what catching up costs ------------------------------------------------------------------------

    def _key(self, node: str) -> Key:
        return self._volume, node

    def _rank(self, resync: Resync) -> Rank:
        return len(self._required), resync.rest()

    def _may_send(self, peer: Peer, resync: Resync) -> Callable[[int], bool]:
        key = self._key(peer.node)

        def may_send(blocks: int) -> bool:
            may = self._recovery.may_send(key, self._rank(resync), blocks, self._now_ns)
            if not may and peer.catching_up is not None:
                peer.catching_up.held_back = True
            return may

        return may_send

    def go_on_with(self, node: str, now_ns: int) -> list[Effect]:
        """The budget has room again, and this peer was refused."""
        peer = self.peers.get(node)
        if peer is None or peer.resync is None:
            return []
        self._now_ns = now_ns
        return self._pump(peer)

    def _foretell(self, peer: Peer, resync: Resync) -> list[Effect]:
        """Once, before the first copy. Where all compared equal there is nothing to foretell."""
        catching_up = peer.catching_up
        if catching_up is None or catching_up.estimate is not None or resync.done():
            return []
        self._recovery.look(self._now_ns)
        catching_up.estimate = self._estimate(peer.node, resync)
        catching_up.began_ns, catching_up.compared_before = self._now_ns, resync.blocks_compared
        return [ResyncBegins(peer.node, catching_up.estimate)]

    def estimate(self, node: str) -> Estimate | None:
        """What is left for this peer, as of now; None before anything is known, and when nothing is left."""
        peer = self.peers.get(node)
        if peer is None or peer.resync is None or not peer.resync.sampled():
            return None
        return self._estimate(node, peer.resync)

    def _estimate(self, node: str, resync: Resync) -> Estimate:
        return self._recovery.estimate(self._key(node), self._rank(resync), resync.expected())

    def _compare_with_truth(self, peer: Peer) -> list[Effect]:
        catching_up, peer.catching_up = peer.catching_up, None
        if catching_up is None:
            return []
        took_ns = self._now_ns - catching_up.began_ns
        sent = bytes_of(catching_up.sent, catching_up.compared)
        if catching_up.estimate is not None:
            compared = catching_up.compared - catching_up.compared_before
            work = Work(catching_up.sent, catching_up.pieces, compared)
            foretold_ns = catching_up.estimate.duration_ns.likely
            copied_ns = catching_up.copied_ns
            took = Took(copied_ns - catching_up.began_ns, self._now_ns - copied_ns, catching_up.held_back)
            self._recovery.learn(peer.node, work, took, foretold_ns)
        return [ResyncDone(peer.node, catching_up.compared, catching_up.sent, sent, took_ns, catching_up.estimate)]

    def _settle(self, peer: Peer) -> list[Effect]:
        if peer.phase != "settling" or any(seq <= peer.settle_seq for seq in peer.unacked):
            return []
        peer.phase = "flushing"
        peer.flush_ticket = self._flushes.ticket()
        peer.flush_ns = self._now_ns
        peer.commit_sent = self.commit
        return [Tell((peer.node,), self._cleaning_flush(peer.flush_ticket))]

    def _cleaning_flush(self, ticket: int) -> Flush:
        return Flush(ticket, self.commit, cleans=True, settled=self._next_seq - 1)

    def _check_take_over(self) -> list[Effect]:
        if self.serving:
            return []
        members = [self.peers[node] for node in sorted(self._required) if node != self.me]
        if any(peer.phase not in ("synced", "waiting", "live") for peer in members):
            return []
        if self.share.unclean:
            return self._clean(members)
        return self._serve(members)

    def _clean(self, members: list[Peer]) -> list[Effect]:
        """All were unclean: the take-over ends with a sync everywhere (S3)."""
        if self._cleaning is None:
            self._cleaning = self._flushes.begin(0, 0, 0, self._now_ns)
            out: list[Effect] = [SyncStore(self._cleaning, cleans=True)]
            if members:
                nodes = tuple(peer.node for peer in members)
                out.append(Tell(nodes, self._cleaning_flush(self._cleaning)))
            return out
        # Who is waiting or live has ended with a cleaning sync of its own.
        needed = SELF_BIT | sum(peer.bit for peer in members if peer.phase == "synced")
        if not self._flushes.done_by(self._cleaning, needed):
            return []
        del self._flushes.waiting[self._cleaning]
        self._cleaning = None
        return self._serve(members)

    def _serve(self, members: list[Peer]) -> list[Effect]:
        self.serving = True
        self.share = Share((), self.share.last_seq, self.share.commit, False)
        self.commit = first_seq(self.epoch)
        self.gate.settle(self.commit)
        for peer in members:
            peer.phase = "live"
            peer.failed = False
            peer.unclean = False
            peer.commit_sent = self.commit
        self._refresh()
        out: list[Effect] = [CommitTail(self.commit)]
        if members:
            out.append(Tell(tuple(peer.node for peer in members), CommitPoint(self.commit)))
        out.append(StartedServing(self.compared_blocks, self.copied_blocks))
        for peer in self.peers.values():
            if peer.phase == "synced":  # it left the set while it was compared: it is admitted like any other
                peer.phase = "settling"
                peer.settle_seq = self._next_seq - 1
                out += self._settle(peer)
            elif peer.resync is not None:
                out += self._pump(peer)
        self._refresh()
        out += self._go_on_sealing()
        return out + self._check_settled() if self._moving else out

    # ---- the frontend ---------------------------------------------------------------------------------

    def open(self, link: int, node: str, session: int, attach_epoch: int) -> list[Effect]:
        """A frontend opens a session. Whatever an older one left is settled first (W2)."""
        refused = self._sessions.ask(link, node, session, attach_epoch, serving=self.serving)
        return refused or self._open_when_settled()

    def _open_when_settled(self) -> list[Effect]:
        if self._sessions.opening is None or self._window:
            return []
        self._withheld.clear()  # its frontend sends again what it waits for
        return self._sessions.open()

    def serves(self, link: int, session: int, attach_epoch: int) -> bool:
        """This is the session that was opened, on that link and under the attachment of the record (W1, W2)."""
        return self._sessions.is_open(link, session, attach_epoch)

    @property
    def newest_session(self) -> int:
        return self._sessions.session or 0

    @property
    def unanswered(self) -> int:
        """Requests of frontends under way here."""
        sealing = self._sealing.unanswered
        return len(self._window) + self._beside + len(self._flushes.waiting) + len(self._withheld) + sealing

    def attachment(self, node: str | None, attach_epoch: int) -> None:
        """The record names another attachment: older sessions end (invariant 5)."""
        if self._sessions.attach(node, attach_epoch):
            self._withheld.clear()

    def request(self, link: int, request: Request, now_ns: int) -> list[Effect]:
        """One request of the current session; the range is inside the volume."""
        self._now_ns = now_ns
        sessions = self._sessions
        if request.session != sessions.session or link != sessions.link:
            refused = OpenRefused(request.session, Refusal.NOT_READY, newest=sessions.session or 0)
            return self._turn_away(link, request.token, refused)
        io = request.io
        if io is _READ:
            self.reads += 1
            return [AnswerRead(link, request.session, request.request, request.block, request.count)]
        if io is _STATUS:
            return [AnswerStatus(link, request.session, request.request, request.block, request.count)]
        if self._moving:
            return [Release(request.token)] if request.token else []  # its frontend sends it again to the next primary
        if self.writes_are is _FAILED:
            return self._turn_away(link, request.token, Done(request.session, request.request, EIO))
        if io is _FLUSH:
            return self._flush(link, request.session, request.request)
        if self._sealing.holds:
            self._sealing.held.append((link, request))
            return []
        return self._write(link, request, now_ns)

    def request_many(self, link: int, many: RequestMany, now_ns: int) -> list[Effect]:
        """Small reads or small writes that came together, all inside the volume; writes only while `takes_many`."""
        self._now_ns = now_ns
        session, io, asks, token = many
        sessions = self._sessions
        if session != sessions.session or link != sessions.link:
            return self._turn_away(link, token, OpenRefused(session, Refusal.NOT_READY, newest=sessions.session or 0))
        if io is _READ:
            self.reads += len(asks)
            return [AnswerReadMany(link, session, asks)]
        if self._moving:
            return [Release(token)]
        if self.writes_are is _FAILED:
            return self._turn_away(link, token, *[Done(session, request, EIO) for request, _, _ in asks])
        if self._sealing.holds:
            self._sealing.held.append((link, many))
            return []
        self.writes += len(asks)
        self._beside += len(asks) - 1
        ranges = tuple([(block, count) for _, block, count in asks])
        seq = self._take_seq()
        self._window[seq] = Entry(seq, link, session, tuple([request for request, _, _ in asks]), False, now_ns, ranges)
        return self._put(WriteMany(seq, self.commit, ranges, token), ranges, now_ns)

    def _turn_away(self, link: int, token: int, *answers: Done | OpenRefused) -> list[Effect]:
        out: list[Effect] = [Release(token)] if token else []
        return out + [Answer(link, answer) for answer in answers]

    def _take_seq(self) -> int:
        seq = self._next_seq
        assert seq >> SEQ_BITS == self.epoch, "an epoch has room for 2**40 writes"
        self._next_seq = seq + 1
        return seq

    def _write(self, link: int, request: Request, now_ns: int) -> list[Effect]:
        self.writes += 1
        seq, block, count = self._take_seq(), request.block, request.count
        ranges = ((block, count),)
        self._window[seq] = Entry(seq, link, request.session, (request.request,), request.fua, now_ns, ranges)
        message: Write | Zero
        if request.io is _WRITE:
            message = Write(seq, self.commit, block, count, request.token)
        else:
            message = Zero(seq, self.commit, block, count)
        return self._put(message, ranges, now_ns)

    def _put(self, message: Write | WriteMany | Zero, ranges: tuple[Range, ...], now_ns: int) -> list[Effect]:
        """To everybody that receives writes, and into our own store as soon as its regions are marked."""
        seq, commit = message.seq, message.commit
        out: list[Effect] = []
        for peer in self._away:
            for block, count in ranges:
                peer.missed.add(block, count)
        if self._receivers:
            for peer in self._receiving:
                if not peer.unacked and not peer.owes():
                    # Patience begins when it is asked for something, not when it was last heard.
                    peer.heard_ns = max(peer.heard_ns, now_ns)
                peer.unacked[seq] = ranges
                peer.commit_sent = commit
                if peer.scrub is not None:
                    for block, count in ranges:
                        peer.scrub.written(block, count)
            out.append(Tell(self._receivers, message))
        if self._healing.under_way:
            for block, count in ranges:
                self._healing.written(block, count)
        op = op_of(message)
        passes, missing = self.gate.submit(op, now_ns)
        if passes:
            out += self._store(op)
        elif missing:
            out.append(MarkRegions(missing))
        return out

    def _store(self, op: Op) -> list[Effect]:
        message = op.message
        assert not isinstance(message, Copy), "a primary stores no copies"
        out: list[Effect] = []
        if isinstance(message, Write):
            out.append(StoreWrite(message.seq, message.block, message.count, message.token))
        elif isinstance(message, WriteMany):
            out.append(StoreWriteMany(message.seq, message.ranges, message.token))
        else:
            out.append(StoreZero(message.seq, message.block, message.count))
        entry = self._window[op.seq]
        entry.acked |= SELF_BIT
        if entry.acked & self._mask != self._mask:
            return out
        return out + self._check(entry) + self._advance()

    def marked(self, regions: tuple[int, ...], now_ns: int) -> list[Effect]:
        self._now_ns = now_ns
        return [effect for op in self.gate.on_marked(regions) for effect in self._store(op)]

    def _acked(self, peer: Peer, seqs: tuple[int, ...]) -> list[Effect]:
        out: list[Effect] = []
        window, unacked, bit = self._window, peer.unacked, peer.bit
        mask, clean = self._mask, not peer.unclean
        for seq in seqs:
            if unacked.pop(seq, None) is None:
                continue
            entry = window.get(seq)
            if entry is not None and clean:
                entry.acked |= bit
                if entry.acked & mask == mask and not entry.settled:
                    out += self._check(entry)
        if peer.phase == "settling":
            out += self._settle(peer)
        return out + self._advance()

    def _check(self, entry: Entry) -> list[Effect]:
        if entry.settled or entry.acked & self._mask != self._mask:
            return []
        entry.settled = True
        if self.writes_are is not _OPEN:
            held = [Withheld(entry.link, entry.session, request, entry.fua) for request in entry.requests]
            return [effect for answer in held for effect in self._withhold(answer)]
        if len(entry.requests) > 1:
            return [Answer(entry.link, DoneMany(entry.session, entry.requests))]
        request = entry.requests[0]
        if entry.fua:
            return self._flush(entry.link, entry.session, request)
        return [Answer(entry.link, Done(entry.session, request, 0))]

    def _withhold(self, answer: Withheld) -> list[Effect]:
        """Fewer copies are in sync than the policy asks for."""
        if self.writes_are is Writes.FAILED:
            return [answer.done(EIO)]
        self._withheld.append(answer)
        return []

    def _let_go(self) -> list[Effect]:
        """Enough copies are in sync, or the policy is another: who came in since holds what was withheld, synced."""
        if self.writes_are is Writes.HELD or not self._withheld:
            return []
        answers, self._withheld = self._withheld, []
        if self.writes_are is Writes.FAILED:
            return [answer.done(EIO) for answer in answers]
        out: list[Effect] = []
        for answer in answers:
            if answer.fua:
                out += self._flush(answer.link, answer.session, answer.request)
            else:
                out.append(answer.done())
        return out

    def _advance(self) -> list[Effect]:
        """Move the commit point over what is confirmed, oldest first."""
        window = self._window
        commit = 0
        while window:
            entry = window[next(iter(window))]
            if not entry.settled:
                break
            commit = entry.seq
            self._beside -= len(entry.requests) - 1
            del window[commit]
        if not commit:
            return []
        self.commit = commit
        out: list[Effect] = [CommitTail(commit)]
        if self._sessions.opening is not None:
            out += self._open_when_settled()
        if self._sealing.holds and not window:
            out += self._go_on_sealing()
        return out + self._check_settled() if self._moving else out

    # ---- moving to another node -----------------------------------------------------------------------

    def settle(self) -> list[Effect]:
        """Take nothing new, and report when every write under way is confirmed everywhere (P5). Flushes are not waited
        for: their frontend sends them again."""
        self._moving, self._settled = True, False
        let_go = self._sealing.let_go()
        return [*let_go, *self._go_on_sealing(), *self._check_settled()]

    def _check_settled(self) -> list[Effect]:
        if self._settled or not self.serving or self._window:
            return []
        self._settled = True
        # With the last commit point nobody has a tail any more, and the next take-over has nothing to compare.
        return [*self._tell_commit(), ReportSettled()]

    def _tell_commit(self) -> list[Effect]:
        behind = [peer for peer in self.peers.values() if peer.learns_commit() and peer.commit_sent < self.commit]
        for peer in behind:
            peer.commit_sent = self.commit
        return [Tell(tuple(peer.node for peer in behind), CommitPoint(self.commit))] if behind else []

    def go_on(self) -> list[Effect]:
        """We stay after all. What was dropped meanwhile is sent again in the frontend's next session."""
        self._moving = False
        return [*self._sessions.begin_again(), *self._go_on_sealing()]

    # ---- snapshots ------------------------------------------------------------------------------------

    @property
    def sealing_stage(self) -> Stage:
        return self._sealing.stage

    def seal(self, name: str, asked: int, nodes: Iterable[str], now_ns: int, *, in_step: bool = False) -> list[Effect]:
        """The brain: keep what the volume holds, on these nodes and here (K4)."""
        self._now_ns = now_ns
        self._sealing.ask(Order(name, asked, frozenset(nodes), in_step))
        return self._go_on_sealing()

    def hold_writes(self, asked: int, until_ns: int, now_ns: int) -> list[Effect]:
        """For the snapshot of a group that was asked of that version; what comes from here on is not in it."""
        self._now_ns = now_ns
        return [*self._sealing.hold_until(asked, until_ns, now_ns, moving=self._moving), *self._go_on_sealing()]

    def seal_held(self, asked: int, now_ns: int) -> list[Effect]:
        """All volumes of its group hold their writes."""
        self._now_ns = now_ns
        return [*self._sealing.seal_held(asked), *self._go_on_sealing()]

    def snapshots(self, pending: Iterable[tuple[str, int]], pasts: Iterable[Past], now_ns: int) -> list[Effect]:
        """By the committed record these are still wanted, and those are ready and held here."""
        self._now_ns = now_ns
        self._sealing.keep(frozenset(pending))
        self._pasts = tuple(pasts)
        listed, out = {past.moment for past in self._pasts}, list[Effect]()
        for peer in list(self.peers.values()):
            if peer.giving is not None and peer.giving.past.moment not in listed:
                out += self._join_again(peer, "the snapshot was dropped")
            elif self._is_parked(peer):
                out += self._pump(peer)
        return out + self._go_on_sealing()

    def seal_prepared(self, number: int, failure: str, now_ns: int) -> list[Effect]:
        """Our own store has its next layer, or can't have one."""
        self._now_ns = now_ns
        if failure and number == self._sealing.number:
            return [*self._sealing.fails(failure), *self._go_on_sealing()]
        self._sealing.prepared(self.me, number, now_ns, ready=True)
        return self._go_on_sealing()

    def sealed(self, seq: int, now_ns: int) -> list[Effect]:
        """Our own store is sealed, by us or by whoever led before; what waited at the gate is stored now."""
        self._now_ns = now_ns
        out = [effect for op in self.gate.open() for effect in self._store(op)]
        sealing = self._sealing
        if sealing.stage is Stage.SEALING and seq == sealing.seq and sealing.order is not None:
            out.append(HashSeal(seq, sealing.size_blocks, sealing.order.name))
        sealing.sealed(self.me, seq)
        return out + self._go_on_sealing()

    def hashed(self, seq: int, root: int | None, now_ns: int) -> list[Effect]:
        """`root`: None when our own checksums are not proved."""
        self._now_ns = now_ns
        return [*self._sealing.rooted(self.me, seq, root, now_ns), *self._go_on_sealing()]

    def _go_on_sealing(self) -> list[Effect]:
        """Whatever has become possible."""
        sealing, out, now_ns = self._sealing, list[Effect](), self._now_ns
        comes = any(peer.phase in ("settling", "flushing") for peer in self.peers.values())
        if sealing.stage is Stage.IDLE and sealing.next_order is not None and self.serving and not comes:
            out += sealing.begin(self._sealing_with(), self.size_blocks, now_ns)
        if sealing.stage is Stage.PREPARED and not self._moving:
            out += sealing.hold(now_ns)
        if sealing.may_seal and self._is_quiet():
            seq, self._next_seq = self._next_seq, self._next_seq + 1
            self.gate.close()
            out += sealing.seal(seq, self.commit, now_ns)
        if sealing.stage is Stage.HASHING:
            if sealing.held_since_ns is not None and sealing.order is not None:
                held_ns, sealing.held_since_ns = now_ns - sealing.held_since_ns, None
                out.append(WritesHeld(sealing.order.name, held_ns, sealing.unanswered))
                if sealing.order.in_step:
                    out.append(ReportStep(sealing.order.name, sealing.order.asked, "sealed"))
            out += self._sealing_done()
        if sealing.held and not sealing.holds:
            for link, asked in sealing.take_held():
                if isinstance(asked, RequestMany):
                    out += self.request_many(link, asked, now_ns)
                else:
                    out += self.request(link, asked, now_ns)
        return out

    def _sealing_with(self) -> set[str]:
        """Who holds everything, and confirms every new write: in sync, or about to be by the record on its way."""
        peers = self.peers.items()
        return {n for n, peer in peers if peer.phase == "waiting" or (peer.phase == "live" and n in self._required)}

    def _is_quiet(self) -> bool:
        """No write is on its way, to a copy or at our own gate: all of them hold the same."""
        return not self._window

    def _sealing_done(self) -> list[Effect]:
        """Two copies that differ though nothing was under way: ours is the volume, the other one has to be compared to
        its last block (K3)."""
        out: list[Effect] = []
        found = self._sealing.result()
        if found is None:
            return out
        report, others = found
        for node, reason in others.items():
            peer = self.peers[node]
            out += self._drop(peer, reason, self._now_ns)
            peer.missed_all = True
        return [*out, *report]

    # ---- flush ----------------------------------------------------------------------------------------

    def _flush(self, link: int, session: int, request: int) -> list[Effect]:
        ticket = self._flushes.begin(link, session, request, self._now_ns)
        out: list[Effect] = [SyncStore(ticket)]
        if self._receivers:
            out.append(Tell(self._receivers, Flush(ticket, self.commit)))
        return out

    def flush_of(self, ticket: int) -> tuple[int, int] | None:
        """Session and number of the client's flush that this sync is for, if it is for one."""
        flush = self._flushes.waiting.get(ticket)
        return None if flush is None else (flush.session, flush.request)

    def synced(self, ticket: int, now_ns: int) -> list[Effect]:
        """Our own store is synced."""
        self._now_ns = now_ns
        if ticket in self._background:
            regions = self.gate.unmark(self._background.pop(ticket), self.commit)
            return [UnmarkRegions(regions)] if regions else []
        return self._flushed(SELF_BIT, ticket)

    def _peer_flushed(self, peer: Peer, ticket: int) -> list[Effect]:
        if peer.phase == "flushing" and ticket == peer.flush_ticket:
            return self._caught_up(peer, ticket)
        if peer.unclean and ticket != self._cleaning:
            return []  # S3: it has not got back yet what it may have lost
        return self._flushed(peer.bit, ticket)

    def _caught_up(self, peer: Peer, ticket: int) -> list[Effect]:
        """It holds everything, synced: older writes and flushes count as confirmed by it."""
        peer.phase = "live" if peer.node in self._required and not peer.failed else "waiting"
        peer.unclean = False
        out: list[Effect] = []
        for entry in list(self._window.values()):
            if entry.seq not in peer.unacked:
                entry.acked |= peer.bit
                out += self._check(entry)
        for older in self._flushes.older_than(ticket):
            out += self._flushed(peer.bit, older)
        self._refresh()
        done = [*self._compare_with_truth(peer), ReportCaughtUp(peer.node), *self._advance()]
        return [*out, *done, *self._go_on_sealing()]

    def _flushed(self, bit: int, ticket: int) -> list[Effect]:
        if not self._flushes.synced(bit, ticket):
            return []
        return self._check_take_over() if ticket == self._cleaning else self._check_flush(ticket)

    def _check_flush(self, ticket: int) -> list[Effect]:
        if ticket == self._cleaning or not self._flushes.done_by(ticket, self._mask):
            return []
        flush = self._flushes.waiting.pop(ticket)
        answer = Withheld(flush.link, flush.session, flush.request)
        return [answer.done()] if self.writes_are is Writes.OPEN else self._withhold(answer)

    # ---- rot, here and there --------------------------------------------------------------------------

    def rotten(self, blocks: Iterable[int], waits: AnswerRead | SendCopy | None, now_ns: int) -> list[Effect]:
        """Blocks of our own store do not match their checksum, and this waits for them."""
        self._now_ns = now_ns
        return self._after_healing(self._healing.found(blocks, waits, now_ns))

    def healed(self, number: int, blocks: Iterable[int], now_ns: int) -> list[Effect]:
        self._now_ns = now_ns
        return self._after_healing(self._healing.healed(number, blocks, now_ns))

    def _sources(self, ranges: Sequence[Range]) -> list[Source]:
        """Who may hold these blocks of ours, the best first."""
        following = [peer for peer in self.peers.values() if peer.receives()]
        found = [Source(peer.node, self._is_settled(peer, ranges)) for peer in following]
        return sorted(found, key=lambda source: not source.settled)

    def _is_settled(self, peer: Peer, ranges: Sequence[Range]) -> bool:
        """It holds what is committed of these blocks, and nothing else: it is in sync, and no write of them is on its
        way to it or to our own store."""
        if not self.serving or peer.phase != "live" or peer.node not in self._required:
            return False
        under_way = BlockMap(self._under_way(peer))
        return not any(at in under_way for block, count in ranges for at in range(block, block + count))

    def _under_way(self, peer: Peer) -> list[Range]:
        waiting = [ranges_of(op.message) for op in self.gate.waiting_ops() if not isinstance(op.message, Copy)]
        return [where for ranges in (*peer.unacked.values(), *waiting) for where in ranges]

    def _after_healing(self, effects: list[Effect]) -> list[Effect]:
        """A copy that waited is sent as of now, if it is still wanted; one that nobody can give is given up."""
        out: list[Effect] = []
        for effect in effects:
            if not isinstance(effect, SendCopy):
                out.append(effect)
            elif self._is_wanted(effect):
                out.append(replace(effect, as_of=self._as_of()))
        failed, self._healing.failed = self._healing.failed, []
        for copy in failed:
            if self._is_wanted(copy):
                out += self._no_copy(self.peers[copy.peer], copy.number)
        return out

    def _is_wanted(self, copy: SendCopy) -> bool:
        peer = self.peers.get(copy.peer)
        resync = peer.comparing(copy.number) if peer is not None else None
        return resync is not None and resync.copying(copy.number) == copy.ranges

    def _no_copy(self, peer: Peer, number: int) -> list[Effect]:
        """Blocks that it lacks are rotten here, and nobody has them. One that is in sync keeps what it has; one that
        catches up begins again later."""
        if peer.scrub is not None and number >= FIRST_NUMBER:
            return [Damage(peer.node, "rotten", peer.scrub.gave_up(number), ""), *self._pump_scrub(peer)]
        return self._drop(peer, "blocks that it lacks are rotten here", self._now_ns)

    def _rotten_there(self, peer: Peer, ranges: tuple[Range, ...]) -> list[Effect]:
        """It can't read them; its checksums say nothing about that."""
        if peer.resync is not None:
            peer.resync.force(ranges)
            return self._pump(peer)
        if not self.serving or not peer.receives():
            return []
        self._scrub_of(peer).copy(ranges)
        return self._pump_scrub(peer)

    def compare(self, region: int, count: int, now_ns: int) -> list[Effect]:
        """The scrub has come to these regions: are they the same on every member that is in sync?"""
        self._now_ns = now_ns
        out: list[Effect] = []
        end = min((region + count) * REGION_BLOCKS, self.size_blocks)
        for peer in self.peers.values():
            if not self.serving or peer.phase != "live" or peer.node not in self._required:
                continue
            scrub = self._scrub_of(peer)
            span = FANOUT**scrub.level
            first = region * REGION_BLOCKS // span
            scrub.compare(scrub.level, (first, -(-end // span) - first), self._under_way(peer))
            out += self._pump_scrub(peer)
        return out

    def _scrub_of(self, peer: Peer) -> Scrub:
        if peer.scrub is None:
            peer.scrub = Scrub(peer.node, self.size_blocks)
        return peer.scrub

    def _pump_scrub(self, peer: Peer) -> list[Effect]:
        scrub = peer.scrub
        assert scrub is not None
        out = scrub.pump(self._as_of())
        if scrub.done():
            peer.scrub = None
        return out

    def _copied_again(self, peer: Peer, number: int) -> list[Effect]:
        if peer.scrub is None:
            return []
        rotten, differing = peer.scrub.copied_blocks(number)
        out: list[Effect] = []
        if rotten:
            out.append(Damage(peer.node, "rotten", rotten, self.me))
        if differing:
            out.append(Damage(peer.node, "differing", differing, self.me))
        return out + self._pump_scrub(peer)

    # ---- time and the end -----------------------------------------------------------------------------

    def next_deadline_ns(self) -> int | None:
        due: list[int] = []
        behind = False
        for peer in self.peers.values():
            if not peer.up:
                continue
            if peer.phase == "joining":
                due.append(peer.retry_at_ns)
            behind = behind or (peer.commit_sent < self.commit and peer.learns_commit())
            patience = self._patience_ns(peer)
            if patience is not None:
                due.append(patience)
            if peer.giving is not None and peer.giving.asked_ns is not None:
                due.append(peer.giving.asked_ns + GIVING_PATIENCE_NS)
        if behind and self.serving:
            due.append(self._commit_at_ns + COMMIT_IDLE_NS)
        quiet = self.gate.quiet_at_ns()
        if quiet is not None and self.serving and not self._background:
            due.append(quiet)
        due += [at for at in (self._healing.next_deadline_ns(), self._sealing.next_deadline_ns()) if at is not None]
        return min(due) if due else None

    def time_passed(self, now_ns: int) -> list[Effect]:
        self._now_ns = now_ns
        out: list[Effect] = []
        for peer in self.peers.values():
            patience = self._patience_ns(peer)
            if patience is not None and now_ns >= patience:
                out += self._drop(peer, "it gives no answer", now_ns)
            giving = peer.giving
            if giving is not None and giving.asked_ns is not None and now_ns >= giving.asked_ns + GIVING_PATIENCE_NS:
                out += self._pass_over(peer, giving, "it makes no layer of the snapshot")
        for peer in self.peers.values():
            if peer.up and peer.phase == "joining" and now_ns >= peer.retry_at_ns:
                out += self._ask_to_join(peer, now_ns)
        if now_ns >= self._commit_at_ns + COMMIT_IDLE_NS:
            self._commit_at_ns = now_ns
            if self.serving:
                out += self._tell_commit()
        quiet = self.gate.quiet_at_ns()
        if quiet is not None and now_ns >= quiet and self.serving and not self._background:
            self.gate.touch(now_ns)
            ticket = self._flushes.ticket()
            self._background[ticket] = self.gate.passed
            out.append(SyncStore(ticket))
        out += self._sealing.time_passed(now_ns)
        for node in self._sealing.late(now_ns):
            self._sealing.lost(node)
        return [*out, *self._after_healing(self._healing.time_passed(now_ns)), *self._go_on_sealing()]

    def _patience_ns(self, peer: Peer) -> int | None:
        """When we stop waiting for a member, or for one that is about to become one; None: it owes nothing."""
        if not peer.up or not (peer.node in self._required or peer.confirms()):
            return None
        since = [peer.heard_ns] if peer.owes() else []
        owed = next((entry for entry in self._window.values() if not entry.acked & peer.bit), None)
        if owed is not None and peer.receives():
            since.append(owed.since_ns)  # it may answer other writes all the time
        if peer.phase == "flushing":
            since.append(peer.flush_ns)
        if peer.phase in ("synced", "waiting", "live"):
            flushed_ns = self._flushes.owed_since(peer.bit)
            if flushed_ns is not None:
                since.append(flushed_ns)
        sealing_ns = self._sealing.owed_since_ns(peer.node)
        if sealing_ns is not None:
            since.append(sealing_ns)
        return min(since) + PATIENCE_NS if since else None

    def excuse(self, now_ns: int) -> None:
        """We were paused ourselves: everybody's time to answer begins now."""
        for peer in self.peers.values():
            peer.heard_ns = peer.flush_ns = now_ns
            if peer.giving is not None and peer.giving.asked_ns is not None:
                peer.giving.asked_ns = now_ns
        for entry in self._window.values():
            entry.since_ns = now_ns
        self._flushes.excuse(now_ns)
        self._healing.excuse(now_ns)
        self._sealing.excuse(now_ns)

    def stop(self, successor: str = "") -> list[Effect]:
        """Another epoch: what waits is dropped, the frontend is sent on."""
        dropped = self.gate.drop_waiting()
        out: list[Effect] = [Release(op.message.token) for op in dropped if isinstance(op.message, Write | WriteMany)]
        out += [Release(request.token) for _, request in self._sealing.stop() if request.token]
        out += self._sessions.send_on(successor)
        self._withheld.clear()
        self._healing.stop()
        for node in self.peers:
            self._recovery.budget.gone(self._key(node))
        self.serving = False
        return out
