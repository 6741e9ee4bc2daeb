"""What bringing one volume's copies up to date costs: asked of the node's budget, foretold, compared with the truth.

    sampled --> foretold, once --> each copy asked for at the budget ... --> synced --> told, and learned from

The node's part, which all its volumes share, is in `recovery`; what one peer was foretold and has taken so far goes
with the peer (`peer.CatchingUp`) and ends when it is lost.
"""

from __future__ import annotations

from collections.abc import Callable

from services.replica.replication.budget import Key, Rank
from services.replica.replication.effects import Effect, ResyncBegins, ResyncDone
from services.replica.replication.estimate import Estimate, Took, Work, bytes_of
from services.replica.replication.peer import Peer
from services.replica.replication.recovery import Recovery
from services.replica.replication.resync import Resync


class Costs:
    """`in_sync`, wherever it is asked for: how many copies of the volume are."""

    def __init__(self, volume: str, recovery: Recovery):
        self._volume = volume
        self._recovery = recovery

    def _key(self, node: str) -> Key:
        return self._volume, node

    # ---- the budget -----------------------------------------------------------------------------------

    @property
    def copy_blocks(self) -> int:
        """The largest copy that may be sent."""
        return self._recovery.copy_blocks

    def may_send(self, peer: Peer, resync: Resync, in_sync: int, now_ns: int) -> Callable[[int], bool]:
        """Says of a copy of so many blocks whether it may leave now."""
        key = self._key(peer.node)

        def may_send(blocks: int) -> bool:
            may = self._recovery.may_send(key, _rank(resync, in_sync), blocks, now_ns)
            if not may and peer.catching_up is not None:
                peer.catching_up.held_back = True
            return may

        return may_send

    def arrived(self, node: str, now_ns: int) -> None:
        """One of its copies."""
        self._recovery.budget.arrived(self._key(node), now_ns)

    def gone(self, node: str) -> None:
        """It is sent nothing more."""
        self._recovery.budget.gone(self._key(node))

    # ---- foretold, and the truth ----------------------------------------------------------------------

    def foretell(self, peer: Peer, resync: Resync, in_sync: int, now_ns: int) -> list[Effect]:
        """Once, before the first copy. Where all compared equal there is nothing to foretell."""
        catching_up = peer.catching_up
        if catching_up is None or catching_up.estimate is not None or resync.done():
            return []
        self._recovery.look(now_ns)
        catching_up.estimate = self.estimate(peer.node, resync, in_sync)
        catching_up.began_ns, catching_up.compared_before = now_ns, resync.blocks_compared
        return [ResyncBegins(peer.node, catching_up.estimate)]

    def estimate(self, node: str, resync: Resync, in_sync: int) -> Estimate:
        """Of what is left, as of now."""
        return self._recovery.estimate(self._key(node), _rank(resync, in_sync), resync.expected())

    def compare_with_truth(self, peer: Peer, now_ns: int) -> list[Effect]:
        """It has synced what it got."""
        catching_up, peer.catching_up = peer.catching_up, None
        if catching_up is None:
            return []
        took_ns = now_ns - catching_up.began_ns
        sent = bytes_of(catching_up.sent, catching_up.compared)
        if catching_up.estimate is not None:
            compared = catching_up.compared - catching_up.compared_before
            work = Work(catching_up.sent, catching_up.pieces, compared)
            foretold_ns = catching_up.estimate.duration_ns.likely
            copied_ns = catching_up.copied_ns
            took = Took(copied_ns - catching_up.began_ns, now_ns - copied_ns, catching_up.held_back)
            self._recovery.learn(peer.node, work, took, foretold_ns)
        return [ResyncDone(peer.node, catching_up.compared, catching_up.sent, sent, took_ns, catching_up.estimate)]


def _rank(resync: Resync, in_sync: int) -> Rank:
    return in_sync, resync.rest()
