"""When the primary stops waiting for a member that gives no answer: its link and its beats live, its disk does not.

Each kind of answer has a time of its own since which it is owed, and the oldest counts: a member may go on confirming
other writes, or syncs, all the time. Who owes nothing, or is needed for nothing, has all the time it wants.
"""

from __future__ import annotations

from services.replica.replication.flushes import Flushes
from services.replica.replication.peer import Peer
from services.replica.replication.peers import Peers
from services.replica.replication.sealing import Sealing
from services.replica.replication.window import Window
from stoscore.units import MS

PATIENCE_NS = 2000 * MS
"""A peer that owes an answer and gives none for so long is not in sync any more."""


class Patience:
    """One reign's."""

    def __init__(self, peers: Peers, window: Window, flushes: Flushes, sealing: Sealing):
        self._peers = peers
        self._window = window
        self._flushes = flushes
        self._sealing = sealing

    def ends_ns(self, peer: Peer) -> int | None:
        """With a member, or with one that is about to become one; None: it owes nothing."""
        if not peer.up or not (self._peers.is_required(peer) or peer.confirms()):
            return None
        since = [
            peer.heard_ns if peer.owes() else None,
            self._window.owed_since_ns(peer.bit) if peer.receives() else None,
            peer.flush_ns if peer.phase == "flushing" else None,
            self._flushes.owed_since_ns(peer.bit) if peer.phase in ("synced", "waiting", "live") else None,
            self._sealing.owed_since_ns(peer.node),
        ]
        return min((at + PATIENCE_NS for at in since if at is not None), default=None)
