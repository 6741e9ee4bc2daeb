"""Bringing a peer up to date, from its answer to `Join` until it holds everything, synced.

    joined --> the snapshots that it lacks (`giving`) --> compared and copied (`resync`) while it gets every new write
        --nothing left--> every write before is acked --> a cleaning flush --> the brain is asked to admit it (S4)
        --nothing left, in a take-over--> synced: it has held everything all the time (T2)

The phases are the peer's (`peer`). What it costs, and whether a copy may leave now, is said by `costs`.
"""

from __future__ import annotations

from typing import Protocol

from services.replica.replication import giving
from services.replica.replication.blockmap import BlockMap, Range
from services.replica.replication.costs import Costs
from services.replica.replication.effects import Effect, ReportCaughtUp, ReportFollows, ResyncDone, Tell
from services.replica.replication.estimate import Estimate
from services.replica.replication.flushes import Flushes
from services.replica.replication.gate import Gate, ranges_of
from services.replica.replication.giving import Giver
from services.replica.replication.healing import Healing
from services.replica.replication.messages import Copied, Copy, Join, Joined, RequestMany, WriteMany
from services.replica.replication.past import RETURNS_MAX
from services.replica.replication.peer import CatchingUp, Peer
from services.replica.replication.replica import Share
from services.replica.replication.resync import Resync, always


class Reign(giving.Reign, Protocol):
    """The primary, as far as this concerns it."""

    @property
    def now_ns(self) -> int: ...

    @property
    def serving(self) -> bool: ...

    @property
    def share(self) -> Share: ...

    @property
    def gate(self) -> Gate: ...

    @property
    def flushes(self) -> Flushes: ...

    @property
    def healing(self) -> Healing: ...

    def drop(self, peer: Peer, reason: str, now_ns: int) -> list[Effect]:
        """Its link lives and it can't be in sync: it may join again after a while."""

    def check_take_over(self) -> list[Effect]:
        """One more may have been compared."""

    def go_on_sealing(self) -> list[Effect]:
        """One more is in step."""


class CatchUp:
    """One reign's, of all peers."""

    def __init__(self, reign: Reign, costs: Costs):
        self._reign = reign
        self._peers = reign.peers
        self._window = reign.window
        self._costs = costs
        self.giver = Giver(reign, self)
        self.compared_blocks = 0
        self.copied_blocks = 0

    # ---- joins --------------------------------------------------------------------------------------

    def ask_to_join(self, peer: Peer, now_ns: int) -> list[Effect]:
        number = peer.ask_to_join(now_ns)
        self._peers.refresh()
        return [Tell((peer.node,), Join(number))]

    def ask_again(self, now_ns: int) -> list[Effect]:
        """Who has not answered, or was dropped, for long enough."""
        joining = [peer for peer in self._peers.values() if peer.up and peer.phase == "joining"]
        late = [peer for peer in joining if now_ns >= peer.retry_at_ns]
        return [effect for peer in late for effect in self.ask_to_join(peer, now_ns)]

    def joined(self, peer: Peer, message: Joined) -> list[Effect]:
        if peer.phase != "joining" or message.number != peer.join_number:
            return []
        reign = self._reign
        out: list[Effect] = []
        peer.takes_many, peer.takes_packed = message.takes_many, message.takes_packed
        peer.takes_past, peer.takes_levels = message.takes_past, message.takes_levels
        if not peer.takes_many and self._many_wait():
            self._peers.refresh()
            return reign.drop(peer, "it has to wait for writes that its version does not know", reign.now_ns)
        peer.unclean = message.unclean
        if message.unclean and not reign.share.unclean and self._peers.is_required(peer):
            # S3: it may have lost what it confirmed; none of its answers counts before it left and caught up.
            out += peer.report_failed("its host lost power before everything was flushed")
        peer.missed.update(BlockMap(message.share))
        peer.joins = 0
        return out + self.giver.begin(peer)

    def _many_wait(self) -> bool:
        """For their marks, or for a seal."""
        many = any(isinstance(op.message, WriteMany) for op in self._reign.gate.waiting_ops())
        return many or any(isinstance(asked, RequestMany) for _, asked in self._reign.sealing.held)

    def bring_up_to_date(self, peer: Peer) -> list[Effect]:
        """From here on it receives every write."""
        reign = self._reign
        peer.resync = Resync(peer.node, reign.size_blocks, peer.missed, peer.missed_all, finer=peer.takes_levels)
        peer.missed, peer.missed_all = BlockMap(), False
        waiting = reign.gate.waiting_ops()
        peer.catching_up = CatchingUp(reign.now_ns, self._window.entries.keys() - {op.seq for op in waiting})
        peer.phase = "syncing"
        out: list[Effect] = []
        reign.healing.another_follows()
        self._peers.refresh()
        for op in waiting:
            # Not in our own store yet, so a comparison can't find it missing; not sent on this link either.
            assert not isinstance(op.message, Copy)
            peer.unacked[op.seq] = ranges_of(op.message)
            out.append(Tell((peer.node,), op.message))
        out += self.pump(peer)
        if peer.failed or not self._peers.is_required(peer):
            out.append(ReportFollows(peer.node))
        return out

    # ---- compared and copied ------------------------------------------------------------------------

    def copied(self, peer: Peer, message: Copied) -> list[Effect]:
        if peer.resync is None:
            return []
        if peer.resync.copying(message.number):
            self._costs.arrived(peer.node, self._reign.now_ns)
        peer.resync.copied(message.number)
        return self.pump(peer)

    def pump(self, peer: Peer) -> list[Effect]:
        """Go on comparing and copying."""
        resync = peer.resync
        assert resync is not None
        reign, peers, window, costs = self._reign, self._peers, self._window, self._costs
        taking_over = not reign.serving and peers.is_required(peer) and (not peer.failed or reign.share.unclean)
        in_sync = len(peers.required)
        out: list[Effect] = []
        if not taking_over and resync.sampled():
            out += costs.foretell(peer, resync, in_sync, reign.now_ns)
        # Applications wait for a take-over; what it copies is what was under way, and waits for nobody.
        may_send = always if taking_over else costs.may_send(peer, resync, in_sync, reign.now_ns)
        out += resync.pump(window.as_of, may_send, costs.copy_blocks)
        if resync.done() and peer.giving is None and not taking_over:
            if not reign.serving and not peers.is_required(peer):
                return out  # what our own tail names may be undone until then: the take-over's end goes on with it
            resync.force(self._not_noted(peer))
            out += resync.pump(window.as_of, may_send, costs.copy_blocks)
        if not resync.done():
            return out
        if peer.giving is None and peer.returns < RETURNS_MAX:
            if self.giver.lacks(peer) is not None:
                return out + self.giver.go_back(peer)
            if self.giver.may_lack(peer):
                return out
        return out + self._nothing_left(peer, resync, taking_over=taking_over)

    def _not_noted(self, peer: Peer) -> list[Range]:
        """Blocks of our unconfirmed writes that it may hold by comparison alone: they are copied, once, equal or not,
        and so named in its tail and marked there (D1, T2). *A, B in sync, B stores nothing; A zeroes a block, and C,
        new and empty, is equal there and is admitted. A dies, B leads with what it has: C differed from B, in a block
        that no tail named.*

        So are those that our own tail names, as long as the take-over is not done. *A leads, with a write that C lacks,
        and waits for C. B, which had it too, lost power, was found equal and admitted, by a sync after which its marks
        mean nothing any more. A lost power, B led with an empty tail, and C was in sync without the write.*

        When we lost power as well, the same is kept from B in another way: it stays one of those who are taken over,
        whether it had failed before or not, and all sync, and so forget, only when all are compared."""
        catching_up = peer.catching_up
        if catching_up is None or catching_up.noted:
            return []
        catching_up.noted = True
        ours = () if self._reign.serving else self._reign.share.ranges
        return [*self._window.ranges_of(catching_up.under_way), *ours]

    def _nothing_left(self, peer: Peer, resync: Resync, *, taking_over: bool) -> list[Effect]:
        self._costs.gone(peer.node)
        self.compared_blocks += resync.blocks_compared
        self.copied_blocks += resync.blocks_sent
        peer.resync = None
        if peer.giving is not None:
            return self.giver.prepare(peer, peer.giving, self._reign.now_ns)
        if taking_over:
            peer.catching_up = None
            peer.phase = "synced"
            done = ResyncDone(peer.node, resync.blocks_compared, resync.blocks_sent)
            return [done, *self._reign.check_take_over()]
        if peer.catching_up is not None:
            peer.catching_up.compared, peer.catching_up.sent = resync.blocks_compared, resync.blocks_sent
            peer.catching_up.pieces, peer.catching_up.copied_ns = resync.pieces_found, self._reign.now_ns
        return self.settle(peer)

    def estimate(self, peer: Peer) -> Estimate | None:
        """What is left for it, as of now; None before anything is known, and when nothing is left."""
        if peer.resync is None or not peer.resync.sampled():
            return None
        return self._costs.estimate(peer.node, peer.resync, len(self._peers.required))

    # ---- admitted -----------------------------------------------------------------------------------

    def settle(self, peer: Peer) -> list[Effect]:
        """S1 and S4: from here on every write and flush needs this peer; when the older ones are confirmed, it syncs,
        and only then the brain is asked to admit it."""
        peer.phase = "settling"
        peer.settle_seq = self._window.last_seq
        self._peers.refresh()
        return self.flush_settled(peer)

    def flush_settled(self, peer: Peer) -> list[Effect]:
        if peer.phase != "settling" or any(seq <= peer.settle_seq for seq in peer.unacked):
            return []
        peer.phase = "flushing"
        peer.flush_ticket = self._reign.flushes.ticket()
        peer.flush_ns = self._reign.now_ns
        peer.commit_sent = self._window.commit
        return [Tell((peer.node,), self._window.cleaning_flush(peer.flush_ticket))]

    def caught_up(self, peer: Peer) -> list[Effect]:
        """It holds everything, synced: older writes and flushes count as confirmed by it."""
        reign = self._reign
        peer.phase = "live" if self._peers.is_required(peer) and not peer.failed else "waiting"
        peer.unclean = False
        out = [*self._window.caught_up(peer), *reign.flushes.caught_up(peer, peer.flush_ticket)]
        self._peers.refresh()
        truth = self._costs.compare_with_truth(peer, reign.now_ns)
        return [*out, *truth, ReportCaughtUp(peer.node), *self._window.advance(), *reign.go_on_sealing()]
