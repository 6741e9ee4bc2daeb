"""The primary of one epoch: takes over, orders writes, confirms them, brings peers up to date.

    request --> seq, region marked --> own store + every receiving peer, at the same time --> all of the
    required set confirmed --> answer. Everything at or below `commit` is confirmed everywhere.

It serves only when every member of the required set has been compared with it (T2) or has left by a committed
record. It never decides membership: it reports to the brain and is told who the members are, whom to require (S1)
and whether enough of them are in sync for writes to be answered.

Here is what a request, a peer's phase and a take-over need of each other. What has an order of its own is composed:

    peer        one peer's phases, and when it is asked to join again
    resync      what it may lack, compared and copied           costs      what that costs, foretold and paced
    giving      the snapshots that it lacks                     sealing    a snapshot of all copies
    mending     blocks that rot, or differ, on copies in sync   sessions   the frontend's
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from errno import EIO

from services.replica.replication.blockmap import BlockMap, Range
from services.replica.replication.costs import Costs
from services.replica.replication.effects import (
    Answer,
    AnswerRead,
    AnswerReadMany,
    AnswerStatus,
    CommitTail,
    Compare,
    Effect,
    HashSeal,
    MarkRegions,
    Release,
    ReportCaughtUp,
    ReportFailed,
    ReportFollows,
    ReportSettled,
    ResyncDone,
    SendCopy,
    StartedServing,
    StoreWrite,
    StoreWriteMany,
    StoreZero,
    SyncStore,
    Tell,
    UnmarkRegions,
)
from services.replica.replication.estimate import Estimate
from services.replica.replication.flushes import Flushes
from services.replica.replication.gate import Gate, Op, op_of, ranges_of
from services.replica.replication.giving import Giver
from services.replica.replication.mending import Mending
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
    Prepared,
    Refusal,
    Request,
    RequestMany,
    Rooted,
    Rotten,
    Sealed,
    ToPrimary,
    Write,
    WriteMany,
    Zero,
    first_seq,
)
from services.replica.replication.past import RETURNS_MAX, Moment, Past
from services.replica.replication.peer import CatchingUp, Peer
from services.replica.replication.recovery import Recovery, RecoveryLimits
from services.replica.replication.replica import Share
from services.replica.replication.resync import Resync, always
from services.replica.replication.scrub import FIRST_NUMBER
from services.replica.replication.sealing import Order, Sealing, Stage
from services.replica.replication.sessions import Sessions
from services.replica.replication.withheld import Withheld, Writes
from stoscore.units import MS

SELF_BIT = 1
_READ, _STATUS, _FLUSH, _WRITE = Io.READ, Io.STATUS, Io.FLUSH, Io.WRITE
_OPEN, _FAILED = Writes.OPEN, Writes.FAILED
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
        self._costs = Costs(volume, recovery if recovery is not None else Recovery(RecoveryLimits()))
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
        self._mending = Mending(self)
        self._healing = self._mending.healing
        self._sealing = Sealing(me)
        self._giver = Giver(self)
        self._moving = False
        self._settled = False
        self.writes = 0
        self.reads = 0
        self.compared_blocks = 0
        self.copied_blocks = 0
        self.refresh()

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
            self._costs.gone(node)
            self._sealing.lost(node)
            del self.peers[node]
        out: list[Effect] = []
        for node in new:
            self._add_peer(node, in_sync=False)
            if node in reachable:
                out += self.peer_up(node, now_ns)
        self.refresh()
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
        peer.come_up(now_ns)
        return self._ask_to_join(peer, now_ns)

    def _ask_to_join(self, peer: Peer, now_ns: int) -> list[Effect]:
        number = peer.ask_to_join(now_ns)
        self.refresh()
        return [Tell((peer.node,), Join(number))]

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
        self._costs.gone(peer.node)
        self.refresh()
        out = self._mending.lost(peer.node, self._now_ns)
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
        self.refresh()
        return [*self._let_go(), *self._recheck(), *self._giver.hurry()]

    def _recheck(self) -> list[Effect]:
        """Who is needed has changed: what waited for somebody who is needed no more can be answered."""
        out = self._check_take_over()
        for entry in list(self._window.values()):
            out += self._check(entry)
        for ticket in list(self._flushes.waiting):
            out += self._check_flush(ticket)
        return [*out, *self._advance(), *self._go_on_sealing()]

    def refresh(self) -> None:
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
                return self._mending.fetched(node, message, now_ns)
            case Rotten(ranges):
                return self._mending.rotten_there(peer, ranges)
            case Prepared() | Sealed() | Rooted() if peer.giving is not None:
                return self._giver.given(peer, peer.giving, message, now_ns)
            case Prepared(number, ready):
                self._sealing.prepared(node, number, now_ns, ready=ready)
                return self._go_on_sealing()
            case Sealed(seq):
                self._sealing.sealed(node, seq)
                return self._go_on_sealing()
            case Rooted(seq, root):
                return [*self._sealing.rooted(node, seq, root, now_ns), *self._go_on_sealing()]
            case Copied(number) if number >= FIRST_NUMBER:
                return self._mending.copied_again(peer, number)
            case Copied(number):
                if peer.resync is None:
                    return []
                if peer.resync.copying(number):
                    self._costs.arrived(node, now_ns)
                peer.resync.copied(number)
                return self.pump(peer)
            case Failed(reason):
                return [*self._giver.failed(peer, reason), *self.drop(peer, reason, now_ns)]

    def drop(self, peer: Peer, reason: str, now_ns: int) -> list[Effect]:
        """Its link lives and it does not confirm: it may join again after a while."""
        lost = self._lose(peer, reason)
        if peer.up:
            peer.hold_off(now_ns)
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
            self.refresh()
            return self.drop(peer, "it has to wait for writes that its version does not know", self._now_ns)
        peer.unclean = message.unclean
        if message.unclean and not self.share.unclean and peer.node in self._required:
            # S3: it may have lost what it confirmed; none of its answers counts before it left and caught up.
            out += self._report_failed(peer, "its host lost power before everything was flushed")
        peer.missed.update(BlockMap(message.share))
        peer.joins = 0
        return out + self._giver.begin(peer)

    def bring_up_to_date(self, peer: Peer) -> list[Effect]:
        """From here on it receives every write."""
        peer.resync = Resync(peer.node, self.size_blocks, peer.missed, peer.missed_all)
        peer.missed, peer.missed_all = BlockMap(), False
        waiting = self.gate.waiting_ops()
        peer.catching_up = CatchingUp(self._now_ns, self._window.keys() - {op.seq for op in waiting})
        peer.phase = "syncing"
        out: list[Effect] = []
        self._healing.another_follows()
        self.refresh()
        for op in waiting:
            # Not in our own store yet, so a comparison can't find it missing; not sent on this link either.
            assert not isinstance(op.message, Copy)
            peer.unacked[op.seq] = ranges_of(op.message)
            out.append(Tell((peer.node,), op.message))
        out += self.pump(peer)
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
        return self._mending.pump(peer) if resync is peer.scrub else self.pump(peer)

    def as_of(self) -> int:
        """Every write at or below is in our own store."""
        waiting = self.gate.first_waiting_seq()
        return self._next_seq - 1 if waiting is None else waiting - 1

    def pump(self, peer: Peer) -> list[Effect]:
        resync = peer.resync
        assert resync is not None
        taking_over = not self.serving and not peer.failed and peer.node in self._required
        costs, in_sync = self._costs, len(self._required)
        out: list[Effect] = []
        if not taking_over and resync.sampled():
            out += costs.foretell(peer, resync, in_sync, self._now_ns)
        # Applications wait for a take-over; what it copies is what was under way, and waits for nobody.
        may_send = always if taking_over else costs.may_send(peer, resync, in_sync, self._now_ns)
        out += resync.pump(self.as_of(), may_send, costs.copy_blocks)
        if resync.done() and peer.giving is None and not taking_over:
            if not self.serving and peer.node not in self._required:
                return out  # what our own tail names may be undone until then: `_serve` goes on with it
            resync.force(self._not_noted(peer))
            out += resync.pump(self.as_of(), may_send, costs.copy_blocks)
        if not resync.done():
            return out
        if peer.giving is None and peer.returns < RETURNS_MAX:
            if self._giver.lacks(peer) is not None:
                return out + self._giver.go_back(peer)
            if self._giver.may_lack(peer):
                return out
        self._costs.gone(peer.node)
        self.compared_blocks += resync.blocks_compared
        self.copied_blocks += resync.blocks_sent
        peer.resync = None
        if peer.giving is not None:
            return out + self._giver.prepare(peer, peer.giving, self._now_ns)
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
        self.refresh()
        return out + self._settle(peer)

    # ---- what it lacks of the past ---------------------------------------------------------------------

    @property
    def snapshot_wanted(self) -> bool:
        return self._sealing.wanted

    @property
    def copies_wanted(self) -> bool:
        return self.writes_are is not _OPEN

    def is_required(self, peer: Peer) -> bool:
        return peer.node in self._required

    def past_unreadable(self, node: str, moment: Moment, now_ns: int) -> list[Effect]:
        """Our own copy can't give it."""
        self._now_ns = now_ns
        return self._giver.unreadable(node, moment)

    def join_again(self, peer: Peer, reason: str) -> list[Effect]:
        lost = self._lose(peer, reason)
        return lost + (self._ask_to_join(peer, self._now_ns) if peer.up else [])

    def told(self, nodes: Iterable[str], now_ns: int) -> list[Effect]:
        """The brain: these members have stored a record with the snapshots that we know."""
        self._now_ns = now_ns
        return self._giver.told(nodes)

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

    def go_on_with(self, node: str, now_ns: int) -> list[Effect]:
        """The budget has room again, and this peer was refused."""
        peer = self.peers.get(node)
        if peer is None or peer.resync is None:
            return []
        self._now_ns = now_ns
        return self.pump(peer)

    def estimate(self, node: str) -> Estimate | None:
        """What is left for this peer, as of now; None before anything is known, and when nothing is left."""
        peer = self.peers.get(node)
        if peer is None or peer.resync is None or not peer.resync.sampled():
            return None
        return self._costs.estimate(node, peer.resync, len(self._required))

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
        self.refresh()
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
                out += self.pump(peer)
        self.refresh()
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
        requests, blocks, counts = zip(*asks, strict=True)
        ranges = tuple(zip(blocks, counts, strict=True))
        seq = self._take_seq()
        self._window[seq] = Entry(seq, link, session, requests, False, now_ns, ranges)
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
        return [*self._giver.keep(pasts), *self._go_on_sealing()]

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
        if sealing.stage is Stage.IDLE and sealing.next_order is not None and self.serving and not self._one_comes():
            out += sealing.begin(self._sealing_with(), self.size_blocks, now_ns)
        if sealing.stage is Stage.PREPARED and not self._moving:
            out += sealing.hold(now_ns)
        if sealing.may_seal and self._is_quiet():
            seq, self._next_seq = self._next_seq, self._next_seq + 1
            self.gate.close()
            out += sealing.seal(seq, self.commit, now_ns)
        if sealing.stage is Stage.HASHING:
            out += [*sealing.tell_held(now_ns), *self._sealing_done()]
        if sealing.held and not sealing.holds:
            for link, asked in sealing.take_held():
                if isinstance(asked, RequestMany):
                    out += self.request_many(link, asked, now_ns)
                else:
                    out += self.request(link, asked, now_ns)
        return out

    def _one_comes(self) -> bool:
        """A copy is about to hold everything: waited for, it keeps the moment as well."""
        return any(peer.phase in ("settling", "flushing") for peer in self.peers.values())

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
            out += self.drop(peer, reason, self._now_ns)
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
        self.refresh()
        done = [*self._costs.compare_with_truth(peer, self._now_ns), ReportCaughtUp(peer.node), *self._advance()]
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
        return self._mending.rotten(blocks, waits, now_ns)

    def healed(self, number: int, blocks: Iterable[int], now_ns: int) -> list[Effect]:
        self._now_ns = now_ns
        return self._mending.healed(number, blocks, now_ns)

    def compare(self, region: int, count: int, now_ns: int) -> list[Effect]:
        """The scrub has come to these regions."""
        self._now_ns = now_ns
        return self._mending.compare(region, count)

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
            if peer.giving is not None and peer.giving.deadline_ns is not None:
                due.append(peer.giving.deadline_ns)
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
                out += self.drop(peer, "it gives no answer", now_ns)
            if peer.giving is not None:
                out += self._giver.time_passed(peer, peer.giving, now_ns)
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
        return [*out, *self._mending.time_passed(now_ns), *self._go_on_sealing()]

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
            if peer.giving is not None:
                peer.giving.excuse(now_ns)
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
            self._costs.gone(node)
        self.serving = False
        return out
