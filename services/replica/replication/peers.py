"""The other data copies of one reign: which of them a write is sent to, has to be confirmed by, or passes by.

    required     of the record's in-sync set, or of one that is proposed: no write is answered without them (S1)
    confirms     about to be admitted: every new write waits for it just the same (S4)
    receives     gets every write; what is written while it does not, it misses

All three follow from the phases (`peer`) and the required set, and are written down for each write to find.
"""

from __future__ import annotations

from collections.abc import Iterable

from services.replica.replication.blockmap import BlockMap, Range
from services.replica.replication.effects import Effect, Tell
from services.replica.replication.messages import CommitPoint
from services.replica.replication.peer import Peer

SELF_BIT = 1
"""Our own copy's; each peer has one of its own."""


class Peers(dict[str, Peer]):
    """By node."""

    def __init__(self, nodes: Iterable[str], required: Iterable[str], missed: Iterable[Range]):
        """`missed`: what each of them may lack, as far as we know."""
        super().__init__()
        self.required = frozenset(required)
        self._next_bit = SELF_BIT
        for node in sorted(nodes):
            self.add(node, missed, in_sync=node in self.required)
        self.mask = 0
        """The bits that a write needs."""
        self.receiving: tuple[Peer, ...] = ()
        self.receivers: tuple[str, ...] = ()
        self.away: tuple[Peer, ...] = ()
        self.takes_many = True
        """Every copy knows WriteMany, as far as is known: else what comes together has to be asked for one by one."""
        self.refresh()

    def add(self, node: str, missed: Iterable[Range], *, in_sync: bool) -> None:
        """Its bit is never used again: a write on its way may carry that of a peer that was let go."""
        self._next_bit <<= 1
        peer = Peer(node, self._next_bit)
        peer.missed = BlockMap(missed)
        peer.missed_all = not in_sync
        self[node] = peer

    def refresh(self) -> None:
        """Derived, whenever a phase or the required set has changed."""
        self.mask = SELF_BIT
        for node, peer in self.items():
            if node in self.required or peer.confirms():
                self.mask |= peer.bit
        self.receiving = tuple(peer for peer in self.values() if peer.receives())
        self.receivers = tuple(peer.node for peer in self.receiving)
        self.away = tuple(peer for peer in self.values() if not peer.receives())
        self.takes_many = all(peer.takes_many for peer in self.values())

    def require(self, nodes: Iterable[str]) -> None:
        """A write needs all of these from now on (S1).

        Who leaves the set and was not lost has caught up again since it failed, and the word of that is on its way:
        until it is admitted, or lost, everything waits for it all the same. *Its failure had waited for its turn longer
        than it took to catch up; a flush was answered without it, and then it was admitted, unsynced (S4).*"""
        self.required = frozenset(nodes)
        for node, peer in self.items():
            if node not in self.required and peer.phase == "live":
                peer.phase = "waiting"
            elif node in self.required and peer.phase in ("waiting", "live"):
                peer.phase = "live"
                peer.failed = False
        self.refresh()

    def is_required(self, peer: Peer) -> bool:
        """A write may need it."""
        return peer.node in self.required

    def in_step(self) -> set[str]:
        """Who holds everything, and confirms every new write: in sync, or about to be by the record on its way."""
        return {n for n, p in self.items() if p.phase == "waiting" or (p.phase == "live" and n in self.required)}

    def one_comes(self) -> bool:
        """A copy is about to hold everything."""
        return any(peer.phase in ("settling", "flushing") for peer in self.values())

    # ---- the commit point ---------------------------------------------------------------------------

    def behind(self, commit: int) -> list[Peer]:
        """Who has not been told of it, and may be."""
        return [peer for peer in self.values() if peer.learns_commit() and peer.commit_sent < commit]

    def tell_commit(self, commit: int) -> list[Effect]:
        behind = self.behind(commit)
        for peer in behind:
            peer.commit_sent = commit
        return [Tell(tuple(peer.node for peer in behind), CommitPoint(commit))] if behind else []
