"""The primary of one epoch: takes over, orders writes, confirms them, brings peers up to date.

    request --> seq, region marked --> own store + every receiving peer, at the same time --> all of the
    required set confirmed --> answer. Everything at or below `commit` is confirmed everywhere.

It serves only when every member of the required set has been compared with it (T2) or has left by a committed
record. It never decides membership: it reports to the brain and is told who the members are, whom to require (S1)
and whether enough of them are in sync for writes to be answered.

Here are the take-over, what becomes of a request, and what the parts need of each other when a peer, the brain or the
clock says something. What has an order of its own is composed:

    peers       who gets a write and who confirms it       peer       one peer's phases
    window      writes under way, and the commit point     sessions   the frontend's
    flushes     syncs under way                            withheld   answers that the policy holds back
    catch_up    from `Join` until a peer is in sync        resync     what it may lack, compared and copied
    giving      the snapshots that it lacks                costs      what that costs, foretold and paced
    mending     blocks that rot, or differ                 sealing    a snapshot of all copies
    patience    with members that give no answer
"""

from __future__ import annotations

from collections.abc import Iterable
from errno import EIO

from services.replica.replication.blockmap import Range
from services.replica.replication.catch_up import CatchUp
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
    Release,
    ReportCaughtUp,
    ReportSettled,
    SendCopy,
    StartedServing,
    SyncStore,
    Tell,
)
from services.replica.replication.flushes import Flushes
from services.replica.replication.gate import Gate
from services.replica.replication.mending import Mending
from services.replica.replication.messages import (
    Ack,
    CommitPoint,
    Copied,
    Digests,
    Done,
    Failed,
    Fetched,
    Flushed,
    Io,
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
    first_seq,
)
from services.replica.replication.past import Moment, Past
from services.replica.replication.patience import Patience
from services.replica.replication.peer import Peer
from services.replica.replication.peers import SELF_BIT, Peers
from services.replica.replication.recovery import Recovery, RecoveryLimits
from services.replica.replication.replica import Share
from services.replica.replication.scrub import FIRST_NUMBER
from services.replica.replication.sealing import Order, Sealing, Stage
from services.replica.replication.sessions import Sessions
from services.replica.replication.window import Window
from services.replica.replication.withheld import Answers, Writes
from stoscore.units import MS

_READ, _STATUS, _FLUSH = Io.READ, Io.STATUS, Io.FLUSH
_FAILED = Writes.FAILED
COMMIT_IDLE_NS = 50 * MS


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
        self.epoch = epoch
        self.size_blocks = size_blocks
        self.gate = gate
        self.share = share
        self.serving = False
        self.now_ns = 0
        self.moving = False
        self._settled = False
        self._commit_at_ns = 0
        self.writes = 0
        self.reads = 0
        self._costs = Costs(volume, recovery if recovery is not None else Recovery(RecoveryLimits()))
        self.peers = Peers(peers, in_sync, share.ranges)
        self.answers = Answers(writes)
        self.flushes = Flushes(self.peers, gate, self.answers, self.check_take_over)
        self.sessions = Sessions(attached_node, attach_epoch)
        self.sealing = Sealing(me)
        self._mending = Mending(self)
        self.healing = self._mending.healing
        self.window = Window(self, epoch, share.commit)
        self.catch_up = CatchUp(self, self._costs)
        self._giver = self.catch_up.giver
        self._patience = Patience(self.peers, self.window, self.flushes, self.sealing)

    # ---- peers come and go --------------------------------------------------------------------------

    def members(self, nodes: Iterable[str], up: Iterable[str], now_ns: int) -> list[Effect]:
        """The record names these other data copies now: new ones are asked to follow, the rest is let go."""
        wanted, reachable = frozenset(nodes), frozenset(up)
        gone = [node for node in self.peers if node not in wanted]
        new = sorted(wanted - set(self.peers))
        for node in gone:
            self._costs.gone(node)
            self.sealing.lost(node)
            del self.peers[node]
        out: list[Effect] = []
        for node in new:
            self.peers.add(node, self.share.ranges, in_sync=False)
            if node in reachable:
                out += self.peer_up(node, now_ns)
        self.peers.refresh()
        return out + self._recheck() if gone else out

    def start(self, up: Iterable[str], now_ns: int) -> list[Effect]:
        """Ask every reachable peer to follow; report the in-sync ones that are not."""
        self.now_ns = now_ns
        out: list[Effect] = []
        reachable = set(up)
        for node, peer in self.peers.items():
            if node in reachable:
                out += self.peer_up(node, now_ns)
            elif node in self.peers.required:
                out += peer.report_failed("its link is down")
        return out + self.check_take_over()

    def peer_up(self, node: str, now_ns: int) -> list[Effect]:
        peer = self.peers.get(node)
        if peer is None or peer.up:
            return []
        peer.come_up(now_ns)
        return self.catch_up.ask_to_join(peer, now_ns)

    def peer_down(self, node: str, reason: str) -> list[Effect]:
        """The link ended, or the peer is silent."""
        peer = self.peers.get(node)
        if peer is None or not peer.up:
            return []
        peer.up = False
        return self._lose(peer, reason)

    def _lose(self, peer: Peer, reason: str) -> list[Effect]:
        # Waiting: the brain has been told that it caught up and may be about to admit it.
        required = self.peers.is_required(peer) or peer.phase == "waiting"
        peer.lose()
        if required:
            self.flushes.clean_again()
        self.sealing.lost(peer.node)
        self._costs.gone(peer.node)
        self.peers.refresh()
        out = self._mending.lost(peer.node, self.now_ns)
        if required:
            # Said again though it was said before: the brain forgets a failure of a member that came back meanwhile.
            peer.failed = False
            out += peer.report_failed(reason)
        return out + self._recheck()

    def drop(self, peer: Peer, reason: str, now_ns: int) -> list[Effect]:
        """Its link lives and it does not confirm: it may join again after a while."""
        lost = self._lose(peer, reason)
        if peer.up:
            peer.hold_off(now_ns)
        return lost

    def join_again(self, peer: Peer, reason: str) -> list[Effect]:
        lost = self._lose(peer, reason)
        return lost + (self.catch_up.ask_to_join(peer, self.now_ns) if peer.up else [])

    def require(self, nodes: Iterable[str], writes: Writes = Writes.OPEN) -> list[Effect]:
        """The brain: a write needs all of these from now on (S1), and this is what becomes of its answer."""
        self.peers.require(nodes)
        self.answers.writes_are = writes
        return [*self.window.let_go(), *self._recheck(), *self._giver.hurry()]

    def _recheck(self) -> list[Effect]:
        """Who is needed has changed: what waited for somebody who is needed no more can be answered."""
        out = [*self.check_take_over(), *self.window.recheck(), *self.flushes.recheck()]
        return [*out, *self.window.advance(), *self.go_on_sealing()]

    # ---- what peers say -----------------------------------------------------------------------------

    def receive(self, node: str, message: ToPrimary, now_ns: int) -> list[Effect]:
        """From a peer's replica, in this epoch, on our link to it."""
        peer = self.peers.get(node)
        if peer is None:
            return []
        self.now_ns = peer.heard_ns = now_ns
        match message:
            case Ack(seqs):
                out = self.window.acked(peer, seqs)
                if peer.phase == "settling":
                    out += self.catch_up.flush_settled(peer)
                return out + self.window.advance()
            case Flushed(ticket) if peer.phase == "flushing" and ticket == peer.flush_ticket:
                return self.catch_up.caught_up(peer)
            case Flushed(ticket):
                return self.flushes.synced_by(peer, ticket)
            case Joined():
                return self.catch_up.joined(peer, message)
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
                self.sealing.prepared(node, number, now_ns, ready=ready)
                return self.go_on_sealing()
            case Sealed(seq):
                self.sealing.sealed(node, seq)
                return self.go_on_sealing()
            case Rooted(seq, root):
                return [*self.sealing.rooted(node, seq, root, now_ns), *self.go_on_sealing()]
            case Copied(number) if number >= FIRST_NUMBER:
                return self._mending.copied_again(peer, number)
            case Copied():
                return self.catch_up.copied(peer, message)
            case Failed(reason):
                return [*self._giver.failed(peer, reason), *self.drop(peer, reason, now_ns)]

    def compared(self, node: str, number: int, differing: Iterable[tuple[int, int]]) -> list[Effect]:
        """The shell compared a peer's digests with our store."""
        peer = self.peers.get(node)
        resync = peer.comparing(number) if peer is not None else None
        if peer is None or resync is None:
            return []
        resync.compared(number, differing)
        return self._mending.pump(peer) if resync is peer.scrub else self.catch_up.pump(peer)

    def past_unreadable(self, node: str, moment: Moment, now_ns: int) -> list[Effect]:
        """Our own copy can't give it."""
        self.now_ns = now_ns
        return self._giver.unreadable(node, moment)

    def told(self, nodes: Iterable[str], now_ns: int) -> list[Effect]:
        """The brain: these members have stored a record with the snapshots that we know."""
        self.now_ns = now_ns
        return self._giver.told(nodes)

    def go_on_with(self, node: str, now_ns: int) -> list[Effect]:
        """The budget has room again, and this peer was refused."""
        peer = self.peers.get(node)
        if peer is None or peer.resync is None:
            return []
        self.now_ns = now_ns
        return self.catch_up.pump(peer)

    # ---- take-over ----------------------------------------------------------------------------------

    def check_take_over(self) -> list[Effect]:
        if self.serving:
            return []
        members = [self.peers[node] for node in sorted(self.peers.required) if node != self.me]
        if any(peer.phase not in ("synced", "waiting", "live") for peer in members):
            return []
        if self.share.unclean:
            return self._clean(members)
        return self._serve(members)

    def _clean(self, members: list[Peer]) -> list[Effect]:
        """All were unclean: the take-over ends with a sync everywhere (S3)."""
        if not self.flushes.is_cleaning:
            ticket = self.flushes.begin_cleaning(self.now_ns)
            out: list[Effect] = [SyncStore(ticket, cleans=True)]
            if members:
                out.append(Tell(tuple(peer.node for peer in members), self.window.cleaning_flush(ticket)))
            return out
        # Who is waiting or live has ended with a cleaning sync of its own.
        needed = SELF_BIT | sum(peer.bit for peer in members if peer.phase == "synced")
        return self._serve(members) if self.flushes.end_cleaning(needed) else []

    def _serve(self, members: list[Peer]) -> list[Effect]:
        self.serving = True
        self.share = Share((), self.share.last_seq, self.share.commit, False)
        self.window.commit = commit = first_seq(self.epoch)
        self.gate.settle(commit)
        # Compared like the others though it had failed: it may have been let go for that, or be about to.
        back = [peer.node for peer in members if peer.failed and peer.phase == "synced"]
        for peer in members:
            peer.phase = "live"
            peer.failed = False
            peer.unclean = False
            peer.commit_sent = commit
        self.peers.refresh()
        out: list[Effect] = [CommitTail(commit), *map(ReportCaughtUp, back)]
        if members:
            out.append(Tell(tuple(peer.node for peer in members), CommitPoint(commit)))
        out.append(StartedServing(self.catch_up.compared_blocks, self.catch_up.copied_blocks))
        for peer in self.peers.values():
            if peer.phase == "synced":  # it left the set while it was compared: it is admitted like any other
                out += self.catch_up.settle(peer)
            elif peer.resync is not None:
                out += self.catch_up.pump(peer)
        self.peers.refresh()
        out += self.go_on_sealing()
        return out + self._check_settled() if self.moving else out

    # ---- the frontend -------------------------------------------------------------------------------

    def open(self, link: int, node: str, session: int, attach_epoch: int) -> list[Effect]:
        """A frontend opens a session. Whatever an older one left is settled first (W2)."""
        refused = self.sessions.ask(link, node, session, attach_epoch, serving=self.serving)
        return refused or self._open_when_settled()

    def _open_when_settled(self) -> list[Effect]:
        if self.sessions.opening is None or self.window.entries:
            return []
        self.answers.drop()  # its frontend sends again what it waits for
        return self.sessions.open()

    def drained(self) -> list[Effect]:
        """Nothing is under way any more, and a session, a seal or a move has waited for that."""
        out = self._open_when_settled()
        if self.sealing.holds:
            out += self.go_on_sealing()
        return out + self._check_settled() if self.moving else out

    def serves(self, link: int, session: int, attach_epoch: int) -> bool:
        """This is the session that was opened, on that link and under the attachment of the record (W1, W2)."""
        return self.sessions.is_open(link, session, attach_epoch)

    @property
    def newest_session(self) -> int:
        return self.sessions.session or 0

    @property
    def unanswered(self) -> int:
        """Requests of frontends under way here."""
        held_back = len(self.answers.withheld) + self.sealing.unanswered
        return self.window.unanswered + len(self.flushes.waiting) + held_back

    def attachment(self, node: str | None, attach_epoch: int) -> None:
        """The record names another attachment: older sessions end (invariant 5)."""
        if self.sessions.attach(node, attach_epoch):
            self.answers.drop()

    def request(self, link: int, request: Request, now_ns: int) -> list[Effect]:
        """One request of the current session; the range is inside the volume."""
        self.now_ns = now_ns
        sessions = self.sessions
        if request.session != sessions.session or link != sessions.link:
            refused = OpenRefused(request.session, Refusal.NOT_READY, newest=sessions.session or 0)
            return self._turn_away(link, request.token, refused)
        io = request.io
        if io is _READ:
            self.reads += 1
            return [AnswerRead(link, request.session, request.request, request.block, request.count)]
        if io is _STATUS:
            return [AnswerStatus(link, request.session, request.request, request.block, request.count)]
        if self.moving:
            return [Release(request.token)] if request.token else []  # its frontend sends it again to the next primary
        if self.answers.writes_are is _FAILED:
            return self._turn_away(link, request.token, Done(request.session, request.request, EIO))
        if io is _FLUSH:
            return self.flushes.begin(link, request.session, request.request, self.window.commit, now_ns)
        if self.sealing.holds:
            self.sealing.held.append((link, request))
            return []
        self.writes += 1
        return self.window.write(link, request, now_ns)

    def request_many(self, link: int, many: RequestMany, now_ns: int) -> list[Effect]:
        """Small reads or small writes that came together, all inside the volume; writes only while `takes_many`."""
        self.now_ns = now_ns
        session, io, asks, token = many
        sessions = self.sessions
        if session != sessions.session or link != sessions.link:
            return self._turn_away(link, token, OpenRefused(session, Refusal.NOT_READY, newest=sessions.session or 0))
        if io is _READ:
            self.reads += len(asks)
            return [AnswerReadMany(link, session, asks)]
        if self.moving:
            return [Release(token)]
        if self.answers.writes_are is _FAILED:
            return self._turn_away(link, token, *[Done(session, request, EIO) for request, _, _ in asks])
        if self.sealing.holds:
            self.sealing.held.append((link, many))
            return []
        self.writes += len(asks)
        return self.window.write_many(link, many, now_ns)

    def _turn_away(self, link: int, token: int, *answers: Done | OpenRefused) -> list[Effect]:
        out: list[Effect] = [Release(token)] if token else []
        return out + [Answer(link, answer) for answer in answers]

    # ---- our own store ------------------------------------------------------------------------------

    def marked(self, regions: tuple[int, ...], now_ns: int) -> list[Effect]:
        self.now_ns = now_ns
        return [effect for op in self.gate.on_marked(regions) for effect in self.window.store(op)]

    def synced(self, ticket: int, now_ns: int) -> list[Effect]:
        """Our own store is synced."""
        self.now_ns = now_ns
        return self.flushes.synced_here(ticket, self.window.commit)

    def rotten(self, blocks: Iterable[int], waits: AnswerRead | SendCopy | None, now_ns: int) -> list[Effect]:
        """Blocks of our own store do not match their checksum, and this waits for them."""
        self.now_ns = now_ns
        return self._mending.rotten(blocks, waits, now_ns)

    def rewritten(self, ranges: Iterable[Range], now_ns: int) -> list[Effect]:
        """A write of these was ordered, and some may have been rotten."""
        return self._mending.written(ranges, now_ns)

    def healed(self, number: int, blocks: Iterable[int], now_ns: int) -> list[Effect]:
        self.now_ns = now_ns
        return self._mending.healed(number, blocks, now_ns)

    def compare(self, region: int, count: int, now_ns: int) -> list[Effect]:
        """The scrub has come to these regions."""
        self.now_ns = now_ns
        return self._mending.compare(region, count)

    # ---- moving to another node ---------------------------------------------------------------------

    def settle(self) -> list[Effect]:
        """Take nothing new, and report when every write under way is confirmed everywhere (P5). Flushes are not waited
        for: their frontend sends them again."""
        self.moving, self._settled = True, False
        let_go = self.sealing.let_go()
        return [*let_go, *self.go_on_sealing(), *self._check_settled()]

    def _check_settled(self) -> list[Effect]:
        if self._settled or not self.serving or self.window.entries:
            return []
        self._settled = True
        # With the last commit point nobody has a tail any more, and the next take-over has nothing to compare.
        return [*self.peers.tell_commit(self.window.commit), ReportSettled()]

    def go_on(self) -> list[Effect]:
        """We stay after all. What was dropped meanwhile is sent again in the frontend's next session."""
        self.moving = False
        return [*self.sessions.begin_again(), *self.go_on_sealing()]

    # ---- snapshots ----------------------------------------------------------------------------------

    @property
    def sealing_stage(self) -> Stage:
        return self.sealing.stage

    def seal(self, name: str, asked: int, nodes: Iterable[str], now_ns: int, *, in_step: bool = False) -> list[Effect]:
        """The brain: keep what the volume holds, on these nodes and here (K4)."""
        self.now_ns = now_ns
        self.sealing.ask(Order(name, asked, frozenset(nodes), in_step))
        return self.go_on_sealing()

    def hold_writes(self, asked: int, until_ns: int, now_ns: int) -> list[Effect]:
        """For the snapshot of a group that was asked of that version; what comes from here on is not in it."""
        self.now_ns = now_ns
        return [*self.sealing.hold_until(asked, until_ns, now_ns, moving=self.moving), *self.go_on_sealing()]

    def seal_held(self, asked: int, now_ns: int) -> list[Effect]:
        """All volumes of its group hold their writes."""
        self.now_ns = now_ns
        return [*self.sealing.seal_held(asked), *self.go_on_sealing()]

    def snapshots(self, pending: Iterable[tuple[str, int]], pasts: Iterable[Past], now_ns: int) -> list[Effect]:
        """By the committed record these are still wanted, and those are ready and held here."""
        self.now_ns = now_ns
        self.sealing.keep(frozenset(pending))
        return [*self._giver.keep(pasts), *self.go_on_sealing()]

    def seal_prepared(self, number: int, failure: str, now_ns: int) -> list[Effect]:
        """Our own store has its next layer, or can't have one."""
        self.now_ns = now_ns
        if failure and number == self.sealing.number:
            return [*self.sealing.fails(failure), *self.go_on_sealing()]
        self.sealing.prepared(self.me, number, now_ns, ready=True)
        return self.go_on_sealing()

    def sealed(self, seq: int, now_ns: int) -> list[Effect]:
        """Our own store is sealed, by us or by whoever led before; what waited at the gate is stored now."""
        self.now_ns = now_ns
        out = [effect for op in self.gate.open() for effect in self.window.store(op)]
        sealing = self.sealing
        if sealing.stage is Stage.SEALING and seq == sealing.seq and sealing.order is not None:
            out.append(HashSeal(seq, sealing.size_blocks, sealing.order.name))
        sealing.sealed(self.me, seq)
        return out + self.go_on_sealing()

    def hashed(self, seq: int, root: int | None, now_ns: int) -> list[Effect]:
        """`root`: None when our own checksums are not proved."""
        self.now_ns = now_ns
        return [*self.sealing.rooted(self.me, seq, root, now_ns), *self.go_on_sealing()]

    def go_on_sealing(self) -> list[Effect]:
        """Whatever has become possible."""
        sealing, peers, out, now_ns = self.sealing, self.peers, list[Effect](), self.now_ns
        if sealing.stage is Stage.IDLE and sealing.next_order is not None and self.serving and not peers.one_comes():
            out += sealing.begin(peers.in_step(), self.size_blocks, now_ns)
        if sealing.stage is Stage.PREPARED and not self.moving:
            out += sealing.hold(now_ns)
        if sealing.may_seal and self._is_quiet():
            self.gate.close()
            out += sealing.seal(self.window.take_seq(), self.window.commit, now_ns)
        if sealing.stage is Stage.HASHING:
            out += [*sealing.tell_held(now_ns), *self._sealing_done()]
        if sealing.held and not sealing.holds:
            for link, asked in sealing.take_held():
                if isinstance(asked, RequestMany):
                    out += self.request_many(link, asked, now_ns)
                else:
                    out += self.request(link, asked, now_ns)
        return out

    def _is_quiet(self) -> bool:
        """No write is on its way, to a copy or at our own gate: all of them hold the same."""
        return not self.window.entries

    def _sealing_done(self) -> list[Effect]:
        """Two copies that differ though nothing was under way: ours is the volume, the other one has to be compared to
        its last block (K3)."""
        out: list[Effect] = []
        found = self.sealing.result()
        if found is None:
            return out
        report, others = found
        for node, reason in others.items():
            peer = self.peers[node]
            out += self.drop(peer, reason, self.now_ns)
            peer.missed_all = True
        return [*out, *report]

    # ---- time and the end ---------------------------------------------------------------------------

    def next_deadline_ns(self) -> int | None:
        due = [self.healing.next_deadline_ns(), self.sealing.next_deadline_ns()]
        for peer in self.peers.values():
            if peer.up:
                due += [self._patience.ends_ns(peer), peer.retry_at_ns if peer.phase == "joining" else None]
                due.append(peer.giving.deadline_ns if peer.giving is not None else None)
        if self.serving:
            behind = self.peers.behind(self.window.commit)
            due += [self._commit_at_ns + COMMIT_IDLE_NS if behind else None, self.flushes.unmarks_at_ns()]
        return min((at for at in due if at is not None), default=None)

    def time_passed(self, now_ns: int) -> list[Effect]:
        self.now_ns = now_ns
        out: list[Effect] = []
        for peer in self.peers.values():
            patience = self._patience.ends_ns(peer)
            if patience is not None and now_ns >= patience:
                out += self.drop(peer, "it gives no answer", now_ns)
            if peer.giving is not None:
                out += self._giver.time_passed(peer, peer.giving, now_ns)
        out += self.catch_up.ask_again(now_ns)
        if now_ns >= self._commit_at_ns + COMMIT_IDLE_NS:
            self._commit_at_ns = now_ns
            if self.serving:
                out += self.peers.tell_commit(self.window.commit)
        unmarks_ns = self.flushes.unmarks_at_ns()
        if self.serving and unmarks_ns is not None and now_ns >= unmarks_ns:
            out += self.flushes.unmark(now_ns)
        out += self.sealing.time_passed(now_ns)
        for node in self.sealing.late(now_ns):
            self.sealing.lost(node)
        return [*out, *self._mending.time_passed(now_ns), *self.go_on_sealing()]

    def excuse(self, now_ns: int) -> None:
        """We were paused ourselves: everybody's time to answer begins now."""
        for peer in self.peers.values():
            peer.excuse(now_ns)
        self.window.excuse(now_ns)
        self.flushes.excuse(now_ns)
        self.healing.excuse(now_ns)
        self.sealing.excuse(now_ns)

    def stop(self, successor: str = "") -> list[Effect]:
        """Another epoch: what waits is dropped, the frontend is sent on."""
        dropped = self.gate.drop_waiting()
        out: list[Effect] = [Release(op.message.token) for op in dropped if isinstance(op.message, Write | WriteMany)]
        out += [Release(request.token) for _, request in self.sealing.stop() if request.token]
        out += self.sessions.send_on(successor)
        self.answers.drop()
        self.healing.stop()
        for node in self.peers:
            self._costs.gone(node)
        self.serving = False
        return out
